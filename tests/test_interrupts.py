"""Ctrl-C and other exceptions within ``learn``: what was going on ends, and what goes on later is right."""

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EveryNTimesteps
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor

from hd_agents.callbacks import DreamFilm, RunCheckpoint, ScoreCurve
from hd_agents.envs import settling
from hd_agents.envs.processes import RestartingSubprocVecEnv
from tests.agents import Clock, tiny


def after_the_question(env: Any) -> None:
    """Ctrl-C when the processes were asked for a step, and nobody has begun to wait for it."""
    ask = env.step_async

    def asked(actions: Any) -> None:
        ask(actions)
        env.step_async = ask
        raise KeyboardInterrupt

    env.step_async = asked


def after_an_answer(env: Any) -> None:
    """Ctrl-C when one of two processes has answered, and what it said is lost."""
    wait = env.step_wait

    def waited() -> None:
        env.remotes[0].recv()
        env.step_wait = wait
        raise KeyboardInterrupt

    env.step_wait = waited


def interrupted(*arguments: Any) -> Any:
    """Ctrl-C while the first answer is waited for."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        (DummyVecEnv, after_the_question),
        *product((SubprocVecEnv, RestartingSubprocVecEnv), (after_the_question, after_an_answer)),
    ],
)
def test_answers_that_are_owed_are_not_taken_for_later_ones(kind: type[VecEnv], when: Callable[[Any], None]) -> None:
    env = kind([partial(Clock, 9)] * 2)  # type: ignore[call-arg]
    agent = tiny(env=VecMonitor(env), learning_starts=1_000)
    try:
        agent.learn(10)
        when(env)
        with pytest.raises(KeyboardInterrupt):
            agent.learn(10, reset_num_timesteps=False)
        agent.learn(30, reset_num_timesteps=False)
        agent.learn(30)  # and resets
    finally:
        env.close()
    replay = agent.replay_buffer
    assert replay is not None
    for number in range(2):
        rows = slice(0, replay.added[number])
        seen = replay._columns["observation.observation"][number][rows]
        acted, first = (replay._columns[name][number][rows] for name in ("action", "is_first"))
        first = first.astype(bool)
        assert (seen[first, 1] == 0).all()
        assert (seen[~first, 2] == acted[~first].argmax(-1)).all(), "each row has the action that led to it"
        assert len(first) > 30


def test_a_process_that_ctrl_c_has_ended_is_told() -> None:
    env = SubprocVecEnv([partial(Clock, 9)])
    agent = tiny(env=env)
    agent.learn(2)
    after_the_question(env)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(2)
    env.processes[0].kill()
    env.processes[0].join()
    with pytest.raises(RuntimeError, match=r"go on with new ones, by set_env\(\)"):
        agent.learn(2)
    agent.set_env(DummyVecEnv([partial(Clock, 9)]))
    agent.learn(2)


@pytest.mark.parametrize("kind", [SubprocVecEnv, RestartingSubprocVecEnv])
def test_a_second_ctrl_c_while_answers_are_waited_for(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = kind([partial(Clock, 9)] * 2)
    try:
        env.reset()
        env.step_async(np.zeros(2, int))
        for _ in range(3):
            with monkeypatch.context() as patch:
                patch.setattr(*((env.remotes[0], "recv") if kind is SubprocVecEnv else (env, "_receive")), interrupted)
                with pytest.raises(KeyboardInterrupt):
                    settling.settle(env)
        settling.settle(env)
        assert env.reset()[:, 1].tolist() == [0, 0]
        assert env.step(np.array([3, 4]))[0][:, 1:].tolist() == [[1, 3], [1, 4]]
    finally:
        env.close()


class Interrupt(BaseCallback):
    """A Ctrl-C within the gradient steps, once ``after`` of them are made."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def _on_training_start(self) -> None:
        agent: Any = self.model
        update = agent._update

        def interrupted(replay: Any) -> Any:
            if agent._n_updates == self.after:
                agent._update = update
                raise KeyboardInterrupt
            return update(replay)

        agent._update = interrupted

    def _on_step(self) -> bool:
        return True


def test_gradient_steps_that_were_due_stay_due() -> None:
    whole, cut = (tiny(env=Clock(9), pretrain_steps=7) for _ in range(2))
    whole.learn(60)
    with pytest.raises(KeyboardInterrupt):
        cut.learn(60, callback=Interrupt(4))
    assert (cut._n_updates, cut.num_timesteps) == (4, 24)
    cut.learn(36, reset_num_timesteps=False)
    assert cut.num_timesteps == whole.num_timesteps
    assert (cut._n_updates, cut._replay_credit) == (whole._n_updates, whole._replay_credit)


def test_learn_within_learn_is_refused() -> None:
    class Again(BaseCallback):
        def _on_step(self) -> bool:
            self.model.learn(3)
            return True

    agent = tiny(env=Clock(9))
    with pytest.raises(ValueError, match=r"learn\(\) within learn\(\)"):
        agent.learn(10, callback=Again())
    agent.learn(10)


def test_callbacks_that_have_an_end_are_refused_where_nobody_tells_them(tmp_path: Path) -> None:
    scores = ScoreCurve("CartPole-v1", tmp_path / "scores.jsonl", 10)
    for callback in (RunCheckpoint(tmp_path / "run", 10), scores, DreamFilm(10)):
        for inner in (callback, CallbackList([callback])):
            with pytest.raises(ValueError, match=f"{type(callback).__name__} within EveryNTimesteps: pass it to learn"):
                tiny().learn(10, callback=EveryNTimesteps(5, inner))
    assert not list(tmp_path.iterdir())
    tiny().learn(10, callback=scores)  # as the message advises
    with pytest.raises(ValueError, match=r"save\(\) before learn\(\)"):
        RunCheckpoint(tmp_path / "run", 10).save()


def test_mistakes_of_a_score_curve_end_the_training(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="CartPol"):
        tiny().learn(30, callback=ScoreCurve("CartPol-v1", tmp_path / "scores.jsonl", every=10))


def test_the_log_of_a_training_without_learn(tmp_path: Path) -> None:
    agent = tiny(tensorboard_log=str(tmp_path))
    observations = np.zeros((31, 4), np.float32)
    agent.add_episode(observations, np.zeros(30, int), np.ones(30), terminated=True)
    agent.train(2)
    table: dict[str, Any] = {}
    agent.dump_logs()
    assert [path.name for path in tmp_path.iterdir()] == ["HarmonyDream_1"]
    agent.train(1)
    agent.logger.dump = lambda step=0: table.update(agent.logger.name_to_value)  # type: ignore[method-assign]
    agent.dump_logs()
    assert table["train/n_updates"] == 3
    assert "train/loss/model" in table
    assert not {"time/fps", "time/time_elapsed", "train/updates_per_second"} & table.keys()


def test_gradients_that_were_turned_off_are_made_all_the_same() -> None:
    """As a Ctrl-C at the end of a ``no_grad()`` leaves them, for all that follows in the same session."""
    agent = tiny()
    with torch.no_grad():
        agent.learn(60)
        agent.train(1)
    assert agent._n_updates


def test_moments_that_were_half_made_are_made_anew() -> None:
    """As a Ctrl-C within the first gradient step leaves them."""
    agent = tiny()
    weight = next(agent.policy.networks.actor.parameters())
    agent.learner.actor_optimizer.state[weight] = {"step": torch.zeros(())}
    agent.learn(60)
    assert agent._n_updates
    assert agent.learner.actor_optimizer.state[weight]["exp_avg_sq"].any()
