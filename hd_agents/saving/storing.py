"""What of an agent goes into an archive: settings, spaces and counters as plain values, where it stands as tensors."""

import inspect
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import FloatSchedule, get_system_info

from hd_agents.checks import LinearRate
from hd_agents.saving.jsonable import ArchiveError

SIMULATORS = ("ale-py", "dm_control", "metaworld", "mujoco", "opencv-python-headless", "shimmy")
RATES = ("learning_rate", "actor_learning_rate", "critic_learning_rate")
COUNTERS = (
    "num_timesteps",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_current_progress_remaining",
    "_episode_num",
    "_n_updates",
    "_replay_credit",
    "_pretrained",
    "n_envs",
)
SPACES = ("observation_space", "action_space")
LAST_SEEN = ("_last_obs", "_last_original_obs", "_last_episode_starts")  # where the environments were
PLACES = {"replay_folder"}  # arguments that are never stored: no file may choose a place on this machine
NOT_STORED = {"self", "policy", "env", "device", "_init_setup_model"}


def arguments_of(cls: type[BaseAlgorithm]) -> dict[str, Any]:
    """Constructor arguments that are stored under their own names, and their defaults (`Parameter.empty` for none).

    Those that a subclass adds or passes on are included.
    """
    found: dict[str, Any] = {}
    for klass in cls.__mro__[: cls.__mro__.index(BaseAlgorithm)]:
        for name, parameter in inspect.signature(klass).parameters.items():
            if name not in NOT_STORED and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(name, parameter.default)
    return found


def archive_data(agent: Any, exclude: Iterable[str], include: Iterable[str]) -> dict[str, Any]:
    """Everything but tensors that an archive of ``agent`` holds; names as for ``HarmonyDreamAgent.save``.

    :raises ArchiveError: for a name in ``include``, or an argument of a subclass, that the agent has no attribute for,
        for one in ``include`` that names a place, and for tensors that a subclass would have stored by themselves.
    """
    if tensors := agent._get_torch_save_params()[1]:  # which Stable-Baselines3's algorithms may have
        raise ArchiveError(
            f"{type(agent).__name__} names {tensors} in _get_torch_save_params, but tensors are not stored alone: "
            "make them parameters or buffers of a module of agent.policy."
        )
    data: dict[str, Any] = {"policy_class": policy_name(agent), "system_info": system_info()}
    data |= {name: getattr(agent, name) for name in (*SPACES, *COUNTERS)}
    arguments = {name: f"_{name}" if name == "stats_window_size" else name for name in arguments_of(type(agent))}
    arguments = {name: attribute for name, attribute in arguments.items() if name not in PLACES}
    unkept = [name for name, attribute in arguments.items() if not hasattr(agent, attribute)]
    if unkept:
        raise ArchiveError(f"{type(agent).__name__} takes {unkept} but keeps no attributes of these names to store.")
    data |= {name: getattr(agent, attribute) for name, attribute in arguments.items()}
    data["tensorboard_log"] = None if agent.tensorboard_log is None else str(agent.tensorboard_log)  # may be a Path
    data["frozen_schedules"] = dict(agent._frozen_schedules)
    for name in RATES:
        data[name] = _freeze(name, data[name], agent._current_progress_remaining, data["frozen_schedules"])
    kinds = {"r": float, "l": int, "t": float}
    data["ep_info_buffer"] = [
        {key: kind(info[key]) for key, kind in kinds.items() if key in info} for info in agent.ep_info_buffer or ()
    ]
    data["ep_success_buffer"] = [float(np.mean(success)) for success in agent.ep_success_buffer or ()]
    wanted = set(include) - {*LAST_SEEN}  # which have a part of their own
    missing = sorted(name for name in wanted - data.keys() if name in PLACES or not hasattr(agent, name))
    if missing:
        raise ArchiveError(f"include={missing}: the agent has no such attributes that a file may hold.")
    data["included"] = {name: getattr(agent, name) for name in sorted(wanted - data.keys())}
    return {name: value for name, value in data.items() if name not in set(exclude) - wanted}


@cache
def system_info() -> dict[str, str]:
    """Versions of what the agent runs on, and of the simulators that are installed; always the same dict."""
    found = {key: str(value) for key, value in get_system_info(print_info=False)[0].items()}
    for package in SIMULATORS:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def policy_name(agent: Any) -> str:
    """The alias of one of our policies, or where a user's own class is defined."""
    for alias, policy_class in agent.policy_aliases.items():
        if agent.policy_class is policy_class:
            return alias
    return f"{agent.policy_class.__module__}.{agent.policy_class.__qualname__}"


def running_state(agent: Any, latent: Iterable[torch.Tensor] | None) -> dict[str, Any]:
    """Where the environments were, as tensors: what it takes to go on in mid-episode.

    No last observation where they have been moved since, such as by an evaluation: a new episode begins.
    """
    state: dict[str, Any] = {name: _to_tensors(getattr(agent, name)) for name in LAST_SEEN}
    if agent._moved_elsewhere():
        state["_last_obs"] = None
    return {**state, "latent": None if latent is None else list(latent)}


def _to_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_tensors(item) for key, item in value.items()}
    return None if value is None else torch.as_tensor(np.array(value))


def _freeze(name: str, rate: Any, progress: float, notes: dict[str, str]) -> float | str:
    """A function as its present value, with a note if it is not constant; what can be written stays what it is."""
    if isinstance(rate, LinearRate):
        return str(rate)
    if not callable(rate):
        return rate
    schedule = FloatSchedule(rate)
    now = schedule(progress)
    start, points = schedule(1.0), (0.75, 0.5, 0.25, 0.0)
    if start > 0.0 and all(math.isclose(schedule(point), start * point, rel_tol=1e-6) for point in points):
        return str(LinearRate(start))
    if any(schedule(point) != now for point in (1.0, *points)):
        notes[name] = f"{rate!r}, stored as {now:g}"
    return now
