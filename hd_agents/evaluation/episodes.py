"""Episodes that are played for their score: with stated seeds, one after the other, and what goes wrong in them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from hd_agents.arrivals import misfit
from hd_agents.envs import make
from hd_agents.envs.closing import close

EnvMaker = Callable[[], gym.Env[Any, Any]]
LONG = 30_000  # env steps of an episode that may never end; those of the papers have 27,000 at most


class EpisodeError(RuntimeError):
    """An environment failed while it was evaluated; the cause is its own error."""


class SeededEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Begins its episodes with the given seeds, one after the other, and then leaves the environment alone.

    It warns of an episode that does not end.

    :raises EpisodeError: for whatever the environment raises, and for observations and rewards that cannot be.
    """

    def __init__(self, env: gym.Env[Any, Any], seeds: Sequence[int]) -> None:
        super().__init__(env)
        self._seeds = iter(seeds)
        self._seed: int | None = None  # of the episode that runs
        self._steps = 0  # of it
        self._last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._seed, self._steps = next(self._seeds, seed), 0
        if self._seed is None:  # a reset may fail, or move a robot
            return self._last, {}
        try:
            observation, info = self.env.reset(seed=self._seed, options=options)
        except Exception as error:  # whatever an environment of anybody's does
            raise self._failed(repr(error)) from error
        self._check(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._seed is None:  # others still play
            return self._last, 0.0, False, False, {}
        self._steps += 1
        if self._steps == LONG:
            name = self.spec.id if self.spec else str(self.unwrapped)
            warnings.warn(
                f"An episode of {name} has not ended in {LONG:,} steps, and is waited for: register it with "
                "max_episode_steps=..., or put TimeLimit around it.",
                UserWarning,
                stacklevel=2,
            )
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            raise self._failed(repr(error)) from error
        self._check(observation)
        if not np.isfinite(np.asarray(reward, np.float64)).all():
            raise self._failed(f"the reward {reward}")
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment; where that fails a warning says so."""
        close(self.env)

    def _check(self, observation: Any) -> None:
        if reason := misfit(observation, self.observation_space):
            raise self._failed(f"a wrong observation: {reason}")
        self._last = observation

    def _failed(self, what: str) -> EpisodeError:
        return EpisodeError(f"The environment failed in the episode of seed {self._seed}: {what}")


def share_seeds(seeds: Sequence[int], n_envs: int) -> list[Sequence[int]]:
    """One share of the seeds per environment, as many as ``evaluate_policy`` plays episodes in it."""
    counts = [(len(seeds) + env) // n_envs for env in range(n_envs)]
    ends = np.cumsum(counts)
    return [seeds[end - count : end] for count, end in zip(counts, ends, strict=True)]


def seeded_envs(task: str | EnvMaker, shares: Sequence[Sequence[int]], env_kwargs: Mapping[str, Any]) -> DummyVecEnv:
    """One monitored environment per share of seeds, in this process."""

    def play(share: Sequence[int]) -> gym.Env[Any, Any]:
        return Monitor(SeededEpisodes(make(task, env_kwargs) if isinstance(task, str) else task(), share))

    with ExitStack() as made:  # those before one that cannot be made are closed
        envs = [made.enter_context(closing(play(share))) for share in shares]
        made.pop_all()
    return DummyVecEnv([lambda env=env: env for env in envs])  # type: ignore[misc]
