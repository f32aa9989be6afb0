"""The DeepMind Control suite with a film in the background, which the agent has to learn to ignore."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hd_agents.envs.dmc import Control, Image
from hd_agents.envs.rendering import Renderer
from hd_agents.extras import needing
from hd_agents.randomness import new_generator

__all__ = ["NaturalControl", "generate_background", "read_background"]

GENERATED = "generated"
GREY_GROUNDS = ("cheetah", "hopper", "stacker", "walker")
MATERIALS, SKY = "./common/materials.xml", "./common/skybox.xml"  # of dm_control's suite
FOLDER_VARIABLE = "HD_AGENTS_VIDEOS"  # instead of --env-kwargs videos=..., which the files of a run repeat


class NaturalControl(Control):
    """A task of the DeepMind Control suite in front of a film.

    Where blue is the largest of a pixel's colours the film shows instead: in the sky, and on most grounds, which are
    bluer here than dm_control's; that of cheetah, hopper, stacker and walker is grey and stays. The film is grey too,
    one frame per step, and goes on over the ends of episodes, from where ``reset(seed=...)`` has put it. The recipe is
    that of HarmonyDream's code (wmlib-torch/wmlib/envs/natural_bg_dmc.py and its copy of the suite), which showed
    Kinetics-400's videos of cars. Rewards are dm_control's; there hopper's have a wider margin.

    :param domain: dm_control's.
    :param task: dm_control's.
    :param videos: folder of videos in any format that OpenCV reads, searched with its subfolders, or one such file;
        ``"generated"`` for moving stripes; None for what the variable ``HD_AGENTS_VIDEOS`` says.
    :param video_frames: how many frames to take, from videos in random order; they are shown over and over.
    :param video_seed: of that order; None for the seed of the first ``reset``, so that every run and its evaluation
        have films of their own, as there.
    :param grayscale: False keeps the film's colours.
    :param control_options: arguments of :class:`hd_agents.envs.dmc.Control`.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        videos: str | os.PathLike[str] | None = None,
        video_frames: int = 1000,
        video_seed: int | None = None,
        grayscale: bool = True,
        **control_options: Any,
    ) -> None:
        videos = os.environ.get(FOLDER_VARIABLE) if videos is None else videos
        if not videos:
            raise ValueError(
                "A natural background needs videos: pass videos=<folder> (--env-kwargs videos=<folder>) or set "
                f"{FOLDER_VARIABLE}=<folder>; any format that OpenCV reads. The word {GENERATED!r} instead of a folder "
                "makes moving stripes."
            )
        self._videos: str | Path = videos if videos == GENERATED else Path(videos).expanduser()
        self._size = int(control_options.get("size", 64))
        if isinstance(self._videos, Path):
            read_background(self._videos, self._size, 1, 0, grayscale)  # an error now, not at the first reset
        self._frames_wanted, self._grayscale = video_frames, grayscale
        self._film: npt.NDArray[np.uint8] | None = None
        super().__init__(domain, task, **control_options)
        self._video_seed: int | None = None
        self._now: int | None = None  # index of the frame that shows; None before the first reset
        if video_seed is not None:
            self._choose(video_seed)

    def _choose(self, seed: int) -> None:
        """Take the film of ``seed``."""
        self._video_seed = seed
        if isinstance(self._videos, Path):
            self._film = read_background(self._videos, self._size, self._frames_wanted, seed, self._grayscale)
        else:
            self._film = generate_background(self._size, self._frames_wanted, seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; with a seed the film starts anywhere."""
        if self._film is None:
            self._choose(int(self.np_random.integers(2**31)) if seed is None else seed)
        if seed is not None:
            self._now = None
        return super().reset(seed=seed, options=options)

    def get_state(self) -> dict[str, Any]:
        """As :meth:`hd_agents.envs.replayed.Replayed.get_state`, with the film, which has begun before the episode."""
        film = {"film": self._now, "video_seed": self._video_seed}
        return {**super().get_state(), **film, "generator": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """As :meth:`hd_agents.envs.replayed.Replayed.set_state`."""
        if state["video_seed"] != self._video_seed:
            self._choose(state["video_seed"])
        super().set_state(state)
        self._now = state["film"]
        self.np_random = new_generator(state["generator"])

    def _observe(self, parts: dict[str, Any]) -> Any:
        assert self._film is not None  # since the first reset
        if self._now is None:
            self._now = int(self.np_random.integers(len(self._film)))
        else:
            self._now = (self._now + 1) % len(self._film)
        return super()._observe(parts)

    def _draw(self, eye: Renderer) -> Image:
        picture = super()._draw(eye)
        if self._film is None:
            return picture
        frame = self._film[self._now or 0]
        if len(picture) != len(frame):
            rows = np.arange(len(picture)) * len(frame) // len(picture)
            frame = frame[rows][:, rows]
        red, green, blue = np.moveaxis(picture, -1, 0)
        behind = (blue > red) & (blue > green)
        picture[behind] = frame[behind]
        return picture

    def _assets(self, domain: str) -> dict[str, bytes]:
        """dm_control's shared materials and sky in the colours of HarmonyDream's copy of the suite."""
        from dm_control.suite.common import ASSETS

        grey = domain in GREY_GROUNDS
        dark, light = (".1 .1 .1", ".2 .2 .2") if grey else (".1 .1 .4", ".2 .2 .8")
        painted = {"rgb1": dark, "rgb2": light, "markrgb": dark}
        materials = ASSETS[MATERIALS].decode()
        grid = re.search(r'<texture name="grid"[^>]*>', materials)
        assert grid is not None
        materials = materials.replace(grid[0], _recoloured(grid[0], painted))
        if not grey:
            decoration = re.search(r'<material name="decoration"[^>]*>', materials)
            assert decoration is not None
            materials = materials.replace(decoration[0], _recoloured(decoration[0], {"rgba": ".7 .5 .3 1"}))
        sky = _recoloured(ASSETS[SKY].decode(), {"markrgb": "0 0 0"})
        return {MATERIALS: materials.encode(), SKY: sky.encode()}


def _recoloured(element: str, colours: Mapping[str, str]) -> str:
    """An element of XML with other values for some of its attributes."""
    for name, value in colours.items():
        element = re.sub(rf'\b{name}="[^"]*"', f'{name}="{value}"', element)
    return element


def read_background(place: Path, size: int, frames: int, seed: int, grayscale: bool) -> npt.NDArray[np.uint8]:
    """Read at most ``frames`` frames from a video, or from a folder's videos in random order.

    :param size: pixels of the frames' edge, whatever the video's shape; bilinear, as in the official code.
    :return: ``(n, size, size, 1)``, or ``(n, size, size, 3)`` in colour. :raises FileNotFoundError: if nothing can be
        read. :raises ImportError: without OpenCV.
    """
    with needing("A video", "dmc"):
        import cv2

    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    film: list[npt.NDArray[np.uint8]] = []
    for number in np.random.default_rng(seed).permutation(len(files)):
        video = cv2.VideoCapture(str(files[number]))
        while len(film) < frames:
            found, frame = video.read()
            if not found:
                break
            frame = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY if grayscale else cv2.COLOR_BGR2RGB)
            film.append(np.asarray(cv2.resize(frame, (size, size)), np.uint8).reshape(size, size, -1))
        video.release()
        if len(film) == frames:
            break
    if not film:
        raise FileNotFoundError(f"No video that OpenCV can read in {place} ({len(files)} files looked at).")
    return np.stack(film)


def generate_background(size: int, frames: int, seed: int) -> npt.NDArray[np.uint8]:
    """Moving stripes of four directions and speeds: ``(frames, size, size, 1)``."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    time = np.arange(frames)[:, None, None]
    light = np.zeros((frames, size, size))
    for _ in range(4):
        across, down = rng.uniform(-6.0, 6.0, 2)  # waves over the picture
        speed = rng.uniform(-0.1, 0.1)  # waves a frame
        light += np.sin(2 * np.pi * (across * columns + down * rows + speed * time))
    return (127.5 + light * (127.5 / 4)).astype(np.uint8)[..., None]
