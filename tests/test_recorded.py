"""Episodes that were recorded elsewhere: how they lie in the replay, what is refused, and that they teach."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from hd_agents import zoo
from hd_agents.training.recorder import NonFiniteError
from hd_agents.zoo import packages
from tests.agents import Clock, Scripted, tiny

Arrays = dict[str, Any]


def recorded(env: gym.Env[Any, Any], seed: int = 0) -> tuple[list[Any], np.ndarray, np.ndarray, bool]:
    """One episode of random play; the arguments of ``add_episode``."""
    env.action_space.seed(seed)
    observations, actions, rewards, over = [env.reset(seed=seed)[0]], [], [], False
    terminated = False
    while not over:
        actions.append(env.action_space.sample())
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
        over = terminated or truncated
    return observations, np.array(actions), np.array(rewards), terminated


def rows(agent: Any) -> Arrays:
    """All rows of the only environment, in order."""
    replay = agent.replay_buffer
    return {name: column[0, : len(replay)] for name, column in replay._columns.items()}


@pytest.mark.parametrize("cut", [False, True])
def test_rows_are_those_of_an_episode_of_its_own(cut: bool) -> None:
    """The agent that played the same episode itself has the same rows."""
    playing = tiny(env=Clock(12, cut), learning_starts=100, seed=3)
    playing.learn(12)
    own = rows(playing)
    actions = own["action"][1:].argmax(-1)
    told = tiny(env=Clock(12, cut))
    told.add_episode(own["observation.observation"], actions, own["reward"][1:], not cut)
    found = rows(told)
    assert own.keys() == found.keys()
    for name, column in own.items():
        np.testing.assert_array_equal(found[name], column[:13], err_msg=name)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (16, 20, 3), np.uint8),
        spaces.Box(0, 255, (3, 16, 20), np.uint8),
        spaces.Discrete(4),
        spaces.Dict({"eye": spaces.Box(0, 255, (16, 16, 1), np.uint8), "arm": spaces.Box(-1, 1, (2, 3))}),
    ],
)
@pytest.mark.parametrize("action", [spaces.Box(-2, 2, (2,)), spaces.MultiDiscrete([2, 3])])
def test_any_space_and_learning_without_an_environment(space: Any, action: Any) -> None:
    env = Scripted(space, action, length=20)
    policy = (
        "MultiInputPolicy"
        if isinstance(space, spaces.Dict)
        else "MlpPolicy"
        if isinstance(space, spaces.Discrete)
        else "CnnPolicy"
    )
    agent = tiny(policy, env)
    env.actions.clear()
    other = Scripted(space, action, length=20)
    for seed in range(3):
        agent.add_episode(*recorded(other, seed))
    assert len(agent.replay_buffer) == 63  # type: ignore[arg-type]
    agent.train(3)
    assert agent._n_updates == 3
    agent.set_logger(configure(None, []))
    agent.dump_logs()
    assert not env.actions
    agent.learn(40)  # which resets the environment
    assert len(env.actions) == 40


def test_it_goes_where_the_fewest_rows_are() -> None:
    agent = tiny(env=DummyVecEnv([lambda: Clock(5)] * 2))
    for _ in range(3):
        agent.add_episode(*recorded(Clock(5)))
    assert agent.replay_buffer is not None
    assert agent.replay_buffer.added == [12, 6]


def test_the_running_episode_is_not_continued_by_it() -> None:
    agent = tiny(env=Clock(9), learning_starts=100)
    agent.learn(4)
    agent.add_episode(*recorded(Clock(5)))
    agent.learn(4, reset_num_timesteps=False)
    found = rows(agent)
    np.testing.assert_array_equal(np.flatnonzero(found["is_first"]), [0, 5, 11])
    for start, end in ((0, 5), (5, 11), (11, 16)):
        np.testing.assert_array_equal(np.diff(found["observation.observation"][start:end, 1]), 1)


GOOD: Arrays = {
    "observations": np.zeros((4, 3), np.float32),
    "actions": np.zeros(3, np.int64),
    "rewards": np.ones(3),
    "terminated": True,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"observations": np.zeros((3, 3))}, "3 observations, 3 actions"),
        ({"rewards": np.ones(4)}, "T rewards"),
        ({"rewards": np.ones((3, 1))}, r"shape \(3, 1\)"),
        ({"observations": np.zeros((1, 3)), "actions": np.zeros(0, int), "rewards": np.ones(0)}, "1 or more"),
        ({"observations": np.zeros((4, 2))}, "has shape"),
        ({"observations": np.array([[0.0] * 3] * 3 + [[0.0, np.nan, 0.0]])}, r"observation\[3\] is not finite"),
        ({"rewards": np.array([1.0, np.inf, 1.0])}, r"rewards\[1\] is not finite"),
        ({"actions": np.array([0, 1, 7])}, "They hold 7: expected 0 to 4"),
        ({"actions": np.zeros((3, 2), int)}, r"of shape \(3, 2\): expected"),
        ({"actions": 3}, "4 observations, 1 actions"),
        ({"terminated": np.zeros(3, bool)}, "use True or False"),
        (
            {"observations": [np.zeros(3), np.zeros(3), np.zeros(2), np.zeros(3)]},
            r"observations\[2\]: .* has shape \(2,\)",
        ),
        ({"observations": [np.zeros(3), None, np.zeros(3), np.zeros(3)]}, r"observations\[1\]: .* has shape \(\)"),
        (
            {"observations": [(np.zeros(3), {}), *[np.zeros(3)] * 3]},
            r"observations\[0\]: .* is a tuple \(observation, info",
        ),
        ({"observations": [np.zeros((1, 3))] * 4}, r"observations\[0\] has an env axis"),
        ({"observations": []}, "no observations"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_stored(change: Arrays, said: str) -> None:
    agent = tiny(env=Clock(5))
    with pytest.raises(ValueError, match=said):
        agent.add_episode(**{**GOOD, **change})
    assert len(agent.replay_buffer) == 0  # type: ignore[arg-type]
    agent.add_episode(**GOOD)
    assert len(agent.replay_buffer) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "is a NoneType"),
        ({"a": np.zeros(2)}, r"lacks the keys \['b'\]"),
        ({"a": np.zeros(3), "b": 1}, "'a' has shape"),
        ({"a": np.full(2, np.nan), "b": 1}, "'a' holds nan"),
    ],
)
def test_the_frame_of_a_log_that_does_not_fit_is_named(wrong: Any, said: str) -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
    agent = tiny(policy="MultiInputPolicy", env=Scripted(space, spaces.Discrete(5)))
    good = {"a": np.zeros(2), "b": 1}
    with pytest.raises(ValueError, match=rf"observations\[2\]: .*{said}"):
        agent.add_episode([good, good, wrong, good], np.zeros(3, int), np.ones(3), False)
    assert len(agent.replay_buffer) == 0  # type: ignore[arg-type]
    agent.add_episode([good] * 4, np.zeros(3, int), np.ones(3), False)


@pytest.mark.parametrize("wrong", [np.inf, -99.0, np.nan])
def test_actions_in_other_units_are_refused(wrong: float) -> None:
    env = Scripted(spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (2,)))
    agent, actions = tiny(env=env), np.zeros((3, 2))
    actions[1, 0] = wrong
    with pytest.raises(ValueError, match=r"actions\[1\] is .* in the environment's own unit"):
        agent.add_episode(np.zeros((4, 3), np.float32), actions, np.ones(3), False)


def test_not_within_learn() -> None:
    class Adds(BaseCallback):
        def _on_step(self) -> bool:
            self.model.add_episode(**GOOD)  # type: ignore[attr-defined]
            return True

    agent = tiny(env=Clock(5))
    with pytest.raises(ValueError, match="within learn"):
        agent.learn(10, callback=Adds())
    agent.add_episode(**GOOD)
    agent.learn(10)


def test_models_for_acting_refuse(tmp_path: Path) -> None:
    packages.seal(tmp_path, packages.write(tiny(), tmp_path, full=False))
    agent = zoo.load(tmp_path)
    for call in (lambda: agent.train(1), lambda: agent.add_episode(**GOOD)):
        with pytest.raises(ValueError, match="packed for acting only"):
            call()


def test_failures_of_training_alone_leave_their_record(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    agent = tiny(env=Clock(5), learning_rate=1e30)
    for _ in range(4):
        agent.add_episode(*recorded(Clock(5)))
    with pytest.raises(NonFiniteError, match="nonfinite-"):
        agent.train(100)
    assert list(tmp_path.glob("nonfinite-*.zip"))


def test_a_normaliser_that_has_seen_nothing_is_told() -> None:
    """It would clip what it does not know the scale of."""
    agent = tiny(env=VecNormalize(DummyVecEnv([lambda: Clock(9)])))
    agent.add_episode(np.full((31, 3), 100, np.float32), np.zeros(30, int), np.full(30, 50.0), terminated=True)
    with pytest.warns(UserWarning, match="a VecNormalize that has seen no step"):
        agent.train(1)
    agent.learn(5)
    agent.train(1)
