"""Constructor arguments as plain JSON and back: numbers, text, containers, small arrays and Gymnasium spaces.

What JSON lacks is written as an object whose ``"__type__"`` says what it is: tuples, non-finite floats, NumPy arrays
and spaces. Reading builds these types and nothing else.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

TYPE = "__type__"
MAX_ARRAY = 1 << 16  # elements of an array outside a space; more belongs among the tensors
MAX_ELEMENTS = 1 << 24  # elements that the arrays and spaces of one document declare together
# What Python, NumPy and Gymnasium raise on values of the wrong kind, size or depth.
DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class DamagedError(ValueError):
    """A file of a run does not hold what we had written there; the message names it."""


class ArchiveError(ValueError):
    """A file that is not an intact archive of ours, or a value that cannot go into one. Says what and what to do."""


def to_json(value: Any, where: str = "data") -> Any:
    """The value in terms of JSON; ``where`` is the name that an error gives it.

    NumPy and Python numbers become numbers; lists, tuples and dicts with string keys are converted item by item.

    :raises ArchiveError: naming the item that cannot be written, e.g. ``data.policy_kwargs['activation']``.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {TYPE: "float", "value": repr(float(value))}
    if isinstance(value, np.generic) and value.dtype.kind in "biufU" and value.dtype != np.longdouble:
        return to_json(value.item(), where)
    if isinstance(value, (list, tuple)):
        items = [to_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else {TYPE: "tuple", "items": items}
    if isinstance(value, spaces.Space):  # before Mapping: a Dict space is one
        return {TYPE: "space", "space": space_to_json(value, where)}
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str or key == TYPE:
                raise ArchiveError(f"{where} has the key {key!r}: expected text other than {TYPE!r}.")
        return {key: to_json(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, np.ndarray):
        if value.size > MAX_ARRAY:
            raise ArchiveError(f"{where} is an array of {value.size:,} numbers: store it among the tensors.")
        return {TYPE: "ndarray", **_array_to_json(value, where)}
    raise ArchiveError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be stored as plain JSON. "
        "Leave it out (exclude=[...]) and give it again when loading, or use numbers, text, lists and dicts."
    )


def from_json(document: Any) -> Any:
    """The value that :func:`to_json` wrote.

    :raises ArchiveError: if the document holds something that :func:`to_json` does not write, or declares huge arrays.
    """
    try:
        return _Reader().value(document)
    except ArchiveError:
        raise
    except DAMAGE as error:
        raise ArchiveError(f"The stored values are damaged: {type(error).__name__}: {error}") from error


def space_to_json(space: spaces.Space, where: str = "space") -> dict[str, Any]:
    """A Box, Discrete, MultiDiscrete, MultiBinary or (nested) Dict space as JSON; its random state is not stored.

    :raises ArchiveError: for any other space.
    """
    if isinstance(space, spaces.Dict):
        parts = [[key, space_to_json(part, f"{where}[{key!r}]")] for key, part in space.spaces.items()]
        return {"kind": "Dict", "spaces": parts}
    if isinstance(space, spaces.Box):
        low, high = (_array_to_json(bound, where) for bound in (space.low, space.high))
        return {"kind": "Box", "low": low, "high": high}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": np.dtype(space.dtype).str}
    if isinstance(space, spaces.MultiDiscrete):
        sizes, start = (_array_to_json(np.asarray(item), where) for item in (space.nvec, space.start))
        return {"kind": "MultiDiscrete", "nvec": sizes, "start": start, "dtype": np.dtype(space.dtype).str}
    if isinstance(space, spaces.MultiBinary):
        return {
            "kind": "MultiBinary",
            "n": int(space.n) if isinstance(space.n, (int, np.integer)) else list(space.shape),
        }
    raise ArchiveError(
        f"{where} is {space}: only Box, Discrete, MultiDiscrete, MultiBinary and Dict spaces can be stored."
    )


class _Reader:
    """Reads one document; a few bytes of it can declare terabytes, so what its arrays declare is counted first."""

    def __init__(self) -> None:
        self._left = MAX_ELEMENTS

    def value(self, document: Any) -> Any:
        if isinstance(document, list):
            return [self.value(item) for item in document]
        if not isinstance(document, dict):
            return document
        if TYPE not in document:
            return {key: self.value(item) for key, item in document.items()}
        kind = document[TYPE]
        if kind == "tuple":
            return tuple(self.value(item) for item in document["items"])
        if kind == "float":
            return float(document["value"])
        if kind == "ndarray":
            return self.array(document)
        if kind == "space":
            return self.space(document["space"])
        raise ArchiveError(f"The stored values hold something of the unknown type {kind!r}.")

    def space(self, document: dict[str, Any]) -> spaces.Space:
        kind = document["kind"]
        if kind == "Dict":
            # As pairs: a dict's keys are sorted, and networks and replay follow the order of the environment's own.
            return spaces.Dict([(str(key), self.space(part)) for key, part in document["spaces"]])
        if kind == "Box":
            low, high = self.array(document["low"]), self.array(document["high"])
            return spaces.Box(low, high, low.shape, low.dtype.type)
        if kind == "MultiBinary":
            n = document["n"]
            shape = self._shape(n if isinstance(n, list) else [n])
            return spaces.MultiBinary(shape if isinstance(n, list) else n)
        if kind not in ("Discrete", "MultiDiscrete"):
            raise ArchiveError(f"The stored values hold a space of the unknown kind {kind!r}.")
        dtype = _dtype(document["dtype"], "iu")
        if kind == "MultiDiscrete":
            nvec, start = self.array(document["nvec"]), self.array(document["start"])
            return spaces.MultiDiscrete(nvec, dtype=dtype.type, start=start)
        # Older Gymnasium has int64 only here, and no argument for it.
        extra: dict[str, Any] = {} if dtype == np.int64 else {"dtype": dtype.type}
        return spaces.Discrete(document["n"], start=document["start"], **extra)

    def array(self, document: dict[str, Any]) -> NDArray:
        dtype, shape = _dtype(document["dtype"], "biuf"), self._shape(document["shape"])
        kind = {"b": bool, "f": float}.get(dtype.kind, int)
        given = [kind(value) for value in ([document["fill"]] if "fill" in document else document["values"])]
        if kind is int and given and not np.iinfo(dtype).min <= min(given) <= max(given) <= np.iinfo(dtype).max:
            raise OverflowError  # NumPy before 2 would take the remainder
        values = np.array(given, dtype)
        return np.full(shape, values[0]) if "fill" in document else values.reshape(shape)

    def _shape(self, declared: list[int]) -> tuple[int, ...]:
        if not all(type(size) is int and size >= 0 for size in declared):
            raise ArchiveError(f"The stored values hold an array of the shape {declared!r}.")
        self._left -= math.prod(declared)
        if self._left < 0:
            raise ArchiveError(f"The arrays and spaces hold more than {MAX_ELEMENTS:,} numbers together.")
        return tuple(declared)


def _array_to_json(array: NDArray, where: str) -> dict[str, Any]:
    """Flat values in C order, or one value that fills the array; non-finite floats as text."""
    if array.dtype.kind not in "biuf" or array.dtype == np.longdouble:
        raise ArchiveError(f"{where} is an array of {array.dtype}: only bool, integers and floats can be stored.")
    found: dict[str, Any] = {"dtype": array.dtype.str, "shape": list(array.shape)}
    if array.size and array.tobytes() == array.flat[0].tobytes() * array.size:  # 0.0 == -0.0, and they are two numbers
        return {**found, "fill": _number_to_json(array.flat[0].item())}
    return {**found, "values": [_number_to_json(value) for value in array.ravel().tolist()]}


def _number_to_json(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)


def _dtype(name: str, kinds: str) -> np.dtype:
    if isinstance(name, str) and (dtype := np.dtype(name)).kind in kinds and dtype.itemsize <= 8:
        return dtype
    raise ArchiveError(f"The archive holds an array of the type {name!r}, which it may not hold.")
