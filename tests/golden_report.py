"""How a golden case is compared: tolerances, errors of values and of named tensors, and the rows they make."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from golden_case import Arrays, Case, Row
from torch import Tensor

from hd_agents import official
from hd_agents.backbones import Networks

FORWARD, GRADIENT, UPDATED, CHANGED = 1e-5, 1e-3, 1e-4, 1e-2


def difference(ours: Tensor | np.ndarray | float, theirs: np.ndarray) -> float:
    """Largest error, relative to max(1, |official|)."""
    a = ours.detach().double().numpy() if isinstance(ours, Tensor) else np.asarray(ours, np.float64)
    b = np.asarray(theirs, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((np.abs(a - b) / np.maximum(1.0, np.abs(b))).max())


class Report:
    """Collects the rows of one part of a case."""

    def __init__(self, case: Case, part: str) -> None:
        self.case, self.part = case, part
        self.rows: list[Row] = []

    def add(self, quantity: str, error: float, tolerance: float) -> None:
        self.rows.append(Row(self.case.name, self.part, quantity, error, tolerance))

    def forward(self, quantity: str, ours: Tensor | np.ndarray | float, theirs: np.ndarray) -> None:
        """Compare values."""
        self.add(quantity, difference(ours, theirs), FORWARD)

    def idle(self, name: str) -> bool:
        """An official tensor without a counterpart: counters, and the log-sigma of an image that is not there."""
        image = re.search(r"har(mony)?_s2", name) is not None
        return not self.case.model.images if image else official.UNUSED.search(name) is not None

    def tensors(self, quantity: str, ours: Mapping[str, np.ndarray], data: Arrays, key: str, prefix: str) -> None:
        """Compare named tensors with the full ones and with the statistics of all of them.

        Gradients count relative to their tensor's largest entry, sums of n entries relative to sqrt(n) times its norm.

        :param prefix: what ``data`` leaves out of the names in ``ours``.
        """
        worst = worst_statistic = 0.0
        floor = 1e-6 * max(data[f"{key}__stats"][:, 3])  # below that a gradient is rounding
        for name, stats in zip(data[f"{key}__names"], data[f"{key}__stats"], strict=True):
            mine = ours.get(prefix + name)
            if mine is None:
                assert not stats.any() or self.idle(prefix + name), f"{name} has no gradient here"
                continue
            full = data.get(f"{key}/{name}")
            if full is not None:
                worst = max(worst, np.abs(mine - full).max() / max(np.abs(full).max(), floor))
            size, norm = mine.size, max(stats[0], floor)
            scale = np.array([norm, norm * size**0.5, norm * size**0.5, max(stats[3], floor)])
            worst_statistic = max(worst_statistic, (np.abs(statistics(mine) - stats) / scale).max())
        self.add(f"{quantity}, full", float(worst), GRADIENT)
        self.add(f"{quantity}, statistics of all", float(worst_statistic), GRADIENT)


def statistics(x: np.ndarray) -> np.ndarray:
    """Norm, sum, product with a ramp from -1 to 1 (1 for a single number), largest magnitude."""
    flat = x.astype(np.float64).ravel()
    ramp = np.linspace(-1, 1, flat.size) if flat.size > 1 else np.ones(1)
    return np.array([np.linalg.norm(flat), flat.sum(), flat @ ramp, np.abs(flat).max()])


def orphan(case: Case, net: Networks) -> bool:
    """Whether wmlib has a log-sigma for an image that is not there. We have none: it adds log(1 + sigma) to the total,
    the slope of that to the gradient's norm, and nothing to anything else.
    """
    return not case.jax and not case.model.images and bool(net.harmonizer.harmonized)


def strip(data: Arrays, prefix: str) -> Arrays:
    """The entries under ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}


def updated(report: Report, ours: Mapping[str, np.ndarray], data: Arrays, key: str) -> None:
    """Parameters after an update: absolute or relative, whichever is milder. And, as updates of 1e-5 move nothing by
    more than that tolerance, the mean error over the mean movement since the start, of the worst tensor.
    """
    worst = worst_statistic = worst_change = 0.0
    for name, stats in zip(data[f"{key}__names"], data[f"{key}__stats"], strict=True):
        mine = ours.get(name)
        if mine is None:
            assert report.idle(name), f"{name} is missing"
            continue
        full = data.get(f"{key}/{name}")
        if full is not None:
            worst = max(worst, difference(mine, full))
            moved = np.abs(full - report.case.params[name]).sum()
            worst_change = max(worst_change, np.abs(mine - full).sum() / moved if moved else 0.0)
        errors = np.abs(statistics(mine) - stats)[[0, 3]] / np.maximum(1.0, np.abs(stats[[0, 3]]))
        worst_statistic = max(worst_statistic, float(errors.max()))
    if worst_change:
        report.add(f"{key}, full", worst, UPDATED)
        report.add(f"{key}, error over change", worst_change, CHANGED)
    report.add(f"{key}, statistics of all", worst_statistic, UPDATED)
