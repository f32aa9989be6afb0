"""Linear layers whose results are known already, from a loop that ran without gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hd_agents.nn.functional import refuse_second_derivatives
from hd_agents.nn.products import product


def known_linear(layer: nn.Linear, x: Tensor, out: Tensor) -> Tensor:
    """``layer(x)`` in the graph, where the result is already known: from a loop that ran without gradients.

    :param x: (..., inputs). :param out: (..., outputs), what the layer gave; its dtype is the one computed in.
    """
    if layer.bias is None:
        return _KnownLinear.apply(out, x, layer.weight)
    return _KnownLinear.apply(out, x, layer.weight, layer.bias)


class _KnownLinear(torch.autograd.Function):
    """The known result; backward, the gradients of the linear layer that made it."""

    @staticmethod
    def forward(ctx, out: Tensor, x: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x.to(out.dtype), parameters[0])
        ctx.x_dtype, ctx.has_bias = x.dtype, len(parameters) > 1
        return out.view_as(out)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        if x.dtype != ctx.x_dtype:  # a copy, which no gradient passes
            refuse_second_derivatives()
        rows, ahead = grad.flatten(0, -2), None
        if ctx.needs_input_grad[1]:
            ahead = product(rows, weight.to(rows.dtype)).view_as(x).to(ctx.x_dtype)
        gradients = [product(rows.t(), x.flatten(0, -2)).to(weight.dtype)]
        if ctx.has_bias:
            gradients.append(rows.sum(0, dtype=weight.dtype))
        return None, ahead, *gradients
