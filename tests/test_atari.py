"""The protocol of Atari100K, compared with the emulator driven by hand."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils import seeding
from suites import make


def by_hand(seed: int, actions: list[int]) -> list[tuple[np.ndarray, float]]:
    """Pong by METHOD's words: the first observation, then observation and reward of each action."""
    import cv2
    from ale_py import ALEInterface, roms

    rng, _ = seeding.np_random(seed)
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", int(rng.integers(2**31)))
    ale.loadROM(roms.get_rom_path("pong"))
    ale.reset_game()
    for _ in range(rng.integers(30)):
        ale.act(0)
    frames = [ale.getScreenRGB()]
    rows = [(cv2.resize(frames[0], (64, 64), interpolation=cv2.INTER_AREA), 0.0)]
    for action in actions:
        reward = 0.0
        for _ in range(4):
            reward += ale.act(ale.getMinimalActionSet()[action])
            frames.append(ale.getScreenRGB())
        both = np.maximum(frames[-1], frames[-2])
        rows.append((cv2.resize(both, (64, 64), interpolation=cv2.INTER_AREA), reward))
    return rows


def test_pixels_and_rewards_are_the_protocols() -> None:
    env = make("atari100k/Pong-v0", size=64)
    env.action_space.seed(1)
    actions = [int(env.action_space.sample()) for _ in range(120)]
    expected = by_hand(5, actions)
    observation, _ = env.reset(seed=5)
    assert observation.shape == (64, 64, 3) and observation.dtype == np.uint8
    assert np.array_equal(observation, expected[0][0])
    for action, (picture, reward) in zip(actions, expected[1:], strict=True):
        observation, got, terminated, truncated, _ = env.step(action)
        assert np.array_equal(observation, picture)
        assert got == reward
        assert not terminated and not truncated
    assert min(reward for _, reward in expected) == -1.0  # else the sum over a repeat has shown nothing


def test_defaults() -> None:
    env = make("atari100k/Pong-v0", size=64).unwrapped
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space.n == 6
    assert (env.action_repeat, env.noop_max, env.max_frames) == (4, 29, 108_000)
    assert env._ale.getFloat("repeat_action_probability") == 0.0
    assert make("atari100k/ChopperCommand-v0").unwrapped.max_frames == 5_400


def test_starts_with_no_more_than_noop_max_frames() -> None:
    env = make("atari100k/Pong-v0", noop_max=3)
    env.reset(seed=0)
    frames = set()
    for _ in range(60):
        env.reset()
        frames.add(env.unwrapped._ale.getEpisodeFrameNumber())
    assert frames == {0, 1, 2, 3}


@pytest.mark.parametrize("official", [False, True])
def test_cap_is_a_truncation_unless_asked(official: bool) -> None:
    env = make("atari100k/Pong-v0", max_frames=40, official_termination=official)
    env.reset(seed=0)
    ends: list[Any] = [env.step(0)[2:] for _ in range(10)]
    assert all(end[:2] == (False, False) for end in ends[:-1])
    assert ends[-1][:2] == (official, not official)
    assert ends[-1][2]["frames"] == 40


def test_lost_game_terminates() -> None:
    env = make("atari100k/Pong-v0")
    env.reset(seed=0)
    total, steps, terminated, truncated = 0.0, 0, False, False
    while not terminated and not truncated:
        _, reward, terminated, truncated, info = env.step(0)
        total, steps = total + reward, steps + 1
    assert (total, terminated, truncated) == (-21.0, True, False)
    assert 4 * (steps - 1) < info["frames"] <= 4 * steps


def test_a_game_that_ends_at_the_first_frame_shows_it_alone() -> None:
    class Over:
        def __init__(self, ale: Any) -> None:
            self.ale = ale

        def __getattr__(self, name: str) -> Any:
            return (lambda: True) if name == "game_over" else getattr(self.ale, name)

    env = make("atari100k/Pong-v0").unwrapped
    env.reset(seed=0)
    for _ in range(30):
        env.step(2)
    env._ale = Over(env._ale)
    observation, _, terminated, _, info = env.step(2)
    assert terminated and info["frames"] == 121
    assert np.array_equal(observation, env._reduce(env._ale.getScreenRGB()))


def test_lost_life_ends_nothing() -> None:
    env = make("atari100k/Breakout-v0")
    env.action_space.seed(0)
    _, info = env.reset(seed=0)
    assert info["lives"] == 5
    while info["lives"] == 5:
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        assert not terminated and not truncated


def test_render_is_the_last_frame() -> None:
    env = make("atari100k/Pong-v0", render_mode="rgb_array")
    env.reset(seed=0)
    env.step(0)
    assert np.array_equal(env.render(), env.unwrapped._ale.getScreenRGB())
    assert make("atari100k/Pong-v0").unwrapped.render() is None


@pytest.mark.parametrize("wrong", [{"action_repeat": 0}, {"size": 0}, {"noop_max": -1}])
def test_refuses_what_it_cannot_do(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make("atari100k/Pong-v0", **wrong)
