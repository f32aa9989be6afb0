"""Stable-Baselines3's contract: callbacks see what they expect, in order, and can stop the training."""

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.run_checkpoint import RunCheckpoint
from hd_agents.saving.checkpoint import CheckpointError
from tests.agents import Clock, tiny


class Witness(BaseCallback):
    """Writes down every event; stops at the given step."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.events: list[str] = []
        self.stop_at = stop_at

    def _on_training_start(self) -> None:
        assert self.locals["total_timesteps"] > 0
        assert self.locals["tb_log_name"] == "HarmonyDream"
        assert self.locals["self"] is self.model
        assert isinstance(self.model, self.globals["LearningLoop"])
        self.events.append("start")

    def _on_rollout_start(self) -> None:
        self.events.append("(")

    def _on_step(self) -> bool:
        n = self.training_env.num_envs
        assert self.locals["new_obs"].shape == (n, 3)
        assert self.locals["rewards"].shape == self.locals["dones"].shape == self.locals["actions"].shape == (n,)
        assert len(self.locals["infos"]) == n
        assert self.locals["total_timesteps"] > 0
        assert self.num_timesteps == self.model.num_timesteps
        self.events.append("step")
        return self.n_calls != self.stop_at

    def _on_rollout_end(self) -> None:
        self.events.append(")")

    def _on_training_end(self) -> None:
        self.events.append("end")


@pytest.mark.parametrize("n_envs", [1, 3])
def test_events_come_in_order(n_envs: int) -> None:
    witness = Witness()
    tiny(env=DummyVecEnv([lambda: Clock(4)] * n_envs)).learn(2 * n_envs + 1, callback=witness)
    assert witness.events == ["start", *["(", "step", ")"] * 3, "end"]


def test_a_callback_that_says_no_stops_the_training() -> None:
    witness = Witness(stop_at=2)
    agent = tiny(env=Clock(4)).learn(50, callback=[witness])
    assert witness.events == ["start", "(", "step", ")", "(", "step", "end"]
    assert agent.num_timesteps == 2
    assert len(agent.replay_buffer) == 3  # the last step is kept, so that learning can go on from it
    agent.learn(1, reset_num_timesteps=False)
    assert agent.replay_buffer._columns["observation.observation"][0, :4, 1].tolist() == [0, 1, 2, 3]


def test_a_run_that_was_stopped_is_a_run_of_that_many_steps() -> None:
    """With the gradient steps and the episodes of the step at which it was stopped."""
    for steps in range(40, 60, 3):
        stopped = tiny(env=Clock(5), seed=0, train_ratio=4.0)
        stopped.learn(1_000, callback=lambda seen, _, last=steps: seen["self"].num_timesteps < last)
        plain = tiny(env=Clock(5), seed=0, train_ratio=4.0).learn(steps)
        for agent in (stopped, plain):
            assert agent.num_timesteps == steps
        assert (stopped._n_updates, stopped._episode_num) == (plain._n_updates, plain._episode_num)
        assert stopped._replay_credit == plain._replay_credit
        for name, weight in plain.policy.state_dict().items():
            assert torch.equal(weight, stopped.policy.state_dict()[name])


def test_functions_are_callbacks() -> None:
    steps: list[int] = []

    def count(local: dict[str, Any], _: dict[str, Any]) -> bool:
        steps.append(local["self"].num_timesteps)
        return len(steps) < 4

    assert tiny().learn(30, callback=count).num_timesteps == 4
    assert steps == [1, 2, 3, 4]


def test_checkpoints_hold_agent_replay_and_normalisation(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    callback = CheckpointCallback(20, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    agent = tiny(env=env).learn(45, callback=callback)
    assert sorted(os.listdir(tmp_path)) == [
        "rl_model_20_steps.zip",
        "rl_model_40_steps.zip",
        "rl_model_replay_buffer_20_steps.pkl",
        "rl_model_replay_buffer_40_steps.pkl",
        "rl_model_vecnormalize_20_steps.pkl",
        "rl_model_vecnormalize_40_steps.pkl",
    ]
    loaded = HarmonyDreamAgent.load(tmp_path / "rl_model_40_steps.zip")
    loaded.load_replay_buffer(tmp_path / "rl_model_replay_buffer_40_steps.pkl")
    assert loaded.num_timesteps == 40
    assert 40 <= len(loaded.replay_buffer) < len(agent.replay_buffer)


def test_evaluation_keeps_the_best_agent_and_stops(tmp_path: Path) -> None:
    eval_env = Monitor(gym.make("CartPole-v1"))
    good_enough = StopTrainingOnRewardThreshold(reward_threshold=-1.0)
    callback = EvalCallback(
        eval_env,
        good_enough,
        n_eval_episodes=2,
        eval_freq=10,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
    )
    agent = tiny().learn(60, callback=callback)
    assert agent.num_timesteps == 10
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (1, 2)
    assert HarmonyDreamAgent.load(tmp_path / "best_model").num_timesteps == 10


def test_no_improvement_stops() -> None:
    patience = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1, min_evals=1)
    eval_env = DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1", max_episode_steps=5))])
    callback = EvalCallback(eval_env, callback_after_eval=patience, eval_freq=4, n_eval_episodes=1, verbose=0)
    # Five steps at most and five always reached: the first evaluation cannot be beaten.
    assert tiny().learn(60, callback=callback).num_timesteps == 12


def test_episodes_can_be_limited() -> None:
    for n_envs in (1, 2):
        agent = tiny(env=DummyVecEnv([lambda: Clock(5)] * n_envs))
        agent.learn(100, callback=StopTrainingOnMaxEpisodes(max_episodes=3))
        assert agent.num_timesteps == 15 * n_envs


def test_events_every_n_steps() -> None:
    inner = Witness()
    tiny(env=Clock(4)).learn(20, callback=EveryNTimesteps(n_steps=6, callback=inner))
    assert inner.events.count("step") == 3


def test_logs_every_n_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    dumped: list[int] = []
    monkeypatch.setattr(Logger, "dump", lambda self, step=0: dumped.append(step))
    tiny().learn(50, callback=LogEveryNTimesteps(n_steps=20), log_interval=None)
    assert dumped == [20, 40]


def test_a_run_that_a_callback_refuses_leaves_the_one_before_as_it_was(tmp_path: Path) -> None:
    """So that what the error advises, to go on with it, works."""
    agent, checkpoint = tiny(env=Clock(9)), RunCheckpoint(tmp_path, every=20)
    agent.learn(30, callback=checkpoint)
    episodes = list(agent.ep_info_buffer)
    with pytest.raises(CheckpointError, match="begins at step 0"):
        agent.learn(30, callback=checkpoint)
    assert (agent.num_timesteps, agent._episode_num, list(agent.ep_info_buffer)) == (30, 3, episodes)
    agent.learn(10, callback=checkpoint, reset_num_timesteps=False)
    assert agent.num_timesteps == 40


def test_a_step_at_which_a_callback_fails_is_not_in_the_replay() -> None:
    agent = tiny(env=Clock(9))

    def fail(local: dict[str, Any], _: dict[str, Any]) -> bool:
        if local["self"].num_timesteps == 5:
            raise ZeroDivisionError
        return True

    with pytest.raises(ZeroDivisionError):
        agent.learn(20, callback=fail)
    agent.learn(2, reset_num_timesteps=False)
    columns = agent.replay_buffer._columns
    seen = columns["observation.observation"][0, : len(agent.replay_buffer)]
    assert seen[:, 1].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert columns["is_first"][0, : len(seen)].tolist() == [True, *[False] * 4, True, False, False]
