"""`hd-agents plot`: learning curves, scores, and what a suite's scores add up to, beside the published ones."""

import argparse
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import figures
from hd_agents.cli.curves import Curve, curves_of, read_evaluation
from hd_agents.cli.errors import UsageError, checked, make_folder, require
from hd_agents.cli.resuming import settings_in
from hd_agents.cli.runs import EVALUATION
from hd_agents.evaluation import aggregates
from hd_agents.evaluation.scores import human_normalized, prediction_interval
from hd_agents.saving.jsonable import DamagedError
from hd_agents.zoo.catalogue import name_of, suites
from hd_agents.zoo.models import CONFIG, training_facts
from hd_agents.zoo.results import SAME_RUN, normalized, read_rows, settings_of

OURS = "hd_agents"
TOLD = ("backbone", "harmony", "size", "preset", "env_steps")  # of a row of results


class KnownRun(NamedTuple):
    """A training run that something is known of.

    :param name: of the task. :param settings: what tells it apart from runs by other settings.
    :param row: its score, None where it was not evaluated. :param folder: of its logs, None where there is only a row.
    """

    name: str
    seed: int
    settings: Mapping[str, Any]
    row: Mapping[str, Any] | None
    folder: Path | None


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `plot` and its flags to the command line."""
    parser = commands.add_parser(
        "plot",
        help="draw learning curves and aggregate scores of runs, beside the published ones",
        description="Draw learning curves (a thin line per seed, a thick one for the mean), the scores of every task, "
        "and per suite the interquartile mean, median, mean, optimality gap, performance profiles and probability of "
        "improvement with 95% intervals by rliable. Runs with different settings get lines of their own. Atari's games "
        "have the official curves and scores beside them.",
    )
    what = "folders of runs, tables of results (.csv), or suites: their results in the zoo (default: runs)"
    parser.add_argument("what", nargs="*", metavar="WHAT", default=["runs"], help=what)
    parser.add_argument("--output", type=Path, default=Path("plots"), help="folder to draw into (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draw what there is, print the aggregates and name the files; the exit status is 0."""
    require("plot", "matplotlib", "yaml")
    known = checked(suites)
    asked = [what for what in options.what if what in known]
    runs = _once(one for what in options.what for one in _read(what))
    labels = label(runs)
    evaluated = [one.name.partition("/")[0] for one in runs if one.row is not None]
    found = {suite: scores(suite, runs, labels, suite in asked) for suite in dict.fromkeys([*asked, *evaluated])}
    (curves, returns), points = _curves(runs, labels, asked), _points(runs, labels)
    estimates = checked(lambda: {suite: _aggregate(methods) for suite, methods in found.items() if methods})
    if not (curves or points or estimates):
        raise UsageError(f"nothing to draw in {', '.join(options.what)}: no episode has ended, nothing was evaluated.")
    make_folder(options.output)
    written = [figures.curves(options.output / "curves.png", curves, returns)] if curves else []
    written += [figures.scores(options.output / "scores.png", points)] if points else []
    for suite, (values, thresholds, profiles, better) in estimates.items():
        title = f"{suite}: {describe(found[suite])}"
        print(f"{title}\n{table(values, better)}")
        path = options.output / f"aggregates_{suite}.png"
        written.append(figures.aggregates(path, title, values, thresholds, profiles, better))
    print("\n".join(f"  {path}" for path in written))
    return 0


def label(runs: Sequence[KnownRun]) -> list[str]:
    """What each run is called: the settings in which it differs from others of its task, or OURS if all are alike."""
    settings = [one.settings for one in runs]
    varying: list[str] = []
    for name in dict.fromkeys(one.name for one in runs):
        known: dict[str, set[str]] = {}
        for logged in (True, False):  # a row of results tells less than a folder: what it leaves out may be alike
            alike = [index for index, one in enumerate(runs) if (one.name, one.folder is not None) == (name, logged)]
            for key in dict.fromkeys(key for index in alike for key in settings[index]):
                if logged and any(key not in settings[index] for index in alike):
                    for index in alike:  # a default that is told is no other setting than one that is left out
                        settings[index] = {k: v for k, v in settings[index].items() if k != key or v != _default(key)}
                known.setdefault(key, set()).update(str(settings[index].get(key, "default")) for index in alike)
        varying += [key for key, values in known.items() if len(values) > 1 and key not in varying]
    return [", ".join(f"{key} {told[key]}" for key in varying if key in told) or OURS for told in settings]


def _default(setting: str) -> Any:
    """What the agent takes where a run's settings do not have it."""
    parameter = inspect.signature(HarmonyDreamAgent).parameters.get(setting)
    return inspect.Parameter.empty if parameter is None else parameter.default


def scores(suite: str, runs: Sequence[KnownRun], labels: Sequence[str], whole: bool = False) -> dict[str, np.ndarray]:
    """Method -> normalised scores (R, K) of the K tasks that every method has, with as many runs as each task has.

    The published methods come last. Empty where no score of the suite can be normalised.

    :param whole: the suite is meant: what has been run on less than half of its tasks is left out, and told.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for one, name in zip(runs, labels, strict=True):
        value = normalized(one.row) if one.row is not None and one.name.startswith(f"{suite}/") else None
        if value is not None:
            found.setdefault(name, {}).setdefault(one.name, []).append(value)
    published = zoo.published(suite)
    for method, curves in (published.curves if published else {}).items():
        values = {name: [human_normalized(zoo.env_id(name), score) for score in c[:, -1]] for name, c in curves.items()}
        found[method] = {name: [value for value in seeds if value is not None] for name, seeds in values.items()}
    most = max(map(len, found.values()), default=0)
    for method in [method for method, tasks in found.items() if whole and 2 * len(tasks) < most]:
        few = found.pop(method)
        print(
            f"{suite}: {method} has {len(few)} of {most} tasks and is not aggregated; to compare over these alone, "
            "give the folder of the runs, or a table."
        )
    common = set.intersection(*(set(tasks) for tasks in found.values())) if found else set()
    if not common:
        return {}
    counts = {method: min(len(tasks[name]) for name in common) for method, tasks in found.items()}
    return {
        method: np.array([tasks[name][: counts[method]] for name in sorted(common)]).T
        for method, tasks in found.items()
    }


def describe(found: Mapping[str, np.ndarray]) -> str:
    """How many tasks and runs of each the scores are of."""
    tasks = next(iter(found.values())).shape[1]
    return f"{tasks} tasks; runs of each: " + ", ".join(f"{method} {len(runs)}" for method, runs in found.items())


def table(
    values: Mapping[str, Mapping[str, aggregates.Estimate]], better: Mapping[tuple[str, str], aggregates.Estimate]
) -> str:
    """The aggregates with their intervals, a line per method, and the probabilities of improvement."""

    def text(found: aggregates.Estimate) -> str:
        alone = found.low == found.high  # as of one run, of which there is nothing to draw
        return f"{found.value:.3f}" + ("" if alone else f" [{found.low:.3f}, {found.high:.3f}]")

    width = max(map(len, values))
    lines = [" " * width + "".join(f"{name:>24}" for name in aggregates.MEASURES)]
    lines += [
        f"{method:<{width}}" + "".join(f"{text(x):>24}" for x in found.values()) for method, found in values.items()
    ]
    lines += [f"P({first} > {second}) = {text(found)}" for (first, second), found in better.items()]
    return "\n".join(lines)


def _aggregate(found: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    """Aggregates, thresholds and profiles, and the probability that the first method improves on each other one."""
    first, *others = found
    top = max(1.0, float(np.quantile(np.concatenate([runs.ravel() for runs in found.values()]), 0.95)))
    thresholds = np.linspace(0, top, 61)
    better = {(first, other): aggregates.improvement(found[first], found[other]) for other in others}
    return aggregates.aggregates(found), thresholds, aggregates.profiles(found, thresholds), better


def _curves(
    runs: Sequence[KnownRun], labels: Sequence[str], asked: Sequence[str]
) -> tuple[dict[str, dict[str, list[Curve]]], str]:
    """Task -> method -> curves, the published ones last: of tasks that were run here, and of the suites asked for.

    And what returns ours are of.
    """
    found: dict[str, dict[str, list[Curve]]] = {}
    logged = [(one, name, one.folder) for one, name in zip(runs, labels, strict=True) if one.folder is not None]
    ours, returns = checked(lambda: curves_of([folder for *_, folder in logged]))
    for (one, name, _), curve in zip(logged, ours, strict=True):
        if len(curve[0]):
            found.setdefault(one.name, {}).setdefault(name, []).append(curve)
    for suite in dict.fromkeys([*asked, *(name.partition("/")[0] for name in found)]):
        if published := zoo.published(suite):
            for method, curves in published.curves.items():
                for name in curves if suite in asked else [name for name in curves if name in found]:
                    pairs = [(published.env_steps, values) for values in curves[name]]
                    found.setdefault(name, {})[method] = pairs
    return found, returns


def _points(runs: Sequence[KnownRun], labels: Sequence[str]) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Task -> method -> the rows of its runs; the published scores of these tasks last, as rows too."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for one, name in zip(runs, labels, strict=True):
        if one.row is not None:
            found.setdefault(one.name, {}).setdefault(name, []).append(one.row)
    for name, methods in found.items():
        if published := zoo.published(name.partition("/")[0]):
            for method in [method for method, curves in published.curves.items() if name in curves]:
                methods[method] = [{"mean_return": score} for score in published.scores(method, name)]
    return found


def _once(runs: Iterable[KnownRun]) -> list[KnownRun]:
    """Without what is there twice: in two tables, or in a folder, which tells more, and in its table."""

    def told(one: KnownRun, *more: str) -> tuple[Any, ...]:
        row = one.row or {}
        is_known = row.get("wall_seconds") is not None  # else it was written by hand, and says too little
        return tuple(row.get(key) for key in (*SAME_RUN, *more)) if is_known else (id(one),)

    # Runs of two folders are two, also where they took as many seconds.
    alone = {told(one, "command") if one.folder is None else one.folder.resolve(): one for one in runs}
    logged = {told(one) for one in alone.values() if one.folder is not None}
    return [one for one in alone.values() if one.folder is not None or told(one) not in logged]


def _read(what: str) -> Iterable[KnownRun]:
    """The runs of a suite's results, of a table, or of a folder."""
    if what in suites():
        return map(_of_row, checked(lambda: zoo.results(what)))
    path = Path(what)
    if path.suffix == ".csv" and path.is_file():
        return map(_of_row, checked(lambda: read_rows(path)))
    if not path.is_dir():
        raise UsageError(f"{what} is not a folder, a table of results (.csv) or a suite ({', '.join(suites())}).")
    logs = sorted(path.rglob("0.monitor.csv"))
    runs = [_of_folder(log.parent) for log in logs if (log.parent / CONFIG).is_file()]
    if not runs:
        raise UsageError(f"{what} holds no run of `hd-agents train`, `compare` or `benchmark`.")
    return runs


def _of_row(row: Mapping[str, Any]) -> KnownRun:
    settings = {key: row[key] for key in TOLD} | settings_of(row["command"])
    return KnownRun(row["name"], row["seed"], settings, row, None)


def _of_folder(folder: Path) -> KnownRun:
    found = settings_in(folder)
    if len(found) != 1 or "seed" not in (settings := next(iter(found.values()))):
        raise DamagedError(f"{folder / CONFIG} is damaged: it should hold one task with its settings and seed.")
    name, row = name_of(next(iter(found))), None
    if (folder / EVALUATION).is_file():
        played, facts = read_evaluation(folder / EVALUATION), training_facts(folder) or {}
        row = {"success_rate": None, "human_normalized_score": None, **played, "name": name, "seed": settings["seed"]}
        row |= {key: facts.get(key) for key in ("commit", "wall_seconds")}
        row["interval"] = prediction_interval(played["returns"], played["episodes"])
    return KnownRun(name, settings.pop("seed"), settings, row, folder)
