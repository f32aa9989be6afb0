"""`hd-agents benchmark`: which runs there are, what is skipped and gone on with, and the rows that they leave."""

import re
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hd_agents.cli import main, runs
from hd_agents.cli.running import locked
from hd_agents.evaluation.scores import prediction_interval
from hd_agents.zoo.results import read_rows
from tests.stand_in import install, sittings


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs that are made by the stand-in."""
    install(tmp_path, monkeypatch)
    return tmp_path / "runs"


def run(folder: Path, *flags: str) -> int:
    return main(["benchmark", "classic", "--seeds", "2", "--jobs", "2", "--folder", str(folder), *flags])


def test_every_task_and_seed_leaves_a_row_once(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(stand_in) == 0
    rows = read_rows(stand_in / "results.csv")
    assert sorted((row["name"], row["seed"], row["mean_return"]) for row in rows) == [
        (f"classic/{task}", seed, 15 + seed / 2) for task in ("CartPole", "Catch", "Pendulum") for seed in (0, 1)
    ]
    row = next(row for row in rows if row["name"] == "classic/Catch" and row["seed"] == 1)
    expected: dict[str, Any] = {"task": "hd_agents/Catch-v0", "command": "hd-agents train classic/Catch --seed 1"}
    expected |= {"wall_seconds": 90.0, "machine": "a desk", "commit": "abc", "date": "2026-11-24", "episodes": 20}
    expected |= {"env_steps": 60, "gradient_steps": 7, "rule": "paper", "std_return": 5.0, "model": None}
    expected |= {"backbone": "dreamerv3", "harmony": True, "size": "nano", "preset": "paper", "success_rate": None}
    assert row.items() >= expected.items()
    assert row["interval"] == list(prediction_interval([11.0, *[20.0] * 19], 20))
    printed = capsys.readouterr().out
    assert printed.count("begun  classic/CartPole seed 0, see ") == 1
    assert printed.partition("done   ")[0].count("begun  ") == 2, "two at a time"
    assert "done   classic/Catch seed 1: return 15.50 ± 5.00, 1.5 min of training; " in printed
    assert "6 runs, 0 of them done" in printed and "classic/Catch     15.25 ± 0.25 (seeds: 2)" in printed
    assert run(stand_in) == 0
    assert "6 runs, 6 of them done" in capsys.readouterr().out
    assert set(sittings(stand_in).values()) == {1}
    assert read_rows(stand_in / "results.csv") == rows


def test_a_failing_run_is_reported_and_tried_again(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in.mkdir()
    (stand_in / "fail-CartPole_1").touch()
    assert run(stand_in, "--tasks", "cartpole", "catch") == 1
    printed = capsys.readouterr().out
    assert "FAILED classic/CartPole seed 1: exit status 1: no more luck" in printed
    assert printed.endswith("1 of 4 runs FAILED: classic/CartPole seed 1\n")
    assert len(read_rows(stand_in / "results.csv")) == 3
    (stand_in / "fail-CartPole_1").unlink()
    assert run(stand_in, "--tasks", "CartPole-v1", "classic/catch", "CartPole") == 0
    assert sittings(stand_in) == {"CartPole_0": 1, "CartPole_1": 2, "Catch_0": 1, "Catch_1": 1}
    assert len(read_rows(stand_in / "results.csv")) == 4


def test_a_finished_run_without_a_row_gets_one(stand_in: Path, tmp_path: Path) -> None:
    assert run(stand_in, "--tasks", "CartPole", "--results", str(tmp_path / "a.csv")) == 0
    rows = read_rows(tmp_path / "a.csv")
    (tmp_path / "a.csv").unlink()
    assert run(stand_in, "--tasks", "CartPole", "--results", str(tmp_path / "a.csv")) == 0
    assert sorted(map(repr, read_rows(tmp_path / "a.csv"))) == sorted(map(repr, rows))
    assert sittings(stand_in) == {"CartPole_0": 1, "CartPole_1": 1}


def test_other_numbers_of_episodes_are_refused(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(stand_in, "--tasks", "CartPole", "--episodes", "3") == 0
    rows = read_rows(stand_in / "results.csv")
    assert run(stand_in, "--tasks", "CartPole", "--episodes", str(rows[0]["episodes"])) == 0
    assert run(stand_in, "--tasks", "CartPole") == 0  # nothing is left to play
    told = "was evaluated in 3 episodes, and {} are to be played now: give --episodes 3, or another --folder."
    for flags, wanted in ((["--tasks", "CartPole", "--episodes", "50"], 50), (["--tasks", "CartPole", "Catch"], 20)):
        assert run(stand_in, *flags) == 2
        assert told.format(wanted) in capsys.readouterr().err
    (stand_in / "results.csv").unlink()
    assert run(stand_in, "--tasks", "CartPole", "--episodes", "50") == 2
    assert read_rows(stand_in / "results.csv") == []
    assert run(stand_in, "--tasks", "CartPole", "--episodes", "3") == 0
    assert len(read_rows(stand_in / "results.csv")) == len(rows) == 2


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("run.json", '{"wall', "run.json is damaged: "),
        ("run.json", "{}", "run.json is damaged: it lacks commit, machine, trained, wall_seconds."),
        ("evaluation.json", "", "evaluation.json is damaged: JSONDecodeError: .* Remove it"),
        ("evaluation.json", "[]", "evaluation.json is damaged: KeyError: 'episodes'"),
        ("evaluation.json", "{}", "evaluation.json is damaged: KeyError: 'episodes'"),
        ("evaluation.json", '{"returns": 5, "episodes": 2, "mean_return": 1.0}', "is damaged: TypeError: 'int' object"),
        ("evaluation.json", '{"returns": [1], "episodes": 1, "mean_return": null}', "is damaged: TypeError: float"),
        (
            "evaluation.json",
            '{"returns": [], "episodes": 0, "mean_return": 1.0}',
            "ValueError: 0 returns of 0 episodes",
        ),
        ("run.json", '{"machine": "x"}', "run.json is damaged: it lacks commit, trained, wall_seconds."),
        ("config.yml", "{", "config.yml is damaged: "),
        ("config.yml", "5", "config.yml is damaged: it should hold a task with its settings."),
    ],
)
def test_damaged_files_of_a_run_are_named(
    name: str, text: str, told: str, stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(stand_in, "--tasks", "CartPole") == 0
    (stand_in / "results.csv").unlink()
    (stand_in / "CartPole_0" / name).write_text(text)
    assert run(stand_in, "--tasks", "CartPole") == 1
    assert re.search(told, capsys.readouterr().err)


def test_flags_reach_the_runs(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hd_agents.cli.tracking.check_installed", lambda: None)
    flags = ["--steps", "6e1", "--size", "xsmall", "--set=gamma=0.9", "--device", "cpu", "--checkpoint-every", "20"]
    flags += ["--preset", "nano", "--track", "--episodes", "3"]
    assert run(stand_in, "--tasks", "CartPole", *flags) == 0
    given = (stand_in / "CartPole_1" / "sittings.txt").read_text().split()
    assert given[:3] == ["--folder", str(stand_in / "CartPole_1"), "--resume"]
    rest = "--track --seed 1 --preset nano --steps 60 --size xsmall --device cpu --checkpoint-every 20 --set=gamma=0.9"
    assert " ".join(given[3:]) == rest
    own = stand_in / "CartPole_1"
    rest = f"--model {own / 'agent.zip'} --seed 10000 --n-envs 5 --device cpu --output {own / 'evaluation.json'}"
    assert (own / "evaluated.txt").read_text() == f"{rest} --episodes 3"
    row = read_rows(stand_in / "results.csv")[0]
    assert (row["size"], row["preset"]) == ("xsmall", "nano")
    assert row["command"].endswith("--steps 60 --size xsmall --set=gamma=0.9")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nothing"], "suite='nothing'"),
        (["my:Env-v0"], "hd-agents compare my:Env-v0 --harmony on --seeds 5"),
        (["classic", "--tasks", "Cartpoel"], "classic/CartPole"),
        (["classic", "--tasks", "CartPole-v1", "Acrobot-v1"], "--tasks Acrobot-v1: not in classic"),
        (["dmc_proprio", "--tasks", "dmc_vision/walker-walk"], "--tasks dmc_vision/walker-walk: not in dmc_proprio"),
        (["classic", "--set", "nothing=1"], "no such setting"),
    ],
)
def test_mistakes_leave_nothing(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *flags, "--folder", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_other_settings_and_other_benchmarks_are_refused(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = stand_in / "CartPole_1"
    run_folder.mkdir(parents=True)
    (run_folder / "config.yml").write_text("CartPole-v1:\n  n_timesteps: 9\n")
    assert run(stand_in, "--tasks", "CartPole") == 2
    assert "n_timesteps 9 -> 10000" in capsys.readouterr().err
    (run_folder / "config.yml").unlink()
    with locked(stand_in):
        assert run(stand_in, "--tasks", "CartPole") == 2
    assert "in use by another hd-agents" in capsys.readouterr().err
    assert not sittings(stand_in)


def test_a_suite_that_is_not_installed_is_told_at_once(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "hd_agents.envs.atari", raising=False)  # which another test may have imported
    monkeypatch.setitem(sys.modules, "ale_py", None)
    assert main(["benchmark", "atari100k", "--tasks", "pong", "--folder", str(stand_in)]) == 2
    assert "hd_agents[atari]" in capsys.readouterr().err
    assert not stand_in.exists()


def test_other_words_for_the_same_run_add_no_row(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["--track-project", "x"], ["--steps", "10000"]):
        assert run(stand_in, "--tasks", "CartPole", *flags) == 0
        rows = read_rows(stand_in / "results.csv")
        assert len({row["seed"] for row in rows}) == len(rows) > 0
        assert f"(seeds: {len(rows)})" in capsys.readouterr().out


def test_a_row_by_a_file_of_settings_is_of_the_runs_in_this_folder_alone(stand_in: Path, tmp_path: Path) -> None:
    """The same command, after the file has changed, is another run."""
    preset, table = tmp_path / "my.yml", tmp_path / "all.csv"
    flags = ["--tasks", "CartPole", "--preset", str(preset), "--results", str(table)]
    for number, gamma in enumerate((0.9, 0.9, 0.5)):
        preset.write_text(f"default: {{n_timesteps: 100, size: nano, gamma: {gamma}}}")
        assert run(stand_in / str(gamma), *flags) == 0
        assert len(read_rows(table)) == (2, 2, 4)[number]
    assert len({row["preset"] for row in read_rows(table)}) == 2  # which tells them apart in a plot
    assert sittings(stand_in / "0.9") == sittings(stand_in / "0.5") == {"CartPole_0": 1, "CartPole_1": 1}


def test_runs_keep_the_file_of_settings_that_they_were_planned_by(stand_in: Path, tmp_path: Path) -> None:
    """Those that begin hours later must not read what the file has become by then."""
    preset, text = tmp_path / "my.yml", "default: {n_timesteps: 100, size: nano, gamma: 0.9}  # as it was"
    preset.write_text(text)
    assert run(stand_in, "--tasks", "CartPole", "--preset", str(preset)) == 0
    preset.write_text("default: {n_timesteps: 100, size: nano, gamma: 0.5}")
    for seed in (0, 1):
        given = (stand_in / f"CartPole_{seed}" / "sittings.txt").read_text().split()
        assert Path(given[given.index("--preset") + 1]).read_text() == text
    assert read_rows(stand_in / "results.csv")[0]["preset"] == f"{preset} {sha256(text.encode()).hexdigest()[:8]}"


def test_seeds_are_shared_out_and_checkpoints_deleted(stand_in: Path) -> None:
    """Two machines take seeds of their own; what a run needed to go on goes once it has its row."""
    for first in ("0", "2"):
        kept = stand_in / "Catch_2" / "checkpoints"
        kept.mkdir(parents=True, exist_ok=True)
        (stand_in / "Catch_2" / "0.monitor.csv").write_text("#{}\nr,l,t\n")
        assert run(stand_in, "--tasks", "Catch", "--first-seed", first, "--delete-checkpoints") == 0
    assert sorted(row["seed"] for row in read_rows(stand_in / "results.csv")) == [0, 1, 2, 3]
    assert not kept.exists()


def test_runs_that_have_no_row_keep_their_checkpoints(stand_in: Path) -> None:
    """Those that have one lose them, also where it was made before the flag was given."""
    kept = [stand_in / f"CartPole_{seed}" / "checkpoints" for seed in (0, 1)]
    for folder in kept:
        folder.mkdir(parents=True)
    (stand_in / "fail-CartPole_1").touch()
    assert run(stand_in, "--tasks", "CartPole") == 1
    assert [folder.exists() for folder in kept] == [True, True]
    assert run(stand_in, "--tasks", "CartPole", "--delete-checkpoints") == 1
    assert [folder.exists() for folder in kept] == [False, True]


@pytest.mark.parametrize(("before", "left"), [(20, ", about 03:20 left"), (90, ""), (100, "")])
def test_the_time_left_is_that_at_the_speed_of_this_sitting(
    before: int, left: str, stand_in: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of three runs had been stopped: 80 steps in 80 seconds are left of it, or its evaluation alone.

    What is known of its steps is the end of its last episode, so 90 of 100 may be all of them.
    """
    times = iter([0.0])
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: next(times, 80.0)))
    (stand_in / "CartPole_0").mkdir(parents=True)
    (stand_in / "CartPole_0" / "0.monitor.csv").write_text(f"#{{}}\nr,l,t\n1.0,{before},1.0\n")
    assert run(stand_in, "--tasks", "CartPole", "--seeds", "3", "--jobs", "1", "--steps", "100") == 0
    printed = capsys.readouterr().out
    assert f"; 1 of 3 ended{left}\n" in printed
    assert "; 3 of 3 ended\n" in printed


def test_a_run_that_failed_is_not_taken_for_a_fast_one(
    stand_in: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0])
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: next(times, 80.0)))
    stand_in.mkdir()
    (stand_in / "fail-CartPole_0").touch()
    assert run(stand_in, "--tasks", "CartPole", "--seeds", "3", "--jobs", "1", "--steps", "100") == 1
    printed = capsys.readouterr().out
    assert "; 1 of 3 ended\n" in printed
    assert "; 2 of 3 ended, about 01:20 left\n" in printed


def test_runs_are_put_where_the_help_says(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stand_in.parent)
    assert main(["benchmark", "classic", "--tasks", "CartPole", "--seeds", "1"]) == 0
    assert len(read_rows(Path("runs/benchmark_classic/results.csv"))) == 1
