"""From what was typed to what is trained: the task's environment, its hyper-parameters, and the folder of the run."""

import ast
import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch

from hd_agents import zoo
from hd_agents.agent import HarmonyDreamAgent
from hd_agents.spaces import ObservationCodec

# Constructor arguments that have a flag of their own or that the command line fills in.
RESERVED = frozenset({"env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"})
MAX_BUFFER = 1_000_000  # rows of replay
MIN_BUFFER = 10_000


class UsageError(Exception):
    """Something typed that cannot be done; the message says what is possible instead."""


class Plan(NamedTuple):
    """One training run: `steps` env steps of `task` in `n_envs` environments, by an agent made with `arguments`."""

    task: str
    steps: int
    n_envs: int
    arguments: dict[str, Any]

    def settings(self, seed: int) -> dict[str, Any]:
        """All of it in one dict, under the zoo's names."""
        return {"seed": seed, "n_timesteps": self.steps, "n_envs": self.n_envs, **self.arguments}


def make_plan(
    task: str,
    steps: int | None = None,
    size: str | None = None,
    device: str = "auto",
    settings: Sequence[str] = (),
    preset: str = "paper",
) -> Plan:
    """The zoo's entry for the task, else what fits its spaces and this machine; on top `size` and `key=value` settings.

    Replay is as large as the run can fill it. Raises UsageError for an unknown task, space or key.
    """
    task = task_id(task)
    values = {"n_envs": 1, **(zoo.hyperparameters(task, preset) or _fallback(task, device))}
    if size is not None:
        values["size"] = size
    allowed = settable()
    for setting in settings:
        key, value = parse_setting(setting)
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=3) or sorted(allowed)
            raise UsageError(f"--set {key}: no such setting. Did you mean {', '.join(near)}?")
        values[key] = value
    if steps is not None:
        values["n_timesteps"] = steps
    total, n_envs = values.pop("n_timesteps"), values.pop("n_envs")
    for name, number in (("steps", total), ("n_envs", n_envs)):
        if not isinstance(number, int | float) or number < 1:
            raise UsageError(f"{name} must be a number from 1 up, not {number!r}.")
    # One row per step and one more per episode.
    values.setdefault("buffer_size", min(MAX_BUFFER, max(MIN_BUFFER, 2 * int(total))))
    return Plan(task, int(total), int(n_envs), values)


def parse_setting(text: str) -> tuple[str, Any]:
    """`"gamma=0.99"` -> `("gamma", 0.99)`: the value is a Python literal, true/false/none in any case, else text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: write it as key=value, for example --set batch_size=8.")
    value = value.strip()
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return key.strip(), words[value.lower()]
    try:
        return key.strip(), ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return key.strip(), value


def settable() -> list[str]:
    """What --set accepts: the constructor's arguments, and the number of environments."""
    return ["n_envs", *(name for name in inspect.signature(HarmonyDreamAgent).parameters if name not in RESERVED)]


def task_id(task: str) -> str:
    """The Gymnasium id of a name of the zoo, or the id itself. Raises UsageError for what is neither."""
    try:
        return zoo.env_id(task)
    except ValueError as error:
        raise UsageError(str(error)) from error


def make_env(task: str, render: bool = False) -> gym.Env[Any, Any]:
    """The task's environment, with `render_mode="rgb_array"` where asked and possible. Raises UsageError if unknown."""
    try:
        return zoo.make_env(task_id(task), drawn=render)
    except (gym.error.Error, ImportError) as error:
        raise UsageError(
            f"cannot make {task!r}: {error}\nTASK is a name of `hd-agents list` or a Gymnasium id, such as "
            "ALE/Pong-v5; Atari, DeepMind Control and Meta-World each need an extra (atari, dmc, metaworld)."
        ) from error


def new_run_folder(parent: Path, task: str) -> Path:
    """Make and return `parent/<task>_<n>` with the first free n from 1 up; a slash in the task becomes a dash."""
    name = task.replace("/", "-")
    parent.mkdir(parents=True, exist_ok=True)
    taken = [path.name.removeprefix(f"{name}_") for path in parent.glob(f"{name}_*")]
    number = max((int(suffix) for suffix in taken if suffix.isdecimal()), default=0)
    while True:
        number += 1
        try:
            (parent / f"{name}_{number}").mkdir()
        except FileExistsError:  # another run took it between the look and the making
            continue
        return parent / f"{name}_{number}"


def _fallback(task: str, device: str) -> dict[str, Any]:
    """Policy, size and rates for a task without an entry in the zoo."""
    env = make_env(task)
    try:
        codec = ObservationCodec(env.observation_space)
    except ValueError as error:
        raise UsageError(f"{task}: {error}") from error
    finally:
        env.close()
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if isinstance(env.observation_space, gym.spaces.Dict):
        policy = "MultiInputPolicy"
    else:
        policy = "CnnPolicy" if codec.images else "MlpPolicy"
    small = zoo.hyperparameters("classic/default")
    chosen = {"n_timesteps": small["n_timesteps"], "size": "small"} if on_gpu else small
    return {**chosen, "policy": policy}
