"""Pictures of an agent at work: a video of it playing, and a film strip of its dream below what really happened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import PolicyPredictor

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.files import write_figure
from hd_agents.films.strip import CONTEXT, CURVE_HORIZON, HORIZON, draw, to_rgb
from hd_agents.randomness import seeded
from hd_agents.spaces import ObservationCodec
from hd_agents.spaces.executed import EXECUTED, encode_executed

MAX_STEPS = 1500  # of an episode that is played for pictures
MIN_SIDE = 256  # pixels; smaller frames are enlarged
ENDINGS = (".mp4", ".webm", ".mkv", ".avi")  # of files that can hold VP9
DRAWINGS = (".png", ".jpg", ".pdf", ".svg")  # endings of files that a dream is drawn into
LINE = 18  # pixels; height of a line of a video's caption

Image = NDArray[np.uint8]


class Episode(NamedTuple):
    """An episode of T steps, or the first ones of one.

    :param seed: of its reset, and of the agent's random numbers.
    :param observations: T + 1, as the env gives them. :param actions: T, as it takes them: those that were done.
    :param rewards: T floats.
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
            observation, reward, terminated, truncated, info = env.step(taken)
            if EXECUTED in info and state is not None:
                state[2][0], action = encode_executed(agent.policy.actions, info, 0), np.asarray(info[EXECUTED])
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
            drawn: Any = env.render()
            if isinstance(drawn, np.ndarray) and drawn.dtype.kind in "iu" and drawn.shape[2:] == (3,):
                return drawn.astype(np.uint8)
            what = f"{drawn.dtype} of shape {drawn.shape}" if isinstance(drawn, np.ndarray) else type(drawn).__name__
            told = f"render() gave {what}, expected an array (H, W, 3) of uint8"
        except Exception as error:  # whatever an environment of anybody's does
            told = str(error) if isinstance(error, DependencyNotInstalled) else repr(error)
        print(f"Cannot draw {env.spec.id if env.spec else env}: {told}")
        env.unwrapped.render_mode = None
    if not codec.images:
        return None
    return to_rgb(codec.encode(observation)[next(iter(codec.images))][0])


def frames_per_second(env: gym.Env[Any, Any]) -> float:
    """How fast the env's drawings are meant to be shown; 30 where it does not tell."""
    return float(env.metadata.get("render_fps") or 30)


def write_video(path: Path, frames: Sequence[Image], fps: float, captions: Sequence[str] | None = None) -> None:
    """Write RGB frames of one size as a video that browsers play (VP9), enlarged to at least MIN_SIDE pixels.

    :param path: with one of ENDINGS.
    :param captions: one per frame, all with as many lines, for a black bar below it; None for no bar.
    :raises ValueError: for another ending. :raises OSError: where OpenCV cannot write such files, or not all of one.
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
    if not cv2.VideoCapture(str(path)).isOpened():  # OpenCV does not tell when the disk is full
        path.unlink()
        raise OSError(f"{path} could not be written to its end: the disk is full, or a limit is reached")


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

    The agent sees the observations up to the piece's first one, and from there on only the actions;
    :func:`hd_agents.films.strip.draw` says what is shown.

    :param episode: one step or more, played by the agent. :param task: for the title.
    :return: ``seed`` of the episode, ``context`` observations seen, ``horizon`` steps dreamt.
    """
    codec = ObservationCodec(agent.observation_space)
    horizon = HORIZON if codec.images else CURVE_HORIZON
    start = max(0, min(CONTEXT, len(episode.actions) - horizon))
    end = min(start + horizon, len(episode.actions))
    actions = np.array(episode.actions[start:end])
    dream = agent.imagine(episode.observations[start], actions, state=episode.states[start])
    rows = [codec.encode(observation) for observation in episode.observations[: end + 1]]
    truth = codec.restore({key: np.concatenate([row[key] for row in rows]) for key in rows[0]})
    title = f"{task}, episode of seed {episode.seed}"
    write_figure(path, draw(truth, np.array(episode.rewards[:end]), dream, start, title))
    return {"seed": episode.seed, "context": start + 1, "horizon": end - start}
