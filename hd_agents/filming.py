"""Pictures of an agent at work: a video of it playing, and a film strip of its dream below what really happened."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import PolicyPredictor

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.imagine import Imagined
from hd_agents.randomness import seeded
from hd_agents.spaces import SINGLE_KEY, ObservationCodec

MAX_STEPS = 1500  # of an episode that is played for pictures
CONTEXT = 9  # steps that the agent takes before it dreams on
HORIZON = 14  # steps that it dreams where images are shown
CURVE_HORIZON = 45  # steps that it dreams where curves are drawn
MIN_SIDE = 256  # pixels; smaller frames are enlarged
ENDINGS = (".mp4", ".webm", ".mkv", ".avi")  # of files that can hold VP9
COLUMNS = 8  # at most so many moments of a dream, or numbers of an observation, are drawn
LINE = 18  # pixels; height of a line of a video's caption

Image = NDArray[np.uint8]


class Episode(NamedTuple):
    """An episode of T steps, or the first ones of one.

    :param seed: of its reset, and of the agent's random numbers.
    :param observations: T + 1, as the env gives them. :param actions: T, as it takes them. :param rewards: T floats.
    :param states: T; what the agent remembered before ``observations[t]``, None at the start.
    :param frames: T + 1 pictures (H, W, 3) for people, or none where the env draws nothing.
    :param whole: whether it was played to its end.
    """

    seed: int
    observations: list[Any]
    actions: list[Any]
    rewards: list[float]
    states: list[Any]
    frames: list[Image]
    whole: bool


def play(
    agent: HarmonyDreamAgent,
    env: gym.Env[Any, Any],
    seed: int,
    steps: int | None = None,
    player: PolicyPredictor | None = None,
) -> Episode:
    """Let the agent play one episode of a single environment.

    The same call gives the same episode again, and leaves torch's random numbers as they were.

    :param steps: the most to play; None for MAX_STEPS.
    :param player: chooses the actions, by ``predict``; None for the agent itself, with sampled actions as in training.
    """
    codec = ObservationCodec(env.observation_space)
    observation, _ = env.reset(seed=seed)
    observations, frames = [observation], [_frame(env, codec, observation)]
    actions: list[Any] = []
    rewards: list[float] = []
    states: list[Any] = []
    state, start, done = None, np.ones(1, dtype=bool), False
    with seeded(seed, agent.device):
        while not done and len(actions) < (MAX_STEPS if steps is None else steps):
            states.append(state)
            action, state = (player or agent).predict(observation, state, start)
            # Gymnasium's tables of states are indexed by an int, and not by an array.
            taken = int(action) if isinstance(env.action_space, gym.spaces.Discrete) else action
            observation, reward, terminated, truncated, _ = env.step(taken)
            start, done = np.zeros(1, dtype=bool), bool(terminated or truncated)
            observations.append(observation)
            actions.append(action)
            rewards.append(float(reward))
            frames.append(_frame(env, codec, observation))
    shown = [frame for frame in frames if frame is not None]
    return Episode(seed, observations, actions, rewards, states, shown, done)


def _frame(env: gym.Env[Any, Any], codec: ObservationCodec, observation: Any) -> Image | None:
    """What a person would see: the env's own drawing, else the first image of the observation, else nothing."""
    if env.render_mode == "rgb_array":
        try:
            return np.asarray(env.render(), dtype=np.uint8)
        except DependencyNotInstalled as error:
            print(f"Cannot draw {env.spec.id if env.spec else env}: {error}")
            env.unwrapped.render_mode = None
    if not codec.images:
        return None
    return to_rgb(codec.encode(observation)[next(iter(codec.images))][0])


def to_rgb(image: Image) -> Image:
    """(H, W, C) with 1 to 4 channels -> (H, W, 3): grey is repeated, a 4th channel dropped, of two the last shown."""
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., -1:], 3, axis=-1)


def write_video(path: Path, frames: Sequence[Image], fps: float, captions: Sequence[str] | None = None) -> None:
    """Write RGB frames of one size as a video that browsers play (VP9), enlarged to at least MIN_SIDE pixels.

    :param path: with one of ENDINGS.
    :param captions: one per frame, all with as many lines, for a black bar below it; None for no bar.
    :raises ValueError: for another ending. :raises OSError: where OpenCV cannot write such files.
    """
    import cv2

    check_ending(path)
    height, width = frames[0].shape[:2]
    scale = max(1, -(-MIN_SIDE // min(height, width)))
    bars = [_bar(caption, width * scale) for caption in captions or ()]
    size = (width * scale, height * scale + (len(bars[0]) if bars else 0))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"vp09"), fps, size)
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write {path}: the folder cannot be written, or its build has no VP9 encoder")
    for number, frame in enumerate(frames):
        large = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR).repeat(scale, axis=0).repeat(scale, axis=1)
        writer.write(np.concatenate([large, bars[number]]) if bars else large)
    writer.release()


def check_ending(path: Path) -> None:
    """Raise ValueError where a video cannot be written because of its name."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path}: a video's name ends in {', '.join(ENDINGS)}; use {path.with_suffix('.mp4').name}.")


def _bar(caption: str, width: int) -> Image:
    """White text on black, (lines * LINE, width, 3); long lines are written smaller."""
    import cv2

    lines = caption.split("\n")
    bar = np.zeros((len(lines) * LINE, width, 3), np.uint8)
    for number, line in enumerate(lines):
        (needed, _), _ = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
        size = 0.45 * min(1.0, (width - 8) / max(needed, 1))
        place = (4, number * LINE + LINE - 5)
        cv2.putText(bar, line, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)
    return bar


def draw_dream(path: Path, agent: HarmonyDreamAgent, episode: Episode, task: str) -> dict[str, int]:
    """Draw what happened in a piece of an episode, what the agent dreams for it, and how far they are apart.

    The agent sees the observations up to the piece's first one, and from there on only the actions. Of an observation
    with images the first is shown at some moments (truth, dream and error below each other), else its first numbers as
    curves, error shaded; with the rewards.

    :param episode: one step or more, played by the agent. :param task: for the title.
    :return: ``seed`` of the episode, ``context`` observations seen, ``horizon`` steps dreamt.
    """
    from matplotlib.figure import Figure

    images = ObservationCodec(agent.observation_space).images
    horizon = HORIZON if images else CURVE_HORIZON
    start = max(0, min(CONTEXT, len(episode.actions) - horizon))
    end = min(start + horizon, len(episode.actions))
    actions = np.array(episode.actions[start:end])
    dream = agent.imagine(episode.observations[start], actions, state=episode.states[start])
    figure = Figure(layout="constrained")
    if images:
        _draw_images(figure, agent, episode, dream, start)
    else:
        _draw_curves(figure, episode, dream, start)
    seen = f"{start + 1} observations" if start else "the first observation"
    figure.suptitle(
        f"{task}, episode of seed {episode.seed}: the agent saw {seen}, and dreamt the next {end - start} steps "
        "from the actions alone",
        fontsize=9,
    )
    figure.savefig(path, dpi=120)
    return {"seed": episode.seed, "context": start + 1, "horizon": end - start}


def _draw_images(figure: Any, agent: HarmonyDreamAgent, episode: Episode, dream: Imagined, start: int) -> None:
    """Truth, dream and their difference in three rows, one moment a column."""
    codec = ObservationCodec(agent.observation_space)
    key = next(iter(codec.images))
    steps = np.unique(np.linspace(0, len(dream.rewards), COLUMNS).round().astype(int))
    figure.set_size_inches(1.3 * max(len(steps), 5), 4.8)
    grid = figure.subplots(3, len(steps), squeeze=False)
    for column, step in enumerate(steps):
        truth = to_rgb(codec.encode(episode.observations[start + step])[key][0])
        dreamt = to_rgb(dream.observations[key][step])
        error = np.abs(truth.astype(np.int16) - dreamt).astype(np.uint8)
        for axes, image in zip(grid[:, column], (truth, dreamt, error), strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        grid[0, column].set_title("now" if step == 0 else f"+{step}", fontsize=9)
        if step:
            grid[0, column].set_xlabel(f"reward {episode.rewards[start + step - 1]:.1f}", fontsize=8)
            grid[1, column].set_xlabel(f"reward {dream.rewards[step - 1]:.1f}", fontsize=8)
    for axes, name in zip(grid[:, 0], ("truth", "dream", "error"), strict=True):
        axes.set_ylabel(name)


def _draw_curves(figure: Any, episode: Episode, dream: Imagined, start: int) -> None:
    """The first numbers of the observation and the reward over time, in a panel each: truth, dream, the gap shaded."""
    end = start + len(dream.rewards)
    dreamt = {key: values.reshape(len(values), -1) for key, values in dream.observations.items()}
    panels = []
    for key, values in dreamt.items():
        truth = np.stack([_numbers(observation, key) for observation in episode.observations[: end + 1]])
        panels += [(f"{key}[{index}]", truth[:, index], values[:, index], 0) for index in range(values.shape[1])]
    left_out = len(panels) - COLUMNS
    panels = [*panels[:COLUMNS], ("reward", np.array(episode.rewards[:end]), dream.rewards, 1)]
    rows = -(-len(panels) // 3)
    figure.set_size_inches(10, 2.0 * rows + 0.5)
    grid = figure.subplots(rows, 3, squeeze=False).ravel()
    for axes, (name, truth, values, first) in zip(grid, panels, strict=False):
        now, later = np.arange(start + first, end + 1), np.arange(first, end + 1)
        axes.plot(later, truth, color="black", linewidth=1, label="truth")
        axes.plot(now, values, color="#d95f02", linewidth=1, label="dream")
        axes.fill_between(now, truth[start:], values, color="#d95f02", alpha=0.2, label="error")
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


def _numbers(observation: Any, key: str) -> NDArray[np.float64]:
    """One entry of an observation, flat."""
    part = observation[key] if isinstance(observation, Mapping) else {SINGLE_KEY: observation}[key]
    return np.asarray(part, dtype=np.float64).ravel()
