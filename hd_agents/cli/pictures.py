"""Pictures of what an agent learnt: a video of it playing, its learning curve, and its dream beside the truth."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.spaces import ObservationCodec

MAX_STEPS = 1500  # of an episode that is played for pictures
CONTEXT = 9  # steps that the agent sees before it dreams on
HORIZON = 14  # steps that it dreams
MIN_SIDE = 256  # pixels; smaller frames are enlarged
WINDOW = 20  # episodes; of the curve's moving average
COLUMNS = 8  # at most so many moments of a dream are drawn

Image = NDArray[np.uint8]


class Episode(NamedTuple):
    """An episode of T steps, or the first MAX_STEPS of one.

    :param observations: T + 1, as the env gives them. :param actions: T, as it takes them. :param rewards: T floats.
    :param states: T; what the agent remembered before ``observations[t]``, None at the start.
    :param frames: T + 1 pictures (H, W, 3) for people, or none where the env draws nothing.
    """

    observations: list[Any]
    actions: list[Any]
    rewards: list[float]
    states: list[Any]
    frames: list[Image]


def play(agent: HarmonyDreamAgent, env: gym.Env[Any, Any], seed: int) -> Episode:
    """Let the agent play one episode of a single environment, with sampled actions as in training."""
    codec = ObservationCodec(env.observation_space)
    observation, _ = env.reset(seed=seed)
    episode = Episode([observation], [], [], [], [])
    frames = [_frame(env, codec, observation)]
    state, start = None, np.ones(1, dtype=bool)
    for _ in range(MAX_STEPS):
        episode.states.append(state)
        action, state = agent.predict(observation, state, start)
        observation, reward, terminated, truncated, _ = env.step(action)
        start = np.zeros(1, dtype=bool)
        episode.observations.append(observation)
        episode.actions.append(action)
        episode.rewards.append(float(reward))
        frames.append(_frame(env, codec, observation))
        if terminated or truncated:
            break
    return episode._replace(frames=[frame for frame in frames if frame is not None])


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


def write_video(path: Path, frames: Sequence[Image], fps: float) -> None:
    """Write RGB frames of one size as an mp4 that browsers play (VP9), enlarged to at least MIN_SIDE pixels."""
    import cv2

    height, width = frames[0].shape[:2]
    scale = max(1, -(-MIN_SIDE // min(height, width)))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"vp09"), fps, (width * scale, height * scale))
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write {path}: its build has no VP9 encoder")
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR).repeat(scale, axis=0).repeat(scale, axis=1))
    writer.release()


def read_episodes(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Env steps taken by all environments up to the end of each training episode, and its return, in order of time."""
    rows: list[tuple[int, int, float]] = []
    for path in sorted(folder.glob("*.monitor.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            next(file)  # a comment line with the file's metadata
            end = 0  # steps of this environment, which are the clock of all: they step together
            for row in csv.DictReader(file):
                end += int(row["l"])
                rows.append((end, int(row["l"]), float(row["r"])))
    rows.sort()
    return np.cumsum([length for _, length, _ in rows], dtype=np.int64), np.array([total for *_, total in rows])


def moving_mean(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each number and up to WINDOW - 1 before it."""
    sums = np.cumsum(np.concatenate([[0.0], totals]))
    first = np.maximum(np.arange(len(totals)) + 1 - WINDOW, 0)
    return (sums[1:] - sums[first]) / (np.arange(len(totals)) + 1 - first)


def draw_curve(path: Path, steps: NDArray[np.int64], totals: NDArray[np.float64], title: str) -> None:
    """Plot each episode's return, and the mean of up to WINDOW episodes before it, over env steps."""
    from matplotlib.figure import Figure

    means = moving_mean(totals)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, totals, ".", color="#9ecae1", label="one episode")
    axes.plot(steps, means, color="#08519c", label=f"mean of the last {WINDOW}")
    axes.set(title=title, xlabel="env steps", ylabel="return of training episodes")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_dream(path: Path, agent: HarmonyDreamAgent, episode: Episode) -> bool:
    """Draw HORIZON steps of the episode above what the agent imagines for them, knowing only what came before, the
    first of the frames, and the actions. False, and no file, where the observations hold no image.
    """
    from matplotlib.figure import Figure

    codec = ObservationCodec(agent.observation_space)
    if not codec.images:
        return False
    start = max(0, min(CONTEXT, len(episode.actions) - HORIZON))
    end = min(start + HORIZON, len(episode.actions))
    actions = np.array(episode.actions[start:end])
    dream = agent.imagine(episode.observations[start], actions, state=episode.states[start])
    key = next(iter(codec.images))
    steps = np.unique(np.linspace(0, end - start, COLUMNS).round().astype(int))
    figure = Figure(figsize=(1.3 * len(steps), 3.3), layout="constrained")
    grid = figure.subplots(2, len(steps), squeeze=False)
    for column, step in enumerate(steps):
        real = codec.encode(episode.observations[start + step])[key][0]
        upper, lower = grid[:, column]
        upper.imshow(to_rgb(real), interpolation="nearest")
        lower.imshow(to_rgb(dream.observations[key][step]), interpolation="nearest")
        upper.set_title("now" if step == 0 else f"+{step}", fontsize=9)
        if step:
            upper.set_xlabel(f"reward {episode.rewards[start + step - 1]:.1f}", fontsize=8)
            lower.set_xlabel(f"reward {dream.rewards[step - 1]:.1f}", fontsize=8)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    grid[0, 0].set_ylabel("reality")
    grid[1, 0].set_ylabel("dream")
    figure.savefig(path, dpi=120)
    return True
