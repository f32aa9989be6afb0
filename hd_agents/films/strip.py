"""A film strip of a dream: what happened, what the world model dreamt would happen, and how far they are apart."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hd_agents.imagine import Imagined

CONTEXT = 9  # steps that the agent takes before it dreams on
HORIZON = 14  # steps that it dreams where images are shown
CURVE_HORIZON = 45  # steps that it dreams where curves are drawn
COLUMNS = 8  # at most so many moments of a dream, or numbers of an observation, are drawn

Image = NDArray[np.uint8]
Truth = Mapping[str, NDArray[Any]]


def draw(truth: Truth, rewards: NDArray[Any], dream: Imagined, start: int, title: str) -> Any:
    """A figure of matplotlib. Of an observation with images the first is shown at some moments (truth, dream and error
    below each other), named where there are several, else its first numbers as curves, error shaded; with the rewards.

    :param truth: key -> (start + H + 1, ...), in the form of ``dream.observations``. :param rewards: (start + H,).
    :param dream: H steps from ``truth[key][start]`` on. :param title: of the episode.
    """
    from matplotlib.figure import Figure

    figure = Figure()
    images = [key for key, values in truth.items() if values.dtype == np.uint8 and values.ndim == 4]
    if images:
        title += f", image {images[0]!r} of {len(images)}" if len(images) > 1 else ""
        _draw_images(figure, truth[images[0]][start:], dream.observations[images[0]], rewards[start:], dream.rewards)
    else:
        _draw_curves(figure, truth, rewards, dream, start)
    seen = f"{start + 1} observations" if start else "the first observation"
    figure.suptitle(
        f"{title}: the agent saw {seen}, and dreamt the next {len(dream.rewards)} steps from the actions alone",
        fontsize=9,
    )
    return figure


def to_rgb(image: Image) -> Image:
    """(H, W, C) with 1 to 4 channels -> (H, W, 3): grey is repeated, a 4th channel dropped, of two the last shown."""
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., -1:], 3, axis=-1)


def _draw_images(
    figure: Any, truth: Image, dreamt: Image, rewards: NDArray[Any], dreamt_rewards: NDArray[np.float32]
) -> None:
    """Truth, dream and their difference in three rows, one moment a column."""
    from matplotlib.patches import Rectangle

    steps = np.unique(np.linspace(0, len(dreamt_rewards), COLUMNS).round().astype(int))
    figure.set_size_inches(1.3 * max(len(steps), 6), 4.8)
    happened, imagined = to_rgb(truth[steps]), to_rgb(dreamt[steps])
    error = np.abs(happened.astype(np.int16) - imagined).astype(np.uint8)
    moments = ["now" if step == 0 else f"+{step}" for step in steps]
    below = [[f"reward {given[step - 1]:.1f}" if step else "" for step in steps] for given in (rewards, dreamt_rewards)]
    height, width = truth.shape[1:3]
    cell = max(width + max(1, width // 16), 4 * height // 5)  # room for what is written below a narrow picture
    left = (cell - width) // 2
    middles = cell * np.arange(len(steps)) + left + (width - 1) / 2
    # Laid out by hand, and a row at once: a layout engine, and axes for every picture, take three times as long.
    grid = figure.subplots(3, 1, gridspec_kw={"left": 0.04, "right": 0.99, "top": 0.87, "bottom": 0.02, "hspace": 0.2})
    rows = zip(grid, ("truth", "dream", "error"), (happened, imagined, error), [*below, None], strict=True)
    for axes, name, images, labels in rows:
        spaced = np.full((*images.shape[:2], cell, 3), 255, np.uint8)
        spaced[:, :, left : left + width] = images
        axes.imshow(np.concatenate(list(spaced), axis=1), interpolation="nearest")
        for middle in middles:
            corner = middle - width / 2, -0.5
            axes.add_patch(Rectangle(corner, width, height, fill=False, linewidth=0.8, clip_on=False))
        axes.set_xticks(middles if labels else [], labels)
        axes.set(yticks=[], ylabel=name)
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
    for middle, moment in zip(middles, moments, strict=True):
        grid[0].annotate(moment, (middle, -0.5), (0, 4), textcoords="offset points", ha="center", fontsize=9)


def _draw_curves(figure: Any, truth: Truth, rewards: NDArray[Any], dream: Imagined, start: int) -> None:
    """The first numbers of the observation and the reward over time, in a panel each: truth, dream, the gap shaded."""
    end = start + len(dream.rewards)
    panels = []
    for key, values in dream.observations.items():
        happened, dreamt = truth[key].reshape(end + 1, -1), values.reshape(len(values), -1)
        panels += [(f"{key}[{index}]", happened[:, index], dreamt[:, index], 0) for index in range(dreamt.shape[1])]
    left_out = len(panels) - COLUMNS
    panels = [*panels[:COLUMNS], ("reward", rewards, dream.rewards, 1)]
    rows = -(-len(panels) // 3)
    height = 2.0 * rows + 0.5
    figure.set_size_inches(10, height)
    sides = {"left": 0.06, "right": 0.99, "top": 1 - 0.5 / height, "bottom": 0.45 / height}
    grid = figure.subplots(rows, 3, squeeze=False, gridspec_kw={**sides, "hspace": 0.3, "wspace": 0.2}).ravel()
    for axes, (name, happened, values, first) in zip(grid, panels, strict=False):
        now, later = np.arange(start + first, end + 1), np.arange(first, end + 1)
        axes.plot(later, happened, color="black", linewidth=1, label="truth")
        axes.plot(now, values, color="#d95f02", linewidth=1, label="dream")
        axes.fill_between(now, happened[start:], values, color="#d95f02", alpha=0.2, label="error")
        axes.axvline(start, color="grey", linestyle=":", linewidth=1)
        low, high = axes.get_ylim()
        half = max((high - low) / 2, abs(high + low) / 20)  # a gap of a thousandth shall not look like much
        axes.set_ylim((high + low) / 2 - half, (high + low) / 2 + half)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=4, integer=True)
        axes.locator_params(axis="y", nbins=5)
        axes.ticklabel_format(axis="y", scilimits=(-3, 5))
    for axes in grid[len(panels) :]:
        axes.axis("off")
    figure.legend(*grid[0].get_legend_handles_labels(), fontsize=7, loc="lower right", ncols=3, frameon=False)
    figure.supxlabel(f"step{f'; {left_out} more numbers are not shown' if left_out > 0 else ''}", fontsize=8)
