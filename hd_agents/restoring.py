"""An agent out of its archive: what :mod:`hd_agents.saving.storing` wrote, checked before it is believed."""

import io
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from stable_baselines3.common.utils import get_system_info

from hd_agents import checks
from hd_agents.policies import Latent
from hd_agents.saving.archive import read_archive
from hd_agents.saving.jsonable import ArchiveError
from hd_agents.saving.storing import COUNTERS, LAST_SEEN, PLACES, SPACES, arguments_of
from hd_agents.saving.vetting import blamed_on, check_values, check_weights, fitting_optimizer

Archive = str | Path | io.BufferedIOBase  # what Stable-Baselines3's signatures take
File = str | Path | BinaryIO  # the same, as our own modules take it

SHAPES_NETWORKS = ("backbone", "size", "harmony", "policy_kwargs")
EPISODES = ("ep_info_buffer", "ep_success_buffer")
RUNNING = "running"  # the archive's part for where the environments were: last observations and latents
_OWN_NETWORKS = (
    " If the agent is of a class of your own, name it: MyAgent.load(path), resume(env, agent_class=MyAgent), or "
    "--agent-class on the command line. If its networks were changed after it was made, make it, change it in the same "
    "way, and call its set_parameters(path)."
)
NONFINITE = "nonfinite"  # the part that a record of a failed gradient step has beside an agent's


def stored_arguments(cls: Any, data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments out of an archive's data, with the caller's changes on top.

    :raises ValueError: for changes that would need other networks, for a policy class that has to be passed, and for an
        archive that lacks what is needed.
    :raises TypeError: for a change to something that is no constructor argument.
    """
    names = list(arguments_of(cls))
    missing = [name for name in (*SPACES, "policy_class") if name not in data]
    if missing == ["policy_class"] and "settings" in data:
        raise ArchiveError("The archive holds a policy, not a whole agent: use load(path) of the policy's class.")
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
        if custom_objects.get("observation_space") == getattr(env, "observation_space", ()):
            data["observation_space"] = agent.env.observation_space  # images may have another layout there
        checks.spaces(agent.env, data["observation_space"], data["action_space"])
    with blamed_on(f"The archive with {', '.join(sorted(given))} as given" if given else "The archive"):
        restore(agent, data, given)
        if agent.env is not None:
            agent.action_space = agent.env.action_space  # the same object, as in a new agent: both may draw from it
        check_weights(agent._make_policy, tensors.get("policy"), agent.policy_kwargs, advice=_OWN_NETWORKS)
        agent._setup_model()
        if env is None or not force_reset:
            agent._collector.latent = restore_running_state(agent, tensors.get(RUNNING, {}))
        agent.set_parameters(tensors, exact_match=True, device=device)
    agent.verbose = verbose
    return agent


def restore(agent: Any, data: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Set what the constructor does not: spaces, counters, episodes, extras."""
    n_envs = agent.n_envs if agent.env is not None else data.get("n_envs", 1)
    arguments = arguments_of(type(agent))  # which the constructor has checked, or takes from no file
    for name in (*SPACES, *COUNTERS):
        if name in data:
            setattr(agent, name, data[name])
    for name, value in data.get("included", {}).items():
        known = vars(agent).get(name)
        numbers = type(known) in (int, float) and type(value) in (int, float)
        free = name not in arguments and not hasattr(type(agent), name)
        if not (free and (numbers or type(known) in (type(None), type(value)))):
            raise ArchiveError(f"The archive includes a value for {name!r}, which is not of that kind in an agent.")
        setattr(agent, name, value)
    agent.n_envs = n_envs
    agent._frozen_schedules = {k: v for k, v in data.get("frozen_schedules", {}).items() if k not in changes}
    for name in EPISODES:
        setattr(agent, name, deque(data.get(name, ()), maxlen=agent._stats_window_size))


def restore_running_state(agent: Any, state: Mapping[str, Any]) -> Latent | None:
    """Undo ``running_state`` of :mod:`hd_agents.saving.storing` and give the latent.

    Does nothing, and gives None, where the number of environments is another now.

    :raises ValueError: for observations or latents that do not fit the agent.
    """
    starts = state.get("_last_episode_starts")
    if starts is None or len(starts) != agent.n_envs:
        return None
    values = {name: _to_arrays(state[name]) for name in LAST_SEEN}
    starts = values["_last_episode_starts"]
    if starts.dtype != np.bool_ or starts.ndim != 1:
        raise ArchiveError(f"The archive's starts of episodes are {starts.dtype} of shape {starts.shape}.")
    for name in ("_last_obs", "_last_original_obs"):
        if values[name] is not None:
            rows = agent.policy.observations.encode(values[name])
            if any(len(row) != agent.n_envs for row in rows.values()):
                raise ArchiveError(f"The archive's {name} is not of {agent.n_envs} environments.")
    for name, value in values.items():
        setattr(agent, name, value)
    return None if state["latent"] is None else agent.policy.read_state(tuple(state["latent"]), agent.n_envs)


def _to_arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_arrays(item) for key, item in value.items()}
    return None if value is None else value.cpu().numpy()


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
    """``path`` in the words of our own modules; a path without suffix gets ``suffix``.

    :raises TypeError: for what is neither a path nor a file.
    """
    if not isinstance(path, str | Path) and not (hasattr(path, "read") or hasattr(path, "write")):
        raise TypeError(f"path is a {type(path).__name__}: pass a str, a pathlib.Path or a binary file.")
    if isinstance(path, str | Path) and not Path(path).suffix:
        return Path(f"{path}{suffix}")
    return cast(File, path)
