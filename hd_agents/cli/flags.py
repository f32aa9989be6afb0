"""The flags that several commands have, and what they take."""

import argparse
from pathlib import Path
from typing import Any

import torch

from hd_agents import checks, zoo
from hd_agents.cli import tracking
from hd_agents.cli.curves import SCORES
from hd_agents.zoo.own_rows import is_file
from hd_agents.zoo.training import VEC_ENVS

RUNS = Path("runs")  # where run folders go


def add_plan_flags(parser: argparse.ArgumentParser, what: str = "run") -> None:
    """Add the flags that say how a task is trained and where the run, or ``what`` consists of runs, goes."""
    add_setting_flags(parser)
    folder_help = f"where {what} folders go (default: {RUNS}); with --resume, the folder of the {what} itself"
    parser.add_argument("--folder", type=Path, help=folder_help)
    parser.add_argument(
        "--checkpoint-every", type=count, metavar="STEPS", help="store the whole run every STEPS env steps"
    )
    resume_help = f"continue the {what} in --folder where it was stored last; begin it if there is none yet"
    parser.add_argument("--resume", action="store_true", help=resume_help)
    add_eval_flags(parser)
    tracking.add_flags(parser)


def plan_defaults() -> dict[str, Any]:
    """What the flags of :func:`add_plan_flags` are where nothing is typed."""
    parser = argparse.ArgumentParser()
    add_plan_flags(parser)
    return vars(parser.parse_args([]))


def add_eval_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what is played besides learning."""
    every = f"evaluate by the papers' rule every STEPS env steps, and write the scores to {SCORES}"
    parser.add_argument("--eval-every", type=count, metavar="STEPS", help=every)
    episodes = "number of episodes of each such evaluation (default: the papers' number)"
    parser.add_argument("--eval-episodes", type=count, metavar="N", help=episodes)
    parser.add_argument(
        "--no-video", action="store_true", help="play no episodes after training: no play.mp4 and no dream.png"
    )


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how a task is trained."""
    presets = "paper: the paper's settings (for `classic` and your own tasks: ours); nano: for two CPU cores; or a "
    presets += "YAML file with a row for each task, such as the config.yml of a run or the best.yml of `tune`"
    parser.add_argument(
        "--preset", type=_preset, default="paper", metavar="PRESET", help=f"{presets} (default: %(default)s)"
    )
    parser.add_argument("--steps", type=_steps, help="env steps to train for, such as 1e5 (default: the task's own)")
    add_device_flag(parser)
    sizes = "nano, xsmall, small, medium, large or xlarge"
    parser.add_argument("--size", help=f"size of the networks: {sizes} (default: the task's own)")
    where = "dummy: all environments of --set n_envs=N in this process; subproc: each in its own (default: dummy)"
    parser.add_argument(
        "--vec-env",
        dest="settings",
        action="append",
        default=[],
        type=_vec_env,
        metavar="KIND",
        help=where,
    )
    arguments = "an argument of HarmonyDreamAgent (not env, seed, device, verbose or tensorboard_log)"
    own = "agent_class=MODULE:CLASS for an agent of your own"
    set_help = f"change {arguments}; one entry of it, such as policy_kwargs.units; n_envs; or {own}; may be repeated"
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help=set_help)
    add_env_flag(parser, "settings", "env_kwargs.")
    parser.set_defaults(trained_agent=None)  # a flag of `train` alone


def add_seeds_flags(parser: argparse.ArgumentParser, usual: int) -> None:
    """Add ``--seeds`` and ``--first-seed``, which :func:`seeds` reads."""
    parser.add_argument(
        "--seeds", type=count, default=usual, metavar="N", help="number of seeds (default: %(default)s)"
    )
    parser.add_argument(
        "--first-seed",
        type=seed,
        default=0,
        metavar="SEED",
        help="the first seed; the others follow (default: %(default)s)",
    )


def changed(options: argparse.Namespace, **values: Any) -> argparse.Namespace:
    """The options with other values for some of them."""
    return argparse.Namespace(**{**vars(options), **values})


def seeds(options: argparse.Namespace) -> range:
    """The seeds that are asked for."""
    return range(options.first_seed, options.first_seed + options.seeds)


def add_device_flag(parser: argparse.ArgumentParser, usual: str = "auto") -> None:
    """Add ``--device``."""
    help_text = "auto, cpu, cuda or cuda:N (default: %(default)s)"
    parser.add_argument("--device", type=_device, default=usual, help=help_text)


def add_class_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--agent-class``."""
    own = "the class of a saved agent, if it is a class of your own and not HarmonyDreamAgent"
    parser.add_argument("--agent-class", metavar="MODULE:CLASS", help=own)


def add_env_flag(parser: argparse.ArgumentParser, dest: str = "env_kwargs", prefix: str = "", usual: str = "") -> None:
    """Add ``--env-kwargs``: a list of ``KEY=VALUE``, each with ``prefix`` in front."""

    def read(text: str) -> str:
        if not text.partition("=")[1] or text.startswith("="):
            raise argparse.ArgumentTypeError(f"{text!r}: write it as KEY=VALUE, for example --env-kwargs size=96")
        return prefix + text

    parser.add_argument(
        "--env-kwargs",
        dest=dest,
        action="append",
        default=[],
        type=read,
        metavar="KEY=VALUE",
        help=f"an argument of the environment, as for gymnasium.make; may be repeated{usual}",
    )


def seed(text: str) -> int:
    """What ``--seed`` takes."""
    return _whole(text, 0)


def count(text: str) -> int:
    """What a flag takes that says how many, such as 1e4."""
    return _whole(text, 1)


def _steps(text: str) -> float:
    """What ``--steps`` takes; whether it is a whole number is looked at with the task."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps, such as 10000 or 1e4") from error


def _whole(text: str, least: int) -> int:
    try:
        return checks.whole("", float(text), least)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}") from error


def _preset(text: str) -> str:
    if text not in zoo.PRESETS and not is_file(text):
        raise argparse.ArgumentTypeError(f"{text!r}: use {', '.join(zoo.PRESETS)}, or a file of yours such as my.yml")
    return text


def _vec_env(text: str) -> str:
    if text not in VEC_ENVS:
        raise argparse.ArgumentTypeError(f"{text!r}: use one of {', '.join(VEC_ENVS)}")
    return f"vec_env={text}"


def _device(text: str) -> str:
    if text == "auto":
        return text
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a device: use auto, cpu, cuda or cuda:N") from error
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:  # Stable-Baselines3 would quietly take the CPU
        devices = ", ".join(f"cuda:{index}" for index in range(there)) or "no CUDA device"
        raise argparse.ArgumentTypeError(
            f"{text!r} is not there; PyTorch finds {devices}: use auto or cpu, or install driver and PyTorch for CUDA"
        )
    return str(device)
