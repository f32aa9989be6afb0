"""Catch: a small game played from pixels, made to be learnt in minutes on two CPU cores."""

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from hd_agents.randomness import new_generator

__all__ = ["Catch"]

Image = npt.NDArray[np.uint8]
Colour = npt.NDArray[np.uint8]  # (3,) red, green, blue

SIDE = 64  # pixels of the observation's edge; all lengths below are in these pixels
BALL_RADIUS = 7  # small things are what an image loss finds last
PADDLE_Y = 55  # upper edge of the paddle
PADDLE_HEIGHT = 5
METER_HEIGHT = 4  # strip at the top that shrinks with the balls left
# Height of the ball's centre at each step of its fall. It gathers speed, and meets the paddle in the last entry.
FALL = (11, 14, 17, 21, 25, 30, 36, 42, 49)

# RGB, 0..255. Mid-tones throughout: from a nearly black image a world model learns to predict black, and stays there.
SKY_TOP = np.array([112, 158, 186], np.uint8)
SKY_BOTTOM = np.array([168, 188, 176], np.uint8)
BALL = np.array([238, 124, 48], np.uint8)
TRAIL = np.array([206, 172, 140], np.uint8)
PADDLE = np.array([46, 62, 110], np.uint8)
METER = np.array([236, 226, 170], np.uint8)
FLOOR = np.array([122, 116, 104], np.uint8)
FLASH = {1: np.array([84, 190, 92]), -1: np.array([206, 64, 64])}  # a catch, a miss
FLASH_SHARE = 0.4  # of the flash's colour in the sky
_STATE = ("_paddle", "_ball", "_trail", "_drift", "_fallen", "_balls_left", "_outcome")


class Catch(gymnasium.Env[Image, np.int64]):
    """Balls fall one after the other, bouncing off the side walls; be under each of them with the paddle.

    Observation: ``(64, 64, 3)`` uint8. One image tells all: the ball's trail shows where it comes from, the strip at
    the top how many balls are left, and the sky flashes green at a catch and red at a miss.
    Actions: 0 stay, 1 left, 2 right, by ``paddle_speed`` pixels.
    Reward: +1 for a catch, -1 for a miss, 0 while the ball is in the air.
    Episode: ``balls`` balls, each 8 steps in the air and 1 step until the next; then ``terminated``. With the defaults
    71 steps.

    Scores with the defaults: the maximum is 8 and can always be reached; uniformly random actions score -3.8 on
    average, and -8 is the worst possible. A policy that follows the ball's present column reaches the maximum too; with
    ``max_drift=6`` it scores 7.1 on average, because there the bounce has to be foreseen.

    :param balls: balls per episode, 1 or more.
    :param paddle_width: pixels, 4 to 32.
    :param paddle_speed: pixels per step. Below 6 some balls can't be reached.
    :param max_drift: fastest sideways motion of a ball, pixels per step, 0 to 8.
    :param render_mode: None or "rgb_array" (``(256, 256, 3)`` uint8, the same scene at four times the resolution).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012  Gymnasium's own declaration

    def __init__(
        self,
        balls: int = 8,
        paddle_width: int = 14,
        paddle_speed: int = 6,
        max_drift: int = 3,
        render_mode: str | None = None,
    ) -> None:
        for name, value, low, high in (
            ("balls", balls, 1, SIDE),
            ("paddle_width", paddle_width, 4, 32),
            ("paddle_speed", paddle_speed, 1, SIDE),
            ("max_drift", max_drift, 0, 8),
        ):
            if not (isinstance(value, int) and low <= value <= high):
                raise ValueError(f"{name}={value!r}: choose a whole number from {low} to {high}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r} is not supported: choose None or 'rgb_array'")
        self.observation_space = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.render_mode = render_mode
        self.balls = balls
        self.paddle_width = paddle_width
        self.paddle_speed = paddle_speed
        self.max_drift = max_drift
        self._painter = _Painter(1)
        self._big_painter = _Painter(4) if render_mode == "rgb_array" else None
        self._paddle = self._ball = SIDE // 2  # centres, pixels from the left
        self._trail = ((self._ball, FALL[0]),) * 2  # the ball's last two places, newest first: (column, height)
        self._drift = self._fallen = self._balls_left = self._outcome = 0

    @property
    def landing(self) -> int:
        """Column in which the ball in the air will come down, pixels from the left."""
        column, drift = self._ball, self._drift
        for _ in range(len(FALL) - 1 - self._fallen):
            column, drift = _fly(column, drift)
        return column

    @property
    def paddle(self) -> int:
        """Centre of the paddle, pixels from the left."""
        return self._paddle

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Image, dict[str, Any]]:
        """Start an episode with the paddle anywhere and a fresh ball; ``options`` are not used."""
        super().reset(seed=seed)
        half = self.paddle_width // 2
        self._paddle = int(self.np_random.integers(half, SIDE - half + 1))
        self._balls_left = self.balls
        self._outcome = 0
        self._drop()
        return self._painter.draw(self._scene()), {}

    def step(self, action: np.int64 | int) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        """Move the paddle, then the ball."""
        half = self.paddle_width // 2
        move = (0, -self.paddle_speed, self.paddle_speed)[int(action)]
        self._paddle = min(max(self._paddle + move, half), SIDE - half)
        self._outcome = 0
        if self._fallen == len(FALL) - 1:
            self._drop()
        else:
            self._trail = ((self._ball, FALL[self._fallen]), self._trail[0])
            self._ball, self._drift = _fly(self._ball, self._drift)
            self._fallen += 1
        if self._fallen == len(FALL) - 1:
            self._outcome = 1 if abs(self._ball - self._paddle) <= half else -1
            self._balls_left -= 1
        terminated = self._balls_left == 0
        return self._painter.draw(self._scene()), float(self._outcome), terminated, False, {}

    def render(self) -> Image | None:
        """Return the scene as ``(256, 256, 3)`` uint8, or None without a render mode."""
        return None if self._big_painter is None else self._big_painter.draw(self._scene())

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Keys -> action, for people: ``gymnasium.utils.play`` and ``hd-agents dream``."""
        return {("a",): 1, ("d",): 2}

    def get_state(self) -> dict[str, Any]:
        """Where the game stands, the generator of its balls included; see :mod:`hd_agents.envs.state`."""
        return {**{name: getattr(self, name) for name in _STATE}, "generator": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where another game stood that was made with the same arguments."""
        for name in _STATE:
            setattr(self, name, state[name])
        self.np_random = new_generator(state["generator"])

    def _drop(self) -> None:
        """Put a new ball at the top."""
        self._ball = int(self.np_random.integers(BALL_RADIUS, SIDE - BALL_RADIUS))
        self._drift = int(self.np_random.integers(-self.max_drift, self.max_drift + 1))
        self._fallen = 0
        before, _ = _fly(self._ball, -self._drift)
        self._trail = ((before, FALL[0] - 2),) * 2

    def _scene(self) -> "_Scene":
        ball = (self._ball, FALL[self._fallen])
        meter = SIDE * self._balls_left // self.balls
        return _Scene(self._paddle, self.paddle_width, ball, self._trail, meter, self._outcome)


class _Scene(NamedTuple):
    """Everything that is drawn; positions are (column, height) in observation pixels."""

    paddle: int
    paddle_width: int
    ball: tuple[int, int]
    trail: tuple[tuple[int, int], ...]
    meter: int
    outcome: int


class _Painter:
    """Draws scenes at ``scale`` times the observation's resolution; all that doesn't move is drawn once, here."""

    def __init__(self, scale: int) -> None:
        self._scale = scale
        side = SIDE * scale
        shade = np.linspace(0.0, 1.0, side)[:, None, None]
        sky = (1.0 - shade) * SKY_TOP + shade * SKY_BOTTOM
        tinted = {0: sky} | {end: (1 - FLASH_SHARE) * sky + FLASH_SHARE * colour for end, colour in FLASH.items()}
        self._backgrounds = {end: np.tile(colours.astype(np.uint8), (1, side, 1)) for end, colours in tinted.items()}
        self._discs = {radius: _disc(radius * scale) for radius in (BALL_RADIUS, BALL_RADIUS - 1, BALL_RADIUS - 2)}

    def draw(self, scene: _Scene) -> Image:
        """Return a new image, ``(64 * scale, 64 * scale, 3)``."""
        scale = self._scale
        image = self._backgrounds[scene.outcome].copy()
        image[: METER_HEIGHT * scale, : scene.meter * scale] = METER
        image[(PADDLE_Y + PADDLE_HEIGHT) * scale :] = FLOOR
        left = (scene.paddle - scene.paddle_width // 2) * scale
        image[PADDLE_Y * scale : (PADDLE_Y + PADDLE_HEIGHT) * scale, left : left + scene.paddle_width * scale] = PADDLE
        for age, place in reversed(list(enumerate(scene.trail, start=1))):
            self._stamp(image, place, BALL_RADIUS - age, TRAIL)
        self._stamp(image, scene.ball, BALL_RADIUS, BALL)
        return image

    def _stamp(self, image: Image, place: tuple[int, int], radius: int, colour: Colour) -> None:
        column, row = (place[0] - radius) * self._scale, (place[1] - radius) * self._scale
        disc = self._discs[radius]
        size = len(disc)
        np.copyto(image[row : row + size, column : column + size], colour, where=disc)


def _disc(radius: int) -> npt.NDArray[np.bool_]:
    """Return a filled circle as a ``(2 * radius, 2 * radius, 1)`` mask."""
    offsets = np.arange(2 * radius) - radius + 0.5
    return (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2)[..., None]


def _fly(column: int, drift: int) -> tuple[int, int]:
    """Move a ball sideways by one step, mirrored at the walls; return its column and its drift from then on."""
    low, high = BALL_RADIUS, SIDE - BALL_RADIUS
    column += drift
    if column < low:
        return 2 * low - column, -drift
    if column > high:
        return 2 * high - column, -drift
    return column, drift
