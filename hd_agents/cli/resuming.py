"""`hd-agents train --resume`: going on with a run that was stored, in its own folder."""

import argparse
import inspect
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
from hd_agents.cli import flags
from hd_agents.cli.curves import SCORES
from hd_agents.cli.errors import UsageError, checked, make_folder
from hd_agents.cli.tasks import parse_setting, plan_of, task_id
from hd_agents.evaluation.score_curve import forget_scores
from hd_agents.saving.checkpoint import LOCK, CheckpointError
from hd_agents.saving.jsonable import DamagedError
from hd_agents.saving.storing import arguments_of
from hd_agents.zoo.models import CHECKPOINTS, CONFIG, training_facts
from hd_agents.zoo.setting_names import settable
from hd_agents.zoo.training import Plan, without_usual_rows
from hd_agents.zoo.transfer import NETWORKS

# The flags of `train` that a command repeats, in the order that those of earlier runs have.
REPEATED = ["preset", "steps", "size", "device", "checkpoint_every", "track_project", "trained_agent", "eval_every"]
REPEATED += ["eval_episodes"]
DEFAULTS = {"seed": None, **{flag: flags.plan_defaults()[flag] for flag in REPEATED}}  # a run's seed is always told
OF_ENV = "env_kwargs."  # what `--env-kwargs` puts before its settings
WITHOUT_INFLUENCE = ("track_project", "checkpoint_every", "eval_every", "eval_episodes", "device")  # on the agent


def folder_to_resume(options: argparse.Namespace, what: str) -> Path:
    """The folder that ``--resume`` goes on in. Raises UsageError if none was given."""
    if options.folder is None:
        raise UsageError(f"--resume needs --folder, the folder of the {what} itself, such as --folder runs/my_{what}.")
    return Path(options.folder)


def own_run_folder(folder: Path) -> Path:
    """Make and return the folder of a run that may have begun there.

    Raises UsageError if it holds anything else, or a file to go on with that cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--folder {folder} is a file: give the run's folder.")
    make_folder(folder)
    left = [path for path in folder.iterdir() if path.name != CHECKPOINTS]
    if left and not any(folder.glob("*.monitor.csv")):
        runs = sorted(path.parent for path in folder.glob("*/0.monitor.csv"))
        hint = f" Did you mean {runs[-1]}?" if runs else ""
        raise UsageError(f"{folder} holds files, but no run: with --resume, --folder is the folder of one run.{hint}")
    for path in (folder / CHECKPOINTS, folder / CHECKPOINTS / LOCK, *folder.glob("*.monitor.csv")):
        if path.exists() and not os.access(path, os.W_OK):
            raise UsageError(f"cannot write {path}: change its permissions, or go on in a copy of the run's folder.")
    return folder


def plan_to_resume(options: argparse.Namespace, folder: Path) -> tuple[Plan, argparse.Namespace]:
    """Plan and options of a run that goes on: with its seed, environments and trained agent where none were typed.

    The trained agent is not read again, but its networks are kept. Raises UsageError where another task, other
    environments, another number of them or another trained agent were typed, which cannot change on the way.
    """
    facts = checked(lambda: training_facts(folder))
    told = facts or {}
    options = flags.changed(options, seed=told.get("seed", 0) if options.seed is None else options.seed)
    others = [setting for setting in options.settings if not setting.strip().startswith("env_kwargs")]
    own = flags.changed(options, settings=[*others, *_as_settings(told.get("env_kwargs", {}))])
    typed_env = len(others) < len(options.settings)
    tasks = settings_in(folder)
    if tasks and (task := task_id(options.task)) not in tasks:
        raise UsageError(
            f"{folder} holds a run of {', '.join(tasks)}, which cannot go on with {task}: give the run's task, or "
            f"another --folder. There a new run can begin with its weights: --trained-agent {shlex.quote(str(folder))}."
        )
    plan = plan_of(options if typed_env else own)
    env_kwargs = plan.env_kwargs if facts is None else facts.get("env_kwargs", {})
    if typed_env and plan.env_kwargs != env_kwargs:
        raise UsageError(
            f"{folder} was begun in environments made with {env_kwargs or 'no arguments'}, and cannot go on with "
            f"{plan.env_kwargs}: leave --env-kwargs out, or give another --folder."
        )
    own_class, typed_class = tasks.get(plan.task, told).get("agent_class"), plan.row().get("agent_class")
    if own_class != typed_class:
        raise UsageError(
            f"{folder} holds a run of {own_class or 'HarmonyDreamAgent'}, which cannot go on as one of "
            f"{typed_class or 'HarmonyDreamAgent'}: "
            + (f"add --set agent_class={own_class}." if own_class else "leave agent_class out.")
        )
    then = tasks.get(plan.task, {})
    n_envs = then.get("n_envs", plan.n_envs)
    if n_envs != plan.n_envs:  # before any is made, and with it a file of its episodes
        raise UsageError(
            f"{folder} holds a run in {n_envs} environments, and cannot go on in {plan.n_envs}: give --set "
            f"n_envs={n_envs}, or another --folder."
        )
    model = told.get("trained_agent", {}).get("model")
    if options.trained_agent not in (None, model):
        raise UsageError(
            f"{folder} was begun with {model or 'random weights'}, and goes on with its own weights, not with "
            f"{options.trained_agent}: leave --trained-agent out, or give another --folder."
        )
    arguments = plan.arguments if model is None else {**plan.arguments, **_own_networks(options, then)}
    settings = [*others, *_as_settings(env_kwargs)]
    usual = _usual(plan, then)  # else what was typed then stays
    arguments = {**arguments, **{name: value for name, value in usual.items() if name not in arguments}}
    plan = plan._replace(env_kwargs=env_kwargs, arguments=arguments)
    return plan, flags.changed(options, settings=settings, trained_agent=model)


def _usual(plan: Plan, then: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's own defaults of the settings that a run had then."""
    known, allowed = arguments_of(plan.agent_class), settable(plan.agent_class)
    usual = {name: default for name, default in known.items() if default is not inspect.Parameter.empty}
    return {name: usual[name] for name in then if name in allowed and name in usual}


def _own_networks(options: argparse.Namespace, then: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's networks as they were then, but for those that were typed now."""
    typed = dict(map(parse_setting, options.settings)) | ({} if options.size is None else {"size": options.size})
    own = {name: then[name] for name in NETWORKS if name in then and name not in typed}
    entries = {key.partition(".")[2]: value for key, value in typed.items() if key.startswith("policy_kwargs.")}
    if entries and "policy_kwargs" in own:
        own["policy_kwargs"] = {**own["policy_kwargs"], **entries}
    return own


def _as_settings(env_kwargs: Mapping[str, Any]) -> list[str]:
    """What :func:`parse_setting` makes these arguments of; words stand as they are."""
    found = []
    for key, value in env_kwargs.items():
        plain = f"{OF_ENV}{key}={value}"
        is_word = isinstance(value, str) and parse_setting(plain)[1] == value
        found.append(plain if is_word else f"{OF_ENV}{key}={value!r}")
    return found


def resume_agent(
    checkpoint: RunCheckpoint, plan: Plan, env: VecEnv, options: argparse.Namespace, folder: Path
) -> HarmonyDreamAgent | None:
    """The run's agent where it was stored last, with what was typed now in place of what was typed then."""
    changes = {name: value for name, value in plan.arguments.items() if name != "policy"}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            changes |= {"device": options.device, "seed": options.seed, "verbose": 1}
            agent = checkpoint.resume(env, plan.agent_class, **changes)
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    for warning in caught:
        print(f"Warning: {warning.message}", file=sys.stderr)
    if agent is not None:
        told, done = changed_settings(folder, plan, options.seed), agent.num_timesteps >= plan.steps
        if told and done:  # its files would tell of settings that nothing was learned with
            raise UsageError(
                f"All {plan.steps:,} env steps of the run in {folder} are done, and none is left for {told}: to go on "
                "with that, give a larger --steps; for a new run another --folder."
            )
        _forget_episodes(folder, agent._ended.tolist())
        forget_scores(folder / SCORES, agent.num_timesteps)
        print(f"resumed at step {agent.num_timesteps}" + (f"; changed: {told}" if told else ""), flush=True)
        if done:
            print(f"All {plan.steps:,} env steps are done: to go on, give a larger --steps.", flush=True)
    return agent


def resume_command(options: argparse.Namespace, folder: Path) -> str:
    """What to type to go on with this run."""
    return shlex.join(["hd-agents", "train", options.task, "--folder", str(folder), "--resume", *typed_flags(options)])


def repeat_command(task: str, options: argparse.Namespace) -> str:
    """What to type for the same run on another machine: without folders, device, and what has no influence on it."""
    usual = {"track": False, "no_video": False, **{name: DEFAULTS[name] for name in WITHOUT_INFLUENCE}}
    return shlex.join(["hd-agents", "train", task, *typed_flags(flags.changed(options, **usual))])


def typed_flags(options: argparse.Namespace) -> list[str]:
    """The flags of `train`, other than folders, that give these options again; those at their defaults are left out."""
    words = [flag for flag, given in (("--track", options.track), ("--no-video", options.no_video)) if given]
    for flag, default in DEFAULTS.items():
        value = getattr(options, flag)
        if value != default:
            words += [f"--{flag.replace('_', '-')}", str(int(value)) if isinstance(value, float) else str(value)]
    for setting in options.settings:
        entry = setting.removeprefix(OF_ENV)
        words += [f"--set={setting}"] if entry == setting else ["--env-kwargs", entry]
    return words


def changed_settings(folder: Path, plan: Plan, seed: int) -> str:
    """What was typed now that differs from the run's settings; nothing, if these were never written."""
    import yaml

    stored = settings_in(folder)
    if not stored:
        return ""
    if plan.task not in stored:
        return f"task {', '.join(stored)} -> {plan.task}"
    now, then = yaml.safe_load(yaml.safe_dump(plan.settings(seed))), stored[plan.task]  # tuples are lists there
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return ", ".join(f"{key} {then.get(key)} -> {now.get(key)}" for key in keys)


def settings_in(folder: Path) -> dict[str, dict[str, Any]]:
    """What a run's folder holds of its settings, by its task; nothing if they were never written.

    :raises DamagedError: where that is something else.
    """
    import yaml

    config = folder / CONFIG
    if not config.exists():
        return {}
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise DamagedError(f"{config} is damaged: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(settings, dict) for settings in found.values()):
        raise DamagedError(f"{config} is damaged: it should hold a task with its settings.")
    return {task: without_usual_rows(settings) for task, settings in found.items()}


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
