"""What matrix products are computed in, and those in float32 on a CPU, which PyTorch leaves to MKL.

On processors that are not Intel's, MKL takes no notice of AVX512, which can be half of the speed of those that have it.
oneDNN, which comes with PyTorch for its convolutions, does use it. So there it makes the large products too.
``torch.backends.mkldnn.enabled = False`` leaves all of them to MKL, and its convolutions to PyTorch.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hd_agents.host import cpu_beyond_mkl, cpu_has_bfloat16

AMPERE = 8  # compute capability of the first GPUs with bfloat16
FEWEST_WEIGHTS = 1_000_000  # of networks in bfloat16; below, a CPU spends as long on converting (benchmarks/update.py)
LARGE = 3_000_000  # multiplications from which oneDNN is faster; it takes some 15 microseconds before it begins


def bfloat16_pays(device: torch.device, weights: int) -> bool:
    """Whether networks of so many weights are faster in bfloat16.

    NVIDIA's GPUs before Ampere (T4, V100, RTX 20) have no instructions for it: PyTorch imitates them, very slowly.
    """
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= AMPERE
    return device.type == "cpu" and weights >= FEWEST_WEIGHTS and cpu_has_bfloat16()


def product_dtype(device: str) -> torch.dtype:
    """What linear layers compute in now on a type of device: that of autocast, or float32."""
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else torch.float32


def product(a: Tensor, b: Tensor, added: Tensor | None = None) -> Tensor:
    """(N, K) times (K, M), for tensors that are in the dtype of products already. Where gradients pass, PyTorch's own.

    :param added: (M,) or (N, M), added to it.
    """
    if not _pays(a.shape[0], b, a.stride(1) != 1) or not _can_make(a, b, added):
        return torch.mm(a, b) if added is None else torch.addmm(added, a, b)
    if added is None and a.stride(1) != 1 and a.shape[0] > b.shape[1]:
        return _onednn(b.t(), a).t()  # rows that are far apart are rearranged first: better the fewer
    if added is None or added.dim() == 1:
        return _onednn(a, b.t(), added)
    return _onednn(a, b.t()).add_(added)


def apply_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`torch.nn.functional.linear`, and that is what it is for everything but large products in float32."""
    rows = x.numel() // max(x.shape[-1], 1)
    if x.dtype != torch.float32 or not _pays(rows, weight.t()) or (rows < 64 and not weight.is_contiguous()):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight.contiguous(), bias)


class Linear(nn.Linear):
    """A linear layer that multiplies by :func:`apply_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return apply_linear(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    """A linear layer by :func:`product`, both ways."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def]
        wanted = ctx.needs_input_grad
        ctx.save_for_backward(x if wanted[1] else None, weight if wanted[0] else None)
        return product(_rows(x), weight.t(), bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        rows = _rows(grad)
        return (
            None if weight is None else product(rows, weight).view(*grad.shape[:-1], -1),
            None if x is None else product(rows.t(), _rows(x)),
            rows.sum(0) if ctx.needs_input_grad[2] else None,
        )


def _rows(x: Tensor) -> Tensor:
    """(..., K) -> (N, K)."""
    return x.reshape(-1, x.shape[-1])


def _pays(rows: int, b: Tensor, apart: bool = False) -> bool:
    """Whether oneDNN is faster for so many rows times ``b``: sooner for one, later where the rows are far apart."""
    least = LARGE // 4 if rows == 1 else 2 * LARGE if apart else LARGE
    return (
        rows * b.shape[0] * b.shape[1] >= least
        and b.is_cpu
        and b.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and _onednn_is_faster()
        and torch._C._get_mkldnn_enabled()
    )


def _can_make(a: Tensor, b: Tensor, added: Tensor | None) -> bool:
    """Whether oneDNN can multiply tensors that lie in memory like these, and by more than plain loops."""
    tensors = (a, b) if added is None else (a, b, added)
    return (
        all(one.dtype == torch.float32 for one in tensors)
        and not (torch.is_grad_enabled() and any(one.requires_grad for one in tensors))
        and all(one.is_contiguous() or one.t().is_contiguous() for one in (a, b))
        and a.shape[1] == b.shape[0]
        and (added is None or added.dim() == 2 or (len(added) == b.shape[1] and added.is_contiguous()))
    )


@cache
def _onednn_is_faster() -> bool:
    has_it = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_it and torch.backends.mkl.is_available() and cpu_beyond_mkl()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, K) and (M, K) -> (N, M); no gradients pass."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
