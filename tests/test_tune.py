"""`hd-agents tune`: what may be searched, and studies that end, are interrupted, and go on."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import main, tune
from hd_agents.cli.running import locked
from hd_agents.cli.study import open_storage
from hd_agents.evaluation import evaluate
from hd_agents.presets import DEFAULTS
from hd_agents.training.recorder import NonFiniteError
from hd_agents.zoo import search_space
from hd_agents.zoo.training import plan

optuna = pytest.importorskip("optuna")
SPACE = "learning_rate: {low: 0.0001, high: 0.003, log: true}\nhorizon: {low: 3, high: 6}\nharmony: [true, false]\n"
TINY = [f"--set={setting}" for setting in ("batch_size=2", "sequence_length=8", "train_ratio=1", "learning_starts=40")]


class Run:
    """The command on CartPole in a folder of its own, and what its study holds afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a b#c?d"  # characters that mean something in addresses
        (folder / "space.yml").write_text(SPACE)
        self.usual = ["classic/CartPole", "--steps", "100", "--evaluations", "2", "--episodes", "2", *TINY]
        self.usual += ["--space", str(folder / "space.yml"), "--folder", str(self.folder)]

    def __call__(self, *arguments: str) -> int:
        return main(["tune", *self.usual, *arguments])

    def trials(self) -> list[Any]:
        with open_storage(self.folder) as storage:
            return optuna.load_study(storage=storage, study_name="CartPole-v1").trials

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Evaluations give these, one after the other, and agents learn nothing but count their steps."""
    given: list[float] = []

    def learn(agent: HarmonyDreamAgent, steps: int, callback: Any, **named: Any) -> None:
        callback.init_callback(agent)
        callback.on_training_start({"total_timesteps": steps}, {})
        for agent.num_timesteps in range(1, steps + 1):
            if not callback.on_step():
                return

    monkeypatch.setattr(HarmonyDreamAgent, "learn", learn)
    monkeypatch.setattr(tune, "_score", lambda *arguments, **named: given.pop(0))
    return given


def test_a_study_of_real_trials(run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["hd-agents", "tune", "CartPole-v1"])  # as typed; best.yml repeats it
    assert run("--trials", "2") == 0
    printed, own = capsys.readouterr().out, zoo.hyperparameters("classic/CartPole")
    assert re.search(
        rf"trial 0: learning_rate={own['learning_rate']}, horizon=\d, harmony=True\ntrial 0: return \d", printed
    )
    first, second = run.trials()
    # The zoo's own values come first, where the space has them.
    assert f"lin_{first.params['learning_rate']}" == own["learning_rate"]
    assert [list(trial.intermediate_values) for trial in (first, second)] == [[50, 100]] * 2
    assert first.value == first.intermediate_values[100]
    text = (run.folder / "best.yml").read_text()
    assert text in printed
    row = yaml.safe_load(text)["CartPole-v1"]
    command = shlex.split(printed.rpartition("To train by it: ")[2])
    assert command == [
        "hd-agents",
        "train",
        "classic/CartPole",
        "--preset",
        str(run.folder / "best.yml"),
        "--seed",
        "1",
    ]
    assert plan("classic/CartPole", preset=run.folder / "best.yml").row() == row
    best = max((first, second), key=lambda trial: trial.value)
    assert row["horizon"] == best.params["horizon"] and row["harmony"] == best.params["harmony"]
    assert float(row["learning_rate"].removeprefix("lin_")) == pytest.approx(best.params["learning_rate"], rel=0.01)
    kept = {"n_timesteps": 100, "n_envs": 1, "policy": "MlpPolicy", "batch_size": 2, "gamma": own["gamma"]}
    assert row.items() >= kept.items()
    inspect.signature(HarmonyDreamAgent).bind(
        env=None, **{key: value for key, value in row.items() if key not in ("n_timesteps", "n_envs")}
    )
    assert (
        text.startswith("# hd-agents tune CartPole-v1\n")
        and f"trial {best.number}, seed {best.number}, mean return" in text
    )
    assert run("--trials", "2") == 0  # nothing is left to do
    assert len(run.trials()) == 2


def test_a_trial_that_falls_behind_is_stopped(
    run: Run, scores: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    scores += [10, 20] * 5 + [1] + [10, 30]  # the pruner waits for five trials
    assert run("--trials", "7") == 0
    assert run.states() == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE"]
    assert "trial 5: behind the median with return 1.00: stopped early" in capsys.readouterr().out
    assert (
        "Best of 7 trials, 1 of them stopped early: trial 6, seed 6, mean return 30.00"
        in (run.folder / "best.yml").read_text()
    )
    assert not scores


def test_ctrl_c_keeps_the_study_and_the_command_goes_on(
    run: Run, scores: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = HarmonyDreamAgent.learn

    def interrupted(agent: HarmonyDreamAgent, *arguments: Any, **named: Any) -> None:
        if agent.seed == 12:
            raise KeyboardInterrupt
        learn(agent, *arguments, **named)

    monkeypatch.setattr(HarmonyDreamAgent, "learn", interrupted)
    scores += [1, 5, 1, 4]
    assert run("--trials", "4", "--seed", "10") == 130
    assert "The same command goes on" in capsys.readouterr().out
    assert run.states() == ["COMPLETE", "COMPLETE", "FAIL"]
    scores += [1, 3, 1, 9]
    assert run("--trials", "4", "--seed", "10") == 0
    assert run.states() == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert len({str(trial.params) for trial in run.trials()}) == 5  # the sampler does not begin again
    assert "trial 4, seed 14, mean return 9.00" in (run.folder / "best.yml").read_text()


def test_a_study_that_was_killed_before_it_wrote_its_best_trial_writes_it(run: Run, scores: list[float]) -> None:
    best = run.folder / "best.yml"
    scores += [1, 5]
    assert run("--trials", "1") == 0
    told = best.read_text()
    scores += [1, 9]
    assert run("--trials", "2") == 0
    for left in (told, ""):
        best.unlink() if not left else best.write_text(left)
        assert run("--trials", "2") == 0
        assert "mean return 9.00" in best.read_text()


@pytest.mark.parametrize("error", [NonFiniteError("all NaN"), RuntimeError("the robot fell\nmore of it")])
def test_a_trial_that_fails_is_passed_over(
    error: Exception,
    run: Run,
    scores: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learn = HarmonyDreamAgent.learn

    def explodes(agent: HarmonyDreamAgent, *arguments: Any, **named: Any) -> None:
        if agent.seed == 0:
            raise error
        learn(agent, *arguments, **named)

    monkeypatch.setattr(HarmonyDreamAgent, "learn", explodes)
    scores += [1, 2]
    assert run("--trials", "2") == 0
    assert run.states() == ["FAIL", "COMPLETE"]
    printed = capsys.readouterr().out
    first_line = str(error).split("\n")[0]
    assert f"trial 0: failed: {first_line}\n" in printed and "1 of 2 trials" in printed


def test_a_study_of_failures_alone_has_failed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def explodes(*arguments: Any, **named: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(HarmonyDreamAgent, "learn", explodes)
    assert run("--trials", "1") == 1


def test_a_study_of_an_earlier_version_goes_on(
    run: Run, scores: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """It states the size of the replay also where that follows from the steps."""
    scores += [1, 2, 3, 4]
    assert run("--trials", "1") == 0
    for rows, status in ((5_000, 2), (10_000, 0)):
        with open_storage(run.folder) as storage:
            study = optuna.load_study(storage=storage, study_name="CartPole-v1")
            study.set_user_attr("asked", {**study.user_attrs["asked"], "buffer_size": rows})
        assert run("--trials", "2") == status, capsys.readouterr().err
    assert len(run.trials()) == 2


def test_another_search_needs_another_folder(run: Run, scores: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    scores += [1, 2]
    assert run("--trials", "1") == 0
    assert run("--trials", "2", "--seed", "1", "--set", "gamma=0.9") == 2
    assert "a study with other values of seed, gamma: repeat its command" in capsys.readouterr().err
    assert len(run.trials()) == 1
    for flag in ("--evaluations", "--episodes"):
        assert run("--trials", "2", flag, "7") == 2
        assert f"other values of {flag[2:]}: repeat" in capsys.readouterr().err
    (run.folder.parent / "space.yml").write_text(SPACE.replace("0.003", "0.004"))
    assert run("--trials", "2") == 2
    assert "other values of space: repeat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("learning_rate: {low: small, high: 0.1}", "learning_rate: 'small' is no number"),
        ("horizon: {low: 9, high: 5}", "low must not be above high"),
        ("learning_rate: {low: 0, high: 0.1, log: true}", "above 0 where log"),
        ("horizon: 15", "a list of choices"),
        ("horizon: []", "a list of choices"),
        ("horizon: {low: 5, high: 9, step: 2}", "a list of choices"),
        ("horizn: [5, 9]", "horizn: no argument"),
        ("n_envs: [1, 2]", "n_envs: no argument"),
        ("env_kwargs: [1, 2]", "env_kwargs: no argument"),
        ("1: [1, 2]", "1: no argument"),
        ("gamma: {low: 0.9, high: .inf}", "inf is no number"),
        ("horizon: [1]", "horizon=1"),
        ("- horizon", "holds no search space"),
        ("", "holds no search space"),
        ("{", "is not YAML"),
    ],
)
def test_spaces_that_are_none(space: str, message: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (run.folder.parent / "space.yml").write_text(space)
    assert run("--trials", "1") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_arguments_that_make_no_agent_leave_no_folder(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", "backbone=dreamer") == 2
    assert "backbone='dreamer'" in capsys.readouterr().err
    assert not run.folder.exists()


def test_the_tasks_own_values_are_tried_again_if_their_trial_was_interrupted(
    run: Run, scores: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tune, "_play", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run("--trials", "1") == 130
    scores += [1, 2]
    assert run("--trials", "1") == 0
    assert run.states() == ["FAIL", "COMPLETE"]
    own = zoo.hyperparameters("classic/CartPole")["learning_rate"]
    assert f"lin_{run.trials()[1].params['learning_rate']}" == own


def test_the_default_space_suits_every_task() -> None:
    """Its keys and ends are arguments that the agent takes."""
    space = search_space.read()
    assert space.keys() >= {"learning_rate", "train_ratio", "horizon", "gamma", "entropy_coefficient", "harmony"}
    for end in (0, -1):
        values = {key: one[end] if isinstance(one, list) else one[("low", "high")[end]] for key, one in space.items()}
        agent = HarmonyDreamAgent("MlpPolicy", "CartPole-v1", size="nano", buffer_size=99, device="cpu", **values)
        assert {key: getattr(agent, key) for key in values} == values
    row = zoo.hyperparameters("classic/Catch")
    assert search_space.within(row, space)["gamma"] == 0.93


@pytest.mark.parametrize("backbone", sorted(DEFAULTS))
def test_the_default_space_has_the_defaults(backbone: str) -> None:
    """So that the first trial takes all of a task's own values, where it leaves them to the backbone."""
    space = search_space.read()
    assert search_space.within({**DEFAULTS[backbone]._asdict(), "harmony": True}, space).keys() == space.keys()


def test_values_as_a_row_has_them() -> None:
    row = {"learning_rate": "lin_0.001", "gamma": 0.9}
    assert search_space.applied(row, {"learning_rate": 0.02, "gamma": 0.8, "horizon": 3}) == {
        "learning_rate": "lin_0.02",
        "gamma": 0.8,
        "horizon": 3,
    }
    space = {"learning_rate": {"low": 0.0, "high": 0.01}, "gamma": [0.8], "horizon": {"low": 1, "high": 2}}
    assert search_space.within({**row, "horizon": None}, space) == {"learning_rate": 0.001}


def test_the_best_trial_states_the_commit_that_made_it(
    run: Run, scores: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one that was there when a later trial ended, nor when the file was written."""
    scores += [9.0, 9.0, 1.0, 1.0]
    for commit, trials in (("before", "1"), ("after", "2")):
        monkeypatch.setattr("hd_agents.cli.study.commit", lambda commit=commit: commit)
        assert run("--trials", trials) == 0
    assert "# Best of 2 trials, 0 of them stopped early: trial 0," in (run.folder / "best.yml").read_text()
    assert ", commit before, " in (run.folder / "best.yml").read_text()


def test_what_is_set_is_not_searched(run: Run, scores: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    scores += [1.0] * 8
    assert run("--trials", "2", "--set=horizon=9", "--set=harmony.reward=false") == 0
    for trial in run.trials():
        assert set(trial.params) == {"learning_rate"}
    row = yaml.safe_load((run.folder / "best.yml").read_text())["CartPole-v1"]
    assert (row["horizon"], row["harmony"]) == (9, {"reward": False})
    assert run("--set=horizon=9", "--set=harmony=true", "--set=learning_rate=0.001") == 2
    assert "--set fixes all that is searched" in capsys.readouterr().err


def test_a_size_that_is_told_is_not_searched(run: Run, scores: list[float]) -> None:
    scores += [1.0, 2.0]
    (run.folder.parent / "space.yml").write_text("size: [nano, xsmall]\nhorizon: {low: 3, high: 6}\n")
    assert run("--trials", "1", "--size", "nano") == 0
    assert list(run.trials()[0].params) == ["horizon"]


def test_trials_are_judged_in_the_environments_they_learn_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    played: list[Any] = []

    def judged(*arguments: Any, **named: Any) -> Any:
        played.append(evaluate(*arguments, **named))
        return played[-1]

    monkeypatch.setattr(tune, "evaluate", judged)
    words = ["tune", "classic/Catch", "--trials", "1", "--steps", "20", "--evaluations", "1", "--episodes", "2", *TINY]
    assert main([*words, "--env-kwargs=balls=2"]) == 0
    best = Path("runs/hd_agents-Catch-v0_tune/best.yml").read_text()
    assert yaml.safe_load(best)["hd_agents/Catch-v0"]["env_kwargs"] == {"balls": 2}
    (found,) = played
    assert (found.seeds, found.lengths) == ([20_000, 20_001], [17, 17])
    assert f"mean return {np.mean(found.returns):.2f} over 2 episodes" in best


def test_several_environments_are_evaluated_as_often(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "_score", lambda *arguments, **named: 1.0)
    assert run("--trials", "1", "--evaluations", "5", "--set=n_envs=3") == 0
    assert list(run.trials()[0].intermediate_values) == [21, 42, 60, 81, 102]


def test_a_study_is_one_process_s(run: Run, scores: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with locked(run.folder):
        assert run("--trials", "1") == 2
    assert "is in use by another hd-agents" in capsys.readouterr().err


def test_a_folder_holds_one_task(run: Run, scores: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    scores += [1.0, 2.0]
    assert run("--trials", "1") == 0
    best = (run.folder / "best.yml").read_bytes()
    assert main(["tune", "classic/Pendulum", *run.usual[1:], "--trials", "1"]) == 2
    assert "holds a study of CartPole-v1" in capsys.readouterr().err
    assert (run.folder / "best.yml").read_bytes() == best


def test_rounding_keeps_to_the_range() -> None:
    trial = optuna.trial.FixedTrial({"gamma": 0.9997})
    assert search_space.suggest(trial, {"gamma": {"low": 0.99, "high": 0.9997}}) == {"gamma": 0.9997}


def test_a_full_disk_is_told_and_the_study_goes_on_with_room(
    run: Run, scores: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def limit(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA max_page_count = 34")  # enough for the tables

    scores[:] = range(400)
    event.listen(Engine, "connect", limit)
    try:
        assert run("--trials", "200") == 1
    finally:
        event.remove(Engine, "connect", limit)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"hd-agents: [Errno 28] No space left on device: '{run.folder / 'study.db'}'"
    done = run.states().count("COMPLETE")
    assert run("--trials", f"{done + 1}") == 0
