"""What was run, a row per training run: from the cards of the models that ship, and from the tables in `results/`.

Such a table is a CSV file of COLUMNS, made and extended by ``hd-agents benchmark``. ``hd-agents zoo report`` writes the
cards' rows into the zoo's own tables, for those who read the files; the cards remain what counts.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hd_agents.files import alone_in, write_text
from hd_agents.zoo import models
from hd_agents.zoo.catalogue import names, preset_of, words_of
from hd_agents.zoo.packages import AGENT

TEXT = ("name", "task", "rule", "acting", "machine", "commit", "backbone", "size", "preset", "command", "date", "model")
COLUMNS = (
    *("name", "task", "seed", "mean_return", "std_return", "low", "high", "episodes", "rule", "acting"),
    *("success_rate", "human_normalized_score", "env_steps", "gradient_steps", "wall_seconds", "machine", "commit"),
    *("backbone", "harmony", "size", "preset", "command", "date", "model"),
)
# What a row takes from an evaluation, and from how the run was trained.
EVALUATED = ("episodes", "mean_return", "std_return", "rule", "acting", "success_rate", "human_normalized_score")
TRAINED = ("task", "seed", "env_steps", "gradient_steps", "wall_seconds", "machine", "commit", "command")
SETTING_FLAGS = {"--set": "", "--env-kwargs": "env_kwargs."}  # flags of `train`, and what stands before their settings
NETWORKS = ("backbone", "harmony", "size")  # arguments of the agent that a row has a column for
SAME_RUN = ("name", "seed", "commit", "wall_seconds")  # columns that are alike in two rows of one run


def results(suite: str | None = None) -> list[dict[str, Any]]:
    """A row per run, of one suite or of all: first the models that ship, then what was run besides.

    :return: dicts of ``name``, ``task`` (its Gymnasium id), ``seed``, ``mean_return`` and ``std_return`` over
        ``episodes``, ``interval`` (99%, of the mean), ``rule`` and ``acting`` of the evaluation, ``success_rate`` and
        ``human_normalized_score`` (None where the task has none), ``env_steps``, ``gradient_steps``, ``wall_seconds``,
        ``machine``, ``commit``, ``backbone``, ``harmony``, ``size``, ``preset``, ``command``, ``date`` and ``model``:
        the name to load it by, None for a run without a model in the zoo.
    """
    shipped = [_of_card(name) for name in models.pretrained(suite)]
    known = [[row[key] for key in SAME_RUN] for row in shipped]
    tables = sorted((models.folder() / "results").glob("*.csv"))
    rows = [row for path in tables if suite in (None, path.stem) for row in read_rows(path) if not row["model"]]
    return shipped + [row for row in rows if [row[key] for key in SAME_RUN] not in known]


def normalized(row: Mapping[str, Any]) -> float | None:
    """A score that can be averaged over a suite's tasks: Atari's human-normalised one, DeepMind Control's return over
    its maximum of 1000, Meta-World's rate of success; None in other suites.
    """
    suite = row["name"].partition("/")[0]
    if suite.startswith("dmc_"):
        return float(row["mean_return"]) / 1000
    return row["success_rate"] if suite == "metaworld" else row["human_normalized_score"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, none if there is no such file.

    :raises ValueError: for a file that is no such table, with the line.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark before UTF-8
        reader = csv.DictReader(file)
        try:
            missing = set(COLUMNS) - set(reader.fieldnames or ())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no table of results: it is not in UTF-8. Save it as such.") from error
        if missing:
            raise ValueError(f"{path} is no table of results: it lacks the columns {sorted(missing)}.")
        rows = []
        try:
            for cells in reader:
                rows.append(_row(cells))
        except (TypeError, ValueError, csv.Error) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row, wholly or not at all, to a table on the disk, which is made if it does not exist.

    Other processes may add rows at the same time; other programs may have added columns, or put them in another order.
    """
    with alone_in(path.parent):
        before = path.read_text(encoding="utf-8-sig") if path.exists() else ""
        columns = next(csv.reader(before.splitlines()), None)
        before += "\n" if before and not before.endswith("\n") else ""  # as some editors leave it
        write_text(path, before + table([row], columns))


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as CSV. What is no text is written as JSON; empty cells are None.

    :param columns: of a table that the rows go to; None for a new one, with its header.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or COLUMNS, extrasaction="ignore", lineterminator="\n")
    if columns is None:
        writer.writeheader()
    for row in rows:
        low, high = row["interval"]
        values = {**row, "low": low, "high": high}
        cells = {key: values[key] if key in TEXT else json.dumps(values[key]) for key in COLUMNS}
        writer.writerow({key: "" if values[key] is None else cell for key, cell in cells.items()})
    return text.getvalue()


def settings_of(command: str) -> dict[str, str]:
    """What a command of ``hd-agents train`` changes by ``--set`` and ``--env-kwargs``, and the model that it begins
    with, but for what a row has a column for.
    """
    words = words_of(command)
    typed = [(flag, value) for flag, _, value in (word.partition("=") for word in words if word.startswith("--"))]
    typed += [(flag, value) for flag, value in pairwise(words) if "=" not in flag]
    found = {}
    for flag, value in typed:
        if flag in SETTING_FLAGS and "=" in value:
            key, text = value.split("=", 1)
            found[SETTING_FLAGS[flag] + key] = text
        elif flag in ("-i", "--trained-agent") and value:
            found["trained_agent"] = value
    return {key: found[key] for key in sorted(found) if key not in COLUMNS}


def name_order(row: Mapping[str, Any]) -> tuple[int, int]:
    """A key to sort rows by: the order of the zoo's tasks, then the seed."""
    known = names()
    return known.index(row["name"]) if row["name"] in known else len(known), row["seed"]


def _of_card(name: str) -> dict[str, Any]:
    found = models.card(name)
    agent = json.loads((models.folder() / "pretrained" / name / AGENT).read_text(encoding="utf-8"))
    row = {"name": name, **{key: found[key] for key in TRAINED}, "interval": found["interval"]}
    row |= {key: found["evaluation"].get(key) for key in EVALUATED}
    row |= {key: agent[key] for key in NETWORKS}
    return {**row, "preset": preset_of(row["command"]), "date": found.get("trained"), "model": name}


def _row(cells: Mapping[str, str]) -> dict[str, Any]:
    """A row of text cells."""
    values = {key: _value(key, cells[key]) if cells[key] else None for key in COLUMNS}
    row: dict[str, Any] = {**values, "interval": [values["low"], values["high"]]}
    for key in ("name", "task", "seed", "mean_return", "command"):
        if row[key] is None:
            raise ValueError(f"{key} is empty.")
    del row["low"], row["high"]
    return row


def _value(key: str, cell: str) -> Any:
    if key in TEXT:
        return cell
    try:
        return json.loads({"True": "true", "False": "false"}.get(cell, cell))  # as pandas writes them
    except ValueError as error:
        raise ValueError(f"{key} is {cell!r}, expected a number, true, false or other JSON.") from error
