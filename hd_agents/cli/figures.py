"""The figures of `hd-agents plot`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hd_agents import zoo
from hd_agents.cli.curves import Curve, draw_mean
from hd_agents.evaluation.aggregates import MEASURES, Estimate
from hd_agents.files import write_figure
from hd_agents.zoo.catalogue import suites

COLOURS = ("#08519c", "#d94801", "#238b45", "#88419d", "#b8860b", "#ae017e", "#41b6c4", "#7f2704")
GREYS = ("#444444", "#999999")  # of what others published
COLUMNS = 4  # panels side by side
MARGIN, LEGEND = 0.2, 0.5  # inches: beside the legend, and of a figure's height that are meant for it


def curves(path: Path, tasks: Mapping[str, Mapping[str, Sequence[Curve]]], returns: str) -> Path:
    """A panel per task: the return over env steps, of all methods; ``returns`` says of which kind it is."""
    from matplotlib.ticker import EngFormatter

    colours = _colours(method for methods in tasks.values() for method in methods)
    figure, panels = _panels(tasks)
    published = False
    for axes, (name, methods) in zip(panels, tasks.items(), strict=True):
        for method, found in methods.items():
            published |= colours[method] in GREYS and any(len(steps) for steps, _ in found)
            draw_mean(axes, found, colours[method], method, "--" if colours[method] in GREYS else "-")
        axes.set_title(name, fontsize=10)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 100k: six digits reach into those of the next tick
        axes.grid(alpha=0.3)
    figure.supxlabel("env steps")
    figure.supylabel(f"{returns}\n(dashed: published evaluations)" if published else returns, fontsize=9)
    return _save(figure, path)


def scores(path: Path, tasks: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Path:
    """A panel per task: every run's mean return, with the 99% interval of another evaluation's, method by method."""
    colours = _colours(method for methods in tasks.values() for method in methods)
    figure, panels = _panels(tasks)
    told = any("interval" in row for methods in tasks.values() for rows in methods.values() for row in rows)
    for axes, (name, methods) in zip(panels, tasks.items(), strict=True):
        place = 0
        for method, rows in methods.items():
            for row in rows:
                low, high = row.get("interval", (row["mean_return"], row["mean_return"]))
                handle = axes.plot(place, row["mean_return"], "o", color=colours[method], markersize=4)[0]
                axes.plot([place, place], [low, high], color=colours[method])
                place += 1
            handle.set_label(method)
            place += 1
        axes.set_title(name, fontsize=10)
        axes.set_xticks([])
        axes.grid(alpha=0.3)
    what = "mean return of the evaluation, a point per seed"
    figure.supylabel(f"{what}\n(lines: 99% intervals of another evaluation's)" if told else what, fontsize=9)
    return _save(figure, path)


def aggregates(
    path: Path,
    title: str,
    values: Mapping[str, Mapping[str, Estimate]],
    thresholds: NDArray[Any],
    profiles: Mapping[str, Estimate],
    better: Mapping[tuple[str, str], Estimate],
) -> Path:
    """Above the measures with their intervals; below the performance profiles and the probabilities of improvement."""
    from matplotlib.figure import Figure

    colours, methods = _colours(values), list(values)
    figure = Figure(figsize=(12, 3.5 + 0.5 * len(methods)), layout="constrained")
    upper, lower = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=(1 + 0.4 * len(methods), 3))))
    for axes, measure in zip(upper.subplots(1, len(MEASURES), sharey=True), MEASURES, strict=True):
        for place, method in enumerate(methods):
            _interval(axes, place, values[method][measure], colours[method])
        axes.set_title(measure, fontsize=10)
        axes.use_sticky_edges = False
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.grid(alpha=0.3, axis="x")
    left, right = lower.subplots(1, 2, width_ratios=(2, 1))
    for method, found in profiles.items():
        left.plot(thresholds, found.value, color=colours[method], label=method)
        left.fill_between(thresholds, found.low, found.high, color=colours[method], alpha=0.2, linewidth=0)
    left.set(xlabel="normalised score", ylabel="share of runs above it", ylim=(0, 1))
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    for place, ((_, second), found) in enumerate(better.items()):
        _interval(right, place, found, colours[second])
    right.axvline(0.5, color="black", linewidth=0.8)
    right.set_yticks(range(len(better)), [f"... over {second}" for _, second in better])
    right.set(xlabel="probability of improvement", xlim=(0, 1), ylim=(max(1, len(better)) - 0.5, -0.5))
    right.set_title(f"{methods[0]} ...", fontsize=9)
    right.grid(alpha=0.3, axis="x")
    figure.suptitle(f"{title} (95% intervals)", fontsize=10)
    write_figure(path, figure)
    return path


def _interval(axes: Any, place: int, found: Estimate, colour: str) -> None:
    axes.barh(place, found.high - found.low, left=found.low, height=0.5, color=colour, alpha=0.4)
    axes.plot([found.value, found.value], [place - 0.25, place + 0.25], color=colour, linewidth=2)


def _colours(methods: Iterable[str]) -> dict[str, str]:
    """A colour per method; greys for the published ones."""
    published = {method for suite in suites() if (known := zoo.published(suite)) for method in known.curves}
    found: dict[str, str] = {}
    for method in dict.fromkeys(methods):
        palette = GREYS if method in published else COLOURS
        used = sum(colour in palette for colour in found.values())
        found[method] = palette[used % len(palette)]
    return found


def _panels(tasks: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """A figure with a panel per task."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(1 + 3.3 * columns, 1.2 + 2.4 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(tasks) :]:
        axes.remove()
    return figure, grid[: len(tasks)]


def _save(figure: Any, path: Path) -> Path:
    """Give the figure one legend for all panels, which it grows for, and write it."""
    handles = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    width, height = figure.get_size_inches()
    for columns in (2, 1):
        legend = figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, fontsize=9)
        size = legend.get_window_extent().size / figure.dpi
        if columns == 1 or size[0] + MARGIN <= width:
            break
        legend.remove()
    figure.set_size_inches(max(width, size[0] + MARGIN), height + max(0.0, size[1] - LEGEND))
    write_figure(path, figure)
    return path
