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
    below each other), else its first numbers as curves, error shaded; with the rewards.

    :param truth: key -> (start + H + 1, ...), in the form of ``dream.observations``. :param rewards: (start + H,).
    :param dream: H steps from ``truth[key][start]`` on. :param title: of the episode.
    """
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    images = [key for key, values in truth.items() if values.dtype == np.uint8 and values.ndim == 4]
    if images:
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
    steps = np.unique(np.linspace(0, len(dreamt_rewards), COLUMNS).round().astype(int))
    figure.set_size_inches(1.3 * max(len(steps), 5), 4.8)
    grid = figure.subplots(3, len(steps), squeeze=False)
    for column, step in enumerate(steps):
        happened, imagined = to_rgb(truth[step]), to_rgb(dreamt[step])
        error = np.abs(happened.astype(np.int16) - imagined).astype(np.uint8)
        for axes, image in zip(grid[:, column], (happened, imagined, error), strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        grid[0, column].set_title("now" if step == 0 else f"+{step}", fontsize=9)
        if step:
            grid[0, column].set_xlabel(f"reward {rewards[step - 1]:.1f}", fontsize=8)
            grid[1, column].set_xlabel(f"reward {dreamt_rewards[step - 1]:.1f}", fontsize=8)
    for axes, name in zip(grid[:, 0], ("truth", "dream", "error"), strict=True):
        axes.set_ylabel(name)


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
    figure.set_size_inches(10, 2.0 * rows + 0.5)
    grid = figure.subplots(rows, 3, squeeze=False).ravel()
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
    for axes in grid[len(panels) :]:
        axes.axis("off")
    grid[0].legend(fontsize=7)
    figure.supxlabel(f"step{f'; {left_out} more numbers are not shown' if left_out > 0 else ''}", fontsize=8)
