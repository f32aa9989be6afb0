"""Environments that fail are made anew, a bounded number of times, and training goes on.

:class:`RestartingEnv` stands around one environment and catches what it raises, and :mod:`hd_agents.envs.processes`
replaces whole processes. In both the interrupted episode ends as one that a time limit cut off: its last observation is
the one before the failure, its last reward 0, and its last ``info`` names the cause under ``"restarted"``; so does the
log.
"""

import logging
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np

from hd_agents.envs.closing import close

MAX_RESTARTS = 10  # of one environment; something that fails more often than that has to be looked at
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before each restart in a row: a robot takes time to boot
CALLERS = (  # modules that take apart what a Gymnasium environment returns
    "gymnasium.",
    "hd_agents.envs.",
    "stable_baselines3.common.atari_wrappers",
    "stable_baselines3.common.monitor",
    "stable_baselines3.common.vec_env.dummy_vec_env",
)

_log = logging.getLogger(__name__)


def new_seed(first: int | None, restarts: int) -> int | None:
    """The seed that an environment seeded with ``first`` gets at its n-th restart: always another, and repeatable."""
    return None if first is None else int(np.random.SeedSequence([first, restarts]).generate_state(1)[0])


def what_to_return(error: BaseException) -> str:
    """What an environment has to return, where ``error`` says that it returned another number of things; else ""."""
    if not (isinstance(error, ValueError) and "values to unpack" in str(error)):
        return ""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if not frame.f_globals.get("__name__", "").startswith(CALLERS):  # it is about something else
        return ""
    return (
        "Gymnasium's reset() returns (observation, info), and its step() (observation, reward, terminated, truncated, "
        "info). This environment returned another number of things, as those of OpenAI Gym do."
    )


class Restarts:
    """How often one environment was made anew, and whether it may be once more.

    :param most: in the life of this object, beyond those that :meth:`restore` tells of; in a row, without a step that
        succeeds in between, at most MAX_RESTARTS. Before the first step that succeeds, none after a mistake in the
        environment's code, which would only be made again.
    """

    def __init__(self, most: int) -> None:
        self.count, self.limit = 0, most
        self._worked = False  # whether a step has ever succeeded
        self._in_a_row = 0

    def once_more(self, mistake: bool) -> bool:
        """Count one, after a pause if the one before was of no use; False where there may be no more.

        :param mistake: the failure looks like one in the code.
        """
        self.count += 1
        self._in_a_row += 1
        if mistake and not self._worked:
            return False
        if self.count > self.limit or self._in_a_row > MAX_RESTARTS:
            return False
        time.sleep(PAUSES[min(self._in_a_row, len(PAUSES)) - 1])
        return True

    def helped(self) -> None:
        """A step has succeeded."""
        self._worked, self._in_a_row = True, 0

    def told(self) -> str:
        """When it failed, after :meth:`once_more` has said no."""
        at_once = self.count == 1 and not self._worked
        return "before its first step was done" if at_once else f"after {self.count - 1} restarts"

    def restore(self, count: int) -> None:
        """Go on counting where a run that is gone on with was; it may make as many more as a new one."""
        self.count, self.limit, self._worked = count, self.limit - self.count + count, True


class RestartingEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that is made anew when ``step`` or ``reset`` raises an exception.

    Where that happens again at once, or it cannot be made, it waits a little longer each time, up to half a minute.
    ``restarts`` counts them.

    :param make: makes the environment. :param max_restarts: in the whole life of this object.
    :raises RuntimeError: from ``step`` or ``reset`` when it fails once more than that, or eleven times without a step
        in between, or, unless it is an OSError such as a refused connection, before its first step is done. The
        failure is its cause.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], max_restarts: int = MAX_RESTARTS) -> None:
        super().__init__(make())
        self._make, self._restarts = make, Restarts(max_restarts)
        self._first_seed: int | None = None
        self._seed: int | None = None  # that the next reset takes if it is given none
        self._last: Any = None

    @property
    def restarts(self) -> int:
        """How often it was made anew."""
        return self._restarts.count

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._first_seed = self._seed = seed
        while True:
            try:
                self._last, info = self.env.reset(seed=self._seed, options=options)
            except Exception as error:
                self._restart(error)
                continue
            self._seed = None
            return self._last, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            result = self.env.step(action)
        except Exception as error:
            self._restart(error)
            return self._last, 0.0, False, True, {"restarted": repr(error)}
        self._last = result[0]
        self._restarts.helped()
        return result

    def close(self) -> None:
        """Close the environment. Where that fails a warning says so, and nothing is lost by it."""
        close(self.env)

    def get_state(self) -> dict[str, Any]:
        """For :mod:`hd_agents.envs.state`."""
        return {"restarts": self.restarts, "seeds": [self._first_seed, self._seed], "last": self._last}

    def set_state(self, state: dict[str, Any]) -> None:
        """Undo :meth:`get_state`."""
        self._restarts.restore(state["restarts"])
        (self._first_seed, self._seed), self._last = state["seeds"], state["last"]

    def _restart(self, error: Exception) -> None:
        """Put a new environment in the failed one's place; the caller resets it."""
        with suppress(Exception):
            self.env.close()
        what = f"{self.env} failed"
        while self._restarts.once_more(mistake=not isinstance(error, OSError)):
            _log.warning("%s; restart %d of %d.", what, self.restarts, self._restarts.limit, exc_info=error)
            try:
                self.env = self._make()
            except Exception as failure:
                error, what = failure, f"{self.env} could not be made anew"
                continue
            self._seed = new_seed(self._first_seed, self.restarts)
            return
        advice = f". {hint}" if (hint := what_to_return(error)) else ""
        raise RuntimeError(f"{self.env} failed {self._restarts.told()}: {error!r}{advice}") from error
