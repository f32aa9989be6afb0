"""Sequence replay: one preallocated ring of rows per environment, sampled as fixed-shape batches."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from hd_agents import checks
from hd_agents.files import atomic_write
from hd_agents.replay.batches import KeptRows, gather_on_host
from hd_agents.replay.file import read_header, read_rows, write_header, write_rows
from hd_agents.replay.memory import allocate, fitting_rows, row_bytes
from hd_agents.world_model.batch import Batch

OBSERVATION = "observation."  # prefix of the columns that hold observation keys


class SequenceReplay:
    """The newest ``capacity // n_envs`` rows of each environment, each observation stored once.

    A row is what :class:`~hd_agents.world_model.batch.Batch` states: the action that led here, what arrived, and
    whether an episode starts or ended here. The memory is claimed at the first :meth:`add`, so a replay that is never
    filled costs nothing.

    :param capacity: Rows of all environments together (one row per agent step and one more per episode); None for
        1,000,000 or what half of the free memory (or disk) holds, whichever is less.
    :param n_envs: Environments, each with its own ring.
    :param images: Observation key to ``(H, W, C)``, stored as uint8.
    :param vectors: Observation key to length, stored as float32.
    :param action_size: Length A of an action, stored as float32.
    :param folder: Where to keep the rows on disk, see :func:`~hd_agents.replay.memory.allocate`; None for in memory.
    :param actions: What an action's numbers stand for, as plain JSON; files of other actions are refused. None for any.
    :raises ValueError: if a size is not positive, a key is both image and vector, or ``capacity < n_envs``.
    """

    def __init__(
        self,
        capacity: int | None,
        n_envs: int,
        images: Mapping[str, tuple[int, int, int]],
        vectors: Mapping[str, int],
        action_size: int,
        folder: str | Path | None = None,
        actions: Any = None,
    ) -> None:
        if n_envs < 1 or (capacity is not None and capacity < n_envs):
            raise ValueError(f"capacity={capacity} with n_envs={n_envs}: expected at least one row per environment.")
        if both := images.keys() & vectors.keys():
            raise ValueError(f"Observation keys {sorted(both)} are given both as images and as vectors.")
        self.n_envs, self.actions = n_envs, actions
        self.folder = None if folder is None else Path(folder)
        self._layout: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
            **{OBSERVATION + key: (np.dtype(np.uint8), tuple(shape)) for key, shape in images.items()},
            **{OBSERVATION + key: (np.dtype(np.float32), (size,)) for key, size in vectors.items()},
            "action": (np.dtype(np.float32), (action_size,)),
            "reward": (np.dtype(np.float32), ()),
            "is_first": (np.dtype(np.bool_), ()),
            "terminated": (np.dtype(np.bool_), ()),
        }
        if capacity is None:
            capacity = max(n_envs, fitting_rows(self.folder, self._layout))
        self.rows_per_env = capacity // n_envs
        for name, (_, shape) in self._layout.items():
            if any(size < 1 for size in shape):
                raise ValueError(f"{name} has shape {shape}: expected sizes of at least 1.")
        self._observation = {
            name.removeprefix(OBSERVATION): spec for name, spec in self._layout.items() if name.startswith(OBSERVATION)
        }
        self._columns: dict[str, NDArray] = {}  # (n_envs, rows_per_env, *shape) each; empty until the first row
        self._counts = [0] * n_envs
        self._heads = [0] * n_envs  # where each environment's next row goes
        self.added = [0] * n_envs  # rows that each environment was ever given, those since overwritten included
        self.history = object()  # another one once a file was read: `added` cannot be compared across that
        self._kept = KeptRows()

    def __getstate__(self) -> dict[str, Any]:
        """For a copy: rows that are stored by now, without the room for more, which would be written to."""
        marks = {name: list(vars(self)[name]) for name in ("_heads", "_counts", "added")}
        filled = max(marks["_counts"])
        stored = {name: np.asarray(rows[:, :filled]) for name, rows in self._columns.items()}
        return {**vars(self), **marks, "_columns": stored}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if stored := self._columns:
            self._columns = allocate(self._layout, self.n_envs, self.rows_per_env, self.folder)
            for name, rows in stored.items():
                self._columns[name][:, : rows.shape[1]] = rows

    def __len__(self) -> int:
        """Rows stored, of all environments."""
        return sum(self._counts)

    def size(self) -> int:
        """Rows stored of the environment that has most, as Stable-Baselines3's buffers count them."""
        return max(self._counts)

    def given(self) -> tuple[object, ...]:
        """Equal to what it was before if nobody has added rows since, nor read a file, and if it is the same replay."""
        return self.history, *self.added

    @property
    def capacity(self) -> int:
        """Rows that fit, of all environments: ``n_envs * rows_per_env``."""
        return self.n_envs * self.rows_per_env

    def nbytes_estimate(self) -> int:
        """Bytes that the rings take once they are allocated."""
        return self.capacity * row_bytes(self._layout)

    @property
    def image_bytes(self) -> int:
        """Bytes of a row that are images."""
        return sum(int(np.prod(shape)) for dtype, shape in self._layout.values() if dtype == np.uint8)

    def leave_device(self) -> bool:
        """Gather batches on the host from now on, where the device's memory is short; False if none lie there."""
        return self._kept.leave()

    def add(
        self,
        env: int,
        observation: Mapping[str, NDArray],
        action: NDArray,
        reward: float,
        is_first: bool,
        terminated: bool,
    ) -> None:
        """Append one row to the ring of environment ``env``, in place of its oldest row once it is full.

        ``observation`` holds every key, images uint8 ``(H, W, C)`` and vectors float32 ``(D,)``; ``action`` is float32
        ``(A,)``. The values are copied.

        :raises ValueError: naming the key, what was found and what is expected.
        :raises MemoryError: at the first row, if the rings do not fit into memory; OSError for the disk.
        """
        if not 0 <= env < self.n_envs:
            raise ValueError(f"env={env}: expected 0 to {self.n_envs - 1}.")
        if observation.keys() != self._observation.keys():
            raise ValueError(f"Observation keys {sorted(observation)}: expected {sorted(self._observation)}.")
        for key, spec in self._observation.items():
            checks.array(f"Observation {key!r}", observation[key], *spec)
        checks.array("The action", action, *self._layout["action"])
        if not abs(reward) <= checks.FLOAT32_MAX:
            raise ValueError(f"The reward of env {env} is {reward}: expected a finite number that fits into float32.")
        if not self._columns:
            self._columns = allocate(self._layout, self.n_envs, self.rows_per_env, self.folder)
        columns, row = self._columns, (env, self._heads[env])
        for key in self._observation:
            columns[OBSERVATION + key][row] = observation[key]
        columns["action"][row] = action
        columns["reward"][row] = reward
        columns["is_first"][row] = is_first
        columns["terminated"][row] = terminated
        self._heads[env] = (row[1] + 1) % self.rows_per_env
        self._counts[env] = min(self._counts[env] + 1, self.rows_per_env)
        self.added[env] += 1

    def newest(self, env: int) -> dict[str, NDArray]:
        """The observation of the row that environment ``env`` was given last."""
        return {key: self._columns[OBSERVATION + key][env, self._heads[env] - 1] for key in self._observation}

    def can_sample(self, length: int) -> bool:
        """Whether at least one environment has stored ``length`` consecutive rows."""
        return max(self._counts) >= length

    def sample(
        self, batch_size: int, length: int, rng: np.random.Generator, device: torch.device | str = "cpu"
    ) -> Batch:
        """Draw ``batch_size`` windows of ``length`` consecutive rows, with replacement, as tensors on ``device``.

        Every start position of every environment is equally likely, so an environment counts by the rows it has. A
        window never crosses its ring's write head, may run across episodes, and its first row has ``is_first`` set.

        :raises ValueError: if ``batch_size`` or ``length`` is not positive, or no environment has ``length`` rows yet.
        """
        if batch_size < 1 or length < 1:
            raise ValueError(f"batch_size={batch_size}, length={length}: expected both to be at least 1.")
        if not self.can_sample(length):
            raise ValueError(
                f"Cannot sample sequences of {length} rows: the fullest environment has {max(self._counts)} rows of "
                f"{self.rows_per_env} that fit. Collect more first, or use shorter sequences or a larger buffer."
            )
        index = self._draw_windows(batch_size, length, rng)
        device = torch.device(device)
        rows = self._kept.on(device, self._columns, self.history)
        if rows is None:
            tensors = gather_on_host(self._columns, index, device)
        else:
            rows.follow(self.added, self._heads)
            tensors = rows.gather(index)
        tensors["is_first"][:, 0] = True
        observation = {key: tensors[OBSERVATION + key] for key in self._observation}
        return Batch(observation, tensors["action"], tensors["reward"], tensors["is_first"], tensors["terminated"])

    def save(self, target: str | Path | BinaryIO, since: Sequence[int] | None = None) -> None:
        """Write the stored rows, oldest first, to one file that :meth:`load` reads; nothing in it is executable.

        A path is written atomically (see :func:`~hd_agents.files.atomic_write`). :mod:`hd_agents.replay.file` states
        the format.

        :param since: an earlier value of ``added``: write only the rows that came after it, for :meth:`append`.
        """
        since = [0] * self.n_envs if since is None else since
        new = [min(n - old, count) for n, old, count in zip(self.added, since, self._counts, strict=True)]
        heads = list(self._heads)  # the same for every column, where another thread adds rows meanwhile
        with atomic_write(Path(target)) if isinstance(target, (str, Path)) else nullcontext(target) as file:
            write_header(file, self._layout, new, self.actions)
            write_rows(file, self._columns, heads, new)

    def load(self, source: str | Path | BinaryIO) -> None:
        """Replace the content by that of a file written by :meth:`save`, whose columns and environments must match.

        Everything the file declares is checked before memory is claimed. If its header is refused, the replay stays
        as it was; if reading fails after that, it is left empty.

        :raises FileNotFoundError: if there is no such file.
        :raises ValueError: saying what is wrong with a foreign, truncated, damaged or mismatched file.
        :raises MemoryError: if the rings do not fit into memory.
        """
        if not isinstance(source, (str, Path)):
            self._read(source, "the replay file", keep=False)
            return
        if Path(source).is_dir():
            raise ValueError(f"{source} is a folder: expected a replay file.")
        with open(source, "rb") as file:
            self._read(file, str(source), keep=False)

    def append(self, source: Path) -> None:
        """Add the rows of a file to those stored, as so many calls of :meth:`add` would; errors as for :meth:`load`."""
        with open(source, "rb") as file:
            self._read(file, str(source), keep=True)

    def count_as(self, added: Sequence[int]) -> None:
        """Take ``added`` from a replay of which this one holds the newest rows.

        :raises ValueError: if these are more rows than that one was given.
        """
        if len(added) != self.n_envs or any(ever < count for ever, count in zip(added, self._counts, strict=True)):
            raise ValueError(f"added={added}: the environments have {self._counts} rows.")
        self.added = [int(ever) for ever in added]

    def _draw_windows(self, batch_size: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Positions ``(B, T)`` in the rings laid end to end, uniform over all windows within one ring's time order."""
        counts, heads = np.array(self._counts), np.array(self._heads)
        starts = np.maximum(counts - length + 1, 0)  # windows of each environment
        ends = np.cumsum(starts)
        draw = rng.integers(ends[-1], size=batch_size)
        env = np.searchsorted(ends, draw, side="right")
        age = draw - (ends - starts)[env]  # rows after the environment's oldest
        oldest = np.where(counts == self.rows_per_env, heads, 0)
        rows = ((oldest[env] + age)[:, None] + np.arange(length)) % self.rows_per_env
        return env[:, None] * self.rows_per_env + rows

    def _read(self, file: BinaryIO, name: str, keep: bool) -> None:
        rows = read_header(file, name, self._layout, self.n_envs, self.rows_per_env, self.actions)
        if sum(rows) and not self._columns:
            self._columns = allocate(self._layout, self.n_envs, self.rows_per_env, self.folder)
        before = self._heads, self._counts, self.added
        self._heads, self._counts, self.added = ([0] * self.n_envs for _ in before)  # empty, if reading fails
        self.history = object()
        heads, counts, added = before if keep else (self._heads, self._counts, self.added)
        read_rows(file, name, self._columns, heads, rows)
        self._heads = [(head + count) % self.rows_per_env for head, count in zip(heads, rows, strict=True)]
        self._counts = [min(old + count, self.rows_per_env) for old, count in zip(counts, rows, strict=True)]
        self.added = [old + count for old, count in zip(added, rows, strict=True)]
