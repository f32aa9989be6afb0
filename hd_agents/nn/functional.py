"""Small tensor functions shared by the networks: symlog, unimix, straight-through samples, categorical KL, the GRU."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

FEW_CLASSES, MANY = 16, 4096  # classes that do not fill a vector of AVX512; numbers from which turning round pays


def refuse_second_derivatives() -> None:
    """Within gradients by hand, which keep numbers that no gradient passes: RuntimeError if their own are wanted."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "create_graph=True: these gradients are made by hand, and a gradient of them would come out wrong. "
            "retain_graph=True alone gives the gradients themselves, as often as they are wanted."
        )


def symlog(x: Tensor) -> Tensor:
    """sign(x) * log(1 + |x|), the squashing of DreamerV3 (Hafner et al. 2023, eq. 1)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """The inverse of :func:`symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def unimix_log_probs(logits: Tensor, unimix: float) -> Tensor:
    """Log-probabilities over the last axis, with a share ``unimix`` of the uniform distribution mixed in.

    :param logits: (..., K) unnormalised.
    :param unimix: share of the uniform distribution, in [0, 1); 0 gives a plain log-softmax.
    """
    if unimix == 0.0:
        return torch.log_softmax(logits, -1)
    probs = torch.softmax(logits.float(), -1)
    return torch.log(probs * (1.0 - unimix) + unimix / logits.shape[-1])


def gru_update(gates: Tensor, deter: Tensor) -> Tensor:
    """The normalised gates (N, 3 D) in float32 and deter (N, D) -> the next deter (N, D)."""
    reset, candidate, update = gates.chunk(3, -1)
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    return torch.lerp(deter, candidate, torch.sigmoid(update - 1.0))


def categorical_kl(left: Tensor, right: Tensor) -> Tensor:
    """KL(left || right) in nats of independent categoricals given log-probabilities (..., S, K) -> (...)."""
    return (left.exp() * (left - right)).sum((-2, -1))


def draw_one_hot(
    logits: Tensor, draw: Tensor | None, unimix: float, room: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One-hot samples, as :func:`sample_one_hot`, and the probabilities without the uniform share. No gradients pass.

    :param room: (..., K + 1) zeros, which a loop may hand over again and again; its contents are lost.
    """
    probs = _softmax(logits.float())
    if draw is None or draw.dtype == torch.int64:
        index = probs.argmax(-1, keepdim=True) if draw is None else draw.unsqueeze(-1)
        return torch.zeros_like(logits).scatter_(-1, index, 1.0), probs
    classes = logits.shape[-1]
    # The class is the first where the mixed distribution function, (1 - unimix) cdf + unimix (k + 1) / K, exceeds u.
    bound = torch.add(_ramp(classes, unimix, probs.device), draw.unsqueeze(-1), alpha=1.0 / (1.0 - unimix))
    beyond = probs.new_zeros(*probs.shape[:-1], classes + 1) if room is None else room
    torch.gt(probs.cumsum(-1), bound, out=beyond[..., 1:])
    return (beyond[..., 1:] - beyond[..., :-1]).to(logits.dtype), probs


def _softmax(logits: Tensor) -> Tensor:
    """Over the last axis. Many rows of few classes take a CPU three times as long as the same numbers turned round."""
    if logits.shape[-1] >= FEW_CLASSES or logits.numel() < MANY or not logits.is_cpu:
        return torch.softmax(logits, -1)
    return torch.softmax(logits.movedim(-1, 0).contiguous(), 0).movedim(0, -1).contiguous()


@cache
def _ramp(classes: int, unimix: float, device: torch.device) -> Tensor:
    """What unimix takes from the number that the distribution function of each class has to exceed; the last one's
    always does, whatever rounding has left of it.
    """
    with torch.inference_mode(False):
        ramp = torch.arange(1, classes + 1, device=device) * (-unimix / (1.0 - unimix) / classes)
        ramp[-1] = -torch.inf
        return ramp


def softmax_backward(grad: Tensor, probs: Tensor) -> Tensor:
    """The gradient before a softmax over the last axis, from the one after it, in float32."""
    return torch.ops.aten._softmax_backward_data(grad.float(), probs, -1, torch.float32)


class _SampleOneHot(torch.autograd.Function):
    """One-hot samples whose gradient is that of the (mixed) probabilities: the straight-through estimator.

    One node in the graph instead of six: inside the recurrence the number of nodes is what costs.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, draw: Tensor | None, unimix: float) -> Tensor:  # type: ignore[no-untyped-def]
        sample, probs = draw_one_hot(logits, draw, unimix)
        ctx.save_for_backward(probs)
        ctx.scale = 1.0 - unimix
        return sample

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        refuse_second_derivatives()
        (probs,) = ctx.saved_tensors
        return softmax_backward(grad, probs).mul_(ctx.scale).to(grad.dtype), None, None


def sample_one_hot(logits: Tensor, draw: Tensor | None, unimix: float = 0.0) -> Tensor:
    """One-hot samples with straight-through gradients, shape of ``logits``.

    :param logits: (..., K) unnormalised.
    :param draw: (...) uniform numbers in [0, 1) to sample by the inverse distribution function; int64 class indices to
        replay a recorded sample; None for the mode.
    :param unimix: share of the uniform distribution, as in :func:`unimix_log_probs`.
    """
    if not torch.is_grad_enabled():
        return draw_one_hot(logits, draw, unimix)[0]
    return _SampleOneHot.apply(logits, draw, unimix)
