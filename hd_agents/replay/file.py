"""The file that holds a replay: bytes with a self-describing header, checked before any of it is believed.

Layout: ``MAGIC``, two little-endian uint32 (version, header's length), the header as JSON, then each column's rows,
column by column and environment by environment, oldest first. The header gives ``columns`` (name to dtype and row
shape, in the order of the bytes), ``rows`` (stored rows of each environment) and, unless it is older, ``actions`` (what
the numbers of the column of this name stand for).
"""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hd_agents.replay.memory import Layout, row_bytes

MAGIC = b"HDREPLAY"
VERSION = 1
MAX_HEADER = 1 << 24  # bytes; it holds the bounds of every dimension of an action

Columns = Mapping[str, NDArray]  # column name to (n_envs, rows_per_env, *shape)


def write_header(file: BinaryIO, layout: Layout, rows: list[int], actions: Any = None) -> None:
    """Write everything that precedes the rows."""
    header = json.dumps({"columns": _describe(layout), "rows": rows, "actions": actions}).encode()
    file.write(MAGIC + struct.pack("<II", VERSION, len(header)) + header)


def write_rows(file: BinaryIO, columns: Columns, heads: Sequence[int], rows: Sequence[int]) -> None:
    """Write the newest ``rows`` of each environment. :param heads: where its next row goes."""
    for column in columns.values():
        for ring, count, head in zip(column, rows, heads, strict=True):
            for part in _stretch(ring, (head - count) % len(ring), count):
                file.write(part.reshape(-1).view(np.uint8).data)


def read_header(
    file: BinaryIO, name: str, layout: Layout, n_envs: int, rows_per_env: int, actions: Any = None
) -> list[int]:
    """Read what precedes the rows and return how many rows each environment has.

    Checked here: the kind and version of the file, that its columns, actions and environments are the expected ones,
    that its rows fit, and that the file is exactly as long as it declares.

    :raises ValueError: naming ``name`` and what is wrong with it.
    """
    header = _parse_header(file, name)
    columns, expected = header["columns"], _describe(layout)
    for column in sorted(columns.keys() | expected.keys()):
        if columns.get(column) != expected.get(column):
            raise ValueError(
                f"{name} does not belong to this agent's environment: it holds {column} as {columns.get(column)}, "
                f"expected {expected.get(column)}."
            )
    if list(columns) != list(expected):
        raise ValueError(f"{name} is damaged: its columns are in the order {list(columns)}, not {list(expected)}.")
    told, wanted = header.get("actions") or {}, actions or {}
    for part in sorted(told.keys() | wanted.keys()) if told and wanted else ():
        if not _is_close(told.get(part), wanted.get(part)):
            raise ValueError(
                f"{name} does not belong to this agent's environment: its actions are of {part} "
                f"{told.get(part)!s:.300}, expected {wanted.get(part)!s:.300}. The same numbers would mean other "
                "actions: take an agent of that action space."
            )
    rows = header["rows"]
    if len(rows) != n_envs:
        raise ValueError(f"{name} holds {len(rows)} environments, expected {n_envs}: use that number of environments.")
    if max(rows) > rows_per_env:
        raise ValueError(
            f"{name} holds {max(rows):,} rows of one environment, but this replay has room for {rows_per_env:,}: "
            f"use a buffer_size of at least {max(rows) * n_envs:,}."
        )
    start = file.tell()
    found, declared = file.seek(0, os.SEEK_END) - start, sum(rows) * row_bytes(layout)
    file.seek(start)
    if found != declared:
        what = "truncated" if found < declared else "damaged"
        raise ValueError(f"{name} is {what}: its rows take {declared:,} bytes, but {found:,} follow the header.")
    return rows


def read_rows(file: BinaryIO, name: str, columns: Columns, heads: Sequence[int], rows: Sequence[int]) -> None:
    """Put the file's ``rows`` of each environment into its ring, from ``heads`` on.

    :raises ValueError: if the file ends early, a flag is neither 0 nor 1, or a number is not finite.
    """
    for column in columns.values():
        for ring, count, head in zip(column, rows, heads, strict=True):
            for part in _stretch(ring, head, count):
                _read_array(file, name, part)


def _read_array(file: BinaryIO, name: str, array: NDArray) -> None:
    """Fill a contiguous array from the file."""
    raw = array.reshape(-1).view(np.uint8)
    left = memoryview(raw.data)
    while left:
        count = file.readinto(left)  # type: ignore[attr-defined]  # every binary reader has it; BinaryIO omits it
        if not count:
            raise ValueError(f"{name} is truncated: it ended {len(left):,} bytes early.")
        left = left[count:]
    if array.dtype == np.bool_ and raw.size and raw.max() > 1:
        raise ValueError(f"{name} is damaged: a flag holds {raw.max()}, expected 0 or 1.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} is damaged: a reward, action or observation is not finite.")


def _stretch(ring: NDArray, start: int, count: int) -> tuple[NDArray, NDArray]:
    """``count`` rows of a ring from ``start`` on: those to its end, and those from its beginning."""
    return ring[start : start + count], ring[: max(0, start + count - len(ring))]


def _describe(layout: Layout) -> dict[str, list]:
    return {column: [dtype.str, list(shape)] for column, (dtype, shape) in layout.items()}


def _parse_header(file: BinaryIO, name: str) -> dict:
    """The header as ``{"columns": {str: ...}, "rows": [int, ...]}``; everything else raises ValueError."""
    prefix = file.read(len(MAGIC) + 8)
    if prefix[: len(MAGIC)] != MAGIC[: len(prefix)] or not prefix:
        raise ValueError(f"{name} is not a replay file: it starts with {prefix[:8]!r}, expected {MAGIC!r}.")
    if len(prefix) < len(MAGIC) + 8:
        raise ValueError(f"{name} is truncated: it ends within its first {len(MAGIC) + 8} bytes.")
    version, size = struct.unpack("<II", prefix[len(MAGIC) :])
    if version != VERSION:
        raise ValueError(f"{name} is a replay file of version {version}; this release reads version {VERSION}.")
    if size > MAX_HEADER:
        raise ValueError(f"{name} is damaged: its header claims {size:,} bytes, at most {MAX_HEADER:,} are allowed.")
    text = file.read(size)
    if len(text) < size:
        raise ValueError(f"{name} is truncated: its header ends after {len(text):,} of {size:,} bytes.")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged: its header is not JSON ({error}).") from error
    rows = header.get("rows") if isinstance(header, dict) else None
    sound = isinstance(rows, list) and bool(rows) and all(type(count) is int and count >= 0 for count in rows)
    if not sound or not isinstance(header.get("columns"), dict):
        raise ValueError(f"{name} is damaged: its header lacks columns or rows.")
    told = header.get("actions")
    if told is not None and not (isinstance(told, dict) and all(map(_is_numbers, told.values()))):
        raise ValueError(f"{name} is damaged: its header does not tell actions.")
    return header


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int | float) and abs(one) < 1e300 for one in value)


def _is_close(one: list[Any] | None, other: list[Any] | None) -> bool:
    """As Gymnasium compares bounds: those of another machine or dtype may be rounded otherwise."""
    return one is not None and other is not None and len(one) == len(other) and bool(np.allclose(one, other))
