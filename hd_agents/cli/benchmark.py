"""`hd-agents benchmark`: every task of a suite from several seeds, one row of a table per run."""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hd_agents import HarmonyDreamAgent, checks, zoo
from hd_agents.cli import flags, hints, runs, tracking, train
from hd_agents.cli.errors import FAILED, UsageError, checked, make_folder, require
from hd_agents.cli.resuming import changed_settings, repeat_command
from hd_agents.cli.running import locked
from hd_agents.cli.runs import Run, make_run
from hd_agents.cli.tasks import task_id, try_agent
from hd_agents.evaluation import protocol
from hd_agents.evaluation.scores import prediction_interval
from hd_agents.files import sha256_of
from hd_agents.zoo.catalogue import preset_of, suites
from hd_agents.zoo.own_rows import is_file
from hd_agents.zoo.results import EVALUATED, NETWORKS, SAME_RUN, append_row, read_rows

TABLE = "results.csv"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `benchmark` and its flags to the command line."""
    parser = commands.add_parser(
        "benchmark",
        help="train every task of a suite from several seeds; one row of results.csv per run",
        description="Train every task of a suite from every seed, in processes of their own, evaluate the last weights "
        "by the papers' rule, and add a row per run to a table. To continue after a stop, give the same command again: "
        "it skips runs that have their row, and unfinished ones go on from their last checkpoint. Exit status 1 if a "
        "run failed.",
    )
    parser.add_argument("suite", help="the first part of the names that `hd-agents list` shows, such as classic")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks of the suite (default: all)")
    runs.add_flags(parser, 5)
    folder_help = "the folder of the runs, new or to continue (default: runs/benchmark_SUITE)"
    parser.add_argument("--folder", type=Path, help=folder_help)
    parser.add_argument("--results", type=Path, metavar="CSV", help="the table (default: results.csv in the folder)")
    parser.add_argument(
        "--checkpoint-every",
        type=flags.count,
        metavar="STEPS",
        help="store each run every STEPS env steps (default: a twentieth of the run)",
    )
    flags.add_setting_flags(parser)
    flags.add_eval_flags(parser)
    tracking.add_flags(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run what has no row yet and return the exit status: 0, or FAILED where a run failed."""
    require("train", *train.NEEDED)
    train.check_flags(options)
    folder = options.folder or flags.RUNS / f"benchmark_{options.suite}"
    results = options.results or folder / TABLE
    asked = [_run(name, seed, folder, options) for name in _tasks(options) for seed in flags.seeds(options)]
    try_agent(asked[0].plan, "cpu")  # says which extra is missing; a GPU is for the runs
    hints.hint_of_gpu((one.plan for one in asked), options.device)
    for one in asked:
        if changed := changed_settings(one.folder, one.plan, one.seed):
            raise UsageError(f"{one.folder} was begun with other settings ({changed}): give another --folder.")
    make_folder(results.parent)

    def record(one: Run) -> None:
        append_row(results, row(one))
        one.tidy()

    with locked(folder):
        rows = checked(lambda: read_rows(results))
        _check_episodes(asked, rows, options.episodes)
        left = []
        for one in asked:
            known = recorded(one, rows) is not None
            if not known and one.evaluation() is None:
                left.append(one)
            elif not known:
                record(one)
            elif (one.folder / runs.EVALUATION).exists():
                one.tidy()
        print(
            f"{options.suite}: {len(asked)} runs, {len(asked) - len(left)} of them done; results in {results}",
            flush=True,
        )
        failed = runs.run_all(left, options.jobs, record)
    print(f"Mean return ± deviation of the seeds' means:\n{summary(asked, read_rows(results))}")
    if failed:
        print(f"{len(failed)} of {len(asked)} runs FAILED: {', '.join(failed)}")
    return FAILED if failed else 0


def _check_episodes(asked: Sequence[Run], rows: Sequence[dict[str, Any]], episodes: int | None) -> None:
    """Raises UsageError where a run was judged by another number of episodes than are to be played now, if any are."""
    done = [recorded(one, rows) or one.evaluation() for one in asked]
    for one, found in zip(asked, done, strict=True) if episodes is not None or None in done else ():
        wanted = protocol(one.plan.task)[1] if episodes is None else episodes
        if (told := (found or {}).get("episodes", wanted)) != wanted:
            raise UsageError(
                f"{one.name}, seed {one.seed}, was evaluated in {told} episodes, and {wanted} are to be played now: "
                f"give --episodes {told}, or another --folder."
            )


def row(one: Run) -> dict[str, Any]:
    """The row of a run that is done, from the files in its folder."""
    played, facts, command = one.evaluation() or {}, one.facts(), _command(one)
    usual = {key: value.default for key, value in inspect.signature(HarmonyDreamAgent).parameters.items()}
    arguments = {**usual, **one.plan.arguments}
    return {
        **{"name": one.name, "task": one.plan.task, "seed": one.seed, "command": command, "model": None},
        **{key: played.get(key) for key in (*EVALUATED, "env_steps", "gradient_steps")},
        **{"interval": list(prediction_interval(played["returns"], played["episodes"]))},
        **{key: facts[key] for key in ("wall_seconds", "machine", "commit")},
        **{key: facts.get(key, arguments[key]) for key in NETWORKS},  # a class of one's own may have other defaults
        **{"preset": preset_of(command) + _version(one), "date": facts["trained"]},
    }


def _version(one: Run) -> str:
    """What tells a file of settings from others of its name, or from itself after a change; nothing for a preset."""
    return f" {sha256_of(one.preset())[:8]}" if is_file(one.options.preset) and one.preset().is_file() else ""


def _command(one: Run) -> str:
    """What repeats the run elsewhere."""
    return repeat_command(one.name, one.options)


def recorded(one: Run, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """A run's row, if it has one: by its command, or, where that says the same in other words, by its folder.

    By its folder alone where the command names a file of settings, which may be another than it was then.
    """
    told = {"name": one.name, "seed": one.seed, "command": _command(one)}
    found = [] if is_file(one.options.preset) else [row for row in rows if told.items() <= row.items()]
    if not found and one.evaluation():
        known = {**one.facts(), **told}
        found = [row for row in rows if all(row[key] == known[key] for key in SAME_RUN)]
    return found[0] if found else None


def summary(asked: Sequence[Run], rows: Sequence[dict[str, Any]]) -> str:
    """A line per task: the mean of its seeds' scores, and their deviation."""
    scores: dict[str, list[float]] = {one.name: [] for one in asked}
    for one in asked:
        if found := recorded(one, rows):
            scores[one.name].append(found["mean_return"])
    width = max(map(len, scores))
    lines = [
        f"{name:<{width}}  "
        + (
            f"{np.mean(x):.2f}" + (f" ± {np.std(x):.2f}" if len(x) > 1 else "") + f" (seeds: {len(x)})"
            if x
            else "not run"
        )
        for name, x in scores.items()
    ]
    commits = {str(found["commit"]) for one in asked if (found := recorded(one, rows))}
    if len(commits) > 1:
        lines.append(f"These runs are of several commits: {', '.join(sorted(commits))}")
    return "\n".join(lines)


def _tasks(options: argparse.Namespace) -> list[str]:
    """The names of the tasks that are asked for."""
    try:
        checked(lambda: checks.choice("suite", options.suite, suites()))
    except UsageError as error:
        if not isinstance(error.__cause__, ValueError):
            raise
        raise UsageError(
            f"{error} A single task from several seeds: hd-agents compare {options.suite} --harmony on --seeds 5."
        ) from error
    names = zoo.list(f"{options.suite}/")
    if options.tasks is None:
        return names
    ids = {zoo.env_id(name): name for name in names}
    wanted = [task_id(task if "/" in task or task in ids else f"{options.suite}/{task}") for task in options.tasks]
    if foreign := [task for task, found in zip(options.tasks, wanted, strict=True) if found not in ids]:
        raise UsageError(
            f"--tasks {' '.join(foreign)}: not in {options.suite}; `hd-agents list {options.suite}` shows it."
        )
    return [name for found, name in ids.items() if found in wanted]


def _run(name: str, seed: int, folder: Path, options: argparse.Namespace) -> Run:
    chosen = flags.changed(options, task=name, seed=seed)
    return make_run(name, folder / f"{name.partition('/')[2]}_{seed}", f"{name} seed {seed}", chosen)
