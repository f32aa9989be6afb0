"""Actions of a space to and from the networks' vectors."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hd_agents.spaces.one_hot import FloatArray, from_one_hot, one_hot_groups, to_one_hot

LARGEST_SPAN = 1e18
ACTIONS_SUPPORTED = "supported actions: Box with finite bounds, Discrete, MultiDiscrete, MultiBinary"


class ActionCodec:
    """Turns the networks' action vectors (N, A) into what an environment's ``step`` takes, and back.

    ``groups`` holds the sizes of the one-hot groups and is empty for a Box. Raises ``ValueError`` for a space that
    has no action head.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        found = one_hot_groups(space)
        self.groups: tuple[int, ...] = found[0] if found else ()
        self._start = found[1] if found else np.zeros(0, dtype=np.int64)
        if found is None and not isinstance(space, spaces.Box):
            raise ValueError(
                f"The action space {space} has no action head. {ACTIONS_SUPPORTED}. "
                "Map it onto one of these with gymnasium.wrappers.TransformAction."
            )
        if isinstance(space, spaces.Box):
            if not (np.all(np.isfinite(space.low)) and np.all(np.isfinite(space.high))):
                raise ValueError(
                    f"The action space {space} is unbounded: every dimension needs finite bounds. Give it some with "
                    "gymnasium.wrappers.TransformAction(env, lambda action: action, Box(-1, 1, shape)), Box of "
                    "gymnasium.spaces; leave out ClipAction, which takes them away: actions are inside them anyway."
                )
            if 0 in space.shape:
                raise ValueError(f"The action space {space} of shape {space.shape} has no dimension to act in.")
            self._low = space.low.astype(np.float64).ravel()
            self._high = space.high.astype(np.float64).ravel()
            with np.errstate(over="ignore"):
                span = self._high - self._low
            if not np.all(span < LARGEST_SPAN):
                raise ValueError(
                    f"The action space {space} spans {span.max():.3g}: use bounds less than {LARGEST_SPAN:.0e} apart, "
                    "which float32 can tell apart, and scale in the environment."
                )
        self.size = sum(self.groups) if found else int(np.prod(space.shape or ()))

    def decode(self, actions: FloatArray) -> NDArray[Any]:
        """Action vectors (N, A) as environment actions (N, ...), in the space's dtype and inside its bounds.

        :raises ValueError: for numbers that are none, which an environment would take for whatever it likes.
        """
        shape = (len(actions), *(self.space.shape or ()))
        if self.groups:
            return from_one_hot(actions, self.groups, self._start).astype(self.space.dtype).reshape(shape)
        scaled = self._low + 0.5 * (actions.astype(np.float64) + 1.0) * (self._high - self._low)
        if not np.isfinite(scaled).all():
            wrong = actions[np.isfinite(scaled).all(1).argmin()]
            raise ValueError(
                f"The agent's action is {wrong}: its networks give no numbers any more. The usual cause is too high a "
                "learning rate; go on from an agent that was stored before."
            )
        bounded = np.clip(scaled, self._low, self._high)
        whole = np.issubdtype(np.dtype(self.space.dtype), np.integer)
        return (np.rint(bounded) if whole else bounded).astype(self.space.dtype).reshape(shape)

    def encode(self, actions: NDArray[Any]) -> FloatArray:
        """Environment actions (N, ...) as action vectors (N, A). A Box dimension of zero width becomes 0."""
        rows = np.asarray(actions)
        if self.groups:
            return to_one_hot(rows.reshape(len(rows), -1), self.groups, self._start)
        width = self._high - self._low
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        scaled = 2.0 * (flat - self._low) / np.where(width > 0, width, 1.0) - 1.0
        return np.clip(np.where(width > 0, scaled, 0.0), -1.0, 1.0).astype(np.float32)

    def describe(self) -> dict[str, list[Any]]:
        """What the numbers of an action vector stand for, as plain JSON."""
        if self.groups:
            return {"groups": list(self.groups), "start": self._start.tolist()}
        return {"low": self._low.tolist(), "high": self._high.tolist()}

    def sample(self, n: int) -> FloatArray:
        """``n`` uniform random actions (n, A), drawn from the space's own generator (see ``space.seed``)."""
        return self.encode(np.stack([np.asarray(self.space.sample()) for _ in range(n)]))
