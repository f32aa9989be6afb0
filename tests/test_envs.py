"""The package's own environments: registration, and Catch's rules, picture and scores."""

import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from learning.play import Policy, mean_return, random_policy

from hd_agents import envs
from hd_agents.envs.catch import Catch


def test_registered_once_without_warning() -> None:
    envs.register()
    envs.register()
    env = gymnasium.make("hd_agents/Catch-v0", render_mode="rgb_array")
    assert isinstance(env.unwrapped, Catch)


def test_registering_imports_no_environment() -> None:
    ours = {f"hd_agents.envs.{name}" for name in ("atari", "catch", "dmc", "metaworld", "natural", "rendering")}
    suites = {"ale_py", "dm_control", "metaworld", "mujoco", "shimmy"}
    code = f"import sys; import hd_agents.envs as e; e.register(); assert not {ours | suites} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def catcher(env: Catch) -> Policy:
    """Go to where the ball will land."""

    def act(_: Any) -> int:
        way = env.landing - env.paddle
        return 0 if abs(way) <= env.paddle_speed // 2 else 1 if way < 0 else 2

    return act


def column_of(image: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Mean column of the pixels of a colour."""
    return float(np.argwhere((image == colour).all(axis=-1))[:, 1].mean())


def follower(env: Catch) -> Policy:
    """Go to where the ball is now, read from the pixels."""

    def act(image: np.ndarray) -> int:
        way = column_of(image, (238, 124, 48)) - column_of(image, (46, 62, 110))
        return 0 if abs(way) <= env.paddle_speed // 2 else 1 if way < 0 else 2

    return act


def test_catch_maximum_is_always_reached() -> None:
    env = Catch()
    returns = [mean_return(env, catcher(env), 1)]
    env.reset(seed=11)
    for _ in range(300):
        env.reset()
        total, over = 0.0, False
        while not over:
            _, reward, over, _, _ = env.step(catcher(env)(None))
            total += reward
        returns.append(total)
    assert set(returns) == {8.0}


def test_catch_scores_of_the_docstring() -> None:
    env = Catch()
    assert mean_return(env, random_policy(env), 200) == pytest.approx(-3.8, abs=0.35)
    assert mean_return(env, follower(env), 30) == pytest.approx(8.0, abs=0.1)
    fast = Catch(max_drift=6)
    assert mean_return(fast, follower(fast), 60) == pytest.approx(7.1, abs=0.4)


def test_catch_episode() -> None:
    env = Catch(balls=3)
    env.reset(seed=0)
    steps = [env.step(0) for _ in range(26)]
    rewards = [step[1] for step in steps]
    assert [index for index, reward in enumerate(rewards) if reward] == [7, 16, 25]
    assert [step[2] for step in steps] == [False] * 25 + [True]
    assert not any(step[3] for step in steps)


def test_catch_image_shows_everything() -> None:
    env = Catch()
    first, _ = env.reset(seed=5)
    calm, meter = tuple(first[20, 0]), first[0]  # at the sky's edge, where no ball comes
    rewards: set[tuple[float, Any]] = set()
    for _ in range(8 * 9 - 1):
        image, reward, *_ = env.step(catcher(env)(None) if len(rewards) == 0 else 1)
        sky = tuple(image[20, 0])
        assert (sky == calm) == (reward == 0)
        if reward:
            rewards.add((reward, sky))
    assert len(rewards) == 2  # a catch and a miss differ
    assert (meter == meter[0]).all()
    assert not (image[0] == meter[0]).all()
    assert column_of(image, (46, 62, 110)) == pytest.approx(env.paddle - 0.5)


def test_catch_is_not_dark() -> None:
    image, _ = Catch().reset(seed=0)
    assert 110 < image.mean() < 190
    assert (image.max(axis=-1) < 60).mean() < 0.01


def test_catch_render_is_the_same_scene_enlarged() -> None:
    env = Catch(render_mode="rgb_array")
    image, _ = env.reset(seed=2)
    frame = env.render()
    assert frame is not None
    assert frame.shape == (256, 256, 3)
    assert frame.dtype == np.uint8
    shrunk = frame.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - image).mean() < 2.0
    assert Catch().render() is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"balls": 0},
        {"balls": "x"},
        {"paddle_width": 33},
        {"paddle_width": 8.5},
        {"paddle_speed": 0},
        {"max_drift": 9},
        {"render_mode": "human"},
    ],
)
def test_catch_refuses_what_it_cannot_do(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Catch(**wrong)
