"""`hd-agents train --resume`: going on with a run that was stored, in its own folder."""

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv

from hd_agents import HarmonyDreamAgent
from hd_agents.callbacks import RunCheckpoint
from hd_agents.checkpoint import CheckpointError
from hd_agents.cli.curves import SCORES
from hd_agents.cli.errors import UsageError, checked
from hd_agents.cli.flags import plan_defaults
from hd_agents.cli.tasks import parse_setting
from hd_agents.score_curve import forget_scores
from hd_agents.zoo.models import CHECKPOINTS, CONFIG, training_facts
from hd_agents.zoo.training import Plan
from hd_agents.zoo.transfer import NETWORKS

# The flags of `train` that a command repeats, in the order that those of earlier runs have.
REPEATED = ["preset", "steps", "size", "device", "checkpoint_every", "track_project", "trained_agent", "eval_every"]
REPEATED += ["eval_episodes"]
DEFAULTS = {"seed": None, **{flag: plan_defaults()[flag] for flag in REPEATED}}  # a run's seed is always told
OF_ENV = "env_kwargs."  # what `--env-kwargs` puts before its settings
WITHOUT_INFLUENCE = ("track_project", "checkpoint_every", "eval_every", "eval_episodes", "device")  # on the agent


def told_folder(options: argparse.Namespace, what: str) -> Path:
    """The folder that ``--resume`` goes on in. Raises UsageError if none was given."""
    if options.folder is None:
        raise UsageError(f"--resume needs --folder, the folder of the {what} itself, such as --folder runs/my_{what}.")
    return Path(options.folder)


def own_run_folder(folder: Path) -> Path:
    """Make and return the folder of a run that may have begun there. Raises UsageError if it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--folder {folder} is a file: give the run's folder.")
    folder.mkdir(parents=True, exist_ok=True)
    left = [path for path in folder.iterdir() if path.name != CHECKPOINTS]
    if left and not any(folder.glob("*.monitor.csv")):
        runs = sorted(path.parent for path in folder.glob("*/0.monitor.csv"))
        hint = f" Did you mean {runs[-1]}?" if runs else ""
        raise UsageError(f"{folder} holds files, but no run: with --resume, --folder is the folder of one run.{hint}")
    return folder


def with_own_seed(options: argparse.Namespace, folder: Path | None) -> argparse.Namespace:
    """The options, with the seed of the run in ``folder`` where none was typed; 0 for a new run."""
    if options.seed is not None:
        return options
    facts = None if folder is None else checked(lambda: training_facts(folder))
    return argparse.Namespace(**{**vars(options), "seed": (facts or {}).get("seed", 0)})


def with_begun_env_kwargs(options: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The options, with the arguments that the run's environments were made with where none were typed."""
    facts = checked(lambda: training_facts(folder))
    if facts is None or any(setting.strip().startswith("env_kwargs") for setting in options.settings):
        return options
    began = facts.get("env_kwargs", {})
    settings = [*options.settings, *_as_settings(began)]
    return argparse.Namespace(**{**vars(options), "settings": settings})


def with_own_env_kwargs(plan: Plan, settings: Sequence[str], folder: Path) -> tuple[Plan, list[str]]:
    """Plan and settings with the arguments that the run's environments were made with, which cannot change on the way.

    Raises UsageError where others were typed.
    """
    facts = checked(lambda: training_facts(folder))
    began = plan.env_kwargs if facts is None else facts.get("env_kwargs", {})
    others = [setting for setting in settings if not setting.strip().startswith("env_kwargs")]
    if len(others) < len(settings) and plan.env_kwargs != began:
        raise UsageError(
            f"{folder} was begun in environments made with {began or 'no arguments'}, and cannot go on with "
            f"{plan.env_kwargs}: leave --env-kwargs out, or give another --folder."
        )
    return plan._replace(env_kwargs=began), [*others, *_as_settings(began)]


def _as_settings(env_kwargs: Mapping[str, Any]) -> list[str]:
    """What :func:`parse_setting` makes these arguments of; words stand as they are."""
    found = []
    for key, value in env_kwargs.items():
        plain = f"{OF_ENV}{key}={value}"
        is_word = isinstance(value, str) and parse_setting(plain)[1] == value
        found.append(plain if is_word else f"{OF_ENV}{key}={value!r}")
    return found


def with_own_beginning(plan: Plan, options: argparse.Namespace, folder: Path) -> tuple[Plan, argparse.Namespace]:
    """Plan and options with the trained agent that the run began with, and with its networks. It is not read again.

    Raises UsageError where another one was typed.
    """
    import yaml

    config = folder / CONFIG
    began = (checked(lambda: training_facts(folder)) or {}).get("trained_agent")
    model = None if began is None else began["model"]
    if options.trained_agent not in (None, model):
        raise UsageError(
            f"{folder} was begun with {model or 'random weights'}, and goes on with its own weights, not with "
            f"{options.trained_agent}: leave --trained-agent out, or give another --folder."
        )
    typed = dict(map(parse_setting, options.settings)) | ({} if options.size is None else {"size": options.size})
    if model is not None and config.exists():
        then = yaml.safe_load(config.read_text(encoding="utf-8")).get(plan.task, {})
        own = {name: then[name] for name in NETWORKS if name in then and name not in typed}
        entries = {key.partition(".")[2]: value for key, value in typed.items() if key.startswith("policy_kwargs.")}
        if entries and "policy_kwargs" in own:
            own["policy_kwargs"] = {**own["policy_kwargs"], **entries}
        plan = plan._replace(arguments={**plan.arguments, **own})
    return plan, argparse.Namespace(**{**vars(options), "trained_agent": model})


def resume(
    checkpoint: RunCheckpoint, plan: Plan, env: VecEnv, options: argparse.Namespace, folder: Path
) -> HarmonyDreamAgent | None:
    """The run's agent where it was stored last, with what was typed now in place of what was typed then."""
    changes = {name: value for name, value in plan.arguments.items() if name != "policy"}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            agent = checkpoint.resume(env, device=options.device, seed=options.seed, verbose=1, **changes)
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        if "spaces do not match" in str(error):
            raise UsageError(
                f"{folder} holds a run of {_task_of(folder)}, which cannot go on with {plan.task}: {error} Give the "
                "run's task, or another --folder."
            ) from error
        raise UsageError(str(error)) from error
    for warning in caught:
        print(f"Warning: {warning.message}", file=sys.stderr)
    if agent is not None:
        _forget_episodes(folder, agent._ended.tolist())
        forget_scores(folder / SCORES, agent.num_timesteps)
        changed = changed_settings(folder / CONFIG, plan, options.seed)
        print(f"resumed at step {agent.num_timesteps}" + (f"; changed: {changed}" if changed else ""), flush=True)
    return agent


def resume_command(options: argparse.Namespace, folder: Path) -> str:
    """What to type to go on with this run."""
    return shlex.join(["hd-agents", "train", options.task, "--folder", str(folder), "--resume", *typed(options)])


def repeat_command(task: str, options: argparse.Namespace) -> str:
    """What to type for the same run on another machine: without folders, device, and what has no influence on it."""
    usual = {"track": False, **{name: DEFAULTS[name] for name in WITHOUT_INFLUENCE}}
    return shlex.join(["hd-agents", "train", task, *typed(argparse.Namespace(**{**vars(options), **usual}))])


def typed(options: argparse.Namespace) -> list[str]:
    """The flags of `train`, other than folders, that give these options again; those at their defaults are left out."""
    flags: list[str] = ["--track"] if options.track else []
    for flag, default in DEFAULTS.items():
        value = getattr(options, flag)
        if value != default:
            flags += [f"--{flag.replace('_', '-')}", str(int(value)) if isinstance(value, float) else str(value)]
    for setting in options.settings:
        entry = setting.removeprefix(OF_ENV)
        flags += [f"--set={setting}"] if entry == setting else ["--env-kwargs", entry]
    return flags


def changed_settings(config: Path, plan: Plan, seed: int) -> str:
    """What was typed now that differs from the run's settings; nothing, if these were never written."""
    import yaml

    if not config.exists():
        return ""
    now, then = plan.settings(seed), yaml.safe_load(config.read_text(encoding="utf-8")).get(plan.task, {})
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return ", ".join(f"{key} {then.get(key)} -> {now.get(key)}" for key in keys)


def _task_of(folder: Path) -> str:
    """The task of the run in a folder, as far as its files tell."""
    import yaml

    config = folder / CONFIG
    return ", ".join(yaml.safe_load(config.read_text(encoding="utf-8"))) if config.exists() else "another task"


def forget_logs(logger: Logger, steps: int) -> None:
    """Let TensorBoard drop what was logged after ``steps`` env steps, which will be logged again."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped, unused-ignore]

    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            writer: Any = output.writer
            writer.file_writer.add_event(Event(step=steps + 1, session_log=SessionLog(status=SessionLog.START)))


def _forget_episodes(folder: Path, ended: Sequence[int]) -> None:
    """Cut off what was written of episodes beyond each environment's first ``ended``, and half lines."""
    for env, count in enumerate(ended):
        path = folder / f"{env}.monitor.csv"
        if not path.exists():
            continue
        lines = path.read_bytes().splitlines(keepends=True)[: 2 + count]  # after metadata and names of columns
        os.truncate(path, len(b"".join(line for line in lines if line.endswith(b"\n"))))
