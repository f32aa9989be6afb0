"""Environments in processes of their own, which are replaced where they die.

They may die of an exception, of a crash in a simulator's own code, or because they do not answer in time.
"""

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import wait
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import CloudpickleWrapper, SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.subproc_vec_env import _stack_obs, _worker

from hd_agents.envs.restarting import MAX_RESTARTS, Restarts, new_seed
from hd_agents.envs.settling import DEAD, MARK, is_mark
from hd_agents.signals import SIGNALS

CLOSING_SECONDS = 10.0  # that a running step may take to its end when all is closed

_log = logging.getLogger(__name__)


class RestartingSubprocVecEnv(SubprocVecEnv):
    """One environment per process; a process that dies is replaced.

    A ``Monitor`` inside the process would start anew with it, and its file too: put a ``VecMonitor`` around the whole
    instead. ``restarts`` counts them for each process, with the pauses and limits of
    :class:`hd_agents.envs.restarting.RestartingEnv`. Ctrl-C does not reach the processes: it is for the program that
    started them, which closes them.

    :param env_fns: N functions that make the environments.
    :param start_method: "forkserver", "spawn" or "fork"; None for the first of them that the system has.
    :param max_restarts: of each process.
    :param timeout: seconds that a process may take for a step or a reset (a replaced one with its start) before it is
        ended and replaced; None for as long as it takes: one that hangs is waited for.
    :raises RuntimeError: from ``step`` or ``reset`` when a process fails once more than ``max_restarts``, or by an
        error of Python (exit code 1) before its first step is done.
    :raises ValueError: for a ``timeout`` that is not above 0.
    """

    def __init__(
        self,
        env_fns: list[Callable[[], gym.Env[Any, Any]]],
        start_method: str | None = None,
        max_restarts: int = MAX_RESTARTS,
        timeout: float | None = None,
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout={timeout} is not allowed: give seconds above 0, or None to wait for ever")
        start_method = start_method or ("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
        env_fns = [partial(_outliving_terminals, make) for make in env_fns]
        self._context: Any = get_context(start_method)
        self._context.set_forkserver_preload(["__main__", __name__])  # once, instead of in each process
        try:
            super().__init__(env_fns, start_method)
        except DEAD as error:
            for process in self.processes:  # the others, which would wait for as long as anybody keeps the error
                _end(process)
            raise RuntimeError(
                "A process ended before its environment was made, see the traceback above: call the functions of "
                "env_fns here first, one by one, to see which fails and why."
            ) from error
        self.remotes = list(self.remotes)
        self._env_fns = env_fns
        self._timeout = timeout
        self._restarts = [Restarts(max_restarts) for _ in env_fns]
        self._failures = [""] * self.num_envs
        self._first_seeds: list[int | None] = [None] * self.num_envs
        self._last: list[Any] = [None] * self.num_envs
        self._unanswered = [False] * self.num_envs  # which owe an answer, as after a Ctrl-C within a step
        self._marks = [0] * self.num_envs  # that they owe beyond it, as after a Ctrl-C within settle()

    @property
    def restarts(self) -> list[int]:
        """How often each process was replaced."""
        return [each.count for each in self._restarts]

    def step_async(self, actions: np.ndarray) -> None:
        if any(self._unanswered) or any(self._marks):
            self.settle()
        for env, action in enumerate(actions):
            self._send(env, ("step", action))
        self.waiting = True

    def step_wait(self) -> VecEnvStepReturn:
        results = [self._stepped(env) or self._cut_off(env) for env in range(self.num_envs)]
        self.waiting = False
        observations, rewards, dones, infos, self.reset_infos = zip(*results, strict=True)  # type: ignore[assignment]
        self._last = list(observations)
        stacked = _stack_obs(observations, self.observation_space)
        return stacked, np.stack(rewards), np.stack(dones), infos  # type: ignore[return-value]

    def reset(self) -> VecEnvObs:
        seeds, options = self._seeds, self._options
        self._first_seeds = [new if new is not None else old for new, old in zip(seeds, self._first_seeds, strict=True)]
        if any(self._unanswered) or any(self._marks):
            self.settle()
        for env in range(self.num_envs):
            self._send(env, ("reset", (seeds[env], options[env])))
        results = [self._receive(env) or self._restart(env, options[env]) for env in range(self.num_envs)]
        observations, self.reset_infos = zip(*results, strict=True)  # type: ignore[assignment]
        self._reset_seeds()
        self._reset_options()
        self._last = list(observations)
        return _stack_obs(observations, self.observation_space)

    def close(self) -> None:
        if self.closed:
            return
        for env in range(self.num_envs):
            if self._unanswered[env]:
                self._receive(env, self._timeout or CLOSING_SECONDS)
            self._send(env, ("close", None))
        for process, remote in zip(self.processes, self.remotes, strict=True):
            process.join(self._timeout)
            if process.is_alive():
                _end(process)
            remote.close()
        self.closed = True

    def settle(self) -> None:
        """As :func:`hd_agents.envs.settling.settle`; who is dead by now is replaced by the next ``reset``."""
        for env in range(self.num_envs):
            self._send(env, MARK)
            self._marks[env] += 1
            while self._marks[env]:
                answer = self._receive(env)
                self._marks[env] = 0 if answer is None else self._marks[env] - is_mark(answer)
        self.waiting = False

    def get_state(self) -> dict[str, Any]:
        """For :mod:`hd_agents.envs.state`: of the restarts, not of the environments."""
        return {"restarts": self.restarts, "seeds": list(self._first_seeds), "last": list(self._last)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Undo :meth:`get_state`."""
        self._first_seeds, self._last = state["seeds"], state["last"]
        for each, count in zip(self._restarts, state["restarts"], strict=True):
            each.restore(count)

    def _get_target_remotes(self, indices: VecEnvIndices) -> list[Any]:
        """Whom to ask: none of them where one has died, as the others' answers would be left behind."""
        for env in self._get_indices(indices):
            if not self.processes[env].is_alive():
                raise EOFError(f"The process of environment {env} has died: the next step or reset replaces it.")
        return super()._get_target_remotes(indices)

    def _send(self, env: int, message: tuple[str, Any]) -> None:
        self._unanswered[env] = message[0] in ("step", "reset")
        with suppress(*DEAD):  # _receive will find out
            self.remotes[env].send(message)

    def _receive(self, env: int, timeout: float | None = None) -> Any:
        """What the process answers; None if it is dead, as it is after a time without an answer."""
        remote, process, timeout = self.remotes[env], self.processes[env], timeout or self._timeout
        in_time = wait([remote, process.sentinel], timeout)
        with suppress(*DEAD, OSError):  # the latter for a process that died in the middle of its answer
            if in_time and remote.poll():
                answer, self._unanswered[env] = remote.recv(), False
                return answer
        _end(process)
        self._unanswered[env] = False
        self._failures[env] = f"exit code {process.exitcode}" if in_time else f"no answer for {timeout:g} s"
        return None

    def _stepped(self, env: int) -> Any:
        """What the process answers to a step; None if it is dead."""
        if (answer := self._receive(env)) is not None:
            self._restarts[env].helped()
        return answer

    def _cut_off(self, env: int) -> tuple[Any, float, bool, dict[str, Any], dict[str, Any]]:
        """What a step answers in which the process died: the end of its episode, and the start of the next one."""
        info = {"restarted": self._failures[env], "TimeLimit.truncated": True, "terminal_observation": self._last[env]}
        observation, reset_info = self._restart(env, {})
        return observation, 0.0, True, info, reset_info

    def _restart(self, env: int, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Replace a dead process until one lives through ``reset``, and give what that answers."""
        while True:
            failure = f"The process of environment {env} died ({self._failures[env]})"
            if not self._restarts[env].once_more(mistake=self.processes[env].exitcode == 1):
                self.waiting = False
                raise RuntimeError(f"{failure}, {self._restarts[env].told()}.")
            _log.warning("%s; restart %d of %d.", failure, self.restarts[env], self._restarts[env].limit)
            try:
                self._start(env)
            except (EOFError, OSError) as error:  # as where a batch system ends the forkserver as well
                self._failures[env] = f"not started: {error!r}"
                continue
            self._send(env, ("reset", (new_seed(self._first_seeds[env], self.restarts[env]), options)))
            if (answer := self._receive(env)) is not None:
                return answer

    def _start(self, env: int) -> None:
        self.remotes[env].close()
        self._marks[env] = 0
        self.remotes[env], work_remote = self._context.Pipe()
        arguments = (work_remote, self.remotes[env], CloudpickleWrapper(self._env_fns[env]))
        process = self._context.Process(target=_worker, args=arguments, daemon=True)
        with work_remote:
            process.start()
        self.processes[env] = process


def _end(process: Any) -> None:
    """End a process that failed, and what it has started, such as a simulator, which would live on."""
    # Nothing of it is left, or it has not come to be a group of its own; macOS refuses where all of it is dead.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _outliving_terminals(make: Callable[[], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
    """What ``make`` makes, in a process that neither Ctrl-C in its terminal ends, nor the terminal's end.

    It is a group of its own, for :func:`_end`.
    """
    os.setpgrp()
    for name, number in SIGNALS.items():
        if name != "SIGTERM":
            signal.signal(number, signal.SIG_IGN)
    return make()
