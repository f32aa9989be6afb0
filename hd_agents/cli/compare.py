"""`hd-agents compare`: the same task and seeds by different settings, in one table and one figure."""

import argparse
import json
import re
import traceback
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from hd_agents import HarmonyDreamAgent
from hd_agents.checkpoint import steps_in
from hd_agents.cli import flags, train
from hd_agents.cli.curves import EVALUATION_ENVS, EVALUATION_SEED, curves_of, draw_mean
from hd_agents.cli.errors import FAILED, UsageError, make_folder
from hd_agents.cli.figures import COLOURS
from hd_agents.cli.resuming import changed_settings, told_folder
from hd_agents.cli.tasks import make_env, new_run_folder, plan_of
from hd_agents.envs.closing import close
from hd_agents.evaluation import evaluate, protocol
from hd_agents.host import write_text
from hd_agents.progress import bar_is_seen
from hd_agents.zoo.models import AGENT_FILE, CHECKPOINTS
from hd_agents.zoo.training import Plan

TABLE = "compare.json"
HARMONY = {"on": ["harmony=True"], "off": ["harmony=False"]}
MEANING = {"on": "with harmony", "off": "without harmony"}  # other variants are called by their names


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `compare` and its flags to the command line."""
    parser = commands.add_parser(
        "compare",
        help="train with and without harmony, or by any other settings, on the same seeds; one table and one figure",
        description="Train a task with each setting of harmony, or each --variant, on the same seeds, evaluate every "
        "agent on the same episodes by the papers' rule, and leave the runs, compare.json and compare.png in "
        "runs/<task>_compare_<n>/. The same command with --resume and --folder, that folder, goes on with what is not "
        "done yet. Exit status 1 if a run failed.",
    )
    parser.add_argument("task", help="a name of `hd-agents list`, or a Gymnasium id")
    parser.add_argument("--harmony", nargs="+", choices=list(HARMONY), help="default: on off")
    variant = "after the task: compare these settings instead, a name and what is set for it; once for each variant"
    parser.add_argument("--variant", nargs="+", action="append", metavar=("NAME", "KEY=VALUE"), help=variant)
    flags.add_seeds_flags(parser, 3)
    parser.add_argument("--episodes", type=flags.count, help="of each evaluation (default: the papers' number)")
    flags.add_plan_flags(parser, "comparison")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare as asked and return the exit status: 0, FAILED where runs failed, 130 when Ctrl-C ended one."""
    variants = _variants(options)
    runs = {
        (name, seed): plan_of(_with(settings, options))
        for seed in flags.seeds(options)
        for name, settings in variants.items()
    }
    plan = next(iter(runs.values()))
    task = plan.task
    resumed = told_folder(options, "comparison") if options.resume else None
    close(make_env(task, env_kwargs=plan.env_kwargs))
    folder = _own_folder(resumed, runs) if resumed else new_run_folder(options.folder or flags.RUNS, f"{task}_compare")
    rows, failed = _read_rows(folder / TABLE), list[str]()
    for (name, seed), plan in runs.items():
        print(f"--- {task}, {MEANING.get(name, name)}, seed {seed}", flush=True)
        if _is_judged(rows.get((name, seed)), task, options.episodes):
            print("done already")
            rows[name, seed]["folder"] = str(_run_folder(folder, name, seed))  # the comparison may have been moved
            continue
        rows.pop((name, seed), None)
        status, row = _run(folder, plan, name, seed, _with(variants[name], options))
        if status not in (0, FAILED):
            print(f"To go on with the comparison: the same command, with --folder {folder} --resume", flush=True)
            return status
        if row is None:
            failed.append(f"{MEANING.get(name, name)}, seed {seed}")
            continue
        rows[name, seed] = row
        write_text(folder / TABLE, json.dumps(list(rows.values()), indent=1, allow_nan=False) + "\n")
    if found := [rows[run] for run in runs if run in rows]:
        print(table(found))
        draw(folder / "compare.png", task, found)
        print(f"  {folder / TABLE}  every episode of every evaluation\n  {folder / 'compare.png'}")
    if failed:
        print(f"{len(failed)} of {len(runs)} runs FAILED: {'; '.join(failed)}", flush=True)
        print(f"To try them again: the same command, with --folder {folder} --resume", flush=True)
    return FAILED if failed else 0


def _variants(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name -> what is set for it. Raises UsageError for names that are none, and for settings that vary and are set."""
    if options.variant is None:
        if told := [setting for setting in options.settings if re.match(r"\s*harmony\s*[.=]", setting)]:
            raise UsageError(f"--set {told[0]}: harmony is what is compared; --harmony says which settings of it.")
        return {name: HARMONY[name] for name in options.harmony or HARMONY}
    if options.harmony is not None:
        raise UsageError("--harmony and --variant: give one of them, --variant plain harmony=False among the latter.")
    found = {name: settings for name, *settings in options.variant}
    for name in found:
        if name in HARMONY or not re.fullmatch(r"\w[\w.-]*", name):
            raise UsageError(
                f"--variant {name}: begin with a name of letters, digits, _, . and -, other than on and off, then "
                "KEY=VALUE."
            )
    if len(found) < len(options.variant):
        raise UsageError("--variant: give each variant a name of its own.")
    return found


def _with(settings: Sequence[str], options: argparse.Namespace) -> argparse.Namespace:
    """The options of a run of one variant."""
    return flags.changed(options, settings=[*options.settings, *settings])


def _own_folder(folder: Path, runs: Mapping[tuple[str, int], Plan]) -> Path:
    """Make and return the folder of a comparison that may have begun there.

    Raises UsageError if it holds anything else, or runs by other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--folder {folder} is a file: give the comparison's folder.")
    make_folder(folder)
    names = {*HARMONY, *(name for name, _ in runs)}
    if any(folder.iterdir()) and not any(any(folder.glob(f"{name}_*")) for name in names):
        there = sorted(path.parent for path in folder.glob(f"*/{TABLE}"))
        hint = f" Did you mean {there[-1]}?" if there else ""
        raise UsageError(
            f"{folder} holds files, but no comparison: with --resume, --folder is the folder of one comparison.{hint}"
        )
    for (name, seed), plan in runs.items():
        if changed := changed_settings(_run_folder(folder, name, seed), plan, seed):
            raise UsageError(f"{folder} was begun with other settings ({changed}): give another --folder.")
    return folder


def _run_folder(folder: Path, name: str, seed: int) -> Path:
    """Where a run of the comparison is, or goes: `train` without --resume makes a folder within the one it is told."""
    own = folder / f"{name}_{seed}"
    return next((path.parent for path in own.glob("*/0.monitor.csv")), own)


def _read_rows(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What was evaluated before, by variant and seed."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {(row["variant"], row["seed"]): row for row in rows}


def _is_judged(row: dict[str, Any] | None, task: str, episodes: int | None) -> bool:
    """Whether a row is of as many episodes as are asked for."""
    return row is not None and row["evaluation"]["episodes"] == (episodes or protocol(task)[1])


def _is_trained(folder: Path, plan: Plan) -> bool:
    """Whether a run has come to its end; one that was stopped made a step more than it stored and learned from."""
    path, stored = folder / AGENT_FILE, steps_in(folder / CHECKPOINTS)
    if not path.exists() or (stored and stored[0] < plan.steps):
        return False
    return HarmonyDreamAgent.load(path, device="cpu", verbose=0).num_timesteps >= plan.steps


def _run(
    folder: Path, plan: Plan, name: str, seed: int, options: argparse.Namespace
) -> tuple[int, dict[str, Any] | None]:
    """Train and evaluate what is not yet; the exit status, and the run's row where that is 0."""
    own, status = _run_folder(folder, name, seed), 0
    if not _is_trained(own, plan):
        status = train.run(flags.changed(options, seed=seed, folder=own))
    if status:
        return status, None
    own = _run_folder(folder, name, seed)
    agent = HarmonyDreamAgent.load(own / AGENT_FILE, device=options.device, verbose=0)
    how: dict[str, Any] = {"seed": EVALUATION_SEED, "n_envs": EVALUATION_ENVS, "env_kwargs": plan.env_kwargs}
    try:
        found = evaluate(agent, plan.task, options.episodes, **how, progress_bar=bar_is_seen())
    except Exception as error:  # whatever an environment of anybody's does; the other runs are worth more
        traceback.print_exception(error)
        return FAILED, None
    return 0, {"variant": name, "seed": seed, "folder": str(own), "evaluation": found.to_json()}


def scores(rows: list[dict[str, Any]], name: str) -> dict[int, float]:
    """Seed -> mean return of one variant's agents."""
    return {row["seed"]: row["evaluation"]["mean_return"] for row in rows if row["variant"] == name}


def table(rows: list[dict[str, Any]]) -> str:
    """Per variant the score of every seed and their mean; then the first one's lead over each other, seed by seed.

    A dash stands where a run failed.
    """
    names = list(dict.fromkeys(row["variant"] for row in rows))
    found = {name: scores(rows, name) for name in names}
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
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


def draw(path: Path, task: str, rows: list[dict[str, Any]]) -> None:
    """Left the returns over env steps, thin per seed and thick their mean; right the evaluations, a line per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    curves, pairs = figure.subplots(1, 2, width_ratios=(2, 1))
    names = list(dict.fromkeys(row["variant"] for row in rows))
    found, returns = curves_of([Path(row["folder"]) for row in rows])
    for name, colour in zip(names, cycle(COLOURS), strict=False):
        runs = [curve for curve, row in zip(found, rows, strict=True) if row["variant"] == name]
        draw_mean(curves, runs, colour, MEANING.get(name, name))
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
    figure.savefig(path, dpi=120)
