"""`hd-agents compare`: the same task and seeds by different settings, in one table and one figure."""

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from hd_agents.cli import flags, hints, runs, train
from hd_agents.cli.curves import curves_of, draw_mean
from hd_agents.cli.errors import FAILED, UsageError, make_folder, require
from hd_agents.cli.figures import COLOURS
from hd_agents.cli.resuming import changed_settings, folder_to_resume
from hd_agents.cli.running import locked
from hd_agents.cli.runs import Run, make_run
from hd_agents.cli.tasks import new_run_folder, try_agent
from hd_agents.evaluation import protocol
from hd_agents.files import write_figure, write_text
from hd_agents.saving.jsonable import DamagedError

TABLE = "compare.json"
HARMONY = {"on": ["harmony=True"], "off": ["harmony=False"]}
MEANING = {"on": "with harmony", "off": "without harmony"}  # other variants are called by their names


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `compare` and its flags to the command line."""
    parser = commands.add_parser(
        "compare",
        help="train with and without harmony, or with any other settings, on the same seeds; one table and one figure",
        description="Train a task with each setting of harmony, or each --variant, on the same seeds, in processes of "
        "their own. Evaluate every agent on the same episodes by the papers' rule. Leave the runs, compare.json and "
        "compare.png in runs/<task>_compare_<n>/. To continue with what is not done yet, give the same command with "
        "--resume and --folder, that folder. Exit status 1 if a run failed.",
    )
    parser.add_argument("task", help="a name of `hd-agents list`, or a Gymnasium id")
    parser.add_argument("--harmony", nargs="+", choices=list(HARMONY), help="the settings to compare (default: on off)")
    variant = "after the task: compare these settings instead, a name and its settings; once for each variant"
    parser.add_argument("--variant", nargs="+", action="append", metavar=("NAME", "KEY=VALUE"), help=variant)
    runs.add_flags(parser, 3)
    flags.add_plan_flags(parser, "comparison")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare as asked and return the exit status: 0, or FAILED where runs failed."""
    require("train", *train.NEEDED)
    train.check_flags(options)
    variants = _variants(options)
    resumed = folder_to_resume(options, "comparison") if options.resume else None
    asked = [_run(name, seed, variants, options) for seed in flags.seeds(options) for name in variants]
    plan = asked[0].plan
    for one in asked[: len(variants)]:
        try_agent(one.plan, "cpu")  # a GPU is for the runs
    folder = (
        _own_folder(resumed, asked) if resumed else new_run_folder(options.folder or flags.RUNS, f"{plan.task}_compare")
    )
    asked = [one._replace(folder=folder / one.folder) for one in asked]
    again = f"the same command, with --folder {shlex.quote(str(folder))} --resume"
    hints.hint_of_gpu((one.plan for one in asked), options.device)

    def record(one: Run) -> None:
        _write(folder / TABLE, asked)
        one.tidy()

    with locked(folder):
        _read(folder / TABLE)  # better now than after hours
        left = []
        for one in asked:
            if _is_judged(one):
                one.tidy()
            else:
                left.append(one)
        print(f"{plan.task}: {len(asked)} runs, {len(asked) - len(left)} of them done; all in {folder}", flush=True)
        try:
            failed = runs.run_all(left, options.jobs, record)
        except (KeyboardInterrupt, SystemExit):
            print(f"To continue the comparison: {again}", flush=True)
            raise
        found = _write(folder / TABLE, asked)  # also of one that was moved, or whose last sitting was killed
    if found:
        print(table(found, list(variants), flags.seeds(options)))
        draw(folder / "compare.png", plan.task, found, list(variants))
        print(f"  {folder / TABLE}  every episode of every evaluation\n  {folder / 'compare.png'}")
    if failed:
        print(f"{len(failed)} of {len(asked)} runs FAILED: {'; '.join(failed)}", flush=True)
        print(f"To try them again: {again}", flush=True)
    return FAILED if failed else 0


def _run(name: str, seed: int, variants: dict[str, list[str]], options: argparse.Namespace) -> Run:
    """A run of one variant, in a folder yet to be put into that of the comparison."""
    chosen = flags.changed(options, seed=seed, settings=[*options.settings, *variants[name]])
    return make_run(name, Path(f"{name}_{seed}"), f"{MEANING.get(name, name)}, seed {seed}", chosen)


def _variants(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name -> what is set for it. Raises UsageError for wrong names, and where --set has what is compared."""
    if options.variant is None:
        if told := [setting for setting in options.settings if re.match(r"\s*harmony\s*[.=]", setting)]:
            raise UsageError(f"--set {told[0]}: harmony is what is compared; --harmony says which settings of it.")
        return {name: HARMONY[name] for name in options.harmony or HARMONY}
    if options.harmony is not None:
        raise UsageError("--harmony and --variant: give one of them, --variant plain harmony=False among the latter.")
    found = {name: settings for name, *settings in options.variant}
    for name in found:
        if name in HARMONY or not re.fullmatch(r"[^\W_][\w.-]{0,99}", name):
            raise UsageError(
                f"--variant {name}: begin with a name of letters, digits, _, . and -, the first one a letter or digit, "
                "other than on and off, then KEY=VALUE."
            )
    if len(found) < len(options.variant):
        raise UsageError("--variant: give each variant a name of its own.")
    return found


def _own_folder(folder: Path, asked: Sequence[Run]) -> Path:
    """Make and return the folder of a comparison that may have begun there.

    Raises UsageError if it holds anything else, or runs by other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--folder {folder} is a file: give the comparison's folder.")
    make_folder(folder)
    names = {*HARMONY, *(one.name for one in asked)}
    if {path.name for path in folder.iterdir()} - {".lock"} and not any(
        any(folder.glob(f"{name}_*")) for name in names
    ):
        there = sorted(path.parent for path in folder.glob(f"*/{TABLE}"))
        hint = f" Did you mean {there[-1]}?" if there else ""
        raise UsageError(
            f"{folder} holds files, but no comparison: with --resume, --folder is the folder of one comparison.{hint}"
        )
    for one in asked:
        if changed := changed_settings(folder / one.folder, one.plan, one.seed):
            raise UsageError(f"{folder} was begun with other settings ({changed}): give another --folder.")
    return folder


def _is_judged(one: Run) -> bool:
    """Whether a run has an evaluation of as many episodes as are asked for."""
    played = one.evaluation()
    return played is not None and played["episodes"] == (one.options.episodes or protocol(one.plan.task)[1])


def _write(path: Path, asked: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a row for each run that is done, and write them, beside what the file has of others."""
    done = [one for one in asked if _is_judged(one)]
    told = [{"variant": one.name, "seed": one.seed, "folder": str(one.folder)} for one in done]
    rows = [{**row, "evaluation": one.evaluation()} for row, one in zip(told, done, strict=True)]
    others = {(row["variant"], row["seed"]): row for row in _read(path)}
    merged = others | {(row["variant"], row["seed"]): row for row in rows}
    write_text(path, json.dumps(list(merged.values()), indent=1, allow_nan=False) + "\n")
    return rows


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a comparison's file. Raises DamagedError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return [{**row, "variant": str(row["variant"]), "seed": int(row["seed"])} for row in found]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedError(
            f"{path} is damaged: {type(error).__name__}: {error}. Remove it: it is made anew."
        ) from error


def scores(rows: list[dict[str, Any]], name: str) -> dict[int, float]:
    """Seed -> mean return of one variant's agents."""
    return {row["seed"]: row["evaluation"]["mean_return"] for row in rows if row["variant"] == name}


def table(rows: list[dict[str, Any]], names: Sequence[str], seeds: Sequence[int]) -> str:
    """Per variant the score of every seed and their mean; then the first one's lead over each other, seed by seed.

    A dash stands where a run failed.
    """
    found = {name: scores(rows, name) for name in names}
    lines = {MEANING.get(name, name): found[name] for name in names}
    for name in names[1:]:
        both = [seed for seed in seeds if seed in found[names[0]] and seed in found[name]]
        lines[f"{names[0]} minus {name}"] = {seed: found[names[0]][seed] - found[name][seed] for seed in both}
    width = max(map(len, [*lines, "mean return"])) + 2
    head = f"{'mean return':<{width}}" + "".join(f"{name:>12}" for name in [*(f"seed {x}" for x in seeds), "mean"])
    body = []
    for name, values in lines.items():
        numbers = [*(values.get(seed) for seed in seeds), np.mean(list(values.values())) if values else None]
        body.append(f"{name:<{width}}" + "".join(f"{'-' if x is None else f'{x:.2f}':>12}" for x in numbers))
    return "\n".join([head, *body])


def draw(path: Path, task: str, rows: list[dict[str, Any]], names: Sequence[str]) -> None:
    """Left the returns over env steps, thin per seed and thick their mean; right the evaluations, a line per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    curves, pairs = figure.subplots(1, 2, width_ratios=(2, 1))
    found, returns = curves_of([Path(row["folder"]) for row in rows])
    for name, colour in zip(names, cycle(COLOURS), strict=False):
        own = [curve for curve, row in zip(found, rows, strict=True) if row["variant"] == name]
        draw_mean(curves, own, colour, MEANING.get(name, name))
    for seed in {row["seed"] for row in rows}:
        pairs.plot(names, [scores(rows, name).get(seed, np.nan) for name in names], "o-", color="#777777")
    curves.set(title=task, xlabel="env steps", ylabel=returns)
    is_of_harmony = set(names) <= set(HARMONY)
    pairs.set(title="evaluation, a line per seed", xlabel="harmony" if is_of_harmony else "", ylabel="mean return")
    pairs.margins(x=0.4)
    for axes in (curves, pairs):
        axes.grid(alpha=0.3)
    if curves.lines:
        curves.legend()
    write_figure(path, figure)
