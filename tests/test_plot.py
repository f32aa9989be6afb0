"""`hd-agents plot`: what it reads, what runs are called, which scores are compared, and the files it leaves."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from hd_agents import zoo
from hd_agents.cli import figures, known_runs, main, plot
from hd_agents.cli.known_runs import OURS, KnownRun
from hd_agents.evaluation.aggregates import MEASURES, Estimate
from hd_agents.evaluation.scores import prediction_interval
from hd_agents.zoo.results import append_row
from tests.test_results import ROW

OFFICIAL = ["HarmonyDream (official)", "DreamerV3 (their rerun)"]


def scored(name: str, seed: int, score: float, **settings: Any) -> KnownRun:
    row = {"name": name, "mean_return": 500.0, "success_rate": None, "human_normalized_score": score}
    return KnownRun(name, seed, settings, row, None)


def make_run(folder: Path, seed: int, evaluated: bool = True, **settings: Any) -> None:
    """A run's folder of Pong, as `benchmark` leaves it."""
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(yaml.safe_dump({"atari100k/Pong-v0": {"seed": seed, **settings}}))
    (folder / "0.monitor.csv").write_text("#{}\nr,l,t\n" + "".join(f"{n - 20 + seed},1000,{n}\n" for n in range(30)))
    played = {"returns": [3.0 + seed, 5.0], "episodes": 2, "mean_return": 4.0 + seed / 2, "human_normalized_score": 0.7}
    if evaluated:
        (folder / "evaluation.json").write_text(json.dumps(played))


def test_runs_are_called_by_what_tells_them_apart() -> None:
    runs = [scored("a", 0, 1.0, size="nano", harmony=True), scored("a", 1, 1.0, size="nano", harmony=False)]
    assert known_runs.label(runs) == ["harmony True", "harmony False"]
    other_task = scored("b", 0, 1.0, size="small", harmony=True)  # not compared with those of "a"
    assert known_runs.label([*runs[:1], other_task]) == [OURS, OURS]
    assert known_runs.label([*runs, scored("a", 0, 1.0, size="small", harmony=True)])[2] == "size small, harmony True"


def test_a_setting_that_is_told_is_no_other_than_the_same_one_left_out() -> None:
    told = [{"harmony": True, "gamma": 0.9}, {"gamma": 0.9}, {"harmony": False, "gamma": 0.9}]
    runs = [KnownRun("a", seed, settings, None, Path("runs")) for seed, settings in enumerate(told)]
    assert known_runs.label(runs[:2]) == [OURS, OURS]
    assert known_runs.label(runs) == [OURS, OURS, "harmony False"]


def test_scores_are_of_the_tasks_that_all_have() -> None:
    runs = [scored("atari100k/pong", seed, 0.1 * seed) for seed in range(4)]
    runs += [scored("atari100k/alien", seed, 1.0) for seed in range(3)] + [scored("classic/Catch", 0, 9.0)]
    found = plot.scores("atari100k", runs, known_runs.label(runs))
    assert list(found) == [OURS, *OFFICIAL]
    assert found[OURS] == pytest.approx(np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]]))
    assert found[OFFICIAL[0]].shape == (5, 2)
    assert found[OFFICIAL[0]][0, 1] == pytest.approx((19.15 + 20.7) / (14.6 + 20.7))
    assert plot.scores("metaworld", runs, known_runs.label(runs)) == {}
    control = [scored("dmc_vision/walker-walk", 0, 0.0)]
    assert plot.scores("dmc_vision", control, [OURS])[OURS].tolist() == [[0.5]]
    half = [scored(name, 0, 0.5) for name in zoo.list("atari100k")[:13]]
    assert plot.scores("atari100k", half, [OURS] * 13, whole=True)[OURS].shape == (1, 13)
    assert OURS not in plot.scores("atari100k", half[1:], [OURS] * 12, whole=True)


def test_one_run_has_no_interval() -> None:
    one, several = Estimate(0.649, 0.649, 0.649), Estimate(0.5, 0.4, 0.6)
    values = {"a": dict.fromkeys(MEASURES, one), "b": dict.fromkeys(MEASURES, several)}
    lines = plot.table(values, {}).splitlines()
    assert lines[1].split() == ["a", *["0.649"] * len(MEASURES)]
    assert lines[2].split() == ["b", *["0.500", "[0.400,", "0.600]"] * len(MEASURES)]


def test_the_official_scores_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rliable")
    monkeypatch.setattr("hd_agents.evaluation.aggregates.RESAMPLES", 50)
    assert main(["plot", "atari100k", "--output", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    assert "26 tasks; runs of each: HarmonyDream (official) 5, DreamerV3 (their rerun) 5" in printed
    assert "atari100k: hd_agents has " in printed and "of 26 tasks and is not aggregated" in printed  # of what ships
    assert "0.607 [" in printed and "1.364 [" in printed
    assert "P(HarmonyDream (official) > DreamerV3 (their rerun)) = 0.639" in printed
    drawn = ["aggregates_atari100k.png", "curves.png", "scores.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == drawn
    for path in (tmp_path / "new").iterdir():
        assert cv2.imread(str(path)).std() > 10


def test_a_folder_of_runs_beside_the_official_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rliable")
    monkeypatch.setattr("hd_agents.evaluation.aggregates.RESAMPLES", 50)
    for seed in range(3):
        make_run(tmp_path / "runs" / f"with_{seed}", seed, harmony=True)
        make_run(tmp_path / "runs" / f"without_{seed}", seed, evaluated=seed < 2, harmony=False)
    runs = list(known_runs.read(str(tmp_path / "runs")))
    curves, _ = plot._curves(runs, known_runs.label(runs), [])
    assert {name: list(methods) for name, methods in curves.items()} == {
        "atari100k/pong": ["harmony True", "harmony False", *OFFICIAL]
    }
    steps, means = curves["atari100k/pong"]["harmony True"][1]
    assert steps.tolist() == list(range(1000, 30_001, 1000))
    assert means[-1] == pytest.approx(np.mean(np.arange(20, 30)) - 20 + 1)
    steps, values = curves["atari100k/pong"][OFFICIAL[0]][0]
    assert (steps[-1], values[-1]) == (100_000, 19.15)
    points = plot._points(runs, known_runs.label(runs))["atari100k/pong"]
    assert [row["mean_return"] for row in points["harmony False"]] == [4.0, 4.5]
    assert [len(rows) for rows in points.values()] == [3, 2, 5, 5]
    assert points["harmony True"][1]["interval"] == prediction_interval([4.0, 5.0], 2)
    assert main(["plot", str(tmp_path / "runs"), "--output", str(tmp_path / "plots")]) == 0
    assert "1 tasks; runs of each: harmony True 3, harmony False 2" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["aggregates_atari100k.png", "curves.png", "scores.png"]


@pytest.mark.parametrize("letters", [5, 30, 90])
def test_long_legends_are_seen_whole(letters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn, save = list[Any](), Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *words, **how: drawn.append(self) or save(self, *words, **how))
    curve = np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0])
    methods = {f"{name} {'harmony=False ' * letters}"[:letters]: [curve] for name in ("first", "second", "third")}
    figures.curves(tmp_path / "a.png", {"classic/Catch": methods}, "training return")
    figures.curves(tmp_path / "b.png", {"atari100k/pong": {"mine": [curve], OFFICIAL[0]: [curve]}}, "training return")
    figure = drawn[0]
    whole, legend = figure.bbox, figure.legends[0].get_window_extent()
    assert whole.x0 <= legend.x0 < legend.x1 <= whole.x1
    assert whole.y0 < figure.axes[0].get_window_extent().y1 < legend.y0 < legend.y1 <= whole.y1
    assert figure.axes[0].get_window_extent().height > 150
    assert [one.get_supylabel() for one in drawn] == [
        "training return",
        "training return\n(dashed: published evaluations)",
    ]


def test_env_steps_do_not_run_into_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, save = list[Any](), Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *words, **how: drawn.append(self) or save(self, *words, **how))
    curve = np.array([5_000, 100_000]), np.array([1.0, 2.0])
    figures.curves(tmp_path / "a.png", {f"atari100k/{n}": {"mine": [curve]} for n in range(4)}, "training return")
    ticks = [text for text in drawn[0].axes[0].get_xticklabels() if 5_000 <= text.get_position()[0] <= 100_000]
    assert ticks[-1].get_text() == "100k"
    extents = [text.get_window_extent() for text in ticks]
    assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(extents))


def test_bars_of_scores_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *arguments, **options: drawn.append(figure))
    row = {"mean_return": 3.0}
    for interval in ({}, {"interval": (2.0, 4.0)}):
        figures.scores(tmp_path / "a.png", {"classic/Catch": {"mine": [row | interval]}})
    bare, explained = (figure.get_supylabel() for figure in drawn)
    assert explained == f"{bare}\n(lines: 99% intervals of another evaluation's)"


def test_tables_and_suites_without_normalised_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {**ROW, "name": "classic/Catch", "task": "hd_agents/Catch-v0"}
    append_row(tmp_path / "rows.csv", row)
    output = ["--output", str(tmp_path / "plots")]
    assert main(["plot", str(tmp_path / "rows.csv"), "classic", *output]) == 0
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["scores.png"]
    assert "scores.png" in capsys.readouterr().out
    runs = [*known_runs.read(str(tmp_path / "rows.csv")), *known_runs.read("classic")]
    assert [one.name for one in runs] == ["classic/Catch", *zoo.pretrained("classic")]


def test_rows_are_told_apart_by_what_was_set(tmp_path: Path) -> None:
    for seed, flags in enumerate(("", " --set gamma=0.5")):
        append_row(tmp_path / "rows.csv", {**ROW, "seed": seed, "command": f"hd-agents train atari100k/pong{flags}"})
    assert known_runs.label(list(known_runs.read(str(tmp_path / "rows.csv")))) == [OURS, "gamma 0.5"]


def test_runs_are_found_in_folders_of_folders(tmp_path: Path) -> None:
    make_run(tmp_path / "pong_compare_1" / "on_0" / "Pong-v0_1", 0)
    make_run(tmp_path / "b", 1)
    (tmp_path / "b" / "0.monitor.csv").write_text("#{}\nr,l,t\n")  # of which no episode has ended
    make_run(tmp_path / "c", 2)
    (tmp_path / "c" / "config.yml").unlink()  # logs of something else
    runs = list(known_runs.read(str(tmp_path)))
    assert sorted(one.seed for one in runs) == [0, 1]
    curves, _ = plot._curves(runs, [OURS, OURS], [])
    assert len(curves["atari100k/pong"][OURS]) == 1


def test_published_curves_are_grey_and_dashed_and_ours_have_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *arguments, **options: drawn.append(figure))
    curve = (np.array([10, 20]), np.array([1.0, 2.0]))
    ours = [f"gamma 0.{number}" for number in range(9)]  # more than there are colours
    figures.curves(tmp_path / "a.png", {"atari100k/pong": {name: [curve] for name in (*ours, *OFFICIAL)}}, "return")
    lines = {line.get_label(): line for line in drawn[0].axes[0].lines}
    assert {name for name in (*ours, *OFFICIAL) if lines[name].get_linestyle() == "--"} == set(OFFICIAL)
    assert [lines[name].get_color() for name in OFFICIAL] == list(figures.GREYS)
    assert [lines[name].get_color() for name in ours[:8]] == list(figures.COLOURS)
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [*ours, *OFFICIAL]


def test_games_without_published_scores_stand_alone() -> None:
    runs = [scored("atari100k/Skiing-v0", 0, 0.5)]
    assert list(plot._points(runs, [OURS])["atari100k/Skiing-v0"]) == [OURS]


def test_what_is_there_twice_counts_once(tmp_path: Path) -> None:
    row = {"name": "classic/Catch", "seed": 0, "commit": "abc", "wall_seconds": 3.0, "command": "c"}
    other, folder = {**row, "seed": 1}, KnownRun("classic/Catch", 0, {}, row, tmp_path / "a")
    bare = KnownRun("classic/Catch", 0, {}, None, tmp_path / "bare")
    rows = [KnownRun("classic/Catch", one["seed"], {}, one, None) for one in (row, other, dict(row))]
    assert known_runs.once([*rows, bare, folder, bare]) == [rows[1], bare, folder]
    as_long, with_gamma = folder._replace(folder=tmp_path / "b"), rows[0]._replace(row={**row, "command": "c gamma"})
    assert known_runs.once([folder, as_long, folder]) == [folder, as_long], "other runs that took as many seconds"
    assert known_runs.once([rows[0], with_gamma, rows[2]]) == [rows[0], with_gamma]
    by_hand = [rows[0]._replace(row={"name": "classic/Catch", "seed": 0, "mean_return": score}) for score in (1, 2)]
    assert known_runs.once(by_hand) == by_hand, "nothing says that they are of one run"


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output = ["--output", str(tmp_path / "plots")]
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("a,b\n")
    shipped = zoo.folder() / "results" / "classic.csv"
    (tmp_path / "none.csv").write_text(shipped.read_text().splitlines()[0] + "\n")
    for what, message in (
        ("nowhere", "is not a folder, a table of results (.csv) or a suite (atari100k, classic"),
        (str(tmp_path / "empty"), "holds no run"),
        (str(tmp_path / "rows.csv"), "no table of results"),
        (str(tmp_path / "none.csv"), "nothing to draw in"),
    ):
        assert main(["plot", what, *output]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rliable", None)
    assert main(["plot", "atari100k", *output]) == 2
    assert "hd_agents[plot]" in capsys.readouterr().err
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("0.monitor.csv", "#{}\nr,l,t\n1.0,5,1.0\n\udcff\n"),  # a byte that is not UTF-8
        ("scores.jsonl", "no score\n"),
        ("scores.jsonl", "5\n"),
        ("0.monitor.csv", "#{}\nr,l,t\n1.0,5,1.0\nx,5,2.0\n"),
        ("0.monitor.csv", "#{}\na,b,c\n1,5,1.0\n"),
    ],
)
def test_damaged_files_of_a_run_are_named(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a", 0)
    (tmp_path / "a" / name).write_bytes(text.encode(errors="surrogateescape"))
    assert main(["plot", str(tmp_path), "--output", str(tmp_path / "plots")]) == 1
    assert f"{tmp_path / 'a' / name} is damaged" in capsys.readouterr().err
    assert not (tmp_path / "plots").exists()


def test_runs_are_told_apart_by_what_only_one_of_them_states() -> None:
    def logged(**settings: object) -> KnownRun:
        return KnownRun("classic/Catch", 0, {"gamma": 0.9, **settings}, None, Path("a"))

    row = KnownRun("classic/Catch", 0, {"size": "nano"}, {}, None)  # says nothing of the horizon
    assert known_runs.label([logged(), logged(horizon=3), row]) == ["hd_agents", "horizon 3", "hd_agents"]
    assert known_runs.label([logged(), logged(), row]) == ["hd_agents"] * 3


def test_help_shows_one_percent_sign(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["plot", "--help"])
    printed = capsys.readouterr().out
    assert "95% intervals" in " ".join(printed.split())
