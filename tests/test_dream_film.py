"""Film strips out of the replay: what they show, and that training does not notice them."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from hd_agents.callbacks import DreamFilm
from hd_agents.films.dream_film import KEY, dream_of_replay
from hd_agents.films.strip import CONTEXT, CURVE_HORIZON, HORIZON, draw
from tests.agents import Clock, Scripted, tiny

IMAGE = spaces.Box(0, 255, (16, 20, 3), np.uint8)


def events(folder: Path) -> list[Any]:
    """The film strips in a TensorBoard log."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    path = next(folder.rglob("events.*"))
    log = loader.EventAccumulator(str(path.parent), size_guidance={"images": 0})
    log.Reload()
    return log.Images(KEY) if KEY in log.Tags()["images"] else []


@pytest.mark.parametrize("cut", [False, True])
def test_truth_is_a_piece_of_one_episode(cut: bool) -> None:
    agent = tiny(env=Clock(70, cut), seed=0)
    agent.learn(300)
    found = dream_of_replay(agent, np.random.default_rng(0))
    assert found is not None
    rows = found.truth["observation"]
    assert len(rows) == found.start + 1 + CURVE_HORIZON
    assert len(set(rows[:, 0])) == 1  # episode
    np.testing.assert_array_equal(np.diff(rows[:, 1]), 1)  # step
    np.testing.assert_array_equal(found.rewards, 100 * rows[1:, 0] + rows[1:, 1])
    np.testing.assert_array_equal(found.dream.actions, rows[found.start + 1 :, 2])
    assert found.dream.observations["observation"].shape == (CURVE_HORIZON + 1, 3)


def test_short_episodes_give_short_dreams() -> None:
    agent = tiny(env=Clock(8), seed=0)
    agent.learn(120)
    found = dream_of_replay(agent, np.random.default_rng(0))
    assert found is not None
    assert 1 <= len(found.dream.rewards) <= 8
    assert len(set(found.truth["observation"][:, 0])) == 1


def test_dream_is_that_of_the_policy() -> None:
    """The agent that sees the same steps by predict, and imagines on, dreams the same."""
    agent = tiny(env=Clock(70), seed=0, train_ratio=0)
    agent.learn(200)
    found = dream_of_replay(agent, np.random.default_rng(3))
    assert found is not None
    rows, state = found.truth["observation"], None
    for step in range(found.start):
        _, state = agent.predict(rows[step], state, np.array([step == 0]), deterministic=True)
        took = np.eye(5, dtype=np.float32)[[int(rows[step + 1, 2])]]
        state = (state[0], state[1], took)  # what was done then, not what it would do now
    expected = agent.imagine(rows[found.start], found.dream.actions, state=state)
    for ours, theirs in zip(found.dream[2:], expected[2:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.dream.observations["observation"], expected.observations["observation"], atol=1e-3)


def test_rewards_stand_below_the_moment_that_they_came_with() -> None:
    pytest.importorskip("matplotlib")
    start, steps = 2, 7  # as many moments as there are columns, with the present
    images = np.zeros((start + steps + 1, 8, 8, 3), np.uint8)
    rewards, dreamt = np.arange(start + steps, dtype=np.float32), 10 + np.arange(steps, dtype=np.float32)
    dream: Any = SimpleNamespace(observations={"image": images[start:]}, rewards=dreamt)
    truth, imagined, error = draw({"image": images}, rewards, dream, start, "a task").axes
    below = [[one.get_text() for one in axes.get_xticklabels()] for axes in (truth, imagined, error)]
    assert below == [["", *(f"reward {x:.1f}" for x in given)] for given in (rewards[start:], dreamt)] + [[]]
    above = {one.get_text(): one.xy[0] for one in truth.texts}
    assert list(above) == ["now", *(f"+{step}" for step in range(1, steps + 1))]
    assert list(above.values()) == truth.get_xticks().tolist() == imagined.get_xticks().tolist()
    assert above["+1"] == 8 + 1 + 3.5  # the middle of the second picture, beyond the first one and the gap
    assert [len(axes.patches) for axes in (truth, imagined, error)] == [1 + steps] * 3  # frames
    images = np.zeros((start + steps + 1, 80, 8, 1), np.uint8)  # so narrow that what is written below needs room
    dream.observations["image"] = images[start:]
    truth = draw({"image": images}, rewards, dream, start, "").axes[0]
    assert np.diff(truth.get_xticks()).tolist() == [64.0] * steps


def test_of_several_images_the_one_that_is_shown_is_named() -> None:
    images = {name: np.zeros((4, 8, 8, 3), np.uint8) for name in ("wrist", "head")}
    dream: Any = SimpleNamespace(observations=images, rewards=np.zeros(3))
    assert "a task, image 'wrist' of 2: " in draw(images, np.zeros(3), dream, 0, "a task").get_suptitle()
    assert "image" not in draw({"wrist": images["wrist"]}, np.zeros(3), dream, 0, "a task").get_suptitle()


def test_too_small_a_replay_has_none() -> None:
    agent = tiny(env=Clock(70), seed=0)
    agent.learn(CONTEXT + 5)
    assert dream_of_replay(agent, np.random.default_rng(0)) is None


def test_normalised_observations_are_shown_as_the_agent_sees_them() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Clock(70)]))
    agent = tiny(env=env, seed=0)
    agent.learn(200)
    found = dream_of_replay(agent, np.random.default_rng(0))
    assert found is not None
    assert np.abs(found.truth["observation"]).max() <= env.clip_obs


@pytest.mark.parametrize("chw", [False, True])
def test_film_of_images_in_tensorboard_and_in_files(chw: bool, tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (3, 16, 20), np.uint8) if chw else IMAGE
    agent = tiny("CnnPolicy", Scripted(space, spaces.Discrete(2), 40), tensorboard_log=str(tmp_path / "logs"))
    agent.learn(170, log_interval=1, callback=DreamFilm(40, tmp_path / "films"))
    names = sorted(path.name for path in (tmp_path / "films").iterdir())
    assert names == ["dream_120.png", "dream_160.png", "dream_39.png", "dream_40.png", "dream_80.png"]
    shown = events(tmp_path / "logs")
    assert len(shown) == 4  # those of 39 and 40 were drawn before the first table: the later one is kept
    assert (shown[0].width, shown[0].height) == (1040, 480)
    found = dream_of_replay(agent, np.random.default_rng(0))
    assert found is not None
    assert found.dream.observations["observation"].shape == (HORIZON + 1, 16, 20, 3)
    assert found.truth["observation"].shape[1:] == (16, 20, 3)


def test_training_does_not_notice(tmp_path: Path) -> None:
    weights = []
    for callback in (None, DreamFilm(64, tmp_path)):
        agent = tiny(env=gym.make("CartPole-v1"), seed=5)
        agent.learn(200, callback=callback)
        weights.append(torch.cat([part.flatten() for part in agent.policy.state_dict().values()]))
    assert torch.equal(*weights)
    assert list(tmp_path.iterdir())


def test_a_gpu_that_is_full_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("hd_agents.films.dream_film.imagine_from", full)
    with pytest.warns(UserWarning, match=r"DreamFilm left out at env step \d+: no memory") as said:
        agent = tiny(env=gym.make("CartPole-v1")).learn(200, callback=DreamFilm(1_000))
    assert agent.num_timesteps == 200
    assert len(said) == 1


def test_intervals_that_are_not_allowed() -> None:
    with pytest.raises(ValueError, match="every=0"):
        DreamFilm(0)


def test_what_is_missing_is_told_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tiny(env=Clock(70))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        agent.learn(10, callback=DreamFilm(16, tmp_path / "file" / "films"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"hd_agents\[train\]"):
        agent.learn(10, callback=DreamFilm(16))
    assert agent.num_timesteps == 0
