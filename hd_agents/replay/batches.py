"""From the rows of a replay to the tensors of a batch: gathered in the host's memory, or on the device itself."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIECE = 1 << 26  # bytes that are pinned at a time where many rows are new, as after loading
SHARE = 0.5  # of the device's free memory that the rows may take there


def fits_on(device: torch.device, size: int) -> bool:
    """Whether ``size`` bytes of rows are to be kept on ``device``: on CUDA, if half of the free memory holds them."""
    return device.type == "cuda" and size <= SHARE * torch.cuda.mem_get_info(device)[0]


def gather_on_host(columns: Mapping[str, NDArray], index: NDArray[np.int64], device: torch.device) -> dict[str, Tensor]:
    """The rows at ``index`` (B, T) of columns (n_envs, rows, ...) laid end to end, as new tensors (B, T, ...).

    On their way to CUDA they pass through pinned memory, which torch keeps from reuse until the copy is done.
    """
    tensors = {}
    for name, column in columns.items():
        rows = column.reshape(-1, *column.shape[2:])
        dtype = torch.from_numpy(rows[:0]).dtype
        tensor = torch.empty((*index.shape, *rows.shape[1:]), dtype=dtype, pin_memory=device.type == "cuda")
        np.take(rows, index, axis=0, out=tensor.numpy(), mode="clip")  # 'raise' would copy twice
        tensors[name] = tensor.to(device, non_blocking=True)
    return tensors


class DeviceRows:
    """A replay's rows a second time, on the device. The host's stay the ones that are saved.

    :param columns: the host's, (n_envs, rows, ...).
    """

    def __init__(self, columns: Mapping[str, NDArray], device: torch.device) -> None:
        self._columns, self.device = columns, device
        self._tensors = {
            name: torch.empty(column.shape, dtype=torch.from_numpy(column[:0]).dtype, device=device)
            for name, column in columns.items()
        }
        self._added = [0] * len(next(iter(columns.values())))

    def follow(self, added: Sequence[int], heads: Sequence[int]) -> None:
        """Copy the rows that are new, those of all environments together.

        :param added: rows that each environment was ever given. :param heads: where its next row goes.
        """
        ring = next(iter(self._columns.values())).shape[1]
        places = []
        for env, (count, old, head) in enumerate(zip(added, self._added, heads, strict=True)):
            places.append(env * ring + np.arange(head - min(count - old, ring), head) % ring)
        where = np.concatenate(places)
        rows = max(1, PIECE // sum(column[:1, :1].nbytes for column in self._columns.values()))
        for first in range(0, len(where), rows):
            piece = where[first : first + rows]
            index = self._ready(piece).to(self.device, non_blocking=True)
            for name, column in self._columns.items():
                block = self._ready(column.reshape(-1, *column.shape[2:])[piece])
                self._tensors[name].flatten(0, 1).index_copy_(0, index, block.to(self.device, non_blocking=True))
        self._added = list(added)

    def gather(self, index: NDArray[np.int64]) -> dict[str, Tensor]:
        """As :func:`gather_on_host`."""
        where = self._ready(index).to(self.device, non_blocking=True)
        return {name: tensor.flatten(0, 1)[where] for name, tensor in self._tensors.items()}

    def _ready(self, array: NDArray) -> Tensor:
        """As a tensor that can go to the device without the host waiting for it: in pinned memory where that counts."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


class KeptRows:
    """The rows of a replay that are kept on a device, one device at a time, where they fit."""

    def __init__(self) -> None:
        self.rows: DeviceRows | None = None
        self._left = False
        self._of: tuple[torch.device, object] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, which has other rows to keep."""
        return {**vars(self), "rows": None, "_of": None}

    def leave(self) -> bool:
        """Give the device's memory back: from now on rows are gathered on the host. False if none lie there."""
        there, self.rows, self._left = self.rows is not None, None, True
        return there

    def on(self, device: torch.device, columns: Mapping[str, NDArray], history: object) -> DeviceRows | None:
        """The rows on the device, which :meth:`DeviceRows.follow` brings up to date; None where they stay on the host.

        :param history: of the replay; another one makes them anew.
        """
        if self._left:
            return None
        if device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        if self._of != (device, history):
            if self.rows is not None:
                if device.type == "cpu" and self.rows.device.type != "cpu":
                    return None  # a sample for the host in between: what lies on the device stays there
                self.rows = None  # its memory first
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            if fits_on(device, sum(column.nbytes for column in columns.values())):
                with contextlib.suppress(torch.OutOfMemoryError):  # others took it in between
                    self.rows = DeviceRows(columns, device)
            self._of = device, history
        return self.rows
