"""Learning curves of several runs in one picture: thin lines per seed, a thick one for their mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hd_agents.cli import pictures

POINTS = 100  # of a mean curve
Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


def smoothed(folder: Path) -> Curve:
    """Env steps at the ends of a run's training episodes, and the mean return of up to WINDOW episodes before each."""
    steps, totals = pictures.read_episodes(folder)
    return steps, pictures.moving_mean(totals)


def draw_mean(axes: Any, curves: Sequence[Curve], colour: str, label: str, style: str = "-") -> None:
    """Draw curves of the same settings, and their mean where all of them have values; nothing for empty ones."""
    curves = [(steps, values) for steps, values in curves if len(steps)]
    for steps, values in curves:
        axes.plot(steps, values, style, color=colour, alpha=0.3, linewidth=1)
    if curves:
        grid = np.linspace(max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves), POINTS)
        mean = np.mean([np.interp(grid, *curve) for curve in curves], axis=0)
        axes.plot(grid, mean, style, color=colour, linewidth=2.5, label=label)
