"""Learning curves: the returns of training episodes, out of a run's monitor files, and how they are drawn."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hd_agents.evaluation.score_curve import read_scores
from hd_agents.files import write_figure
from hd_agents.saving.jsonable import DamagedError

WINDOW = 10  # episodes; of the curve's moving average
POINTS = 100  # of a mean curve
SCORES = "scores.jsonl"  # in a run's folder: evaluations while it learned
EVALUATION_SEED = 10_000  # of an evaluation's first episode; the same episodes for every agent
EVALUATION_ENVS = 5  # side by side, which sampled episodes depend on
Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


def read_episodes(folder: Path) -> Curve:
    """Env steps taken by all environments up to the end of each training episode, and its return, in order of time.

    :raises DamagedError: for a file that holds something else.
    """
    rows: list[tuple[int, float]] = []
    files = sorted(folder.glob("*.monitor.csv"))  # one of each environment
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            end = 0  # env steps of all: they step together
            try:
                next(file, None)  # a comment line with the file's metadata
                for row in csv.DictReader(file):
                    if row["t"] is None:  # the run goes on, and this line is being written
                        break
                    end += int(row["l"]) * len(files)
                    rows.append((end, float(row["r"])))
            except (ValueError, KeyError, csv.Error) as error:
                raise DamagedError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    rows.sort()
    return np.array([end for end, _ in rows], np.int64), np.array([total for _, total in rows])


def moving_mean(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each number and up to WINDOW - 1 before it."""
    sums = np.cumsum(np.concatenate([[0.0], totals]))
    first = np.maximum(np.arange(len(totals)) + 1 - WINDOW, 0)
    return (sums[1:] - sums[first]) / (np.arange(len(totals)) + 1 - first)


def read_evaluation(path: Path) -> dict[str, Any]:
    """What `hd-agents evaluate` wrote.

    :raises DamagedError: for a file that holds something else.
    """
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        numbers = {"episodes": int(found["episodes"]), "mean_return": float(found["mean_return"])}
        returns = [float(one) for one in found["returns"]]
        if not returns or len(returns) != numbers["episodes"]:
            raise ValueError(f"{len(returns)} returns of {numbers['episodes']} episodes")
        return found | numbers | {"returns": returns}
    except (ValueError, TypeError, KeyError) as error:
        told = f"{path} is damaged: {type(error).__name__}: {error}. Remove it to have the run evaluated again."
        raise DamagedError(told) from error


def evaluations(folder: Path) -> Curve:
    """Env steps and mean returns of the evaluations while a run learned."""
    found = read_scores(folder / SCORES)
    return np.array([line["env_steps"] for line in found], np.int64), np.array([line["mean_return"] for line in found])


def curves_of(folders: Sequence[Path]) -> tuple[list[Curve], str]:
    """A curve of each run, and what they show: :func:`evaluations` if all of them have some, else training returns."""
    found = [evaluations(folder) for folder in folders]
    if found and all(len(steps) for steps, _ in found):
        return found, "mean return of evaluations"
    trained = [read_episodes(folder) for folder in folders]
    return [(steps, moving_mean(totals)) for steps, totals in trained], f"training return, mean of {WINDOW} episodes"


def draw_curve(path: Path, episodes: Curve, evaluated: Curve, title: str) -> None:
    """Plot each episode's return, the mean of up to WINDOW episodes before it, and evaluations, over env steps."""
    from matplotlib.figure import Figure

    steps, totals = episodes
    means = moving_mean(totals)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, totals, ".", color="#9ecae1", label="one training episode")
    axes.plot(steps, means, color="#08519c", label=f"mean of the last {WINDOW}")
    if len(evaluated[0]):
        axes.plot(*evaluated, "o-", color="#d94801", label="evaluation")
    axes.set(title=title, xlabel="env steps", ylabel="return")
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(path, figure)


def draw_mean(axes: Any, curves: Sequence[Curve], colour: str, label: str, style: str = "-") -> None:
    """Draw curves of the same settings, and their mean where all of them have values; nothing for empty ones."""
    curves = [(steps, values) for steps, values in curves if len(steps)]
    for steps, values in curves:
        axes.plot(steps, values, "o" if len(steps) == 1 else style, color=colour, alpha=0.3, linewidth=1)
    if not curves:
        return
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    if first < last:
        grid = np.linspace(first, last, POINTS)
        mean = np.mean([np.interp(grid, *curve) for curve in curves], axis=0)
        axes.plot(grid, mean, style, color=colour, linewidth=2.5, label=label)
    else:
        axes.plot([], [], style, color=colour, label=label)
