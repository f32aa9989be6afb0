"""Matrix products in float32 on a CPU, which PyTorch leaves to MKL.

On processors that are not Intel's, MKL takes no notice of AVX512, which is half of the speed of those that have it.
oneDNN, which comes with PyTorch for its convolutions, does use it. So there it makes the large products too.
``torch.backends.mkldnn.enabled = False`` leaves all of them to MKL, and its convolutions to PyTorch.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hd_agents.host import cpu_beyond_mkl

LARGE = 3_000_000  # multiplications from which oneDNN is faster; it takes some 15 microseconds before it begins


def product_dtype(device: str) -> torch.dtype:
    """What linear layers compute in now on a type of device: that of autocast, or float32."""
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else torch.float32


def product(a: Tensor, b: Tensor, added: Tensor | None = None) -> Tensor:
    """(N, K) times (K, M), for tensors that are in the dtype of products already. Where gradients pass, PyTorch's own.

    :param added: (M,) or (N, M), added to it.
    """
    learns = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if learns or not (_pays(a, b) and _is_dense(a) and _is_dense(b)):
        return torch.mm(a, b) if added is None else torch.addmm(added, a, b)
    if added is None and a.stride(1) != 1 and a.shape[0] > b.shape[1]:
        return _onednn(b.t(), a).t()  # rows that are far apart are rearranged first: better the fewer
    if added is None or added.dim() == 1:
        return _onednn(a, b.t(), added)
    return _onednn(a, b.t()).add_(added)


def apply_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`torch.nn.functional.linear`, and that is what it is for everything but large products in float32."""
    if torch.compiler.is_compiling() or product_dtype(x.device.type) != torch.float32:
        return F.linear(x, weight, bias)
    if _pays(x.flatten(0, -2), weight.t()):
        return _Linear.apply(x, weight.contiguous(), bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """A linear layer that multiplies by :func:`apply_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return apply_linear(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    """A linear layer by :func:`product`, both ways."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        return product(x.flatten(0, -2), weight.t(), bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        wanted = ctx.needs_input_grad
        return (
            product(rows, weight).view_as(x) if wanted[0] else None,
            product(rows.t(), x.flatten(0, -2)) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


def _pays(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is faster: sooner for a single row, later where it has to rearrange ``a``."""
    least = LARGE // 2 if a.shape[0] == 1 else LARGE if a.stride(1) == 1 else 2 * LARGE
    return (
        a.shape[0] * b.shape[0] * b.shape[1] >= least
        and a.is_cpu
        and a.dtype == b.dtype == torch.float32
        and _onednn_is_faster()
        and torch._C._get_mkldnn_enabled()
    )


def _is_dense(x: Tensor) -> bool:
    """Whether its rows or its columns follow each other in memory; for others oneDNN has plain loops, or nothing."""
    return x.is_contiguous() or x.t().is_contiguous()


@cache
def _onednn_is_faster() -> bool:
    has_it = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_it and torch.backends.mkl.is_available() and cpu_beyond_mkl()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, K) and (M, K) -> (N, M); no gradients pass."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
