"""Stable-Baselines3's contract: replay is stored apart from the agent, and comes back as it was."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from hd_agents.agent import HarmonyDreamAgent
from tests.agents import Clock, Scripted, tiny

MIXED = spaces.Dict(
    {
        "eye": spaces.Box(0, 255, (16, 17, 3), np.uint8),
        "arm": spaces.Box(-1, 1, (5,)),
        "mode": spaces.Discrete(3),
    }
)


def test_replay_can_be_dropped_and_loaded_again(tmp_path: Path) -> None:
    agent = tiny().learn(30)
    agent.save_replay_buffer(tmp_path / "replay")
    rows = len(agent.replay_buffer)
    agent.replay_buffer = None
    with pytest.raises(ValueError, match="no replay"):
        agent.save_replay_buffer(tmp_path / "other")
    agent.load_replay_buffer(tmp_path / "replay")
    assert len(agent.replay_buffer) == rows
    agent.replay_buffer = None
    with pytest.warns(UserWarning, match="No learning before the replay has"):
        agent.learn(10, reset_num_timesteps=False)
    assert 10 < len(agent.replay_buffer) < 15


@pytest.mark.parametrize("name", ["replay", "replay.pkl"])
def test_replay_is_stored_apart(name: str, tmp_path: Path) -> None:
    env = Scripted(MIXED, spaces.Discrete(4))
    agent = tiny("MultiInputPolicy", env).learn(40)
    agent.save_replay_buffer(tmp_path / name)
    agent.save(tmp_path / "agent")
    assert (tmp_path / (name if "." in name else f"{name}.replay")).is_file()

    loaded = HarmonyDreamAgent.load(tmp_path / "agent", env=env)
    loaded.load_replay_buffer(tmp_path / name)
    assert len(loaded.replay_buffer) == len(agent.replay_buffer) > 40
    for column, values in agent.replay_buffer._columns.items():
        count = len(agent.replay_buffer)
        assert np.array_equal(loaded.replay_buffer._columns[column][:, :count], values[:, :count]), column
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.replay_buffer._columns["is_first"][0, count]
    assert loaded._n_updates > agent._n_updates


def test_replay_of_other_spaces_is_refused(tmp_path: Path) -> None:
    tiny().learn(10).save_replay_buffer(tmp_path / "replay")
    with pytest.raises(ValueError, match="replay"):
        tiny(env="Pendulum-v1").load_replay_buffer(tmp_path / "replay")
    with pytest.raises(ValueError):  # noqa: PT011  the message is the replay's own and tested there
        tiny(env=DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2)).load_replay_buffer(tmp_path / "replay")


@pytest.mark.parametrize(
    ("space", "other"),
    [
        (spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-2.0, 2.0, (2,))),
        (spaces.Box(-1.0, 1.0, (5,)), spaces.Discrete(5)),
        (spaces.Discrete(5), spaces.Discrete(5, start=-2)),
        (spaces.Discrete(5), spaces.MultiDiscrete([2, 3])),
    ],
)
def test_replay_of_actions_that_mean_others_is_refused(
    space: spaces.Space, other: spaces.Space, tmp_path: Path
) -> None:
    """Rows hold them as the networks see them, in which a robot of twice the speed has the same numbers."""
    seen = spaces.Box(-1.0, 1.0, (3,))
    agent = tiny(env=Scripted(seen, space)).learn(10)
    agent.save_replay_buffer(tmp_path / "replay")
    tiny(env=Scripted(seen, space)).load_replay_buffer(tmp_path / "replay")
    another = tiny(env=Scripted(seen, other)).learn(5)
    with pytest.raises(ValueError, match="does not belong to this agent's environment: its actions are of"):
        another.load_replay_buffer(tmp_path / "replay")
    assert len(another.replay_buffer) == 6  # its own rows

    agent.replay_buffer.actions = None  # as files were written before they told
    agent.save_replay_buffer(tmp_path / "before")
    another.load_replay_buffer(tmp_path / "before")


@pytest.mark.parametrize("actions", [2, 30_000])
def test_replay_of_the_same_actions_but_for_rounding_is_taken(actions: int, tmp_path: Path) -> None:
    """As Gymnasium takes their spaces for equal."""
    seen, low = spaces.Box(-1.0, 1.0, (3,)), np.full(actions, -0.1, np.float32)
    agent = tiny(env=Scripted(seen, spaces.Box(low, -low))).learn(10)
    agent.save_replay_buffer(tmp_path / "replay")
    other = tiny(env=Scripted(seen, spaces.Box(np.nextafter(low, np.float32(-1.0)), -low)))
    other.load_replay_buffer(tmp_path / "replay")
    assert len(other.replay_buffer) == len(agent.replay_buffer)


def test_loading_replay_in_mid_episode_starts_a_new_one(tmp_path: Path) -> None:
    agent = tiny(env=Clock(9)).learn(4)
    agent.save_replay_buffer(tmp_path / "replay")
    agent.learn(2, reset_num_timesteps=False)
    agent.load_replay_buffer(tmp_path / "replay")
    agent.learn(2, reset_num_timesteps=False)
    assert agent.replay_buffer._columns["is_first"][0, :8].tolist() == [True] + [False] * 4 + [True, False, False]
