"""`hd-agents train`: learn a task, then leave the agent and pictures of what it learned in a folder."""

import argparse
import secrets
import shlex
import shutil
import sys
import tempfile
import traceback
from contextlib import nullcontext, suppress
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.callbacks import DreamFilm, LossGradients, RunCheckpoint, ScoreCurve
from hd_agents.cli import flags, hints, pictures, tracking
from hd_agents.cli.curves import EVALUATION_ENVS, EVALUATION_SEED, SCORES, read_episodes
from hd_agents.cli.errors import FAILED, UsageError, require
from hd_agents.cli.facts import Facts, ReturnPrinter, write_config
from hd_agents.cli.loading import MODEL, load_beginning
from hd_agents.cli.resuming import (
    folder_to_resume,
    forget_logs,
    own_run_folder,
    plan_to_resume,
    resume_agent,
    resume_command,
)
from hd_agents.cli.running import stopped_once
from hd_agents.cli.tasks import checked_env, new_run_folder, plan_of, try_agent
from hd_agents.envs.closing import close
from hd_agents.files import remove_unfinished
from hd_agents.saving.checkpoint import CheckpointError, claim, release, steps_in
from hd_agents.signals import SIGNALS
from hd_agents.zoo.models import AGENT_FILE, CHECKPOINTS, CONFIG, LOGS
from hd_agents.zoo.training import Plan

UNTIL_FAILURE = "agent_until_failure.zip"
DEFAULT_TASK = "hd_agents/Catch-v0"
NEEDED = ("cv2", "matplotlib", "tensorboard", "tqdm", "yaml")
REPORTS = 20  # looks at returns and gradients, evenly spread over a run; also checkpoints, if --resume comes alone
FILMS = 10  # of the dream, evenly spread over a run
STATUS = {name: 128 + number for name, number in SIGNALS.items()}  # after each signal, as shells have it
HURRIED = [status for name, status in STATUS.items() if name != "SIGINT"]  # without pictures: nobody waits for them


class TrainingFailed(Exception):
    """What ended a training that was meant to go on; the cause is the error itself."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `train` and its flags to the command line."""
    parser = commands.add_parser(
        "train",
        help="train an agent on a task; leaves the agent, a video, the learning curve and a dream in a folder of runs/",
        description="Train an agent on a Gymnasium task. Leaves agent.zip, play.mp4, curve.png, dream.png, "
        "TensorBoard logs, 0.monitor.csv (every episode), config.yml and run.json in runs/<task>_<n>/. Ctrl-C stops "
        "early and still leaves them; SIGTERM and closing the terminal leave the agent.",
    )
    parser.add_argument(
        "task",
        nargs="?",
        default=DEFAULT_TASK,
        help="a name of `hd-agents list`, or a Gymnasium id (default: %(default)s)",
    )
    parser.add_argument("--seed", type=flags.seed, help="random seed (default: 0; with --resume, that of the run)")
    flags.add_plan_flags(parser)
    begin_help = f"start from the weights of a trained agent: {MODEL}"
    parser.add_argument("-i", "--trained-agent", metavar="MODEL", help=begin_help)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train as asked and return the exit status: 0; 1 after an error; 130 or 143 when Ctrl-C or SIGTERM ended it."""
    require("train", *NEEDED)
    check_flags(options)
    resumed = folder_to_resume(options, "run") if options.resume else None
    resuming = resumed is not None and bool(steps_in(resumed / CHECKPOINTS))
    begins = options.trained_agent is not None and not resuming
    trained = load_beginning(options.trained_agent, options.settings) if begins else None
    if resumed and resuming:
        plan, options = plan_to_resume(options, resumed)
    else:
        options = flags.changed(options, seed=options.seed or 0)
        plan = plan_of(options, trained)
    close(checked_env(plan.task, plan.env_kwargs))  # a task that does not exist gets no folder
    if plan.agent_class is not HarmonyDreamAgent:
        try_agent(plan, "cpu")
    hints.tell_machine(plan, options.device)
    folder = _choose_folder(options, plan.task)
    checkpoint = None
    if options.resume or options.checkpoint_every is not None:
        every = options.checkpoint_every or max(1, plan.steps // REPORTS)
        checkpoint = RunCheckpoint(folder / CHECKPOINTS, every)
    again = resume_command(options, folder) if checkpoint else None
    env = agent = None
    try:
        if options.resume:
            _claim(folder, resuming)  # before anything of a run that goes on elsewhere is touched
        env = plan.make_envs(options.seed, folder, resuming)
        agent = resume_agent(checkpoint, plan, env, options, folder) if checkpoint and resuming else None
        agent = agent or _make_agent(plan, env, options)
        with tracking.tracked(options, folder, plan.settings(options.seed)):
            agent.set_logger(configure(str(folder / LOGS), ["tensorboard"]))
            if resuming:
                forget_logs(agent.logger, agent.num_timesteps)
            facts = Facts(folder / zoo.RUN, plan, agent, options, resuming)
            write_config(folder / CONFIG, plan, options)
            facts.write()  # better now than after hours
            callbacks = _callbacks(plan, facts, checkpoint, options, folder)
            with nullcontext() if checkpoint else stopped_once():  # a checkpoint sees to signals by itself
                status = _learn(agent, plan.steps, checkpoint, callbacks)
                if not _saved(agent, folder / AGENT_FILE):
                    return FAILED
        facts.write()
    except TrainingFailed as failure:
        assert agent is not None
        return _after(failure, folder, agent, again)
    finally:
        if env is not None:
            close(env)
        release(folder / CHECKPOINTS)
        if agent is None and not options.resume:
            shutil.rmtree(folder)  # there is no run in it
    if status:
        print(f"To continue: {again}" if again else _without_checkpoints(plan, agent, folder), flush=True)
    if status not in HURRIED:
        pictures.leave(agent, plan, options.seed, folder, not options.no_video)
    return status


def check_flags(options: argparse.Namespace) -> None:
    """Raise UsageError for flags that cannot be followed, whatever the task."""
    if options.track:
        tracking.check_installed()
    if options.eval_episodes is not None and options.eval_every is None:
        raise UsageError("--eval-episodes needs --eval-every.")


def _choose_folder(options: argparse.Namespace, task: str) -> Path:
    """The folder of the run, made here. Raises UsageError where the run in --folder cannot go on."""
    if not options.resume:
        return new_run_folder(options.folder or flags.RUNS, task)
    folder = own_run_folder(options.folder)
    begun = len(read_episodes(folder)[0]) and not (folder / CHECKPOINTS).is_dir()  # by a command without checkpoints
    if not steps_in(folder / CHECKPOINTS) and (begun or (folder / AGENT_FILE).exists()):
        raise UsageError(f"{folder} holds a run without checkpoints, which cannot go on: give --folder another folder.")
    return folder


def _claim(folder: Path, resuming: bool) -> None:
    """Keep other processes out of the run's folder, and remove what one that was killed has left half written."""
    claim(folder / CHECKPOINTS)
    if steps_in(folder / CHECKPOINTS) and not resuming:
        raise CheckpointError(f"Another process has begun the run in {folder} just now: give the command again.")
    remove_unfinished(folder)


def _make_agent(plan: Plan, env: VecEnv, options: argparse.Namespace) -> HarmonyDreamAgent:
    try:
        return plan.make_agent(env, options.seed, options.device, verbose=1)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def _without_checkpoints(plan: Plan, agent: HarmonyDreamAgent, folder: Path) -> str:
    """What is left of a run that was stopped."""
    return (
        f"The agent of {agent.num_timesteps} env steps is in {folder / AGENT_FILE}. Without checkpoints this run "
        f"cannot continue; for one that can, add --checkpoint-every {max(1, plan.steps // REPORTS)}. A new run can "
        f"begin with its weights: --trained-agent {shlex.quote(str(folder))}."
    )


def _callbacks(
    plan: Plan, facts: Facts, checkpoint: RunCheckpoint | None, options: argparse.Namespace, folder: Path
) -> list[BaseCallback]:
    report, film = max(1, plan.steps // REPORTS), max(1, plan.steps // FILMS)
    found: list[BaseCallback] = [ReturnPrinter(report, facts), LossGradients(report), DreamFilm(film)]
    if options.eval_every is not None:
        how = {
            "episodes": options.eval_episodes,
            "seed": EVALUATION_SEED,
            "n_envs": EVALUATION_ENVS,
            "env_kwargs": plan.env_kwargs,
            "verbose": 1,
        }
        facts.scores = ScoreCurve(plan.task, folder / SCORES, options.eval_every, **how)
        found.append(facts.scores)
    return [checkpoint, *found] if checkpoint else found  # stored first: an evaluation may take long


def _learn(
    agent: HarmonyDreamAgent, steps: int, checkpoint: RunCheckpoint | None, callbacks: list[BaseCallback]
) -> int:
    left = max(0, steps - agent.num_timesteps)
    try:
        agent.learn(left, callback=callbacks, progress_bar=True, reset_num_timesteps=False)
        if left:
            agent.dump_logs()  # what came after the last table
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code not in HURRIED:
            told = f"the training failed after {agent.num_timesteps} env steps: sys.exit({stop.code!r})"
            raise TrainingFailed(told) from stop
        print(f"\nStopped after {agent.num_timesteps} env steps; saving the agent.", flush=True)
        return int(str(stop.code)) if isinstance(stop, SystemExit) else STATUS["SIGINT"]
    except CheckpointError:
        raise
    except Exception as error:  # whatever an environment of anybody's does; hours of learning are not to go with it
        raise TrainingFailed(f"the training failed after {agent.num_timesteps} env steps: {error}") from error
    return STATUS[checkpoint.stopped_by] if checkpoint and checkpoint.stopped_by else 0


def _saved(agent: HarmonyDreamAgent, path: Path) -> bool:
    """Save the agent; where its folder has become full or cannot be written, elsewhere, and False."""
    try:
        agent.save(path)
    except OSError as error:
        print(f"hd-agents: {path} cannot be written: {error}", file=sys.stderr, flush=True)
        for folder in (tempfile.gettempdir, Path.home):
            with suppress(OSError, RuntimeError):  # there may be no such folder: neither is found on a full disk
                place = Path(folder()) / f"{path.parent.resolve().name}_{secrets.token_hex(4)}_{path.name}"
                agent.save(place)
                print(f"The agent of {agent.num_timesteps} env steps is in {place}.", flush=True)
                break
        return False
    return True


def _after(failure: TrainingFailed, folder: Path, agent: HarmonyDreamAgent, command: str | None) -> int:
    """Keep what was learned before a failure, and tell what it was last: a benchmark shows the last line of a log.

    :param command: that goes on from the last checkpoint; None for a run without. Its agent gets a name that is in the
        way of nothing, as the run may be begun again in this folder.
    """
    traceback.print_exception(failure.__cause__)
    if command is not None:
        if steps_in(folder / CHECKPOINTS):
            print(f"To continue from the last checkpoint: {command}", flush=True)
    elif agent.num_timesteps and _saved(agent, folder / UNTIL_FAILURE):
        print(f"The agent of {agent.num_timesteps} env steps is in {folder / UNTIL_FAILURE}.", flush=True)
    print(f"hd-agents: {failure}", file=sys.stderr, flush=True)
    return FAILED
