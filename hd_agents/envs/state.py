"""Where environments stand, as plain values, so that a run can go on in the middle of an episode.

An environment (or wrapper) takes part in one of two ways. Either it has both methods ::

    get_state() -> numbers, text, lists, deques, tuples, dicts, NumPy arrays of up to 65,536 numbers; None for nothing
    set_state(state)       called after reset(); from then on the environment does what the first one would have done

which speak for the object alone, not for what it wraps; or all of its attributes are such values, random generators,
spaces and functions, and then they are what is stored. Gymnasium's classic control and its usual wrappers are of the
second kind; ``hd_agents/Catch-v0``, Atari's games and MuJoCo's tasks are of the first. Randomness has to come from
``self.np_random`` or the spaces.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers.utils import RunningMeanStd as GymnasiumMeanStd
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from hd_agents.envs.packing import pack, unpack
from hd_agents.envs.sharing import refuse_shared
from hd_agents.randomness import new_generator, set_space_state, space_state
from hd_agents.saving.jsonable import ArchiveError, from_json, to_json

STATISTICS = (RunningMeanStd, GymnasiumMeanStd)
# Attributes that say what an environment is, not where it stands; files that monitors write; the last original
# observation of VecNormalize, which the agent keeps as well.
CONSTANT = {
    *("env", "venv", "spec", "_cached_spec", "_saved_kwargs", "metadata", "_metadata", "class_attributes"),
    *("results_writer", "reset_infos", "old_obs"),
}


class Restorable(gym.Wrapper[Any, Any, Any, Any]):
    """Lets an environment of another process be stored: the outermost wrapper of each in a ``SubprocVecEnv``."""

    def get_state(self) -> list[dict[str, Any]] | None:
        """As :func:`get_state` of the wrapped environment."""
        return get_state(self.env)

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """As :func:`set_state` of the wrapped environment."""
        set_state(self.env, state)


def get_state(env: gym.Env[Any, Any]) -> list[dict[str, Any]] | None:
    """The state of an environment and its wrappers, outermost first; None if one of them cannot be stored."""
    layers = list(_layers(env))
    stored = [(type(layer).__name__, dict(_attributes(layer))) for layer in layers if not _tells_itself(layer)]
    try:
        refuse_shared(stored, [space for layer in layers for space in _spaces(layer).values()])
        return [_layer_state(layer) for layer in layers]
    except ArchiveError:
        return None


def set_state(env: gym.Env[Any, Any], state: list[dict[str, Any]]) -> None:
    """Undo :func:`get_state`, in an environment that was made and wrapped alike, and reset.

    :raises ArchiveError: for one that is wrapped differently.
    """
    layers = list(_layers(env))
    found, expected = [type(layer).__name__ for layer in layers], [part["class"] for part in state]
    if found != expected:
        raise ArchiveError(f"The environment is made of {found}, but the stored one was of {expected}.")
    for layer, part in zip(layers, state, strict=True):
        _set_layer_state(layer, part)


def get_vec_state(env: VecEnv) -> dict[str, Any]:
    """The states of a vector environment: of its ``wrappers``, of its ``envs``, and of its restarts, if it makes any.

    None for what cannot be stored.
    """
    wrappers: list[Any] = []
    states: list[Any] = []
    for layer in _vec_layers(env):
        try:
            wrappers.append(_layer_state(layer))
        except ArchiveError:
            wrappers.append(None)
    inner: Any = innermost(env)
    if isinstance(inner, DummyVecEnv):
        states = [get_state(each) for each in inner.envs]
    elif _are_restorable(inner):
        states = inner.env_method("get_state")
    try:
        restarts = from_json(to_json(pack(inner.get_state()))) if _tells_itself(inner) else None
    except ArchiveError:
        states, restarts = [], None
    return {"wrappers": wrappers, "envs": states if states and None not in states else None, "restarts": restarts}


def set_vec_state(env: VecEnv, state: Mapping[str, Any]) -> bool:
    """Undo :func:`get_vec_state` as far as it was stored; False if episodes cannot go on and have to start anew.

    :raises ArchiveError: for environments that are wrapped differently.
    """
    layers, stored = list(_vec_layers(env)), state["wrappers"]
    if len(layers) != len(stored):
        found = [type(layer).__name__ for layer in layers]
        raise ArchiveError(
            f"The vector environment has the wrappers {found}, but the stored one had {len(stored)}: wrap it as the "
            "run did, VecNormalize and all."
        )
    if whole := state["envs"] is not None and None not in stored:
        env.reset()
    for layer, part in zip(layers, stored, strict=True):
        if part is not None:
            _set_layer_state(layer, part)
    inner: Any = innermost(env)
    if whole and isinstance(inner, DummyVecEnv):
        for each, part in zip(inner.envs, state["envs"], strict=True):
            set_state(each, part)
    elif whole:
        for index, part in enumerate(state["envs"]):
            inner.env_method("set_state", part, indices=[index])
    if whole and _tells_itself(inner) and state["restarts"] is not None:
        inner.set_state(unpack(state["restarts"]))
    return whole


def _are_restorable(env: VecEnv) -> bool:
    """Whether each environment, in a process of its own, has the wrapper outermost; some simulators cannot tell."""
    with suppress(AttributeError, NotImplementedError):
        return all(env.env_is_wrapped(Restorable)) and set(env.env_method("class_name")) == {Restorable.class_name()}
    return False


def _vec_layers(env: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv


def innermost(env: VecEnv) -> VecEnv:
    """The vector environment within all wrappers. With some simulators ``unwrapped`` is none, but what it holds."""
    return [env, *(layer.venv for layer in _vec_layers(env))][-1]


def _layers(env: Any) -> Iterator[Any]:
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, Restorable):
            yield env
        env = env.env
    yield env


def _layer_state(layer: Any) -> dict[str, Any]:
    """One object's state as a copy of plain values.

    :raises ArchiveError: if it holds anything else.
    """
    state: dict[str, Any] = {
        "class": type(layer).__name__,
        "spaces": {name: space_state(space) for name, space in _spaces(layer).items()},
    }
    if _tells_itself(layer):
        own = layer.get_state()
        if own is None:
            raise ArchiveError(f"The state of {type(layer).__name__} cannot be stored, it says itself.")
        return from_json(to_json({**state, "own": pack(own)}))
    moments = {name: [part.mean, part.var, part.count] for name, part in _moments(layer).items()}
    state["moments"] = pack(moments)
    state["generators"], state["values"] = {}, {}
    names: dict[int, str] = {}
    for name, value in _attributes(layer):
        if isinstance(value, np.random.Generator):  # that of another name, such as `_np_random`, is that one again
            first = names.setdefault(id(value), name)
            state["generators"][name] = value.bit_generator.state if first == name else first
        else:
            state["values"][name] = pack(value)
    return from_json(to_json(state, type(layer).__name__))


def _set_layer_state(layer: Any, state: Mapping[str, Any]) -> None:
    if state["class"] != type(layer).__name__:
        raise ArchiveError(f"The environment has a {type(layer).__name__} where the stored one had {state['class']}.")
    for name, space in _spaces(layer).items():
        set_space_state(space, state["spaces"][name])
    if "own" in state:
        layer.set_state(unpack(state["own"]))
        return
    for name, part in _moments(layer).items():
        part.mean, part.var, part.count = unpack(state["moments"][name])
    for name, generator in state["generators"].items():
        setattr(layer, name, getattr(layer, generator) if isinstance(generator, str) else new_generator(generator))
    for name, value in state["values"].items():
        setattr(layer, name, unpack(value))


def _attributes(layer: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of what is stored of a layer without methods of its own for that."""
    for name, value in vars(layer).items():
        if not (name in CONSTANT or _is_function(value, layer) or _is_live(value)):
            yield name, value


def _is_function(value: Any, layer: Any) -> bool:
    """Whether it is code alone, or of the layer or what that wraps, and no method of another object with a state."""
    owner = getattr(value, "__self__", layer)
    known = inspect.ismodule(owner) or inspect.isclass(owner) or any(owner is one for one in _layers(layer))
    return inspect.isroutine(value) and known


def _tells_itself(layer: Any) -> bool:
    return _takes(layer, "get_state") and _takes(layer, "set_state", None)


def _takes(layer: Any, name: str, *arguments: Any) -> bool:
    """Whether the layer's own class has a method of that name that is called so; MuJoCo's set_state is another one."""
    if not callable(getattr(type(layer), name, None)):
        return False
    try:
        inspect.signature(getattr(layer, name)).bind(*arguments)
    except TypeError:
        return False
    return True


def _spaces(layer: Any) -> dict[str, spaces.Space[Any]]:
    found = {name: value for name, value in vars(layer).items() if isinstance(value, spaces.Space)}
    if not isinstance(layer, gym.Wrapper):  # a wrapper would answer with the spaces of what it wraps
        found |= {"action_space": layer.action_space, "observation_space": layer.observation_space}
    return found


def _moments(layer: Any) -> dict[str, Any]:
    """The moving statistics of a VecNormalize, one or one for each observation key, or of a wrapper of Gymnasium's."""
    found: dict[str, Any] = {}
    for name, value in vars(layer).items():
        parts = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        found |= {where: part for where, part in parts.items() if isinstance(part, STATISTICS)}
    return found


def _is_live(value: Any) -> bool:
    """Whether the value is restored in place: statistics and spaces, or a dict of them."""
    parts = list(value.values()) if type(value) is dict and value else [value]
    return all(isinstance(part, (*STATISTICS, spaces.Space)) for part in parts)
