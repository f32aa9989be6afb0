"""What a run shows of the agent that it trained: a video, the learning curve, and a dream."""

from pathlib import Path

from hd_agents import HarmonyDreamAgent
from hd_agents.cli.curves import SCORES, draw_curve, evaluations, read_episodes
from hd_agents.evaluation import acting, player_for
from hd_agents.evaluation.episodes import EpisodeError, SeededEpisodes
from hd_agents.films import filming
from hd_agents.zoo.models import AGENT_FILE
from hd_agents.zoo.training import Plan

EPISODES = 3  # played for the video


def leave(agent: HarmonyDreamAgent, plan: Plan, seed: int, folder: Path, played: bool = True) -> None:
    """Draw the curve, play by the papers' rule, and write the video and the dream; name each file with what it shows.

    :param played: False plays nothing, and leaves out both.

    An environment that fails while it is played costs the pictures of it, a full disk what it had no room for, and a
    line says so.
    """
    left = {AGENT_FILE: f"the trained agent, for {type(agent).__name__}.load"}
    trained, evaluated = read_episodes(folder), evaluations(folder)
    if len(trained[0]) or len(evaluated[0]):
        try:
            draw_curve(folder / "curve.png", trained, evaluated, plan.task)
            scores = f" and {len(evaluated[0])} evaluations" if len(evaluated[0]) else ""
            left["curve.png"] = f"returns of {len(trained[0])} training episodes{scores}"
        except OSError as error:
            print(f"Learning curve left out: {error}")
    else:
        print("No learning curve: no training episode came to its end.")
    if played:
        print(f"Playing {EPISODES} episodes of at most {filming.MAX_STEPS} steps ...", flush=True)
        try:
            left |= _film(agent, plan, seed, folder)
        except Exception as error:  # whatever an environment of anybody's does; what was learnt is stored
            print(f"Pictures left out: {error if isinstance(error, EpisodeError) else repr(error)}")
    if len(evaluated[0]):
        left[SCORES] = f"the {len(evaluated[0])} evaluations while it learned; the last: {evaluated[1][-1]:g}"
    dreams = ", and the dream as it was learned" if agent._n_updates else ""
    left["tensorboard"] = f"logs{dreams}: tensorboard --logdir {folder}"
    for name, meaning in left.items():
        print(f"  {folder / name}  {meaning}")


def _film(agent: HarmonyDreamAgent, plan: Plan, seed: int, folder: Path) -> dict[str, str]:
    """Video and dream of episodes played for them; the files, and what each shows."""
    left: dict[str, str] = {}
    task, env = plan.task, SeededEpisodes(plan.make_env(drawn=True), ())
    try:
        player = player_for(agent, acting(task, "paper"))
        episodes = [filming.play(agent, env, seed, player=player)]
        while episodes[0].frames and len(episodes) < EPISODES:  # one is enough for the dream
            episodes.append(filming.play(agent, env, seed + len(episodes), player=player))
        fps = filming.frames_per_second(env)
    finally:
        env.close()
    returns = ", ".join(f"{sum(episode.rewards):g}" for episode in episodes)
    frames = [frame for episode in episodes for frame in episode.frames]
    if frames:
        filming.write_video(folder / "play.mp4", frames, fps)
        left["play.mp4"] = f"the agent playing {EPISODES} episodes; returns {returns}"
    else:
        print(f"No video: {task} draws no pictures. The episode played had a return of {returns}.")
    filming.draw_dream(folder / "dream.png", agent, episodes[0], task)
    left["dream.png"] = "what happened, what the agent dreamt would happen, and the error"
    return left
