"""Values of an environment's state in terms that JSON gives back as they were."""

from collections import deque
from typing import Any

import numpy as np

NO_AXES = "an array without axes"  # under which it is stored, with one
DEQUE = "a deque"  # under which its greatest length and its items are stored


def pack(value: Any) -> Any:
    """NumPy's scalars as arrays without axes, as JSON would make Python's numbers of them, which are more precise;
    arrays without axes with one, under :data:`NO_AXES`; and deques under :data:`DEQUE`.
    """
    if isinstance(value, np.generic):
        return np.asarray(value)
    if isinstance(value, np.ndarray) and not value.ndim:
        return {NO_AXES: value[None]}
    if type(value) is deque:
        return {DEQUE: [value.maxlen, *map(pack, value)]}
    if isinstance(value, list | tuple):
        return type(value)(map(pack, value)) if type(value) in (list, tuple) else value
    return {key: pack(item) for key, item in value.items()} if type(value) is dict else value


def unpack(value: Any) -> Any:
    """Undo :func:`pack`."""
    if isinstance(value, np.ndarray):
        return value if value.ndim else value[()]
    if isinstance(value, list | tuple):
        return type(value)(map(unpack, value))
    if isinstance(value, dict) and value.keys() == {NO_AXES}:
        return value[NO_AXES].reshape(())
    if isinstance(value, dict) and value.keys() == {DEQUE}:
        longest, *items = value[DEQUE]
        return deque(map(unpack, items), longest)
    return {key: unpack(item) for key, item in value.items()} if isinstance(value, dict) else value
