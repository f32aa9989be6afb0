"""What of an agent goes into an archive, and how it comes back: settings, spaces and counters as plain values."""

import inspect
import io
import warnings
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import FloatSchedule, get_system_info

from hd_agents import checks
from hd_agents.checks import LinearRate
from hd_agents.jsonable import ArchiveError
from hd_agents.policies import Latent
from hd_agents.saving import read_archive
from hd_agents.vetting import blamed_on, check_values, check_weights, fitting_optimizer

Archive = str | Path | io.BufferedIOBase  # Stable-Baselines3's word for the next line
File = str | Path | BinaryIO

RATES = ("learning_rate", "actor_learning_rate", "critic_learning_rate")
SHAPES_NETWORKS = ("backbone", "size", "harmony", "policy_kwargs")
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
EPISODES = ("ep_info_buffer", "ep_success_buffer")
RUNNING = "running"  # the archive's part for where the environments were: last observations and latents
NONFINITE = "nonfinite"  # the part that a record of a failed gradient step has beside an agent's
LAST = ("_last_obs", "_last_original_obs", "_last_episode_starts")
PLACES = {"replay_folder"}  # arguments that name a place on this machine, which no file may choose
NOT_STORED = {"self", "policy", "env", "device", "_init_setup_model"}


def argument_names(cls: type[BaseAlgorithm]) -> list[str]:
    """Constructor arguments that are stored under their own names, those that a subclass adds or passes on included."""
    names: dict[str, None] = {}
    for klass in cls.__mro__[: cls.__mro__.index(BaseAlgorithm)]:
        for name, parameter in inspect.signature(klass).parameters.items():
            if name not in NOT_STORED and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                names[name] = None
    return list(names)


def archive_data(agent: Any, exclude: Iterable[str], include: Iterable[str]) -> dict[str, Any]:
    """Everything but tensors that an archive of ``agent`` holds; names as for ``HarmonyDreamAgent.save``.

    :raises ArchiveError: for a name in ``include``, or an argument of a subclass, that the agent has no attribute for.
    """
    data: dict[str, Any] = {"policy_class": policy_name(agent), "system_info": system_info()}
    data |= {name: getattr(agent, name) for name in (*SPACES, *COUNTERS)}
    arguments = {name: f"_{name}" if name == "stats_window_size" else name for name in argument_names(type(agent))}
    arguments = {name: attribute for name, attribute in arguments.items() if name not in PLACES}
    unkept = [name for name, attribute in arguments.items() if not hasattr(agent, attribute)]
    if unkept:
        raise ArchiveError(f"{type(agent).__name__} takes {unkept} but keeps no attributes of these names to store.")
    data |= {name: getattr(agent, attribute) for name, attribute in arguments.items()}
    data["frozen_schedules"] = dict(agent._frozen_schedules)
    for name in RATES:
        data[name] = _freeze(name, data[name], agent._current_progress_remaining, data["frozen_schedules"])
    data["ep_info_buffer"] = [{key: float(info[key]) for key in "rlt"} for info in agent.ep_info_buffer or ()]
    data["ep_success_buffer"] = [float(np.mean(success)) for success in agent.ep_success_buffer or ()]
    wanted = set(include)
    missing = sorted(name for name in wanted - data.keys() if not hasattr(agent, name))
    if missing:
        raise ArchiveError(f"include={missing}: the agent has no such attributes.")
    data["included"] = {name: getattr(agent, name) for name in sorted(wanted - data.keys())}
    return {name: value for name, value in data.items() if name not in set(exclude) - wanted}


def system_info() -> dict[str, str]:
    """Versions of what the agent runs on."""
    return {key: str(value) for key, value in get_system_info(print_info=False)[0].items()}


def policy_name(agent: Any) -> str:
    """The alias of one of our policies, or where a user's own class is defined."""
    for alias, policy_class in agent.policy_aliases.items():
        if agent.policy_class is policy_class:
            return alias
    return f"{agent.policy_class.__module__}.{agent.policy_class.__qualname__}"


def stored_arguments(cls: Any, data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments out of an archive's data, with the caller's changes on top.

    :raises ValueError: for changes that would need other networks, for a policy class that has to be passed, and for an
        archive that lacks what is needed.
    :raises TypeError: for a change to something that is no constructor argument.
    """
    names = argument_names(cls)
    missing = [name for name in (*SPACES, "policy_class") if name not in data]
    if missing:
        raise ArchiveError(f"The archive lacks {missing}; it was saved with these excluded. Pass a complete one.")
    for name, change in changes.items():
        value = dict(change or {}) if name == "policy_kwargs" else change
        if name not in names:
            raise TypeError(f"load() got {name}={value!r}, which is no argument of {cls.__name__}; it has {names}.")
        if name in SHAPES_NETWORKS and value != data.get(name, value):
            raise ValueError(f"{name}={value!r} differs from the stored {data[name]!r}, which shaped the networks.")
    policy = data["policy_class"]
    if isinstance(policy, str) and policy not in cls.policy_aliases:
        raise ValueError(
            f"The archive was saved with the policy class {policy}. Classes are not stored: import it and call "
            f'load(path, custom_objects={{"policy_class": {policy.rpartition(".")[2]}}}).'
        )
    stored = {name: data[name] for name in names if name in data and name not in PLACES}
    return {"policy": policy, **stored, **changes}


def load(
    cls: Any,
    path: Archive,
    env: Any,
    device: Any,
    custom_objects: Mapping[str, Any],
    print_system_info: bool,
    force_reset: bool,
    changes: Mapping[str, Any],
) -> Any:
    """An agent of ``cls``; arguments and errors of ``HarmonyDreamAgent.load``, ``changes`` being the further ones."""
    data, tensors = read_archive(as_file(path))
    given = {**custom_objects, **changes}
    check_values({name: value for name, value in data.items() if name not in given})
    data.update({name: value for name, value in custom_objects.items() if name in data})
    if print_system_info:
        print_systems(data)
    arguments = stored_arguments(cls, data, changes)
    verbose = checks.verbosity(arguments.get("verbose", 0))
    arguments["verbose"] = 0 if env is None else verbose  # what it would learn with is of no interest then
    agent = cls(**arguments, env=env, device=device, _init_setup_model=False)
    if agent.env is not None:
        checks.spaces(agent.env, data["observation_space"], data["action_space"])
    with blamed_on(f"The archive with {', '.join(sorted(changes))} as given" if changes else "The archive"):
        restore(agent, data, given)
        if agent.env is not None:
            agent.action_space = agent.env.action_space  # the same object, as in a new agent: both may draw from it
        check_weights(agent._make_policy, tensors.get("policy"), agent.policy_kwargs)
        agent._setup_model()
        if env is None or not force_reset:
            agent._collector.latent = restore_running_state(agent, tensors.get(RUNNING, {}))
        agent.set_parameters(tensors, exact_match=True, device=device)
    agent.verbose = verbose
    return agent


def restore(agent: Any, data: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Set what the constructor does not: spaces, counters, episodes, extras."""
    n_envs = agent.n_envs if agent.env is not None else data.get("n_envs", 1)
    for name in (*SPACES, *COUNTERS):
        if name in data:
            setattr(agent, name, data[name])
    for name, value in data.get("included", {}).items():
        known = vars(agent).get(name)
        if hasattr(type(agent), name) or type(known) not in (type(None), type(value)):
            raise ArchiveError(f"The archive includes a value for {name!r}, which is not of that kind in an agent.")
        setattr(agent, name, value)
    agent.n_envs = n_envs
    agent._frozen_schedules = {k: v for k, v in data.get("frozen_schedules", {}).items() if k not in changes}
    for name in EPISODES:
        setattr(agent, name, deque(data.get(name, ()), maxlen=agent._stats_window_size))


def running_state(agent: Any, latent: Latent | None) -> dict[str, Any]:
    """Where the environments were, as tensors: what it takes to go on in mid-episode."""
    state: dict[str, Any] = {name: _to_tensors(getattr(agent, name)) for name in LAST}
    return {**state, "latent": None if latent is None else list(latent)}


def restore_running_state(agent: Any, state: Mapping[str, Any]) -> Latent | None:
    """Undo :func:`running_state` and give the latent, unless the number of environments is another now.

    :raises ValueError: for observations or latents that do not fit the agent.
    """
    starts = state.get("_last_episode_starts")
    if starts is None or len(starts) != agent.n_envs:
        return None
    values = {name: _to_arrays(state[name]) for name in LAST}
    starts = values["_last_episode_starts"]
    if starts.dtype != np.bool_ or starts.ndim != 1 or len(starts) != agent.n_envs:
        raise ArchiveError(f"The archive's starts of episodes are {starts.dtype} of shape {starts.shape}.")
    for name in ("_last_obs", "_last_original_obs"):
        if values[name] is not None:
            rows = agent.policy.observations.encode(values[name])
            if any(len(row) != agent.n_envs for row in rows.values()):
                raise ArchiveError(f"The archive's {name} is not of {agent.n_envs} environments.")
    for name, value in values.items():
        setattr(agent, name, value)
    return None if state["latent"] is None else agent.policy.read_state(tuple(state["latent"]), agent.n_envs)


def _to_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_tensors(item) for key, item in value.items()}
    return None if value is None else torch.as_tensor(np.array(value))


def _to_arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_arrays(item) for key, item in value.items()}
    return None if value is None else value.cpu().numpy()


def _freeze(name: str, rate: Any, progress: float, notes: dict[str, str]) -> float | str:
    """A function as its present value, with a note if it is not constant; what can be written stays what it is."""
    if isinstance(rate, LinearRate):
        return str(rate)
    if not callable(rate):
        return rate
    schedule = FloatSchedule(rate)
    now = schedule(progress)
    if any(schedule(point) != now for point in (1.0, 0.5, 0.0)):
        notes[name] = f"{rate!r}, stored as {now:g}"
    return now


def warn_of_frozen_schedules(notes: dict[str, str]) -> None:
    """Say once, when learning goes on, which rates were functions and are now numbers; empties ``notes``."""
    if notes:
        text = "; ".join(f"{name}: {note}" for name, note in notes.items())
        warnings.warn(
            f"Learning rates that were functions of the progress are constant since loading ({text}). To go on with "
            "the function, pass it to load(), for example load(path, learning_rate=schedule).",
            UserWarning,
            stacklevel=3,
        )
        notes.clear()


def fit_optimizers(parameters: Mapping[str, Any], agent: Any) -> dict[str, Any]:
    """The parameters with every optimiser's state checked against the optimiser of ``agent`` that it is for."""
    optimizers = {f"learner.{name}_optimizer": optimizer for name, optimizer in agent.learner.optimizers.items()}
    return {
        name: fitting_optimizer(name, state, optimizers[name]) if name in optimizers else state
        for name, state in parameters.items()
    }


def print_systems(data: Mapping[str, Any]) -> None:
    """Print this system's versions beside those that the archive was saved with."""
    print("== CURRENT SYSTEM INFO ==")
    get_system_info()
    print("== SAVED MODEL SYSTEM INFO ==")
    print("\n".join(f"- {key}: {value}" for key, value in data.get("system_info", {}).items()))


def as_file(path: Archive, suffix: str = "") -> File:
    """``path`` in the words of our own modules; a path without suffix gets ``suffix``."""
    if isinstance(path, str | Path) and not Path(path).suffix:
        return Path(f"{path}{suffix}")
    return cast(File, path)
