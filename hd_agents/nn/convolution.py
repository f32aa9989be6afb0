"""Strided convolutions on channels-last memory, and what oneDNN takes long for on a CPU, done otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hd_agents.nn.functional import refuse_second_derivatives
from hd_agents.nn.layers import NORM_EPS, Activation, activate, init_, norm_activate
from hd_agents.nn.plain import is_plain
from hd_agents.nn.products import product_dtype

SMALL_GRID = 32  # places of the kernel per image, up to which gradients by matrix products are faster in bfloat16
FEW_OUTPUTS = 4  # channels of a transposed convolution, up to which a plain one of four times as many is faster


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
        self.padding, self.transposed = padding, transposed

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, outputs, H', W')."""
        by_hand = x.is_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling() and self.is_plain()
        x = self._convolve(x) if by_hand else self.conv(x)
        if self.norm is not None:  # over channels, for every pixel
            return norm_activate(x.permute(0, 2, 3, 1), self.norm, self.act).permute(0, 3, 1, 2)
        return x if self.act is None else activate(x, self.act)

    def is_plain(self) -> bool:
        """Whether ``conv`` is as we made it, so that operations alone do what calling it does."""
        conv, pad = self.conv, self.padding
        made = (2, 2), (pad, pad), (1, 1), (0, 0), 1, "zeros"
        return is_plain(conv, nn.ConvTranspose2d if self.transposed else nn.Conv2d) and made == (
            *(conv.stride, conv.padding, conv.dilation, conv.output_padding, conv.groups, conv.padding_mode),
        )

    def _convolve(self, x: Tensor) -> Tensor:
        """``conv`` with gradients of its weight and bias by other means, where those are faster."""
        weight, bias, dtype = self.conv.weight, self.conv.bias, product_dtype(x.device.type)
        constant = None if bias is None else bias.detach().to(dtype)  # its gradient is made apart
        few = self.transposed and weight.shape[1] <= FEW_OUTPUTS and (weight.shape[-1], self.padding) == (4, 1)
        if dtype == torch.bfloat16 and self._grid(x) <= SMALL_GRID:
            x = _ByProducts.apply(x, weight, constant, self.padding, self.transposed, dtype)
        elif few:
            x = _FewOutputs.apply(x, weight, constant, dtype)
        else:
            x = (F.conv_transpose2d if self.transposed else F.conv2d)(x, weight, constant, 2, self.padding)
        return x if bias is None else _LearnBias.apply(x, bias)

    def _grid(self, x: Tensor) -> int:
        """In how many places of an image the kernel is applied."""
        if self.transposed:
            return x.shape[2] * x.shape[3]
        kernel = self.conv.weight.shape[-1]
        height, width = (1 + (side + 2 * self.padding - kernel) // 2 for side in x.shape[2:])
        return height * width


class _LearnBias(torch.autograd.Function):
    """Nothing forward; backward, the gradient of a bias (C,) that was added to x (N, C, H, W).

    A sum over the rows of channels-last memory, which oneDNN takes five times as long for in bfloat16.
    """

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.dtype = bias.dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        rows = _rows(grad)
        longer = rows.reshape(-1, 64 * rows.shape[1]) if len(rows) % 64 == 0 else rows  # which are summed faster
        return grad, longer.sum(0, dtype=ctx.dtype).view(-1, rows.shape[1]).sum(0)


class _ByProducts(torch.autograd.Function):
    """A convolution whose weight learns by one matrix product.

    A transposed convolution and the plain one that it turns round have the same patches, of their larger image.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, transposed: bool, dtype: torch.dtype
    ) -> Tensor:
        ctx.padding, ctx.transposed, ctx.dtypes = padding, transposed, (x.dtype, weight.dtype)
        x, weight = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(x, weight)
        return (F.conv_transpose2d if transposed else F.conv2d)(x, weight, bias, 2, padding)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        if weight.dtype != ctx.dtypes[1]:  # a copy, which no gradient passes
            refuse_second_derivatives()
        small, large = (x, grad) if ctx.transposed else (grad, x)
        kernel, padding = weight.shape[-1], ctx.padding
        patches = patches_of(large.permute(0, 2, 3, 1), kernel, padding).flatten(0, 2)
        to_weight = (_rows(small).t() @ patches).view(len(weight), kernel, kernel, -1).permute(0, 3, 1, 2)
        ahead = None
        if ctx.needs_input_grad[0] and ctx.transposed:
            ahead = (patches @ _rows(weight).view(len(weight), -1).t()).view(len(x), *x.shape[2:], -1)
            ahead = ahead.permute(0, 3, 1, 2)
        elif ctx.needs_input_grad[0]:
            arguments = (2, 2), (padding, padding), (1, 1), False, (0, 0), 1, (True, False, False)
            ahead = torch.ops.aten.convolution_backward(grad, x, weight, None, *arguments)[0]
        x_dtype, weight_dtype = ctx.dtypes
        return None if ahead is None else ahead.to(x_dtype), to_weight.to(weight_dtype), *[None] * 4


class _FewOutputs(torch.autograd.Function):
    """A transposed convolution of kernel 4 and padding 1 to few channels.

    A plain one to four times as many makes the four pixels that a place becomes; each is then put in its own place.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.dtypes = x.dtype, weight.dtype
        # Where a kernel of 3 has, for the first and the second of two pixels, what entries of the one of 4.
        taps = torch.tensor([[[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]])
        taps = taps.to(weight.dtype)
        outputs = weight.shape[1]
        plain = torch.einsum("ayk,bxl,ickl->abciyx", taps, taps, weight).flatten(0, 2).to(dtype)
        x, weight = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(x, weight)
        plain, biases = plain.contiguous(memory_format=torch.channels_last), None if bias is None else bias.repeat(4)
        pixels = F.conv2d(x, plain, biases, 1, 1).permute(0, 2, 3, 1)
        n, height, width, _ = pixels.shape
        pixels = pixels.reshape(n, height, width, 2, 2, outputs).permute(0, 1, 3, 2, 4, 5)
        return pixels.reshape(n, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        if weight.dtype != ctx.dtypes[1]:  # a copy, which no gradient passes
            refuse_second_derivatives()
        arguments = (2, 2), (1, 1), (1, 1), True, (0, 0), 1, (ctx.needs_input_grad[0], True, False)
        ahead, to_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, *arguments)
        return None if ahead is None else ahead.to(ctx.dtypes[0]), to_weight.to(ctx.dtypes[1]), None, None


def patches_of(x: Tensor, kernel: int, padding: int) -> Tensor:
    """What a kernel of stride 2 sees in each place of images (N, H, W, C): (N, H', W', kernel * kernel * C)."""
    x = F.pad(x, (0, 0, padding, padding, padding, padding)).contiguous()
    n, height, width, channels = x.shape
    image, line = height * width * channels, width * channels
    # As channels-last weights have them; a row of a patch is one piece of memory.
    shape = (n, (height - kernel) // 2 + 1, (width - kernel) // 2 + 1, kernel, kernel * channels)
    return x.as_strided(shape, (image, 2 * line, 2 * channels, line, 1)).flatten(3)


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * H * W, C), a view of channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)
