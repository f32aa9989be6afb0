"""From what was typed to what is trained: the task's environment, its hyper-parameters, and the folder of the run."""

import argparse
import ast
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.utils import get_device

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli.errors import UsageError, checked, make_folder
from hd_agents.envs.closing import close
from hd_agents.zoo.catalogue import make_with
from hd_agents.zoo.classes import class_name
from hd_agents.zoo.models import AGENT_FILE
from hd_agents.zoo.training import Plan, plan


def make_plan(
    task: str,
    steps: int | None = None,
    size: str | None = None,
    device: str = "auto",
    settings: Sequence[str] = (),
    preset: str = "paper",
    trained_agent: HarmonyDreamAgent | None = None,
) -> Plan:
    """:func:`hd_agents.zoo.training.plan` of what was typed: `size`, and settings as `key=value`.

    Raises UsageError for an unknown task, space or key.
    """
    given = {} if size is None else {"size": size}
    try:
        typed = given | dict(map(parse_setting, settings))
        if "agent_class" in typed:
            find_own_modules()
        found = plan(task_id(task), steps, preset, device, typed, trained_agent)
        return found._replace(env_kwargs=as_json(found.env_kwargs))
    except ValueError as error:
        raise UsageError(str(error)) from error
    except (gym.error.Error, ImportError) as error:
        raise _cannot_make(task, error) from error


def plan_of(options: argparse.Namespace, trained_agent: HarmonyDreamAgent | None = None) -> Plan:
    """:func:`make_plan` of the task and the flags that say how it is trained."""
    asked = options.steps, options.size, options.device, options.settings, options.preset
    return make_plan(options.task, *asked, trained_agent)


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
    except (SyntaxError, TypeError, ValueError):
        return key.strip(), value


def class_in(settings: Sequence[str]) -> str | None:
    """The class of agents among what was set, if there is one."""
    told = dict(map(parse_setting, settings)).get("agent_class")
    return None if told is None else str(told)


def as_json(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an environment as a run's files hold them: with lists for tuples. Raises UsageError for others."""
    problem = "its keys have to be text" if not _has_text_keys(env_kwargs) else None
    try:
        made: dict[str, Any] = json.loads(json.dumps(env_kwargs, allow_nan=False))
    except (TypeError, ValueError) as error:
        problem = str(error)
    if problem:
        raise UsageError(
            f"--env-kwargs: {dict(env_kwargs)} cannot be stored with the run ({problem}): use numbers, text, True, "
            "False, None, and lists and dicts of them."
        )
    return made


def _has_text_keys(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _has_text_keys(item) for key, item in value.items())
    return all(map(_has_text_keys, value)) if isinstance(value, list | tuple) else True


def allow_tensor_cores(device: str) -> bool:
    """Let a GPU's tensor cores make float32 products (TF32), as JAX does by default; whether there is a GPU."""
    if get_device(device).type != "cuda":
        return False
    torch.set_float32_matmul_precision("high")
    return True


def find_own_modules() -> None:
    """Look for modules, as in `module:Name-v0`, in the current directory too, as `python -m` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def task_id(task: str) -> str:
    """The Gymnasium id of a name of the zoo, or the id itself. Raises UsageError for what is neither."""
    module, colon, name = task.partition(":")
    if colon:
        find_own_modules()
        if not all(part.isidentifier() for part in module.split(".")):
            raise UsageError(f"{task}: {module} is not the name of a module; write it as for import, my_module:{name}.")
    return str(checked(lambda: zoo.env_id(task)))


def checked_env(task: str, env_kwargs: Mapping[str, Any], drawn: bool = False) -> gym.Env[Any, Any]:
    """:func:`hd_agents.zoo.make_env`, which raises UsageError for an unknown task and arguments that it does not take.

    What somebody's own environment raises without arguments is passed on.
    """
    try:
        return make_with(task_id(task), env_kwargs, drawn)
    except (ValueError, OSError) as error:
        ours = str(gym.spec(task_id(task)).entry_point).startswith("hd_agents.")
        if not ours and (isinstance(error, OSError) or not env_kwargs):
            raise  # somebody's own environment, whose traceback tells more
        raise UsageError(str(error)) from error
    except (gym.error.Error, ImportError) as error:
        raise _cannot_make(task, error) from error


def try_agent(plan: Plan, device: str) -> HarmonyDreamAgent:
    """An agent by these settings, whose environment is closed. Raises UsageError where there can be none, and for a
    class of one's own whose agents cannot be stored and loaded: better now than after hours.
    """
    env = checked_env(plan.task, plan.env_kwargs)
    try:
        made: HarmonyDreamAgent = checked(lambda: plan.agent_class(env=env, device=device, **plan.arguments))
    except TypeError as error:
        raise UsageError(str(error)) from error
    finally:
        close(env)
    if plan.agent_class is not HarmonyDreamAgent:
        _check_stored(made)
    return made


def _check_stored(agent: HarmonyDreamAgent) -> None:
    kind = type(agent)
    try:
        with tempfile.TemporaryDirectory() as folder:
            agent.save(Path(folder) / AGENT_FILE)
            kind.load(Path(folder) / AGENT_FILE, device="cpu")
    except Exception as error:  # whatever a class of anybody's does
        raise UsageError(
            f"agents of {class_name(kind)} cannot be stored and loaded again: {type(error).__name__}: {error} Have it "
            "keep its arguments under their names, and change networks in _make_policy (docs/extending.md)."
        ) from error


def new_run_folder(parent: Path, task: str) -> Path:
    """Make and return `parent/<task>_<n>` with the first free n from 1 up; a slash in the task becomes a dash."""
    name = task.replace("/", "-")
    make_folder(parent)
    taken = [path.name.removeprefix(f"{name}_") for path in parent.glob(f"{name}_*")]
    number = max((int(suffix) for suffix in taken if suffix.isdecimal()), default=0)
    while True:
        number += 1
        try:
            (parent / f"{name}_{number}").mkdir()
        except FileExistsError:  # another run took it between the look and the making
            continue
        return parent / f"{name}_{number}"


def _cannot_make(task: str, error: Exception) -> UsageError:
    module = task.partition(":")[0].partition(".")[0]
    if ":" in task and module not in sys.modules and importlib.util.find_spec(module) is None:
        return UsageError(
            f"cannot make {task!r}: there is no module {module} in this folder, and none is installed. Type the "
            f"command where {module} is, or add its folder to PYTHONPATH."
        )
    unknown = isinstance(error, gym.error.NameNotFound | gym.error.NamespaceNotFound) and ":" not in task
    own = f"If it is your own, name the module that registers it: my_module:{task}\n" if unknown else ""
    return UsageError(
        f"cannot make {task!r}: {error}\n{own}TASK is a name of `hd-agents list` or a Gymnasium id, such as "
        "ALE/Pong-v5; Atari, DeepMind Control and Meta-World each need an extra (atari, dmc, metaworld)."
    )
