"""Gradient steps whose loss or gradient is NaN or infinite: skipped, counted and named, all on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

PATIENCE = 20  # skipped updates in a row that are taken for a state that does not mend by itself


class Tally(NamedTuple):
    """What was skipped since the learner was made, on the host.

    :param in_a_row: updates up to the newest of which some part was skipped. :param total: all such updates.
    :param names: loss or gradient norm -> updates in which it was not finite, where that is more than none.
    """

    in_a_row: int
    total: int
    names: dict[str, int]


class Guard:
    """Lets optimisers skip what is not finite; the host learns of it when it asks.

    Fused Adam leaves weights and moments as they are where its ``found_inf`` is 1, on CPU as on CUDA, so nothing waits
    for the device. What follows within the same update is skipped too: sampling turns a NaN latent into zeros, on
    which actor and critic would learn nonsense.
    """

    def __init__(self, device: torch.device) -> None:
        self.bad = self._zero = torch.zeros((), device=device)  # 1 once something in this update was not finite
        self._names: tuple[str, ...] = ()
        self._before: dict[str, int] = {}  # counts up to the first update that had the names
        self._counts = torch.zeros(0, dtype=torch.int64, device=device)  # one for each of the names
        self._rows = torch.zeros(2, dtype=torch.int64, device=device)  # in a row, total

    def begin(self) -> None:
        """Once an update, before its gates."""
        self.bad = self._zero

    def gate(self, optimizer: torch.optim.Optimizer, loss: Tensor, norm: Tensor) -> None:
        """Let the next ``optimizer.step()`` do nothing unless loss and gradient norm (0-d) were finite in this update.

        :param optimizer: a fused one.
        """
        self.bad = torch.maximum(self.bad, 1.0 - torch.isfinite(loss.detach() + norm).float())
        optimizer.found_inf = self.bad  # type: ignore[attr-defined]

    def count(self, metrics: Mapping[str, Tensor]) -> Tensor:
        """Once an update, after its gates: 1 if a part of it was skipped, else 0 (0-d), with the culprits counted.

        :param metrics: of the update; those named ``loss/`` and ``grad_norm/`` are looked at.
        """
        names = tuple(name for name in metrics if name.startswith(("loss/", "grad_norm/")))
        if names != self._names:  # in the first update, and where a part was replaced that has others
            self._before |= self.read().names if self._names else {}
            self._names, self._counts = names, self._counts.new_tensor([self._before.get(name, 0) for name in names])
        self._counts += ~torch.isfinite(torch.stack([metrics[name] for name in self._names]))
        skipped = self.bad.long()
        self._rows += skipped
        self._rows[0] *= skipped
        return self.bad

    def read(self) -> Tally:
        """The counts, by one copy that waits for the device: once in many updates, not in each."""
        in_a_row, total, *counts = torch.cat([self._rows, self._counts]).tolist()
        names = {name: count for name, count in zip(self._names, counts, strict=True) if count}
        return Tally(in_a_row, total, names if self._names else self._before)

    def report(self) -> dict[str, float]:
        """For the log table: all skipped updates, and those in which a loss or gradient was not finite, by name."""
        tally = self.read()
        return {"skipped_updates": tally.total, **{f"nonfinite/{name}": n for name, n in tally.names.items()}}

    def go_on(self, tally: Tally) -> None:
        """Count on from what :meth:`read` gave in a run that goes on here, before the first update."""
        self._rows.copy_(torch.tensor([tally.in_a_row, tally.total]))
        self._before = dict(tally.names)

    def restart(self) -> None:
        """Count those in a row from zero, as after a change of precision."""
        self._rows[0] = 0
