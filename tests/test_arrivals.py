"""Environments that deliver what they should not: the error names environment, key and step."""

import copy
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from hd_agents.arrivals import check_rewards, encode
from hd_agents.spaces import ObservationCodec
from hd_agents.training.moves import moves
from tests.agents import Clock, Scripted, tiny

IMAGE = spaces.Box(0, 255, (16, 17, 3), np.uint8)
SPACE = spaces.Dict({"eye": IMAGE, "arm": spaces.Box(-np.inf, np.inf, (5,)), "mode": spaces.Discrete(3)})
GOOD = {"eye": np.zeros((16, 17, 3), np.uint8), "arm": np.zeros(5, np.float32), "mode": 1}


class Faulty(gym.Env[Any, Any]):
    """Sound until its step ``at``, where one part of what it delivers is replaced."""

    observation_space, action_space = SPACE, spaces.Discrete(2)

    def __init__(self, at: int, part: str, value: Any, length: int = 100) -> None:
        self.at, self.part, self.value, self.length = at, part, value, length
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return GOOD if self.steps else self.observe(), {}

    def observe(self) -> Any:
        if self.steps != self.at or self.part == "reward":
            return GOOD
        return self.value if self.part == "all" else {**GOOD, self.part: self.value}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = self.value if self.part == "reward" and self.steps == self.at else 1.0
        return self.observe(), reward, self.steps % self.length == 0, False, {}


def makers(at: int, part: str, value: Any, **options: Any) -> list[Callable[[], gym.Env[Any, Any]]]:
    """Three environments, the second of them faulty."""
    return [
        lambda: Faulty(-1, part, value, **options),
        lambda: Faulty(at, part, value, **options),
        lambda: Faulty(-1, part, value, **options),
    ]


FAULTS = [
    ("reward", np.nan, "Environment 1 returned the reward nan after 12 env steps"),
    ("reward", -np.inf, "Environment 1 returned the reward -inf after 12 env steps"),
    ("arm", np.array([0, 0, np.inf, 0, 0], np.float32), "Environment 1 .*after 12 env steps.*'arm' holds inf"),
    ("arm", np.zeros(4, np.float32), r"Environment 1 .*after 12 env steps.*'arm' has shape \(4,\), expected \(5,\)"),
    ("arm", np.zeros(1, np.float32), r"'arm' has shape \(1,\), expected \(5,\)"),
    ("arm", [[1, 2], [3]], "'arm' is no array"),
    ("arm", np.array(["a"] * 5), "'arm' is <U1, which float32 cannot hold"),
    ("eye", np.full((16, 17, 3), 0.5), "Environment 1 .*after 12 env steps.*'eye' is float64, which uint8 cannot hold"),
    ("eye", np.full((16, 17, 3), 300), "'eye' is int64, which uint8 cannot hold"),
    ("mode", 7, "Environment 1 .*after 12 env steps.*'mode' holds 7: expected 0 to 2"),
    ("mode", 1.5, "'mode' is float64, which int64 cannot hold"),
    ("all", {"eye": GOOD["eye"]}, r"a dict with the keys \['eye'\], expected a dict with the keys"),
    ("all", 3, "it is a int, expected a dict"),
]


@pytest.mark.parametrize(("part", "value", "message"), FAULTS)
def test_surprises_name_environment_key_and_step(part: str, value: Any, message: str) -> None:
    env = DummyVecEnv(makers(5, part, value))
    with pytest.raises(ValueError, match=message):
        tiny("MultiInputPolicy", env).learn(60)


@pytest.mark.parametrize("reward", [np.zeros(2), [1.0], None])
def test_a_reward_that_is_no_number_is_named(reward: Any) -> None:
    env = DummyVecEnv([lambda make=make: Monitor(make()) for make in makers(5, "reward", reward)])
    with pytest.raises(ValueError, match=rf"Environment 1 returned the reward {re.escape(repr(reward))} after 12 env"):
        tiny("MultiInputPolicy", env).learn(60)


def test_a_wrong_first_observation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Environment 1 .* after 0 env steps: the key 'arm' holds nan"):
        tiny("MultiInputPolicy", DummyVecEnv(makers(0, "arm", np.full(5, np.nan)))).learn(60)


def test_a_wrong_last_observation_is_refused() -> None:
    bad = np.full(5, np.inf)
    with pytest.raises(ValueError, match=r"Environment 1 .* last observation after 6 .*'arm' holds inf at index 0"):
        tiny("MultiInputPolicy", DummyVecEnv(makers(3, "arm", bad, length=3))).learn(60)


def test_processes_are_checked_too() -> None:
    env = SubprocVecEnv(makers(2, "arm", np.full(5, np.nan, np.float32)), start_method="fork")
    try:
        with pytest.raises(ValueError, match=r"Environment 1 .* observation after 3 .*'arm' holds nan at index 0"):
            tiny("MultiInputPolicy", env).learn(60)
    finally:
        env.close()


def test_normalisation_sees_nothing_that_is_not_finite() -> None:
    env = VecNormalize(DummyVecEnv(makers(2, "arm", np.full(5, np.nan))), norm_obs_keys=["arm"])
    with pytest.raises(ValueError, match="Environment 1"):
        tiny("MultiInputPolicy", env).learn(60)
    assert np.isfinite(env.obs_rms["arm"].mean).all()


def test_what_fits_is_taken() -> None:
    parts = {"eye": np.full((16, 17, 3), 255), "arm": np.arange(5), "mode": np.int8(2)}
    for part, value in parts.items():
        tiny("MultiInputPolicy", DummyVecEnv(makers(2, part, value))).learn(9)
        tiny("MultiInputPolicy", DummyVecEnv(makers(2, part, value, length=2))).learn(9)  # as an episode's last
        env = SubprocVecEnv(makers(2, part, value), start_method="fork")
        tiny("MultiInputPolicy", env).learn(9)
        env.close()


class Reused(gym.Env[Any, Any]):
    """Writes what it observes into one array, with ``anew`` into one for each episode, beside a map that stays."""

    action_space, map = spaces.Discrete(2), np.ones(2, np.float32)

    def __init__(self, parts: bool, anew: bool) -> None:
        both = spaces.Dict(arm=spaces.Box(-9, 9, (3,)), map=spaces.Box(-1, 1, (2,)))
        self.observation_space = both if parts else both["arm"]
        self.anew, self.array = anew, np.zeros(3, np.float32)

    def told(self) -> Any:
        view = self.array[:]
        return {"arm": view, "map": self.map} if isinstance(self.observation_space, spaces.Dict) else view

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.array = np.zeros(3, np.float32) if self.anew else self.array
        self.array[:] = 0
        return self.told(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.array += 1
        return self.told(), 0.0, self.array[0] == 3, False, {}


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("anew", [False, True])
def test_last_observations_that_are_overwritten_are_told(parts: bool, anew: bool) -> None:
    agent = tiny("MultiInputPolicy" if parts else "MlpPolicy", Reused(parts, anew))
    for each in (agent, copy.deepcopy(agent)):
        with nullcontext() if anew else pytest.warns(UserWarning, match="Environment 0 returns one array again"):
            each.learn(7)
    rows = agent.replay_buffer._columns["observation.arm" if parts else "observation.observation"]
    assert rows[0, :5, 0].tolist() == [0, 1, 2, 3 if anew else 0, 0]


class ByTurns(Reused):
    """Writes into two arrays by turns, so that a last observation outlives the first one after it."""

    def __init__(self) -> None:
        super().__init__(parts=False, anew=False)
        self.other = np.zeros(3, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.array, self.other = self.other, self.array
        return super().reset()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.other[:] = self.array
        self.array, self.other = self.other, self.array
        return super().step(action)


def test_arrays_that_take_turns_are_no_fault() -> None:
    agent = tiny("MlpPolicy", ByTurns()).learn(7)  # warnings are errors here
    assert agent.replay_buffer._columns["observation.observation"][0, :5, 0].tolist() == [0, 1, 2, 3, 0]


def test_numbers_beyond_float32_are_refused() -> None:
    codec = ObservationCodec(spaces.Box(-np.inf, np.inf, (2,), np.float64))
    with pytest.raises(ValueError, match=r"Environment 2 .* after 7 env steps: .* holds inf at index 1"):
        encode(codec, np.array([[0, 1], [2, 3], [4, 1e300]]), 7)
    with pytest.raises(ValueError, match=r"rewards of type float64 and shape \(2, 1\)"):
        check_rewards(np.zeros((2, 1)), 7)


def test_a_copy_of_an_agent_moves_its_own_environment() -> None:
    agent = tiny(env=Clock(50))
    other = copy.deepcopy(agent)
    other.learn(7)
    ours, theirs = (one.get_env().envs[0].unwrapped for one in (agent, other))
    assert (ours.time, theirs.time) == (0, 7)
    assert (moves(agent.get_env()), moves(other.get_env())) == (0, 1 + 2 * 7)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float16])
def test_bounds_of_small_types_hold_their_own_actions(dtype: Any) -> None:
    limit = 100 if dtype == np.int8 else 30_000
    space = spaces.Box(-limit, limit, (2,), dtype)
    agent = tiny(env=Scripted(spaces.Box(-1, 1, (3,)), space))
    seen = np.zeros(3, np.float32)
    dreamt = agent.imagine(seen, horizon=20, deterministic=False).actions
    np.testing.assert_array_equal(agent.imagine(seen, actions=dreamt).actions, dreamt)
    with pytest.raises(ValueError, match=r"actions\[0\] is"):
        agent.imagine(seen, actions=np.full((1, 2), limit * 1.1))
