"""Evaluations while an agent learns: when they come, what they leave, and that the run goes on as without them."""

import json
import re
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from hd_agents.callbacks import RunCheckpoint, ScoreCurve
from hd_agents.cli import main
from hd_agents.cli.curves import curves_of
from hd_agents.evaluation import evaluate
from hd_agents.evaluation.score_curve import read_scores
from hd_agents.saving.jsonable import DamagedError
from tests.agents import Clock, tiny
from tests.test_cli import TINY
from tests.test_sb3_logging import logged


def weights(agent: Any) -> np.ndarray:
    return agent.policy.parameters_to_vector()


def test_scores_come_when_due_and_are_those_of_evaluate(tmp_path: Path) -> None:
    agent = tiny(env=Clock(7), seed=0)
    score = ScoreCurve(lambda: Clock(7), tmp_path / "new" / "s.jsonl", 20, episodes=2, seed=5)
    tables = logged(agent, 60, callback=score, log_interval=1)
    found = read_scores(tmp_path / "new" / "s.jsonl")
    assert [line["env_steps"] for line in found] == [20, 40, 60]
    assert found[0]["gradient_steps"] == 0
    assert found[-1]["gradient_steps"] == agent._n_updates
    assert found[-1]["seeds"] == [5, 6]
    now = evaluate(agent, lambda: Clock(7), 2, seed=5)
    assert found[-1]["returns"] == now.returns
    logs = [table["eval/mean_return"] for _, table in tables if "eval/mean_return" in table]
    assert logs == [line["mean_return"] for line in found]


def test_an_environment_in_the_place_of_its_id_is_told_before_learning(tmp_path: Path) -> None:
    """As an EvalCallback takes it: at the first evaluation, hours of learning would be lost to the error."""
    with pytest.raises(ValueError, match="pass a Gymnasium id, or a function that makes the environment"):
        ScoreCurve(Clock(7), tmp_path / "s.jsonl", 10_000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="goes with a Gymnasium id"):
        ScoreCurve(lambda: Clock(7), tmp_path / "s.jsonl", 10_000, env_kwargs={"cut": True})


def test_a_task_that_cannot_be_evaluated_is_told_before_learning(tmp_path: Path) -> None:
    agent = tiny(env=Clock(7))
    for task, message in (("CartPole-v7", "CartPole"), ("Pendulum-v1", "spaces do not match")):
        with pytest.raises((ValueError, gym.error.Error), match=message):
            agent.learn(60, callback=ScoreCurve(task, tmp_path / "s.jsonl", 20))
        assert agent.num_timesteps == 0


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    """The environment is made at every start of learn, but in a run without a stop only once."""

    def make() -> Clock:
        np.random.random()  # noqa: NPY002  as environments of other people do
        return Clock(7)

    drawn = []
    for callback in (None, ScoreCurve(make, tmp_path / "s.jsonl", 20)):
        agent = tiny(env=Clock(7), seed=0)
        agent.learn(5, callback=callback)
        drawn.append(np.random.random())  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_an_environment_that_cannot_be_made_before_learning_stops_nothing(tmp_path: Path) -> None:
    made: list[bool] = []

    def make() -> Clock:
        made.append(True)
        if len(made) == 1:
            raise RuntimeError("the simulator is busy")
        return Clock(7)

    with pytest.warns(UserWarning, match="could not be made: .*is busy"):
        tiny(env=Clock(7)).learn(20, callback=ScoreCurve(make, tmp_path / "s.jsonl", 20, episodes=1))
    assert [line["env_steps"] for line in read_scores(tmp_path / "s.jsonl")] == [20]


@pytest.mark.parametrize("normalised", [False, True])
def test_training_goes_on_as_if_there_had_been_none(normalised: bool, tmp_path: Path) -> None:
    vectors = []
    for scored in (False, True):
        env: Any = DummyVecEnv([lambda: Clock(9)])
        agent = tiny(env=VecNormalize(env) if normalised else env, seed=3)
        score = ScoreCurve(lambda: Clock(9), tmp_path / "s.jsonl", 13, episodes=3)
        vectors.append(weights(agent.learn(80, callback=score if scored else None)))
    np.testing.assert_array_equal(*vectors)
    assert len(read_scores(tmp_path / "s.jsonl")) == 6


def test_a_run_that_goes_on_keeps_what_it_still_knows(tmp_path: Path) -> None:
    """Lines beyond the last checkpoint are of steps that are made again."""

    def learn(steps: int) -> Any:
        checkpoint = RunCheckpoint(tmp_path / "run", every=30)
        agent = checkpoint.resume(Clock(7)) or tiny(env=Clock(7), seed=0)
        score = ScoreCurve(lambda: Clock(7), tmp_path / "s.jsonl", 20, episodes=2)
        agent.learn(steps - agent.num_timesteps, callback=[score, checkpoint], reset_num_timesteps=False)
        return agent

    learn(45)
    lines = read_scores(tmp_path / "s.jsonl")
    with (tmp_path / "s.jsonl").open("a") as file:
        file.write(json.dumps({**lines[-1], "env_steps": 60, "mean_return": -1.0}) + "\n")
    learn(85)
    found = read_scores(tmp_path / "s.jsonl")
    assert [line["env_steps"] for line in found] == [20, 40, 60, 80]
    assert found[:2] == lines
    assert found[2]["mean_return"] > 0


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--folder", str(tmp_path), "--steps", "120", "--eval-every", "5e1", "--eval-episodes", "2"]
    assert main(["train", "CartPole-v1", *flags, *TINY]) == 0
    folder = tmp_path / "CartPole-v1_1"
    ((steps, means),), what = curves_of([folder])
    assert what == "mean return of evaluations"
    assert steps.tolist() == [50, 100]
    assert curves_of([folder, tmp_path])[1] == "training return, mean of 10 episodes"  # where not all have some
    assert means.tolist() == [line["mean_return"] for line in read_scores(folder / "scores.jsonl")]
    assert [line["episodes"] for line in read_scores(folder / "scores.jsonl")] == [2, 2]
    out = capsys.readouterr().out
    assert "the 2 evaluations while it learned" in out
    assert len(re.findall(r" env steps: evaluation [\d.]+ ± [\d.]+ \(2 episodes\)", out)) == 2
    assert "eval" not in json.loads((folder / "run.json").read_text())["command"]  # the agent is the same without
    assert main(["plot", str(tmp_path), "--output", str(tmp_path / "plots")]) == 0


def test_evaluations_are_no_time_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, hours = time.monotonic, iter(range(3600, 10**6, 3600))
    spent = [0]

    def slow(*arguments: Any, **options: Any) -> Any:
        spent[0] = next(hours)
        return evaluate(*arguments, **options)

    monkeypatch.setattr("hd_agents.cli.pictures.leave", lambda *arguments: None)
    monkeypatch.setattr("hd_agents.evaluation.score_curve.evaluate", slow)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + spent[0])
    flags = ["--folder", str(tmp_path), "--steps", "60", "--eval-every", "20", "--eval-episodes", "1"]
    assert main(["train", "CartPole-v1", *flags, *TINY]) == 0
    facts = json.loads((tmp_path / "CartPole-v1_1" / "run.json").read_text())
    assert spent[0] == 3 * 3600
    assert 0 < facts["wall_seconds"] < 600


def test_a_short_run_has_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than four episodes, after which the first table would come."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("hd_agents.cli.pictures.leave", lambda *arguments: None)
    assert main(["train", "Pendulum-v1", "--folder", str(tmp_path), "--steps", "100", *TINY]) == 0
    log = EventAccumulator(str(tmp_path / "Pendulum-v1_1" / "tensorboard")).Reload()
    assert "sigma/reward" in " ".join(log.Tags()["scalars"])


def test_the_scores_of_another_run_are_kept(tmp_path: Path) -> None:
    def score() -> ScoreCurve:
        return ScoreCurve(lambda: Clock(7), tmp_path / "s.jsonl", 20, episodes=1)

    agent = tiny(env=Clock(7)).learn(50, callback=score())
    before = (tmp_path / "s.jsonl").read_bytes()
    with pytest.raises(ValueError, match="holds scores of another run"):
        agent.learn(50, callback=score())
    assert (tmp_path / "s.jsonl").read_bytes() == before
    agent.num_timesteps = 50
    agent.learn(50, callback=score(), reset_num_timesteps=False)
    assert [line["env_steps"] for line in read_scores(tmp_path / "s.jsonl")] == [20, 40, 60, 80, 100]
    agent.learn(20, callback=score(), reset_num_timesteps=False)
    assert [line["env_steps"] for line in read_scores(tmp_path / "s.jsonl")] == [20, 40, 60, 80, 100, 120]
    lines = (tmp_path / "s.jsonl").read_text()
    for line in ('{"env_st', "{}", "5", '{"env_steps": 9, "mean_return": null}'):
        (tmp_path / "s.jsonl").write_text(f"{lines}{line}\n")
        with pytest.raises(DamagedError, match=r"s\.jsonl is damaged, or holds no scores"):
            agent.learn(50, callback=score(), reset_num_timesteps=False)


def test_a_run_that_was_killed_early_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its only checkpoint is that of step 0, and scores are of steps that are made again."""
    flags = ["--folder", str(tmp_path / "run"), "--resume", "--checkpoint-every", "5000", *TINY]
    scored = ["--eval-every", "20", "--eval-episodes", "1"]

    def killed(checkpoint: RunCheckpoint) -> bool:
        if checkpoint.num_timesteps > 50:
            raise MemoryError
        return True

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "_on_step", killed)
        assert main(["train", "CartPole-v1", "--steps", "100", *flags, *scored]) == 1
    assert [line["env_steps"] for line in read_scores(tmp_path / "run" / "scores.jsonl")] == [20, 40]
    monkeypatch.setattr("hd_agents.cli.pictures.leave", lambda *arguments: None)
    assert main(["train", "CartPole-v1", "--steps", "30", *flags]) == 0
    assert read_scores(tmp_path / "run" / "scores.jsonl") == []
    assert main(["train", "CartPole-v1", "--steps", "60", *flags, *scored]) == 0
    assert [line["env_steps"] for line in read_scores(tmp_path / "run" / "scores.jsonl")] == [30, 40, 60]


def test_a_simulator_that_fails_costs_one_score(tmp_path: Path) -> None:
    made: list[bool] = []

    class Fails(Clock):
        def step(self, action: Any) -> Any:
            if len(made) == 3:  # the first is made before learning
                raise RuntimeError("the simulator is gone")
            obs, reward, *rest = super().step(action)
            return obs, np.nan if len(made) == 4 else reward, *rest

    def make() -> Clock:
        made.append(True)
        return Fails(7)

    agent = tiny(env=Clock(7))
    with pytest.warns(UserWarning, match="evaluation after") as caught:
        agent.learn(80, callback=ScoreCurve(make, tmp_path / "s.jsonl", 20, episodes=1))
    said = [str(one.message) for one in caught if "evaluation" in str(one.message)]
    assert "40 env steps failed: EpisodeError" in said[0] and "the simulator is gone" in said[0]
    assert "60 env steps failed: EpisodeError" in said[1] and "the reward nan" in said[1]
    assert [line["env_steps"] for line in read_scores(tmp_path / "s.jsonl")] == [20, 80]


def test_a_first_score_that_is_no_number_ends_no_run(tmp_path: Path) -> None:
    made: list[bool] = []

    class Breaks(Clock):
        def step(self, action: Any) -> Any:
            obs, reward, *rest = super().step(action)
            return obs, np.nan if len(made) == 2 else reward, *rest

    def make() -> Clock:
        made.append(True)
        return Breaks(7)

    with pytest.warns(UserWarning, match="evaluation after 20 env steps failed"):
        tiny(env=Clock(7)).learn(40, callback=ScoreCurve(make, tmp_path / "s.jsonl", 20, episodes=1))
    assert [line["env_steps"] for line in read_scores(tmp_path / "s.jsonl")] == [40]


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"every": 2.5}, {"episodes": 0}, {"rule": "best"}, {"seed": -1}, {"n_envs": 0}]
)
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        ScoreCurve(**{"task": "CartPole-v1", "path": "s.jsonl", "every": 10, **wrong})


def test_mistakes_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "CartPole-v1", "--eval-episodes", "3"]) == 2
    assert "--eval-episodes needs --eval-every" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "CartPole-v1", "--eval-every", "2.5"])
    assert "'2.5' is not a whole number of at least 1" in capsys.readouterr().err
