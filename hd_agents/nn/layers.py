"""Linear and convolutional building blocks with the two official initialisations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-3  # both official codes
Init = Literal["normal", "uniform", "zeros"]
Activation = Literal["silu", "elu"]


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


def linear(inputs: int, outputs: int, init: Init = "uniform", bias: bool = True) -> nn.Linear:
    """A linear layer with the given initialisation and a zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    init_(layer.weight.data, init)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def activate(x: Tensor, act: Activation) -> Tensor:
    """The activation by name."""
    return F.silu(x) if act == "silu" else F.elu(x)


class Dense(nn.Module):
    """Linear -> (LayerNorm) -> activation. With the norm, the linear layer has no bias.

    :param norm: True for the layers of DreamerV3, False for those of DreamerV2.
    """

    def __init__(self, inputs: int, outputs: int, *, norm: bool, act: Activation) -> None:
        super().__init__()
        self.linear = linear(inputs, outputs, "normal" if norm else "uniform", bias=not norm)
        self.norm = nn.LayerNorm(outputs, eps=NORM_EPS) if norm else None
        self.act = act

    def finish(self, x: Tensor) -> Tensor:
        """Norm and activation of an already projected input (..., outputs)."""
        if self.norm is not None:
            x = self.norm(x.float())  # as autocast has it on CUDA; CPU autocast would sum gradients in bfloat16
        return activate(x, self.act)

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


class Conv(nn.Module):
    """A strided (transposed) convolution -> (channel LayerNorm) -> (activation), on channels-last memory.

    :param transposed: True doubles the image side, False halves it (with ``padding=1`` and ``kernel=4``).
    :param act: None for the plain last layer of a decoder, which has a bias and no norm.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 4,
        padding: int = 1,
        transposed: bool = False,
        norm: bool,
        act: Activation | None,
    ) -> None:
        super().__init__()
        conv_class = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.conv = conv_class(inputs, outputs, kernel, stride=2, padding=padding, bias=not norm)
        init_(self.conv.weight.data, "normal" if norm else "uniform")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.conv.weight.data = self.conv.weight.data.contiguous(memory_format=torch.channels_last)
        self.norm = nn.LayerNorm(outputs, eps=NORM_EPS) if norm else None
        self.act = act
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, outputs, H', W')."""
        x = self.conv(x)
        if self.norm is not None:  # over channels, for every pixel
            x = self.norm(x.permute(0, 2, 3, 1).float()).permute(0, 3, 1, 2)
        return x if self.act is None else activate(x, self.act)


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
        reset, candidate, update = self.norm(gates.float()).chunk(3, -1)  # the memory itself stays in float32
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(deter, candidate, torch.sigmoid(update - 1.0))

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:
        """x (N, inputs), deter (N, D) -> the next deter (N, D)."""
        return self.finish(self.linear(torch.cat([deter, x], -1)), deter)
