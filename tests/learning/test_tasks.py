"""The tasks of the learning tests: interface, determinism, best and random scores, and what each of them punishes."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from hd_agents.envs.catch import Catch
from learning.envs import CartPoleNoVelocity, Locks, PreviousActionReward, Rendezvous
from learning.play import Env, mean_return, random_policy
from learning.static import Static


def no_velocity() -> Env:
    return CartPoleNoVelocity(gymnasium.make("CartPole-v1"))


MAKERS: dict[str, Callable[[], Env]] = {
    "catch": Catch,
    "no_velocity": no_velocity,
    "rendezvous": Rendezvous,
    "locks": Locks,
    "previous_action": PreviousActionReward,
    "previous_action_chained": lambda: PreviousActionReward(chained=True),
    "static": Static,
}


def flat(observation: Any) -> np.ndarray:
    parts = observation.values() if isinstance(observation, dict) else [observation]
    return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])


@pytest.mark.filterwarnings("ignore:The minimal resolution")  # Stable-Baselines3's own CNN wants more than 32 pixels
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # CartPole with a wrapper is meant
@pytest.mark.parametrize("name", MAKERS)
def test_interface_is_clean(name: str) -> None:
    check_env(MAKERS[name](), skip_render_check=True)
    check_env_sb3(MAKERS[name](), skip_render_check=False)


@pytest.mark.parametrize("name", MAKERS)
def test_same_seed_same_episode(name: str) -> None:
    def trace(seed: int) -> np.ndarray:
        env = MAKERS[name]()
        env.action_space.seed(0)
        observation, _ = env.reset(seed=seed)
        rows = [np.append(flat(observation), (0.0, 0.0))]
        for _ in range(60):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            rows.append(np.append(flat(observation), (float(reward), float(terminated))))
            if terminated or truncated:
                observation, _ = env.reset()
                rows.append(np.append(flat(observation), (0.0, 0.0)))
        return np.concatenate(rows)

    first = trace(3)
    np.testing.assert_array_equal(first, trace(3))
    other = trace(4)
    assert first.shape != other.shape or not np.array_equal(first, other)


@pytest.mark.parametrize("name", MAKERS)
def test_observations_are_not_reused(name: str) -> None:
    env = MAKERS[name]()
    env.reset(seed=0)
    before = env.step(env.action_space.sample())[0]
    kept = flat(before)
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(flat(before), kept)


def test_no_velocity_shows_positions_only() -> None:
    env = no_velocity()
    observation, _ = env.reset(seed=0)
    assert observation.shape == (2,)
    for _ in range(5):
        observation, *_ = env.step(1)
        full = np.asarray(env.unwrapped.state, np.float32)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(observation, full[[0, 2]])


def rendezvous_block(image: np.ndarray) -> tuple[int, int]:
    row, column = np.argwhere((image == (226, 88, 62)).all(axis=-1))[0] // 8
    return int(row), int(column)


def towards(block: tuple[int, int], target: tuple[int, int]) -> int:
    if block[0] != target[0]:
        return 1 if target[0] < block[0] else 2
    if block[1] != target[1]:
        return 3 if target[1] < block[1] else 4
    return 0


def rendezvous_target(vector: np.ndarray) -> tuple[int, int]:
    row, column = np.round((vector + 1.0) * 1.5).astype(int)
    return int(row), int(column)


def test_rendezvous_scores() -> None:
    env = Rendezvous()
    both = mean_return(env, lambda o: towards(rendezvous_block(o["image"]), rendezvous_target(o["target"])), 300)
    image_only = mean_return(env, lambda o: towards(rendezvous_block(o["image"]), (1, 2)), 300)
    vector_only = mean_return(env, lambda o: towards((1, 2), rendezvous_target(o["target"])), 300)
    scores = (both, image_only, vector_only, mean_return(env, random_policy(env), 300))
    assert scores == pytest.approx((2.8, -5.1, -4.4, -6.1), abs=0.4)


def test_locks_scores() -> None:
    env = Locks()
    space = env.action_space
    assert isinstance(space, spaces.MultiDiscrete)

    def read(observation: np.ndarray) -> np.ndarray:
        return np.array([np.argmax(block) for block in np.split(observation, np.cumsum(space.nvec)[:-1])])

    assert mean_return(env, read, 50) == pytest.approx(10.0)
    assert mean_return(env, random_policy(env), 300) == pytest.approx(10 * (1 / 3 + 1 / 2 + 1 / 4) / 3, abs=0.15)


def test_static_scores() -> None:
    env = Static()
    assert mean_return(env, random_policy(env), 1000) == pytest.approx(2.4, abs=0.5)
    look = mean_return(env, lambda observation: (2, 2, 2, 1, 0)[int(np.argmax(observation[:5]))], 1000)
    assert look == pytest.approx(9.4, abs=0.5)
    assert 3.0 < best_blind_score(env) < 4.5


def best_blind_score(env: Static) -> float:
    """Highest mean return of a fixed sequence of actions: a beam search over where the walker may be."""
    count, pay = len(env.PAY), np.array(env.PAY)
    moves = [np.eye(count)[np.clip(np.arange(count) + action - 1, 0, count - 1)] for action in range(3)]
    beam = [(0.0, np.full(count, 1 / count))]
    for _ in range(env.steps):
        after = [(score, belief @ move) for score, belief in beam for move in moves]
        jumped = [(score, 0.8 * belief + 0.2 / count) for score, belief in after]
        beam = sorted(((score + belief @ pay, belief) for score, belief in jumped), key=lambda pair: -pair[0])[:500]
    return float(beam[0][0])


@pytest.mark.parametrize("chained", [False, True])
def test_previous_action_scores(chained: bool) -> None:
    env = PreviousActionReward(chained=chained)
    assert mean_return(env, lambda _: env.right_answer, 100) == 1.0
    assert mean_return(env, random_policy(env), 1000) == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize("chained", [False, True])
def test_previous_action_punishes_every_shift(chained: bool) -> None:
    """A table learnt from rows where one column is shifted by a row, either way, is worth no more than chance."""
    env = PreviousActionReward(choices=5, chained=chained)
    columns = record(env, 40_000)
    assert table_score(env, columns) > 0.97
    for name in ("cue", "action", "reward"):
        for shift in (-1, 1):
            shifted = {**columns, name: np.roll(columns[name], shift)}
            assert table_score(env, shifted) < 0.5, (name, shift)


def record(env: PreviousActionReward, rows: int) -> dict[str, np.ndarray]:
    """Random play as a batch holds it: each row's action led into its cue, and its reward arrived with it."""
    generator = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    table = [(int(observation.argmax()), 0, 0.0, True)]
    while len(table) < rows:
        action = int(generator.integers(env.choices))
        observation, reward, terminated, _, _ = env.step(action)
        table.append((int(observation.argmax()), action, reward, False))
        if terminated:
            observation, _ = env.reset()
            table.append((int(observation.argmax()), 0, 0.0, True))
    names = ("cue", "action", "reward", "is_first")
    return {name: np.array([row[index] for row in table]) for index, name in enumerate(names)}


def table_score(env: PreviousActionReward, columns: dict[str, np.ndarray]) -> float:
    """Learn the mean reward of each (cue before, action before, action); return how often its best action is right."""
    rows = np.flatnonzero(~columns["is_first"][1:]) + 1
    keys = columns["cue"][rows - 1], columns["action"][rows - 1], columns["action"][rows]
    total, count = np.zeros((2, *[env.choices] * 3))
    np.add.at(total, keys, columns["reward"][rows])
    np.add.at(count, keys, 1)
    best = (total / np.maximum(count, 1)).argmax(axis=-1)
    right, answers, previous = 0, 2000, 0
    observation, _ = env.reset(seed=1)
    for _ in range(answers):
        previous = int(best[observation.argmax(), previous])
        right += previous == env.right_answer
        observation, _, terminated, _, _ = env.step(previous)
        if terminated:
            observation, _ = env.reset()
            previous = 0
    return right / answers
