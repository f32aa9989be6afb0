"""Whether an environment is sound: Gymnasium's checks of it, and their verdict in a line."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from hd_agents.envs.closing import close

TRIES = 3  # of Gymnasium's checks, where the environment itself raises something
ADDED = (OrderEnforcing, PassiveEnvChecker, TimeLimit)  # around an environment by gymnasium.make


def check_repeatedly(env: gym.Env[Any, Any], make: Callable[[], gym.Env[Any, Any]]) -> tuple[str | None, list[str]]:
    """:func:`check_once`; where the environment raises an exception, of others that ``make`` gives, TRIES in all."""
    fault, remarks = check_once(env)
    for _ in range(TRIES - 1):
        if is_raised(fault):
            failure, (fault, remarks) = fault, check_once(make())
            remarks += [] if fault else [f"it failed in Gymnasium's checks, and passed them made anew ({failure})"]
    return fault, remarks


def check_once(env: gym.Env[Any, Any]) -> tuple[str | None, list[str]]:
    """What Gymnasium finds wrong with an environment, or None, and what it remarks on besides; closes it."""
    fault, own = None, env
    while isinstance(own, ADDED):
        own = own.env
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(own, skip_render_check=True, skip_close_check=True)
        except Exception as error:  # whatever an environment of anybody's does
            fault = one_line(error)
        finally:
            close(env)
    texts = [_plain(str(one.message)) for one in caught if issubclass(one.category, UserWarning)]
    return fault, [text for text in dict.fromkeys(texts) if "different from the unwrapped version" not in text]


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
