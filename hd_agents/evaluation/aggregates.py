"""What a suite's scores add up to, with intervals, by the `rliable` library (Agarwal et al., NeurIPS 2021).

Scores are arrays (R, K): R runs, one per seed, of each of K tasks, normalised so that they can be averaged over tasks.
Intervals hold 95% of resamples in which the runs of each task are drawn anew with replacement (stratified bootstrap):
they tell of other seeds, not of other tasks. With one run per task they are points.

Needs the `plot` extra.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hd_agents.extras import needing

MEASURES = ("IQM", "median", "mean", "optimality gap")
RESAMPLES = 2000
Scores = NDArray[np.float64]


class Estimate(NamedTuple):
    """A value, or P of them, and the bounds of its 95% interval."""

    value: Any
    low: Any
    high: Any


def aggregates(scores: Mapping[str, Scores]) -> dict[str, dict[str, Estimate]]:
    """Method -> measure -> estimate, for the MEASURES of each method's scores (R, K).

    The interquartile mean leaves out the lowest and the highest quarter of all R * K runs; median and mean are over the
    means of the tasks; the optimality gap is how far the runs fall short of 1, on average, beyond which nothing counts.

    :raises ImportError: without rliable, naming the extra. :raises ValueError: for scores of another shape.
    """
    scores = {method: _checked(method, runs) for method, runs in scores.items()}

    def measure(runs: Scores) -> Scores:
        found = (metrics.aggregate_iqm, metrics.aggregate_median, metrics.aggregate_mean)
        return np.array([*(function(runs) for function in found), metrics.aggregate_optimality_gap(runs)])

    with _rliable() as (library, metrics):
        values, bounds = library.get_interval_estimates(scores, measure, reps=RESAMPLES)
    found = {}
    for method in scores:
        estimates = np.stack([values[method], *bounds[method]], axis=1)
        found[method] = {name: Estimate(*map(float, row)) for name, row in zip(MEASURES, estimates, strict=True)}
    return found


def profiles(scores: Mapping[str, Scores], thresholds: NDArray[np.float64]) -> dict[str, Estimate]:
    """Method -> the share of its runs that score above each of P thresholds.

    :raises ImportError: without rliable, naming the extra. :raises ValueError: for scores of another shape.
    """
    scores = {method: _checked(method, runs) for method, runs in scores.items()}
    with _rliable() as (library, _):
        values, bounds = library.create_performance_profile(scores, thresholds, reps=RESAMPLES)
    return {method: Estimate(values[method], *bounds[method]) for method in scores}


def improvement(first: Scores, second: Scores) -> Estimate:
    """How probable it is that a run of ``first`` (R, K) beats one of ``second`` (S, K) at the same task, on average
    over tasks; a tie counts half.

    :raises ImportError: without rliable, naming the extra. :raises ValueError: for scores of another shape, or where
        the two are not of as many tasks.
    """
    first, second = _checked("first", first), _checked("second", second)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"first is of {first.shape[1]} tasks and second of {second.shape[1]}: pass the same tasks of both."
        )
    with _rliable() as (library, _):
        values, bounds = library.get_interval_estimates({"": (first, second)}, _beats, reps=RESAMPLES)
    return Estimate(float(values[""]), *map(float, bounds[""][:, 0]))


def _checked(name: str, scores: Scores) -> Scores:
    """Scores as rliable needs them: it says nothing of other shapes, or fails in its own code."""
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise ValueError(f"The scores of {name} have the shape {found.shape}: expected (runs, tasks), a row per seed.")
    return found


def _beats(first: Scores, second: Scores) -> Any:
    """rliable's own function of this makes a test of significance for every task and resample: 30 times as slow."""
    return np.mean((first[:, None] > second) + 0.5 * (first[:, None] == second))


@contextmanager
def _rliable() -> Iterator[tuple[Any, Any]]:
    """rliable draws from NumPy's shared generator: the same numbers each time, and no trace left of it."""
    with needing("rliable's aggregate of scores", "plot"):
        from rliable import library, metrics
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield library, metrics
    finally:
        np.random.set_state(before)  # noqa: NPY002
