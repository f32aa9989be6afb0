"""Whether parts of an environment's state are in two places at once."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from hd_agents.randomness import parts_of
from hd_agents.saving.jsonable import ArchiveError


def refuse_shared(layers: Iterable[tuple[str, Mapping[str, Any]]], found: Iterable[spaces.Space[Any]]) -> None:
    """Refuse what can change and is in two places: it would come back as two things that change apart.

    :param layers: of an environment, names and attributes. :param found: spaces, whose generators are theirs alone.
    :raises ArchiveError: for lists, deques, dicts, arrays and generators; only the last may have two names in a layer.
    """
    seen = {id(generator) for generator in _generators(found)}
    arrays: dict[int, list[np.ndarray]] = {}

    def visit(name: str, value: Any) -> None:
        shared = False
        if isinstance(value, np.ndarray):
            same = arrays.setdefault(id(_owner(value)), [])
            shared = any(np.may_share_memory(value, other) for other in same)
            same.append(value)
        elif isinstance(value, list | deque | dict | np.random.Generator):
            shared = id(value) in seen
            seen.add(id(value))
        if shared:
            raise ArchiveError(f"{name} holds a {type(value).__name__} that is elsewhere too.")
        for item in (
            value.values() if isinstance(value, dict) else value if isinstance(value, list | deque | tuple) else ()
        ):
            visit(name, item)

    for name, values in layers:
        generators = {id(value): value for value in values.values() if isinstance(value, np.random.Generator)}
        for value in (*generators.values(), *(one for one in values.values() if id(one) not in generators)):
            visit(name, value)


def _owner(array: np.ndarray) -> np.ndarray:
    """The array that a view is of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _generators(found: Iterable[spaces.Space[Any]]) -> Iterator[np.random.Generator]:
    for space in found:
        if space._np_random is not None:
            yield space._np_random
        yield from _generators(parts_of(space))
