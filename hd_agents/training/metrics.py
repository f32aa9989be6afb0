"""Averages of training metrics, summed where they are computed and copied to the host once."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Metrics:
    """Collects dicts of 0-d tensors and gives the mean of each key.

    Adding costs two operations on the device, however many keys there are, and never waits for it. Dicts with the
    same keys share one vector of sums; a key that is in some of the dicts only is averaged over those.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one step's values: 0-d tensors of any real dtype, all on one device; their gradient is ignored.

        :raises ValueError: if a value is no tensor or not 0-d, naming its key.
        """
        for key, value in values.items():
            if not isinstance(value, Tensor):
                raise ValueError(f"Metric {key!r} is a {type(value).__name__}: expected a 0-d tensor on the device.")
            if value.dim():
                raise ValueError(f"Metric {key!r} has shape {tuple(value.shape)}: expected a 0-d tensor, its mean.")
        if not values:
            return
        keys = tuple(values)
        row = torch.stack([value.float() for value in values.values()])
        if keys in self._sums:
            self._sums[keys] += row
        else:
            self._sums[keys] = row
        self._counts[keys] = self._counts.get(keys, 0) + 1

    def flush(self) -> dict[str, float]:
        """The mean of each key since the last flush, by one copy from the device; the sums start anew.

        A value that was NaN or infinite shows in its key's mean, and only there. Empty if nothing was added.
        """
        if not self._sums:
            return {}
        sums = torch.cat(list(self._sums.values())).tolist()
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        owners = [(key, keys) for keys in self._sums for key in keys]
        for (key, keys), value in zip(owners, sums, strict=True):
            totals[key] = totals.get(key, 0.0) + value
            counts[key] = counts.get(key, 0) + self._counts[keys]
        self._sums.clear()
        self._counts.clear()
        return {key: total / counts[key] for key, total in totals.items()}
