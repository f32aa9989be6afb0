"""The files of the zoo that are written by `hd-agents zoo report`: `README.md`, and the cards' rows in `results/`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from hd_agents.evaluation.scores import human_normalized
from hd_agents.zoo.catalogue import env_id, names, suites
from hd_agents.zoo.published import Published, published
from hd_agents.zoo.results import name_order, results, settings_of, table

HEAD = """# The zoo

Written by `hd-agents zoo report`: change `hd_agents/zoo/report.py` instead.

This folder holds data only. It ships in the wheel as `hd_agents/_zoo`; `hd_agents.zoo` and `hd-agents` read it by a
task's name.

- `hyperparams/<suite>.yml`: what each task is trained with. `atari100k`, `dmc_vision`, `dmc_natural` and `metaworld`
  hold the paper's values, `dmc_proprio` carries those of `dmc_vision` over to vectors, `classic` is made for small
  machines. `nano` in a suite's file is what two CPU cores can run in an hour or two.
- `pretrained/<suite>/<task>/`: trained models, each with README, card, weights, video and film strip of a dream;
  `hd-agents list --pretrained` shows their scores.
- `results/<suite>.csv`: a row per training run: its score, command, commit, machine and time. Where a run's model
  ships, the column `model` names it, and the model's card is what counts.
- `results/official_<suite>.json`: what the paper's authors published, as data.

The YAML files have the form of rl-zoo3's, one entry per task id. `n_timesteps` (env steps) and `n_envs` belong to the
training run, `env_kwargs` go to `gymnasium.make`, and every other key is an argument of `HarmonyDreamAgent`. Write
numbers as `0.0001` or `1.0e-4`: YAML reads a bare `1e-4` as text.

## Results

Scores are mean returns of the last weights by the papers' rule of evaluation. With one seed, ± is the deviation over
its episodes; with several, over the seeds' means. Runs with the same settings on the same machine share a row. "not
run" means that we have not run the task, with any settings.
"""
OURS = ("ours", "seeds", "settings", "env steps", "machine", "date")
SETTINGS = ("backbone", "harmony", "size", "preset", "env_steps", "machine")


def tables() -> dict[str, str]:
    """The tables of `results/` as they have to be: the text of each suite that has rows."""
    found = {suite: sorted(results(suite), key=name_order) for suite in suites()}
    return {suite: table(rows) for suite, rows in found.items() if rows}


def readme() -> str:
    """The text of `README.md`: per suite and task our runs beside what was published."""
    return HEAD + "".join(f"\n### {suite}\n\n" + "\n".join(_section(suite)) + "\n" for suite in suites())


def _section(suite: str) -> Iterator[str]:
    official, rows = published(suite), results(suite)
    run = {name: _groups([row for row in rows if row["name"] == name]) for name in names(suite)}
    if official:
        yield from _aggregates(suite, official)
    elif suite != "classic":
        yield "No raw numbers are published for this suite."
        yield ""
    methods = list(official.curves) if official else []
    shown = [name for name in run if official or run[name]]
    if shown:
        yield _line(["task", *methods, *OURS])
        yield _line(["---"] * (1 + len(methods) + len(OURS)))
    for name in shown:
        scores = [_mean(official.scores(method, name)) for method in methods] if official else []
        for cells in [_cells(group) for group in run[name]] or [["not run"] + [""] * (len(OURS) - 1)]:
            yield _line([name.partition("/")[2], *scores, *cells])
    absent = [name for name in run if name not in shown]
    if absent:
        which = f"the other {len(absent)} of its {len(run)}" if shown else f"any of its {len(run)}"
        yield f"{chr(10) if shown else ''}Not run: {which} tasks."


def _aggregates(suite: str, official: Published) -> Iterator[str]:
    """Published aggregates, worked out from the raw scores, and what the paper states."""
    stated = official.stated
    seeds = len(next(iter(official.curves[stated["method"]].values())))
    yield f"Official scores: {official.source}; {seeds} seeds, at"
    yield f"{official.env_steps[-1]:,} env steps. Human-normalised, they come to:"
    yield ""
    for method in official.curves:
        tasks = [
            np.mean([human_normalized(env_id(name), score) or 0.0 for score in official.scores(method, name)])
            for name in names(suite)
        ]
        yield f"- {method}: mean {np.mean(tasks):.3f}, median {np.median(tasks):.3f}"
    yield f"- stated by {stated['source']}: mean {stated['mean']:.3f}, median {stated['median']:.3f}"
    yield ""


def _groups(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows of a task, those of the same settings together. ValueError for one that says too little."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if lacking := [key for key in ("std_return", *SETTINGS) if row[key] is None]:
            raise ValueError(
                f"{row['name']}, seed {row['seed']}: its row in results/ lacks {', '.join(lacking)}, which the README "
                "tells: fill it in, or remove the row."
            )
        told = [*(row[key] for key in SETTINGS), settings_of(row["command"])]
        groups.setdefault(repr(told), []).append(row)
    return list(groups.values())


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    """What is said of a task's runs with the same settings, one cell for each of OURS."""
    first, scores = rows[0], [row["mean_return"] for row in rows]
    deviation = first["std_return"] if len(rows) == 1 else np.std(scores)
    settings = f"{first['backbone']}, {first['size']}"
    settings += "" if first["preset"] == "paper" else f", preset {first['preset']}"
    settings += "" if first["harmony"] is True else f", harmony {first['harmony']}"
    settings += "".join(f", {key} {value}" for key, value in settings_of(first["command"]).items())
    seeds = ", ".join(str(row["seed"]) for row in rows)
    dates = sorted({row["date"] or "" for row in rows})
    date = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    score = f"{np.mean(scores):.1f} ± {deviation:.1f}"
    rates = [row["success_rate"] for row in rows]
    if None not in rates:
        score += f", success {np.mean(rates):.0%}"
    return [score, seeds, settings, f"{first['env_steps']:,}", first["machine"], date]


def _mean(scores: Any) -> str:
    return f"{np.mean(scores):.1f} ± {np.std(scores):.1f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
