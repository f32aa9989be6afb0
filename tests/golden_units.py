"""Reading and comparing the official code's pieces (the c* files of the golden numbers)."""

from __future__ import annotations

import torch
from golden_case import KEPT, arrays, folder
from torch import Tensor

Tensors = dict[str, Tensor]


def golden(name: str, prefix: str = "") -> Tensors:
    """The arrays of a file under ``prefix``, without it, as tensors."""
    path = folder() / f"{name}.npz"
    found = arrays(path if path.exists() else KEPT / f"{name}.npz")
    tensors = {key: torch.from_numpy(value) for key, value in found.items() if value.dtype.kind in "fiu"}
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def near(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Within ``tolerance`` of max(1, |official|)."""
    assert ours.shape == theirs.shape
    error = (ours.detach().double() - theirs.double()).abs() / theirs.double().abs().clamp(min=1.0)
    assert float(error.max()) <= tolerance


def near_gradient(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-3 of the largest official entry."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-3 * float(theirs.abs().max()) + 1e-12


def leaf(tensor: Tensor) -> Tensor:
    """A copy to take the gradient of."""
    return tensor.clone().requires_grad_()
