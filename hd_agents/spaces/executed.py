"""Actions that the policy did not choose: a plan's, a demonstration's, or what an environment did instead."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hd_agents.spaces.actions import ActionCodec
from hd_agents.spaces.one_hot import FloatArray

EXECUTED = "executed_action"  # key of an info, where the environment did something else than it was told
MEASURED_BEYOND = 0.1  # share of an action's range: how far beyond its bounds one that was measured may lie


def encode_actions(
    codec: ActionCodec, actions: NDArray[Any], axes: tuple[int, ...] | None = None, slack: float = 1e-3
) -> FloatArray:
    """:meth:`ActionCodec.encode` of actions (N, ...) that somebody else chose, which must be in the space.

    :param axes: that the N came in, by which the error names one; None for (N,).
    :param slack: share of a range that a number may lie beyond it, from where it is taken back to the bound.
    :raises ValueError: for those that are not in the space, naming the first.
    """
    rows, space = np.asarray(actions), codec.space
    shape = space.shape or ()
    if rows.dtype.kind not in "biuf" or rows.shape[1:] != shape:
        wanted = f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"
        raise ValueError(f"The actions are {rows.dtype} of shape {rows.shape}: expected {wanted} of {space}.")
    if isinstance(space, spaces.Box):
        low, high = (bound.astype(np.float64) for bound in (space.low, space.high))  # wider than the space's own type
        room = slack * (high - low) + np.spacing(np.maximum(abs(low), abs(high)).astype(np.float32))
        inside = (rows >= low - room) & (rows <= high + room)
        wrong = ~inside.reshape(len(rows), -1).all(1)  # NaN is on neither side
        if wrong.any():
            first = int(wrong.argmax())
            place = ", ".join(str(index) for index in np.unravel_index(first, axes or (len(rows),)))
            raise ValueError(
                f"actions[{place}] is {rows[first]}: expected {space.low} to {space.high}, in the environment's own "
                "unit."
            )
    try:
        return codec.encode(rows)
    except ValueError as error:
        raise ValueError(f"The actions do not fit {space}. {error}") from error


def with_executed(
    codec: ActionCodec, state: tuple[NDArray[Any], ...], executed: NDArray[Any] | None
) -> tuple[NDArray[Any], ...]:
    """The state that ``predict`` returned, as it is after other actions than it chose; the same one for None.

    :param executed: what was done, (N, ...) or for one environment (...).
    :raises ValueError: for what does not fit the action space or the number of environments.
    """
    if executed is None:
        return state
    deter, stoch, last = state
    given, shape = np.asarray(executed), codec.space.shape or ()
    rows = encode_actions(codec, given[None] if given.shape == shape else given, slack=MEASURED_BEYOND)
    if len(rows) != len(last):
        raise ValueError(f"executed has {len(rows)} actions for {len(last)} environments: pass one of each.")
    return deter, stoch, rows


def encode_executed(codec: ActionCodec, info: Mapping[str, Any], env: int, when: str = "") -> FloatArray:
    """The action in an info that has one, (A,) as the networks take it.

    :param env: number of the environment, and ``when`` it said so, for the error.
    :raises ValueError: for what is no action of the codec's space.
    """
    try:
        return encode_actions(codec, np.asarray(info[EXECUTED])[None], slack=MEASURED_BEYOND)[0]
    except ValueError as error:
        raise ValueError(f"Environment {env} said {EXECUTED}={info[EXECUTED]!r} in its info{when}. {error}") from error
