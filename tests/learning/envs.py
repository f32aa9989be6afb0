"""Small tasks that each ask for one ability; every one of them is cheap, seeded and has a known best score.

The rewards follow Gymnasium: ``step(action)`` returns the reward of that action, so in a batch it stands in the row of
the observation that the action led into. Where nothing in the observation tells the end of an episode, the end is a
truncation.
"""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

Vector = npt.NDArray[np.float32]
Info = dict[str, Any]


class CartPoleNoVelocity(gymnasium.ObservationWrapper[Vector, np.int64, Vector], RecordConstructorArgs):
    """CartPole that shows positions only, ``(cart, angle)``: the velocities have to be remembered."""

    def __init__(self, env: gymnasium.Env[Vector, np.int64]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        inner = env.observation_space
        assert isinstance(inner, spaces.Box)
        assert inner.shape == (4,)
        self.observation_space = spaces.Box(inner.low[[0, 2]], inner.high[[0, 2]], dtype=np.float32)

    def observation(self, observation: Vector) -> Vector:
        """Drop both velocities."""
        return observation[[0, 2]]


class Rendezvous(gymnasium.Env[dict[str, Any], np.int64]):
    """Dict observations: the image shows where the block is, the vector says where it has to go.

    On a 4 x 4 board, actions 0 to 4: stay, up, down, left, right. Each step pays 1 on the target, else -0.1 for each
    field of distance (Manhattan). The step after the target was reached starts a new round: block and target are put
    elsewhere at random, whatever the action, so that neither position can be reckoned from the actions alone. The best
    policy scores 2.8 on average, a random one -6.1.

    Args:
        steps: length of an episode, then ``truncated``.
        pixels: edge of the square image, a multiple of 4.
    """

    FIELDS = 4

    def __init__(self, steps: int = 24, pixels: int = 32) -> None:
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (pixels, pixels, 3), np.uint8),
                "target": spaces.Box(-1.0, 1.0, (2,), np.float32),
            }
        )
        self.action_space = spaces.Discrete(5)
        self.steps = steps
        field = pixels // self.FIELDS
        chequers = np.indices((self.FIELDS, self.FIELDS)).sum(axis=0) % 2
        shade = np.where(chequers[..., None] == 0, (128, 140, 150), (150, 150, 138)).astype(np.uint8)
        self._board = np.repeat(np.repeat(shade, field, axis=0), field, axis=1)
        self._field = field
        self.block = self.target = (0, 0)  # (row, column)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[dict[str, Any], Info]:
        """Start an episode with a new round."""
        super().reset(seed=seed)
        self._step = 0
        self._new_round()
        return self._observe(), {}

    def step(self, action: np.int64 | int) -> tuple[dict[str, Any], float, bool, bool, Info]:
        """Move the block, or start a new round if it stood on the target."""
        if self.block == self.target:
            self._new_round()
        else:
            down, right = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))[int(action)]
            top = self.FIELDS - 1
            self.block = (min(max(self.block[0] + down, 0), top), min(max(self.block[1] + right, 0), top))
        self._step += 1
        distance = abs(self.block[0] - self.target[0]) + abs(self.block[1] - self.target[1])
        return self._observe(), 1.0 if distance == 0 else -0.1 * distance, False, self._step >= self.steps, {}

    def _new_round(self) -> None:
        fields = self.np_random.choice(self.FIELDS**2, size=2, replace=False)
        self.block, self.target = (divmod(int(field), self.FIELDS) for field in fields)

    def _observe(self) -> dict[str, Any]:
        image = self._board.copy()
        top, left = self.block[0] * self._field, self.block[1] * self._field
        image[top : top + self._field, left : left + self._field] = (226, 88, 62)
        scaled = np.array(self.target) * (2.0 / (self.FIELDS - 1)) - 1.0
        return {"image": image, "target": scaled.astype(np.float32)}


class Locks(gymnasium.Env[Vector, npt.NDArray[np.int64]]):
    """MultiDiscrete actions: each lock shows a symbol, and each has to be turned to that symbol.

    The observation is one one-hot block per lock, redrawn at every step; a step pays the fraction of the locks that the
    action set right, so an episode pays at most ``steps``.

    Args:
        symbols: number of positions of each lock.
        steps: length of an episode, then ``truncated``.
    """

    def __init__(self, symbols: tuple[int, ...] = (3, 2, 4), steps: int = 10) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (sum(symbols),), np.float32)
        self.action_space = spaces.MultiDiscrete(list(symbols))
        self.symbols = symbols
        self.steps = steps
        self._offsets = np.cumsum((0, *symbols[:-1]))
        self.shown = np.zeros(len(symbols), np.int64)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Vector, Info]:
        """Start an episode with fresh symbols."""
        super().reset(seed=seed)
        self._step = 0
        return self._show(), {}

    def step(self, action: npt.NDArray[np.int64]) -> tuple[Vector, float, bool, bool, Info]:
        """Compare the action with the symbols that were shown, then show others."""
        reward = float(np.mean(np.asarray(action) == self.shown))
        self._step += 1
        return self._show(), reward, False, self._step >= self.steps, {}

    def _show(self) -> Vector:
        self.shown = self.np_random.integers(0, self.symbols)
        observation = np.zeros(sum(self.symbols), np.float32)
        observation[self._offsets + self.shown] = 1.0
        return observation


class PreviousActionReward(gymnasium.Env[Vector, np.int64]):
    """A reward that only the action just taken explains, paid only in the last row of an episode.

    Each step shows a random cue, one of ``choices``; the right answer to it is the cue's own number or, ``chained``,
    the cue plus the action before (0 after a reset), modulo ``choices``. After every step the episode ends with
    probability 1/2, and only then the last answer is paid: 1 if it was right, else 0. The best policy is right every
    time and scores 1, a random one ``1 / choices``.

    An agent that pairs actions, rewards and observations shifted by a row, either way, scores as a random one does: one
    row early, the action or the cue that explains the reward isn't known yet; one row late, the reward falls behind the
    end of its episode, and no later cue says anything about an earlier one.

    Args:
        choices: number of cues and of actions, 2 or more.
        chained: whether the right answer depends on the action before, too, which the observation doesn't show.
    """

    END_PROBABILITY = 0.5

    def __init__(self, choices: int = 3, chained: bool = False) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (choices,), np.float32)
        self.action_space = spaces.Discrete(choices)
        self.choices = choices
        self.chained = chained
        self._cue = self._previous = 0

    @property
    def right_answer(self) -> int:
        """The action that is right now."""
        return (self._cue + self._previous) % self.choices if self.chained else self._cue

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Vector, Info]:
        """Start an episode; the action before counts as 0."""
        super().reset(seed=seed)
        self._previous = 0
        return self._show(), {}

    def step(self, action: np.int64 | int) -> tuple[Vector, float, bool, bool, Info]:
        """Judge the action, and pay if the episode ends here."""
        terminated = bool(self.np_random.random() < self.END_PROBABILITY)
        reward = float(terminated and int(action) == self.right_answer)
        self._previous = int(action)
        return self._show(), reward, terminated, False, {}

    def _show(self) -> Vector:
        self._cue = int(self.np_random.integers(self.choices))
        observation = np.zeros(self.choices, np.float32)
        observation[self._cue] = 1.0
        return observation
