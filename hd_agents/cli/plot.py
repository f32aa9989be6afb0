"""`hd-agents plot`: learning curves, scores, and what a suite's scores add up to, beside the published ones."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hd_agents import zoo
from hd_agents.cli import figures
from hd_agents.cli.curves import Curve, curves_of
from hd_agents.cli.errors import UsageError, checked, make_folder, require
from hd_agents.cli.known_runs import KnownRun, label, once, read
from hd_agents.evaluation import aggregates
from hd_agents.evaluation.scores import human_normalized
from hd_agents.zoo.catalogue import suites
from hd_agents.zoo.results import normalized


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
    runs = once(one for what in options.what for one in read(what))
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
