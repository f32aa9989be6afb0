"""Dense layers, their stack and the GRU, with the two official initialisations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hd_agents.nn.functional import gru_update, refuse_second_derivatives
from hd_agents.nn.plain import is_plain
from hd_agents.nn.products import Linear

NORM_EPS = 1e-3  # both official codes
Init = Literal["normal", "uniform", "zeros"]
Activation = Literal["silu", "elu"]
ACTIVATIONS = get_args(Activation)


def init_(weight: Tensor, kind: Init) -> None:
    """Initialise ``weight`` in place with variance 1 / fan_avg.

    "normal" is cut at two standard deviations and rescaled to the stated variance, "uniform" is Glorot's; the bounds of
    the normal are multiples of its standard deviation, not absolute numbers.
    """
    receptive = weight[0, 0].numel() if weight.dim() > 2 else 1
    fan = (weight.shape[0] + weight.shape[1]) * receptive / 2
    if kind == "zeros":
        nn.init.zeros_(weight)
    elif kind == "uniform":
        limit = math.sqrt(3 / fan)
        nn.init.uniform_(weight, -limit, limit)
    else:
        std = math.sqrt(1 / fan) / 0.87962566103423978  # the standard deviation of a unit normal cut at +-2
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def linear(inputs: int, outputs: int, init: Init = "uniform", bias: bool = True) -> Linear:
    """A linear layer with the given initialisation and a zero bias."""
    layer = Linear(inputs, outputs, bias=bias)
    init_(layer.weight.data, init)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def activate(x: Tensor, act: Activation, inplace: bool = False) -> Tensor:
    """The activation by name."""
    return F.silu(x, inplace=inplace) if act == "silu" else F.elu(x, inplace=inplace)


def activate_backward(grad: Tensor, x: Tensor, act: Activation) -> Tensor:
    """The gradient before the activation of ``x``, from the one after it."""
    if act == "silu":
        return torch.ops.aten.silu_backward(grad, x)
    return torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, False, x)


def norm_activate(x: Tensor, norm: nn.LayerNorm, act: Activation | None) -> Tensor:
    """Layer norm and the activation. Sums are of float32; bfloat16 stays what is kept in memory, where time goes."""
    if x.dtype != torch.bfloat16 or act is None or torch.compiler.is_compiling() or not _is_ours(norm):
        x = norm(x.float())
        return x if act is None else activate(x, act)
    if torch.is_grad_enabled():
        return _NormActivate.apply(x, norm.weight, norm.bias, act)
    weight, bias = (norm_weight(part, x.dtype) for part in (norm.weight, norm.bias))
    with torch.autocast(x.device.type, enabled=False):  # it would go through float32 on CUDA
        return activate(torch.native_layer_norm(x, x.shape[-1:], weight, bias, NORM_EPS)[0], act, inplace=True)


def has_our_numbers(norm: Any) -> bool:
    """Whether a layer norm is as our operations take it: over one axis, with their epsilon, a weight and a bias."""
    own = len(norm.normalized_shape) == 1 and norm.eps == NORM_EPS
    return own and norm.weight is not None and norm.bias is not None


def _is_ours(norm: nn.Module) -> bool:
    return is_plain(norm, nn.LayerNorm) and has_our_numbers(norm)


def norm_weight(part: Tensor, dtype: torch.dtype) -> Tensor:
    """A norm's weight or bias for inputs of ``dtype``: on CUDA of the same dtype, on a CPU as it is."""
    return part.to(dtype) if part.is_cuda else part


class _NormActivate(torch.autograd.Function):
    """Norm and activation of bfloat16, whose gradients are summed in float32.

    On a CPU PyTorch's own would sum those of the weights in bfloat16, off by up to a quarter of the largest.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, act: Activation) -> Tensor:  # type: ignore[no-untyped-def]
        weight, bias = norm_weight(weight, x.dtype), norm_weight(bias, x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            y, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, NORM_EPS)
        ctx.act = act
        ctx.save_for_backward(x, y, mean, rstd, weight, bias)
        return activate(y, act)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        refuse_second_derivatives()
        x, y, mean, rstd, weight, bias = ctx.saved_tensors
        grad = activate_backward(grad.to(y.dtype), y, ctx.act)
        grad, wide = (grad, x) if x.is_cuda else (grad.float(), x.float())
        arguments = grad, wide, x.shape[-1:], mean, rstd, weight, bias
        ahead, *weights = torch.ops.aten.native_layer_norm_backward(*arguments, (True, True, True))
        return ahead.to(x.dtype), *(part.float() for part in weights), None


class Dense(nn.Module):
    """Linear -> (LayerNorm) -> activation. With the norm, the linear layer has no bias.

    :param norm: True for the layers of DreamerV3, False for those of DreamerV2.
    """

    def __init__(self, inputs: int, outputs: int, *, norm: bool, act: Activation) -> None:
        super().__init__()
        if act not in ACTIVATIONS:
            raise ValueError(f"act={act!r}: use one of {list(ACTIVATIONS)}.")
        self.linear = linear(inputs, outputs, "normal" if norm else "uniform", bias=not norm)
        self.norm = nn.LayerNorm(outputs, eps=NORM_EPS) if norm else None
        self.act = act

    def finish(self, x: Tensor) -> Tensor:
        """Norm and activation of an already projected input (..., outputs)."""
        if self.norm is None:
            return activate(x, self.act)
        return norm_activate(x, self.norm, self.act)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.finish(self.linear(x))


class MLP(nn.Sequential):
    """A stack of :class:`Dense` layers, (..., inputs) -> (..., units)."""

    def __init__(self, inputs: int, units: int, layers: int, *, norm: bool, act: Activation) -> None:
        super().__init__(*[Dense(units if i else inputs, units, norm=norm, act=act) for i in range(layers)])
        self.outputs = units if layers else inputs

    def __iter__(self) -> Iterator[Dense]:
        """The layers, first to last."""
        return super().__iter__()  # type: ignore[return-value]  # nothing else was put in


class GRUCell(nn.Module):
    """The layer-normalised GRU of both Dreamers: the reset gate scales the candidate, the update gate starts at -1.

    :param bias: DreamerV2 keeps the bias of the linear layer beside the norm, DreamerV3 has none.
    """

    def __init__(self, inputs: int, deter: int, *, bias: bool) -> None:
        super().__init__()
        self.linear = linear(deter + inputs, 3 * deter, "uniform" if bias else "normal", bias=bias)
        self.norm = nn.LayerNorm(3 * deter, eps=NORM_EPS)

    def finish(self, gates: Tensor, deter: Tensor) -> Tensor:
        """The linear layer's output (N, 3 D) and deter (N, D) -> the next deter (N, D)."""
        return gru_update(self.norm(gates.float()), deter)  # the memory itself stays in float32

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:
        """x (N, inputs), deter (N, D) -> the next deter (N, D)."""
        return self.finish(self.linear(torch.cat([deter, x], -1)), deter)
