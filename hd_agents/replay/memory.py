"""Where the rows of a replay live: in memory, or in files of a folder that are mapped into memory as they are used."""

import mmap
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hd_agents.host import available_memory, format_bytes

MOST_ROWS = 1_000_000  # of a replay whose capacity is not given; the papers' number
Layout = Mapping[str, tuple[np.dtype, tuple[int, ...]]]  # column name to (dtype, shape of one row)


def row_bytes(layout: Layout) -> int:
    """Bytes of a row."""
    return sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in layout.values())


def free_bytes(folder: Path | None) -> int | None:
    """Bytes that can be claimed in memory, or on the disk that ``folder`` is (or will be) on; None if unknown."""
    if folder is None:
        return available_memory()
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def fitting_rows(folder: Path | None, layout: Layout) -> int:
    """Rows of a replay whose capacity is not given: the papers' number, but no more than half of the room holds."""
    free = free_bytes(folder)
    return MOST_ROWS if free is None else min(MOST_ROWS, free // 2 // row_bytes(layout))


def allocate(layout: Layout, n_envs: int, rows: int, folder: Path | None) -> dict[str, NDArray]:
    """Arrays (n_envs, rows, *shape), one for each column's dtype and row shape, with anything in them.

    In a folder each is a sparse file without a name: it takes the disk space of the rows that were written, goes when
    the process ends, however it ends, and cannot be mistaken for a saved replay.

    :param folder: made if missing; None for memory.
    :raises MemoryError: if they do not fit into memory. :raises OSError: if they do not fit on the disk.
    """
    size = row_bytes(layout)
    needed, free = n_envs * rows * size, free_bytes(folder)
    if free is not None and needed > free:
        where = "of memory" if folder is None else f"of disk space in {folder}"
        advice = ", or a replay_folder on a disk with more room" if folder is None else ""
        error = MemoryError if folder is None else OSError
        raise error(
            f"The replay's {n_envs * rows:,} rows need {format_bytes(needed)} {where}, but {format_bytes(free)} are "
            f"available. Use a buffer_size of at most {free // size:,} rows, smaller images{advice}."
        )
    shapes = {name: ((n_envs, rows, *shape), dtype) for name, (dtype, shape) in layout.items()}
    if folder is None:
        return {name: _private(shape, dtype) for name, (shape, dtype) in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray] = {}
    for name, (shape, dtype) in shapes.items():
        with tempfile.TemporaryFile(dir=folder) as file:  # the mapping outlives the open file
            arrays[name] = np.memmap(file, dtype, "w+", shape=shape)
    return arrays


def _private(shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """Memory of its own, which goes back to the system with the array: see :func:`hd_agents.host.keep_freed_memory`."""
    size = int(np.prod(shape)) * dtype.itemsize
    if size == 0 or not hasattr(mmap, "MAP_PRIVATE"):
        return np.empty(shape, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, dtype).reshape(shape)
