"""Spaces of integers as concatenated one-hot vectors."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def one_hot_groups(space: spaces.Space[Any]) -> tuple[tuple[int, ...], NDArray[np.int64]] | None:
    """Group sizes and first values of a space of integers, both flattened; None for any other space."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),), np.array([space.start], dtype=np.int64)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec.ravel()), np.asarray(space.start, dtype=np.int64).ravel()
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        return (2,) * size, np.zeros(size, dtype=np.int64)
    return None


def to_one_hot(
    values: NDArray[Any], groups: tuple[int, ...], start: NDArray[np.int64], what: str = "They hold "
) -> FloatArray:
    """Integers (N, G) as concatenated one-hots (N, sum(groups)). ValueError for a value outside its group."""
    if values.dtype.kind not in "biu":
        raise ValueError(f"{what}{values.dtype}: expected integers.")
    index = values.reshape(len(values), len(groups)).astype(np.int64) - start
    wrong = (index < 0) | (index >= np.array(groups))
    if wrong.any():
        row, group = np.argwhere(wrong)[0]
        value, first = index[row, group] + start[group], start[group]
        raise ValueError(f"{what}{value}: expected {first} to {first + groups[group] - 1}.")
    out = np.zeros((len(index), sum(groups)), dtype=np.float32)
    offsets = np.concatenate([[0], np.cumsum(groups)[:-1]]).astype(np.int64)
    np.put_along_axis(out, index + offsets, 1.0, axis=1)
    return out


def from_one_hot(rows: FloatArray, groups: tuple[int, ...], start: NDArray[np.int64]) -> NDArray[np.int64]:
    """The largest entry of each group of (N, sum(groups)), as integers (N, G) in the space's own numbering."""
    if len(groups) == 1:
        return rows.argmax(axis=-1)[..., None] + start
    parts = np.split(rows, np.cumsum(groups)[:-1], axis=-1)
    return np.stack([part.argmax(axis=-1) for part in parts], axis=-1) + start
