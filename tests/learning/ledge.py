"""The task that shows what harmony is for."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

Image = npt.NDArray[np.uint8]
Info = dict[str, Any]


class Ledge(gymnasium.Env[Image, np.int64]):
    """A small light decides everything, in an image that is otherwise a big unpredictable distraction.

    The light stands at one of five places in a row. Actions 0 to 2: left, stay, right, by one place; and with
    probability 1/5 it jumps to any place at random. A step pays by the place that it led to: 0, 1/3, 2/3, 1 from left
    to right, but -1 in the last place, over the ledge. All the rest of the image is redrawn at every step, so its loss
    stays in the hundreds while the light is worth next to nothing to it: the world model learns the light in time only
    if the reward's loss gets its say. With the defaults the best policy scores 9.4 on average, a random one 2.4, and
    the best that doesn't see the light 4.2.

    Args:
        strength: amplitude of the distraction, 0 (calm) to 1 (the whole range of a pixel).
        patches: its grain: a ``patches x patches`` board of random colours. The fewer, the more each is worth.
        light: edge of the square light in pixels, 1 to ``pixels // 5``.
        contrast: brightness of the light over mid-grey, 0 to 1.
        steps: length of an episode, then ``truncated``.
        pixels: edge of the square image, a multiple of ``patches``.
    """

    PAY = (0.0, 1 / 3, 2 / 3, 1.0, -1.0)
    JUMP_PROBABILITY = 0.2

    def __init__(
        self,
        strength: float = 0.8,
        patches: int = 4,
        light: int = 3,
        contrast: float = 1.0,
        steps: int = 12,
        pixels: int = 32,
    ) -> None:
        if pixels % patches:
            raise ValueError(f"pixels={pixels} must be a multiple of patches={patches}")
        if not 1 <= light <= pixels // len(self.PAY):
            raise ValueError(f"light={light} is out of range: choose 1 to {pixels // len(self.PAY)}")
        self.observation_space = spaces.Box(0, 255, (pixels, pixels, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.patches = patches
        self.light = light
        self.steps = steps
        self.pixels = pixels
        self._spread = round(127 * strength)
        self._brightness = np.uint8(128 + round(127 * contrast))
        self.place = 0
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Image, Info]:
        """Start an episode with the light anywhere."""
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(len(self.PAY)))
        self._step = 0
        return self._observe(), {}

    def step(self, action: np.int64 | int) -> tuple[Image, float, bool, bool, Info]:
        """Move the light, unless it jumps, and pay by where it is then."""
        self.place = min(max(self.place + int(action) - 1, 0), len(self.PAY) - 1)
        if self.np_random.random() < self.JUMP_PROBABILITY:
            self.place = int(self.np_random.integers(len(self.PAY)))
        self._step += 1
        return self._observe(), self.PAY[self.place], False, self._step >= self.steps, {}

    def _observe(self) -> Image:
        board = (self.patches, self.patches, 3)
        colours = self.np_random.integers(128 - self._spread, 129 + self._spread, board, np.uint8)
        grain = self.pixels // self.patches
        image = np.repeat(np.repeat(colours, grain, axis=0), grain, axis=1)
        top, left = (centre - self.light // 2 for centre in (self.pixels // 2, self.centre(self.place)))
        image[top : top + self.light, left : left + self.light] = self._brightness
        return image

    def centre(self, place: int) -> int:
        """Column around which the light stands at a place."""
        return (2 * place + 1) * self.pixels // (2 * len(self.PAY))
