"""Whether an environment is sound: Gymnasium's checks of it, and their verdict in a line."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.vec_env import VecEnv

from hd_agents.envs import namespace
from hd_agents.envs.closing import close
from hd_agents.zoo.catalogue import suites

TRIES = 3  # of Gymnasium's checks, where the environment itself raises something
OUTSIDE = "not within the observation space"  # as Gymnasium says it
ADDED = (OrderEnforcing, PassiveEnvChecker, TimeLimit)  # around an environment by gymnasium.make


def check_repeatedly(env: gym.Env[Any, Any], make: Callable[[], gym.Env[Any, Any]]) -> tuple[str | None, list[str]]:
    """:func:`check_once`; where the environment raises an exception, of others that ``make`` gives, TRIES in all."""
    fault, remarks = check_once(env)
    for _ in range(TRIES - 1):
        if is_raised(fault):
            failure, (fault, remarks) = fault, check_once(make())
            remarks += [] if fault else [f"it failed in Gymnasium's checks, and passed them made anew ({failure})"]
    return fault, remarks


def plays(make: Callable[[], gym.Env[Any, Any]]) -> bool:
    """Whether an environment can be reset and stepped once in TRIES: one that fails now and then may pass no checks."""
    for seed in range(TRIES):
        with suppress(Exception):
            env = make()
            try:
                env.reset(seed=seed)
                env.step(env.action_space.sample())
                return True
            finally:
                close(env)
    return False


def is_limited(envs: VecEnv) -> bool:
    """Whether episodes are sure to end: by a TimeLimit, or because the task is a suite's of this package."""
    spec = envs.get_attr("spec")[0]
    return envs.env_is_wrapped(TimeLimit)[0] or (spec is not None and namespace(spec.id) in suites())


def check_once(env: gym.Env[Any, Any]) -> tuple[str | None, list[str]]:
    """What Gymnasium finds wrong with an environment, or None, and what it remarks on besides; closes it."""
    own, reasons = env, list[str]()
    while isinstance(own, ADDED):
        own = own.env
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fault = _fault(own)
            if any(OUTSIDE in text for text in (fault or "", *(str(one.message) for one in caught))):
                reasons = _outside(own)
        finally:
            close(env)
    texts = [_plain(str(one.message)) for one in caught if issubclass(one.category, UserWarning)] + reasons
    return fault, [text for text in dict.fromkeys(texts) if "different from the unwrapped version" not in text]


def _fault(env: gym.Env[Any, Any]) -> str | None:
    try:
        check_env(env, skip_render_check=True, skip_close_check=True)
    except Exception as error:  # whatever an environment of anybody's does
        return one_line(error)
    return None


def _outside(env: gym.Env[Any, Any]) -> list[str]:
    """What of a first and a second observation is not in its space, and why, which Gymnasium does not tell."""
    space, told = env.observation_space, list[str]()
    # Whatever an environment of anybody's raises: this only adds to what is known.
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        told += [f"the observation of reset(): {reason}" for reason in _reasons("it", space, env.reset(seed=0)[0])]
        second = env.step(env.action_space.sample())[0]
        told += [f"the observation of step(): {reason}" for reason in _reasons("it", space, second)]
    return told


def _reasons(name: str, space: gym.Space[Any], value: Any) -> list[str]:
    """Why a value is not in a space: none where it is."""
    if space.contains(value):
        return []
    if isinstance(space, spaces.Dict) and isinstance(value, Mapping):
        if value.keys() != space.spaces.keys():
            return [f"the keys are {sorted(value)}, those of the space {sorted(space.spaces)}"]
        return [reason for key, part in space.spaces.items() for reason in _reasons(repr(key), part, value[key])]
    other = [f"{name} is {value!r}, its space {space}"]
    if not isinstance(space, spaces.Box):
        return other
    try:  # as Gymnasium takes lists
        numbers = value if isinstance(value, np.ndarray) else np.asarray(value, space.dtype)
    except (ValueError, TypeError, OverflowError):
        return other
    if not np.can_cast(numbers.dtype, space.dtype):
        return [f"{name} is {numbers.dtype}, its space {space.dtype}"]
    if numbers.shape != space.shape:
        return [f"{name} has the shape {numbers.shape}, its space {space.shape}"]
    place = tuple(map(int, np.argwhere(~((numbers >= space.low) & (numbers <= space.high)))[0]))
    return [
        f"{name} is {numbers[place]} at {place}, its space goes from {space.low[place]} to {space.high[place]} there"
    ]


def is_raised(fault: str | None) -> bool:
    """Whether a fault is an exception of the environment, and none of Gymnasium's checks of it."""
    return fault is not None and not fault.startswith("AssertionError")


def one_line(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {_plain(str(error))}"


def _plain(text: str) -> str:
    """Without the colours that Gymnasium gives its warnings, and in one line."""
    for colour in ("\x1b[33m", "\x1b[0m"):
        text = text.replace(colour, "")
    return " ".join(text.removeprefix("WARN: ").split())
