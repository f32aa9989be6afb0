"""`hd-agents enjoy`: watch a trained agent play, and see what it dreams."""

import argparse
from pathlib import Path

from hd_agents import zoo
from hd_agents.cli import flags
from hd_agents.cli.errors import UsageError, checked, make_folder, require
from hd_agents.cli.loading import MODEL, MODELS_OWN, check_spaces, env_kwargs_for, load_model, training_of
from hd_agents.cli.tasks import checked_env, task_id
from hd_agents.evaluation import acting, player_for
from hd_agents.evaluation.episodes import SeededEpisodes
from hd_agents.films import filming
from hd_agents.zoo.models import check_import
from hd_agents.zoo.packages import ActingAgent


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `enjoy` and its flags to the command line."""
    parser = commands.add_parser(
        "enjoy",
        help="watch a trained agent play; --video films it, --dream draws what it dreams (no window opens)",
        description="Play episodes with a trained agent, of at most "
        f"{filming.MAX_STEPS:,} steps each, and print their returns. --video films them; --dream draws what it dreams "
        "for a piece of the first one, below what happened. The agent acts by the papers' rule for the task, as in "
        "`evaluate`, which plays episodes to their end.",
    )
    add_playing_flags(parser)
    parser.add_argument("--video", type=Path, metavar="MP4", help=f"film the episodes ({', '.join(filming.ENDINGS)})")
    parser.add_argument(
        "--dream", type=Path, metavar="PNG", help=f"draw truth, dream and error ({', '.join(filming.DRAWINGS)})"
    )
    parser.add_argument("--episodes", type=flags.count, default=3, help="number of episodes (default: %(default)s)")
    parser.set_defaults(run=run)


def add_playing_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, and the flags that say what it plays."""
    parser.add_argument("agent", metavar="MODEL", help=MODEL)
    parser.add_argument("--task", help="the task to play (default: what the model was trained on)")
    parser.add_argument("--seed", type=flags.seed, default=0, help="seed of the first episode (default: %(default)s)")
    flags.add_env_flag(parser, usual=MODELS_OWN)
    flags.add_device_flag(parser)
    flags.add_class_flag(parser)


def run(options: argparse.Namespace) -> int:
    """Play as asked and return the exit status: 0."""
    drawn = {"cv2": options.video, "matplotlib": options.dream}
    require("train", *(library for library, path in drawn.items() if path is not None))
    if options.video is not None:
        checked(lambda: filming.check_ending(options.video))  # now, and not when all is played
    if options.dream is not None and options.dream.suffix.lower() not in filming.DRAWINGS:
        raise UsageError(f"--dream {options.dream}: use a name that ends in {', '.join(filming.DRAWINGS)}.")
    agent = load_model(options.agent, options.device, options.agent_class)
    if options.dream is not None and isinstance(agent, ActingAgent):
        checked(agent.imagine)  # which says why it cannot
    task = options.task or trained_on(options.agent)
    env_kwargs = env_kwargs_for(options.agent, task_id(task), options.env_kwargs)
    env = SeededEpisodes(checked_env(task, env_kwargs, drawn=options.video is not None), ())
    try:
        check_spaces(agent, options.agent, task, env)
        for path in (options.video, options.dream):
            if path is not None:
                make_folder(path.parent)
        player = player_for(agent, acting(task_id(task), "paper"))  # as in the scores of the cards
        played = [filming.play(agent, env, options.seed + number, player=player) for number in range(options.episodes)]
        fps = filming.frames_per_second(env)
    finally:
        env.close()
    for number, episode in enumerate(played):
        told = f"seed {options.seed + number}: return {sum(episode.rewards):g} in {len(episode.rewards)} steps"
        print(told if episode.whole else f"{told}, and was stopped there")
    if options.dream is not None:
        shown = checked(lambda: filming.draw_dream(options.dream, agent, played[0], task))
        print(f"  {options.dream}  {shown['context']} observations seen, {shown['horizon']} steps dreamt")
    if options.video is None:
        if options.dream is None:
            dreams = "" if isinstance(agent, ActingAgent) else "; to see its dream, --dream out.png"
            print(f"To see it, add --video out.mp4{dreams}.")
        return 0
    frames = [frame for episode in played for frame in episode.frames]
    if not frames:
        raise UsageError(f"{task} draws no pictures, so there is no video.")
    checked(lambda: filming.write_video(options.video, frames, fps))
    print(f"  {options.video}  {len(frames)} frames")
    return 0


def trained_on(model: str) -> str:
    """The task that a model was trained on."""
    task = training_of(model).get("task")
    if task is None:
        raise UsageError(f"{model} does not say what it was trained on, and has no {zoo.RUN} beside it: add --task.")
    checked(lambda: check_import(model, str(task)))
    return str(task)
