"""`hd-agents compare`: the same seeds with and without harmony, and what it makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure

from hd_agents import HarmonyDreamAgent
from hd_agents.cli import build_parser, compare, main
from hd_agents.cli.benchmark import row as row_of
from hd_agents.cli.flags import changed
from hd_agents.cli.running import Job, locked
from hd_agents.cli.runs import Run, _Board, make_run
from hd_agents.evaluation import evaluate
from hd_agents.saving.jsonable import DamagedError
from hd_agents.zoo.results import EVALUATED
from tests.stand_in import install, sittings
from tests.test_cli import TINY, exit_status

SUITES_OWN = ("success_rate", "human_normalized_score")  # of no score of CartPole
ROWS = [
    {"variant": setting, "seed": seed, "evaluation": {"mean_return": 10.0 * seed + plus}}
    for seed in (0, 1)
    for setting, plus in (("on", 3.0), ("off", 1.0))
]


def test_the_table_pairs_the_seeds() -> None:
    lines = [line.split() for line in compare.table(ROWS, ["on", "off"], [0, 1]).splitlines()]
    assert lines[0][-5:] == ["seed", "0", "seed", "1", "mean"]
    assert lines[1][-3:] == ["3.00", "13.00", "8.00"]
    assert lines[2][-3:] == ["1.00", "11.00", "6.00"]
    assert lines[3] == ["on", "minus", "off", "2.00", "2.00", "2.00"]
    assert "minus" not in compare.table(ROWS, ["off"], [0, 1])


def test_failures_change_no_order() -> None:
    lines = [line.split() for line in compare.table(ROWS[1:], ["on", "off", "mine"], [0, 1, 2]).splitlines()]
    assert lines[0][-7:] == ["seed", "0", "seed", "1", "seed", "2", "mean"]
    assert lines[1][2:] == ["-", "13.00", "-", "13.00"]
    assert lines[2][2:] == ["1.00", "11.00", "-", "6.00"]
    assert lines[3] == ["mine", "-", "-", "-", "-"]
    assert lines[4] == ["on", "minus", "off", "-", "2.00", "-", "2.00"]
    assert lines[5] == ["on", "minus", "mine", "-", "-", "-", "-"]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for comparisons whose runs are made by the stand-in."""
    install(tmp_path, monkeypatch)
    return tmp_path / "runs"


def rows_of(folder: Path) -> list[tuple[str, int, int]]:
    rows = json.loads((folder / "compare.json").read_text())
    return [(row["variant"], row["seed"], row["evaluation"]["episodes"]) for row in rows]


def test_both_settings_are_trained_and_evaluated_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the real commands."""
    flags = ["--seeds", "1", "--steps", "90", "--episodes", "2", "--jobs", "2", "--no-video", "--folder", str(tmp_path)]
    assert main(["compare", "classic/CartPole", *flags, *TINY, "--device", "cpu"]) == 0, capsys.readouterr().out
    folder = tmp_path / "CartPole-v1_compare_1"
    rows = json.loads((folder / "compare.json").read_text())
    assert sorted(rows_of(folder)) == [("off", 0, 2), ("on", 0, 2)]  # as they ended, which is either first
    options = build_parser().parse_args(["compare", "classic/CartPole", *flags, *TINY])
    one = make_run("classic/CartPole", folder / "on_0", "on", changed(options, seed=0))
    made = row_of(one)  # what `benchmark` makes of a real run
    assert None not in {made[key] for key in (*EVALUATED, "env_steps", "gradient_steps") if key not in SUITES_OWN}
    assert (made["env_steps"], made["episodes"], made["date"] is not None) == (90, 2, True)
    for row in rows:
        own = folder / f"{row['variant']}_0"
        assert row["folder"] == str(own)
        config = yaml.safe_load((own / "config.yml").read_text())["CartPole-v1"]
        assert (config["harmony"], config["seed"], config["batch_size"]) == (row["variant"] == "on", 0, 2)
        agent = HarmonyDreamAgent.load(own / "agent.zip", device="cpu")
        assert agent.harmony is (row["variant"] == "on")
        assert evaluate(agent, "CartPole-v1", 2, seed=10_000, n_envs=5).returns == row["evaluation"]["returns"]
    assert (folder / "compare.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "on minus off" in printed
    assert "done   with harmony, seed 0: return " in printed


def test_a_comparison_goes_on(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stand_in / "mine"
    words = ["compare", "classic/CartPole", "--folder", str(folder), "--resume", "--seeds", "1"]
    assert main([*words, "--harmony", "on", "--episodes", "3"]) == 0
    assert rows_of(folder) == [("on", 0, 3)]
    given = (folder / "on_0" / "sittings.txt").read_text().split()
    assert given == ["--folder", str(folder / "on_0"), "--resume", "--seed", "0", "--set=harmony=True"]
    assert main([*words, "--episodes", "3"]) == 0  # only what is not there yet
    assert sittings(folder) == {"on_0": 1, "off_0": 1}
    assert main([*words, "--episodes", "5"]) == 0  # evaluated anew, not trained anew
    assert sittings(folder) == {"on_0": 1, "off_0": 1}
    assert rows_of(folder) == [("on", 0, 5), ("off", 0, 5)]
    capsys.readouterr()
    assert main([*words, "--episodes", "5", "--harmony", "off"]) == 0
    printed = capsys.readouterr().out
    assert "1 runs, 1 of them done" in printed
    assert "minus" not in printed  # only what is asked for
    assert main([*words, "--episodes", "5", "--first-seed", "7"]) == 0
    assert rows_of(folder) == [("on", 0, 5), ("off", 0, 5), ("on", 7, 5), ("off", 7, 5)]  # the others stay
    words[words.index(str(folder))] = str(stand_in / "moved")
    folder = folder.rename(stand_in / "moved")
    assert main([*words, "--episodes", "5"]) == 0
    rows = json.loads((folder / "compare.json").read_text())
    assert [row["folder"] for row in rows[:2]] == [str(folder / "on_0"), str(folder / "off_0")]
    capsys.readouterr()
    (folder / "compare.json").write_text("[{}]")
    assert main([*words, "--episodes", "5"]) == 1
    assert "compare.json is damaged: KeyError: 'variant'. Remove it" in capsys.readouterr().err
    (folder / "compare.json").write_text("[]")
    (folder / "on_0" / "config.yml").write_text("CartPole-v1:\n  n_timesteps: 9\n")
    assert main(words) == 2
    assert "was begun with other settings (n_timesteps 9 -> 10000" in capsys.readouterr().err
    assert main([*words[:2], "--folder", str(stand_in), "--resume"]) == 2
    assert f"Did you mean {folder}?" in capsys.readouterr().err
    assert main([*words[:2], "--folder", str(folder / "compare.json"), "--resume"]) == 2
    assert "is a file: give the comparison's folder" in capsys.readouterr().err
    with locked(folder):
        (folder / "on_0" / "config.yml").unlink()
        assert main(words) == 2
    assert "in use by another hd-agents" in capsys.readouterr().err


@pytest.mark.parametrize(("what", "why"), [("fail", "no more luck"), ("fail-evaluation", "no motor driver")])
def test_a_run_that_fails_is_a_dash_and_is_tried_again(
    what: str, why: str, stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stand_in / "mine"
    folder.mkdir(parents=True)
    (folder / f"{what}-off_0").touch()
    (folder / "on_0").mkdir()  # which tells that it is a comparison
    words = ["compare", "CartPole-v1", "--seeds", "2", "--folder", str(folder), "--resume", "--delete-checkpoints"]
    kept = [folder / name / "checkpoints" for name in ("off_0", "off_1")]
    for one in kept:
        one.mkdir(parents=True)
    assert main(words) == 1
    assert [one.exists() for one in kept] == [True, False]
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"FAILED without harmony, seed 0: exit status 1: {why} (all") for line in told)
    assert rows_of(folder) == [("on", 0, 20), ("on", 1, 20), ("off", 1, 20)]
    assert "1 of 4 runs FAILED: without harmony, seed 0" in told
    assert f"To try them again: the same command, with --folder {folder} --resume" in told
    cells = {line[:7]: line.split()[-3:] for line in told}
    assert (cells["without"], cells["on minu"]) == (["-", "15.50", "15.50"], ["-", "1.00", "1.00"])
    assert (folder / "compare.png").exists()
    (folder / f"{what}-off_0").unlink()
    (folder / "on_1" / "checkpoints").mkdir()
    assert main(words) == 0
    assert sittings(folder) == {"on_0": 1, "on_1": 1, "off_0": 2, "off_1": 1}
    assert len(rows_of(folder)) == 4
    assert not (folder / "on_1" / "checkpoints").exists()  # also of one that was evaluated before


def test_a_run_whose_files_are_damaged_ends_no_other(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = Run.facts

    def damaged(one: Run) -> Any:
        if one.name == "on":
            raise DamagedError("run.json is damaged.")
        return facts(one)

    monkeypatch.setattr(Run, "facts", damaged)
    words = ["compare", "CartPole-v1", "--seeds", "1", "--jobs", "2", "--folder", str(stand_in)]
    assert main(words) == 1
    told = capsys.readouterr().out
    assert "FAILED with harmony, seed 0: run.json is damaged.;" in told
    assert "done   without harmony, seed 0: return 15.00" in told
    assert told.partition("ended")[0].count("begun  ") == 2, "two at a time"
    given = (stand_in / "CartPole-v1_compare_1" / "on_0" / "evaluated.txt").read_text()
    assert "--episodes" not in given  # those of the papers


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_what_was_evaluated_is_kept_when_it_is_stopped(
    stop: BaseException,
    status: int,
    stand_in: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = _Board.ended

    def stops(board: _Board, job: Job, number: int) -> None:
        ended(board, job, number)
        raise stop

    monkeypatch.setattr(_Board, "ended", stops)
    assert exit_status("compare", "CartPole-v1", "--folder", str(stand_in)) == status
    folder = stand_in / "CartPole-v1_compare_1"
    assert rows_of(folder) == [("on", 0, 20)]
    assert f"the same command, with --folder {folder} --resume" in capsys.readouterr().out


def test_the_figure_has_a_line_per_seed_and_the_curves_of_each_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *arguments, **options: figures.append(figure))
    rows = [{**row, "folder": str(tmp_path / f"{row['variant']}_{row['seed']}")} for row in ROWS]
    for row in rows:
        Path(row["folder"]).mkdir()
        score = row["evaluation"]["mean_return"]
        (Path(row["folder"]) / "0.monitor.csv").write_text(f"#{{}}\nr,l,t\n{score},10,1\n{score},10,2\n")
    compare.draw(tmp_path / "compare.png", "t", rows, ["mine", "on", "off"])  # of mine all have failed
    curves, pairs = figures[0].axes
    assert {tuple(line.get_xdata()) for line in pairs.lines} == {("mine", "on", "off")}
    assert sorted(list(line.get_ydata())[1:] for line in pairs.lines) == [[3.0, 1.0], [13.0, 11.0]]
    means = {line.get_label(): line.get_ydata().mean() for line in curves.lines if line.get_linewidth() > 2}
    assert means == {"with harmony": pytest.approx(8.0), "without harmony": pytest.approx(6.0)}


def test_any_settings_are_compared(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "classic/CartPole", "--steps", "50", "--seeds", "1", "--first-seed", "3", "--episodes", "1"]
    words += ["--folder", str(stand_in), "--resume", "--size", "nano", "--variant", "base", "--variant", "plain"]
    words += ["harmony=False", "--variant", "heavy-reward", "harmony.reward=10", "gamma=0.9", "--set=gamma=0.8"]
    assert main(words) == 0
    assert rows_of(stand_in) == [("base", 3, 1), ("plain", 3, 1), ("heavy-reward", 3, 1)]
    for name, own in (
        ("base", ""),
        ("plain", " --set=harmony=False"),
        ("heavy-reward", " --set=harmony.reward=10 --set=gamma=0.9"),  # a variant's own counts
    ):
        given = (stand_in / f"{name}_3" / "sittings.txt").read_text()
        assert given.endswith(f"--seed 3 --steps 50 --size nano --set=gamma=0.8{own}\n")
    out = capsys.readouterr().out
    assert "base minus plain" in out
    assert "base minus heavy-reward" in out
    assert (stand_in / "compare.png").stat().st_size > 10_000
    assert main(words) == 0
    assert "3 runs, 3 of them done" in capsys.readouterr().out
    assert set(sittings(stand_in).values()) == {1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variant", "harmony=False"], "begin with a name"),
        (["--variant", "_a"], "the first one a letter or digit"),  # matplotlib's legends leave such names out
        (["--variant", "a", "--variant", "a", "gamma=0.9"], "a name of its own"),
        (["--variant", "a", "--harmony", "on"], "give one of them"),
        (["--variant", "on", "nothing=1"], "other than on and off"),
        (["--variant", "a", "nothing=1"], "no such setting"),
        (["--variant", "a", "--variant", "b", "gamma=2"], "gamma=2"),
        (["--eval-episodes", "2"], "--eval-episodes needs --eval-every"),
    ],
)
def test_variants_that_cannot_be(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "CartPole-v1", *words]) == 2
    assert message in capsys.readouterr().err


def test_mistakes_leave_nothing(tmp_path: Path) -> None:
    assert main(["compare", "CartPole-v1", "--folder", str(tmp_path), "--set", "nothing=1"]) == 2
    assert not list(tmp_path.iterdir())
