"""The tables of results: rows of cards and files, the README made of them, and the published scores beside them."""

import csv
import errno
import io
import json
import re
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hd_agents import zoo
from hd_agents.cli import main
from hd_agents.zoo import report
from hd_agents.zoo.results import COLUMNS, append_row, name_order, normalized, read_rows, settings_of, table

ROW: dict[str, Any] = {
    **dict.fromkeys(COLUMNS),
    **{"name": "atari100k/pong", "task": "atari100k/Pong-v0", "seed": 3, "mean_return": 7.5, "std_return": 1.25},
    **{"interval": [6.5, 8.25], "harmony": {"reward": True}, "command": "hd-agents train 'a, b'", "env_steps": 100_000},
    **{"backbone": "dreamerv3", "size": "small", "preset": "paper", "machine": 'a "desk"', "date": "2026-11-23"},
}
ROW = {key: value for key, value in ROW.items() if key not in ("low", "high")}


@pytest.fixture
def own_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results and models that is empty, and stands in the place of the package's own."""
    (tmp_path / "results").mkdir()
    monkeypatch.setattr("hd_agents.zoo.models.folder", lambda: tmp_path)
    return tmp_path


def test_rows_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.csv"
    assert read_rows(path) == []
    for seed in (3, 4):
        append_row(path, {**ROW, "seed": seed})
    assert read_rows(path) == [ROW, {**ROW, "seed": 4}]
    assert path.read_text() == table([ROW, {**ROW, "seed": 4}])
    assert len(path.read_text().splitlines()) == 3


def test_a_table_that_another_program_has_written_is_gone_on_with(tmp_path: Path) -> None:
    """Columns in another order and one more of them, and no end of the last line."""
    header, line = table([ROW]).splitlines()
    cells = next(csv.reader([line]))
    text = io.StringIO()
    csv.writer(text).writerows([["notes", *header.split(",")[::-1]], ["mine", *cells[::-1]]])
    path = tmp_path / "rows.csv"
    path.write_text(text.getvalue().rstrip("\r\n"))
    append_row(path, {**ROW, "seed": 4})
    assert read_rows(path) == [ROW, {**ROW, "seed": 4}]


def test_a_table_that_pandas_or_a_spreadsheet_has_saved_is_gone_on_with(tmp_path: Path) -> None:
    rows, path = [{**ROW, "harmony": harmony} for harmony in (True, False, {"reward": True})], tmp_path / "rows.csv"
    path.write_text(table(rows[:2]).replace(",true,", ",True,").replace(",false,", ",False,"), encoding="utf-8-sig")
    append_row(path, rows[2])
    assert read_rows(path) == rows


def add_rows(path: Path, first: int) -> None:
    for seed in range(first, first + 10):
        append_row(path, {**ROW, "seed": seed})


def test_processes_add_rows_at_the_same_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    others = [
        get_context("fork").Process(target=add_rows, args=(tmp_path / "rows.csv", 10 * number)) for number in range(3)
    ]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert sorted(row["seed"] for row in read_rows(tmp_path / "rows.csv")) == list(range(30))


def test_a_full_disk_leaves_no_half_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    append_row(tmp_path / "rows.csv", ROW)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_row(tmp_path / "rows.csv", ROW)
    assert read_rows(tmp_path / "rows.csv") == [ROW]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",seed,", ",saat,", "lacks the columns"),
        (",3,7.5", ",,7.5", "seed is empty"),
        ("7.5", "x", "line 2: mean_return is 'x'"),
        ("7.5", "7" * 200_000, "field larger than field limit"),
    ],
)
def test_files_that_are_no_tables(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(table([ROW]).replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_rows(path)


def test_a_table_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(table([ROW]), encoding="utf-16")
    with pytest.raises(ValueError, match=r"rows.csv is no table of results: it is not in UTF-8"):
        read_rows(path)


def test_a_suites_rows_are_those_of_its_file(own_zoo: Path) -> None:
    append_row(own_zoo / "results" / "atari100k.csv", ROW)
    append_row(own_zoo / "results" / "atari100k.csv", {**ROW, "model": "atari100k/pong"})  # the card would say more
    assert zoo.results("atari100k") == zoo.results() == [ROW]
    assert zoo.results("classic") == []


def test_a_run_whose_model_ships_has_one_row(own_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = json.loads((zoo.folder() / "pretrained" / "classic" / "Catch" / "card.json").read_text())
    monkeypatch.undo()
    row = zoo.results("classic")[1]
    assert (row["model"], row["mean_return"]) == ("classic/Catch", card["evaluation"]["mean_return"])
    assert (row["size"], row["harmony"], row["preset"], row["date"]) == ("nano", True, "paper", card["trained"])
    table_of_all = own_zoo / "results" / "classic.csv"
    append_row(table_of_all, {**row, "model": None})
    append_row(table_of_all, {**row, "model": None, "seed": 5})
    append_row(table_of_all, {**row, "model": None, "wall_seconds": 1.5})  # the same seed and commit once more
    (own_zoo / "pretrained").symlink_to(zoo.folder() / "pretrained")
    monkeypatch.setattr("hd_agents.zoo.models.folder", lambda: own_zoo)
    assert [(found["name"], found["seed"]) for found in zoo.results()][len(zoo.pretrained()) :] == [
        ("classic/Catch", 5),
        ("classic/Catch", row["seed"]),
    ]


def test_rows_are_sorted_by_task_and_then_by_seed() -> None:
    known = [{"name": name, "seed": seed} for name in zoo.list("classic")[:2] for seed in (0, 7)]
    rows = [*known, {"name": "my/Task-v0", "seed": 0}]
    assert sorted(rows[::-1], key=name_order) == rows


def test_scores_that_can_be_averaged_over_tasks() -> None:
    plain = {"mean_return": 500.0, "success_rate": None, "human_normalized_score": None}
    assert normalized({**plain, "name": "dmc_natural/cheetah-run"}) == 0.5
    assert normalized({**plain, "name": "metaworld/lever-pull", "success_rate": 0.3}) == 0.3
    assert normalized({**plain, "name": "atari100k/pong", "human_normalized_score": 1.2}) == 1.2
    assert normalized({**plain, "name": "classic/CartPole"}) is None


def test_published_scores() -> None:
    found = zoo.published("atari100k")
    assert found is not None and zoo.published("metaworld") is None
    assert found.env_steps.tolist() == list(range(5_000, 100_001, 5_000))
    for curves in found.curves.values():
        assert list(curves) == zoo.list("atari100k")
        assert {curve.shape for curve in curves.values()} == {(5, 20)}
    assert found.scores("HarmonyDream (official)", "atari100k/pong").tolist() == [19.15, 19.75, 19.57, 17.19, 17.49]
    assert np.mean(found.scores("DreamerV3 (their rerun)", "atari100k/up_n_down")) == pytest.approx(5636.1, abs=0.05)


def test_the_committed_files_are_what_the_report_writes() -> None:
    """If this fails: `hd-agents zoo report`."""
    assert (zoo.folder() / "README.md").read_text(encoding="utf-8") == report.readme()
    tables = {path.stem: path.read_text(encoding="utf-8") for path in (zoo.folder() / "results").glob("*.csv")}
    assert tables == report.tables()


def test_the_readme_has_every_task_and_only_what_was_run(own_zoo: Path) -> None:
    for seed, score in ((0, 3.0), (1, 5.0)):
        append_row(own_zoo / "results" / "atari100k.csv", {**ROW, "seed": seed, "mean_return": score})
    append_row(own_zoo / "results" / "atari100k.csv", {**ROW, "preset": "nano"})
    sections = dict(part.split("\n", 1) for part in report.readme().split("\n### ")[1:])
    assert list(sections) == sorted(sections) and "classic" in sections
    for suite, text in sections.items():
        tasks = [name.partition("/")[2] for name in zoo.list(suite)]
        left = sum(f"| {task} |" not in text for task in tasks)
        told = re.search(r"^Not run: (?:the other|any of its) (\d+).*tasks\.$", text, re.MULTILINE)
        assert (int(told[1]) if told else 0) == left
    lines = [line for line in sections["atari100k"].splitlines() if line.startswith("| pong")]
    assert len(lines) == 2
    assert "| 18.6 ± 1.1 | 16.1 ± 3.3 | 4.0 ± 1.0 | 0, 1 |" in lines[0]
    assert "| 7.5 ± 1.2 | 3 |" in lines[1] and "preset nano" in lines[1]
    assert sections["atari100k"].count("not run") == 25
    assert "Not run: any of its 51 tasks." in sections["dmc_natural"]
    assert sections["classic"].count("Not run: any of its 3 tasks.") == 1


def test_report_writes_both(own_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    append_row(own_zoo / "results" / "atari100k.csv", ROW)
    monkeypatch.setattr("hd_agents.cli.report.zoo.folder", lambda: own_zoo)
    assert main(["zoo", "report"]) == 0
    assert (own_zoo / "README.md").read_text() == report.readme()
    assert "README.md" in capsys.readouterr().out
    (own_zoo / "results" / "atari100k.csv").write_text("a,b\n")
    assert main(["zoo", "report"]) == 2
    assert "no table of results" in capsys.readouterr().err


def test_report_names_what_a_row_that_was_written_by_hand_lacks(
    own_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append_row(own_zoo / "results" / "atari100k.csv", {**ROW, "std_return": None, "machine": None})
    monkeypatch.setattr("hd_agents.cli.report.zoo.folder", lambda: own_zoo)
    assert main(["zoo", "report"]) == 2
    told = "atari100k/pong, seed 3: its row in results/ lacks std_return, machine"
    assert told in capsys.readouterr().err
    assert not (own_zoo / "README.md").exists()


def test_runs_that_differ_in_what_was_set_do_not_share_a_row() -> None:
    rows = [{**ROW, "seed": seed, "command": f"hd-agents train x{flags}"} for seed, flags in enumerate(FLAGS)]
    groups = report._groups(rows)
    assert [[row["seed"] for row in group] for group in groups] == [[0, 4], [1, 2], [3]]
    assert ", gamma 0.5, horizon 3" in report._cells(groups[1])[2]
    assert "gamma" not in report._cells(groups[0])[2]
    assert len(report._groups([ROW, {**ROW, "machine": "a laptop"}, {**ROW, "harmony": True}, {**ROW, "seed": 4}])) == 3


def test_what_is_said_of_a_tasks_runs() -> None:
    first = {**ROW, "success_rate": 0.5}
    score, seeds, settings, *_, date = report._cells([first, {**first, "success_rate": 1.0, "date": "2026-11-25"}])
    assert (score, seeds, date) == ("7.5 ± 0.0, success 75%", "3, 3", "2026-11-23 to 2026-11-25")
    assert settings == "dreamerv3, small, harmony {'reward': True}"
    assert report._cells([first])[5] == "2026-11-23"


def test_the_tables_have_their_rows_in_order(own_zoo: Path) -> None:
    for name, seed in (("pong", 4), ("pong", 3), ("alien", 3)):
        append_row(own_zoo / "results" / "atari100k.csv", {**ROW, "name": f"atari100k/{name}", "seed": seed})
    assert report.tables().keys() == {"atari100k"}
    lines = [line.split(",") for line in report.tables()["atari100k"].splitlines()[1:]]
    assert [(line[0], line[2]) for line in lines] == [
        ("atari100k/alien", "3"),
        ("atari100k/pong", "3"),
        ("atari100k/pong", "4"),
    ]


FLAGS = (
    "",
    " --set gamma=0.5 --set=horizon=3",
    " --set=horizon=3 --set gamma=0.5",
    " --set gamma=0.6",
    " --set size=nano",
)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("hd-agents train classic/Catch --seed 1 --preset nano", {}),
        ("hd-agents train classic/Catch --set gamma=0.9 --set=horizon=5", {"gamma": "0.9", "horizon": "5"}),
        ("hd-agents train classic/Catch --env-kwargs paddle_width=8", {"env_kwargs.paddle_width": "8"}),
        ("hd-agents train classic/Catch --env-kwargs=name=a=b", {"env_kwargs.name": "a=b"}),
        ("hd-agents train classic/Catch --trained-agent runs/x", {"trained_agent": "runs/x"}),
        ("hd-agents train classic/Catch -i classic/Catch --set harmony=False", {"trained_agent": "classic/Catch"}),
        ("the robot's own script --set gamma=0.9", {"gamma": "0.9"}),  # of a row that somebody has written
    ],
)
def test_what_a_command_sets(command: str, expected: dict[str, str]) -> None:
    """By which runs of other settings are told apart; what has a column of its own is not repeated."""
    assert settings_of(command) == expected
