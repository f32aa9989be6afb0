"""Tiny agents and small environments for the tests of the agent and of Stable-Baselines3's contract."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from hd_agents.agent import HarmonyDreamAgent

TINY: dict[str, Any] = {
    "size": "nano",
    "policy_kwargs": {"deter": 16, "hidden": 16, "stoch": 3, "classes": 4, "units": 16, "depth": 2},
    "learning_starts": 24,
    "batch_size": 2,
    "sequence_length": 8,
    "horizon": 3,
    "train_ratio": 1.0,
    "buffer_size": 2_000,
    "device": "cpu",
}


def tiny(policy: Any = "MlpPolicy", env: Any = "CartPole-v1", **changes: Any) -> HarmonyDreamAgent:
    """An agent whose gradient steps take milliseconds: one for every 16 env steps, from step 24 on."""
    return HarmonyDreamAgent(policy, env, **{**TINY, **changes})


class Scripted(gym.Env[Any, Any]):
    """Random observations of any space; every episode has ``length`` steps and pays 1 a step.

    ``actions`` records what ``step`` was given. Episodes end by termination, or by truncation with ``cut``.
    """

    def __init__(
        self, observation: spaces.Space[Any], action: spaces.Space[Any], length: int = 7, cut: bool = False
    ) -> None:
        self.observation_space, self.action_space = observation, action
        self.length, self.cut = length, cut
        self.actions: list[Any] = []
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self._step = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.actions.append(action)
        self._step += 1
        done = self._step == self.length
        info = {"is_success": True} if done else {}
        return self.observation_space.sample(), 1.0, done and not self.cut, done and self.cut, info


class Clock(gym.Env[np.ndarray, int]):
    """Observation (episode, step, last action), reward 100 * episode + step: every row of replay can be told apart."""

    observation_space = spaces.Box(-1.0, 1e4, (3,))
    action_space = spaces.Discrete(5)

    def __init__(self, length: int, cut: bool = False) -> None:
        self.length, self.cut = length, cut
        self.episode, self.time = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observation(-1), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        done = self.time == self.length
        reward = 100.0 * self.episode + self.time
        return self._observation(int(action)), reward, done and not self.cut, done and self.cut, {}

    def _observation(self, action: int) -> np.ndarray:
        return np.array([self.episode, self.time, action], dtype=np.float32)


class Filtered(gym.Wrapper):  # type: ignore[type-arg]
    """A safety filter: in odd steps it acts otherwise than it is told, and says so."""

    said: Any = None

    def step(self, action: Any) -> Any:
        """One step."""
        executed = (action + 1) % 5 if self.env.unwrapped.time % 2 else action
        obs, *rest, info = self.env.step(executed)
        if executed != action or self.said is not None:
            info = {**info, "executed_action": executed if self.said is None else self.said}
        return obs, *rest, info
