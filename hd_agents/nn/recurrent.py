"""Linear layers inside a loop over time, whose weights learn from all steps at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StepLinear:
    """``base[:, t] + x @ weight.T`` for one step after the other.

    Backpropagation through the loop passes ``x`` its gradient step by step, as it must. The gradient of the weight is
    a sum over steps, which autograd would build from one small product and one addition per step; here it is a single
    matrix product after the last step. It is exact, faster, and in bfloat16 the sum is not rounded at every step.

    :param base: (B, T, outputs), what does not depend on the recurrence; its dtype is the one computed in.
    :param weight: (outputs, inputs).
    """

    def __init__(self, base: Tensor, weight: Tensor) -> None:
        self._inputs: list[Tensor] | None = None
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._inputs = []
            base = _WeightGradient.apply(base, weight, self._inputs)
            weight = weight.detach()
        self._dtype = base.dtype
        self._base = base.unbind(1)
        self._weight = weight.to(base.dtype).t()

    def __call__(self, t: int, x: Tensor) -> Tensor:
        """Step ``t``: x (B, inputs) -> (B, outputs)."""
        x = x.to(self._dtype)
        if self._inputs is not None:
            self._inputs.append(x.detach())
        return torch.addmm(self._base[t], x, self._weight)


class _WeightGradient(torch.autograd.Function):
    """The base itself; backward, when all steps have sent theirs, the gradient of the weight as well."""

    @staticmethod
    def forward(ctx, base: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.inputs, ctx.dtype = inputs, weight.dtype
        return base.view_as(base)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        x = torch.cat(ctx.inputs)  # (T * B, inputs)
        rows = grad.transpose(0, 1).flatten(0, 1)
        return grad, (rows.t() @ x).to(ctx.dtype), None


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
        rows = grad.flatten(0, -2)
        ahead = (grad @ weight.to(grad.dtype)).to(ctx.x_dtype) if ctx.needs_input_grad[1] else None
        gradients = [(rows.t() @ x.flatten(0, -2)).to(weight.dtype)]
        if ctx.has_bias:
            gradients.append(rows.sum(0, dtype=weight.dtype))
        return None, ahead, *gradients
