"""DeepMind Control: the papers' protocol, the pictures, and films in the background."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites import make, require

SMALL: dict[str, Any] = {"size": 16, "shadows": False}


def test_defaults() -> None:
    env = make("dmc_vision/walker-walk-v0", size=64, shadows=True).unwrapped
    assert env.observation_space.shape == (64, 64, 3)
    assert (env.action_repeat, env.max_frames) == (2, 1000)
    assert (env._eye._camera_number, env._eye._shadows) == (0, True)
    assert make("dmc_vision/quadruped-run-v0").unwrapped._eye._camera_number == 2


@pytest.mark.parametrize(("repeat", "steps"), [(2, 500), (3, 334)])
def test_an_episode_is_a_thousand_frames(repeat: int, steps: int) -> None:
    env = make("dmc_proprio/walker-walk-v0", action_repeat=repeat)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (24,) and observation.dtype == np.float32
    ends = [env.step(env.action_space.sample())[2:] for _ in range(steps)]
    assert not any(terminated or truncated for terminated, truncated, _ in ends[:-1])
    assert ends[-1] == (False, True, {"frames": 1000})
    env.close()


def test_shorter_episodes_are_cut() -> None:
    env = make("dmc_proprio/lqr-lqr_2_1-v0", max_frames=5)
    env.reset(seed=0)
    ends = [env.step(np.ones(1, np.float32))[2:] for _ in range(3)]
    assert [truncated for _, truncated, _ in ends] == [False, False, True]
    env.close()


def test_rewards_add_up_over_the_repeat() -> None:
    single = make("dmc_proprio/walker-walk-v0", action_repeat=1)
    double = make("dmc_proprio/walker-walk-v0")
    single.reset(seed=3)
    double.reset(seed=3)
    single.action_space.seed(0)
    for _ in range(20):
        action = single.action_space.sample()
        (_, first, *_), (state, second, *_) = single.step(action), single.step(action)
        both, reward, *_ = double.step(action)
        assert reward == first + second
        assert np.array_equal(both, state)
    single.close()
    double.close()


def test_actions_reach_the_actuators_bounds() -> None:
    env = make("dmc_proprio/quadruped-walk-v0")
    assert env.action_space.low.min() == -1 and env.action_space.high.max() == 1
    env.reset(seed=0)
    bounds = env.unwrapped._env.physics.model.actuator_ctrlrange
    for side, action in ((0, -1.0), (1, 1.0), (1, 7.0)):
        env.unwrapped.step(np.full(12, action, np.float32))
        assert np.allclose(env.unwrapped._env.physics.control(), bounds[:, side])
    env.close()


def test_actions_without_bounds_are_used_as_they_are() -> None:
    env = make("dmc_proprio/lqr-lqr_2_1-v0").unwrapped
    env.reset(seed=0)
    for action in (0.5, -1.0):
        env.step(np.array([action], np.float32))
        assert env._env.physics.control() == pytest.approx([action])


def test_pictures_are_dm_controls_own() -> None:
    env = make("dmc_vision/walker-walk-v0", size=24, shadows=True)
    other = make("dmc_vision/cheetah-run-v0", **SMALL)
    env.reset(seed=0)
    other.reset(seed=0)  # draws in between, in a context of its own
    observation = env.step(np.zeros(6, np.float32))[0]
    other.close()
    env.close()
    physics = env.unwrapped._env.physics
    assert np.array_equal(observation, physics.render(24, 24, camera_id=0))
    physics.free()


def test_new_ground_is_drawn() -> None:
    used = make("dmc_vision/quadruped-escape-v0", **SMALL)
    fresh = make("dmc_vision/quadruped-escape-v0", **SMALL)
    first, _ = used.reset(seed=0)
    second, _ = used.reset(seed=1)
    assert np.array_equal(second, fresh.reset(seed=1)[0])
    assert not np.array_equal(first, second)
    used.close()
    fresh.close()


def test_render_is_the_same_view_enlarged() -> None:
    env = make("dmc_vision/walker-walk-v0", size=64, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    frame = env.render()
    assert frame.shape == (256, 256, 3)
    shrunk = frame.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - observation).mean() < 8
    env.close()


def test_film_shows_where_blue_is_largest() -> None:
    natural = make("dmc_natural/cheetah-run-v0")
    films = []
    for seed in (0, 1):
        after, _ = natural.reset(seed=seed)
        film, natural.unwrapped._film = natural.unwrapped._film, None
        before = natural.unwrapped._draw(natural.unwrapped._eye)
        natural.unwrapped._film = film
        blue = (before[..., 2] > before[..., 0]) & (before[..., 2] > before[..., 1])
        assert 0.3 < blue.mean() < 1.0
        assert np.array_equal(before[~blue], after[~blue])
        film = natural.unwrapped._film[natural.unwrapped._now]
        assert np.array_equal(after[blue], np.repeat(film, 3, axis=-1)[blue])
        assert film.std() > 20
        films.append(film)
    shown = natural.unwrapped._now
    natural.step(np.zeros(6, np.float32))
    assert natural.unwrapped._now == shown + 1
    assert not np.array_equal(films[0], films[1])
    natural.close()


@pytest.mark.parametrize(("task", "grey"), [("walker-walk", True), ("reacher-easy", False)])
def test_the_film_covers_what_it_does_in_the_official_code(task: str, grey: bool) -> None:
    """The grounds of four domains are grey and stay, the others' are blue; dm_control's own files are left alone."""
    share = []
    for family, options in (("dmc_natural", {"videos": "generated"}), ("dmc_vision", {})):
        env = make(f"{family}/{task}-v0", size=64, **options)
        env.reset(seed=0)
        unwrapped = env.unwrapped
        unwrapped._film = None
        red, green, blue = np.moveaxis(unwrapped._draw(unwrapped._eye)[43:].astype(int), -1, 0)  # the lower third
        share.append(((blue > red) & (blue > green)).mean())
        env.close()
    assert (share[0] < 0.2) == grey
    assert share[1] > 0.9


def test_every_run_has_a_film_of_its_own() -> None:
    env = make("dmc_natural/cheetah-run-v0")
    films = []
    for seed in (3, 4, 3):
        env.unwrapped._film = None
        env.reset(seed=seed)
        films.append(env.unwrapped._film)
    assert np.array_equal(films[0], films[2])
    assert not np.array_equal(films[0], films[1])
    chosen = make("dmc_natural/cheetah-run-v0", video_seed=3).unwrapped._film
    assert np.array_equal(chosen, films[0])
    env.close()


def test_the_film_goes_on_over_the_ends_of_episodes() -> None:
    env = make("dmc_natural/cheetah-run-v0", **SMALL)
    env.reset(seed=3)
    begun = env.unwrapped._now
    for action in range(2):
        env.step(np.full(6, action, np.float32))
    env.reset()
    assert env.unwrapped._now == (begun + 3) % 1000
    env.reset(seed=3)
    env.reset(seed=4)
    assert env.unwrapped._now != begun
    env.close()


def test_films_are_read_from_any_folder(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "deeper").mkdir()
    for name, code, shade in (("a.avi", "MJPG", 60), ("deeper/b.mp4", "mp4v", 180)):
        writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter.fourcc(*code), 25, (48, 32))
        for step in range(5):
            writer.write(np.full((32, 48, 3), shade + 5 * step, np.uint8))
        writer.release()
    require("dmc_natural/", drawing=False)
    from hd_agents.envs.natural import read_background

    film = read_background(tmp_path, 16, 1000, 0, grayscale=True)
    assert film.shape == (10, 16, 16, 1) and film.dtype == np.uint8
    assert sorted(film.mean(axis=(1, 2, 3))) == pytest.approx([*range(60, 85, 5), *range(180, 205, 5)], abs=4)
    assert read_background(tmp_path, 16, 7, 0, grayscale=False).shape == (7, 16, 16, 3)
    orders = {tuple(read_background(tmp_path, 2, 10, seed, True)[:, 0, 0, 0] > 120) for seed in range(6)}
    assert len(orders) == 2


def test_no_film_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HD_AGENTS_VIDEOS", raising=False)
    with pytest.raises(
        ValueError, match="pass videos=<folder> \\(--env-kwargs videos=<folder>\\) or set HD_AGENTS_VIDEOS"
    ):
        make("dmc_natural/walker-walk-v0")
    with pytest.raises(FileNotFoundError, match="No video that OpenCV can read"):
        make("dmc_natural/walker-walk-v0", videos=tmp_path)
    monkeypatch.setenv("HD_AGENTS_VIDEOS", "generated")
    make("dmc_natural/walker-walk-v0").close()


@pytest.mark.parametrize("wrong", [{"action_repeat": 0}, {"size": 0}, {"max_frames": 1001}, {"observation": "sound"}])
def test_refuses_what_it_cannot_do(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make("dmc_vision/walker-walk-v0", **wrong)


@pytest.mark.parametrize("camera", ["nope", 2])
def test_a_camera_that_is_not_there_is_refused(camera: str | int) -> None:
    """Before anything is drawn: MuJoCo ends the process where it is asked to draw what such a camera sees."""
    with pytest.raises(ValueError, match=f"camera={camera!r}: .*[Vv]alid"):
        make("dmc_vision/walker-walk-v0", camera=camera)
