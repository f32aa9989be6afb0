"""The functions of ``hd_agents/nn/kernels.py`` in PyTorch's operations, for machines without Triton."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hd_agents.nn.functional import draw_one_hot, gru_update, softmax_backward
from hd_agents.nn.layers import NORM_EPS, activate

Norm = tuple[Tensor | None, Tensor | None]


def _normed(x: Tensor, norm: Norm) -> Tensor:
    return x if norm[0] is None else F.layer_norm(x, x.shape[-1:], norm[0].float(), norm[1].float(), NORM_EPS)


def norm_act(x: Tensor, added: Tensor | None, norm: Norm, act: Any, out: Tensor) -> None:
    if added is not None:
        x += added
    out.copy_(activate(_normed(x.float(), norm), act))


def norm_act_backward(grad: Tensor, x: Tensor, norm: Norm, act: Any, at: Tensor, before: Tensor) -> None:
    with torch.enable_grad():
        start = x.detach().float().requires_grad_()
        middle = _normed(start, norm)
        inner = middle.detach().requires_grad_()
        at.copy_(torch.autograd.grad(activate(inner, act), inner, grad.float())[0])
        before.copy_(at if norm[0] is None else torch.autograd.grad(middle, start, at)[0])


def enter_backward(
    joint: Tensor,
    passed: Tensor,
    outer: Tensor,
    keep: Tensor,
    x: Tensor,
    norm: Norm,
    act: Any,
    at_before: Tensor,
    memory: Tensor,
    at: Tensor,
    before: Tensor,
) -> None:
    at_before.copy_(joint[:, : passed.shape[1]] + passed)
    memory.copy_(outer + keep.unsqueeze(1) * at_before)
    norm_act_backward(joint[:, passed.shape[1] :], x, norm, act, at, before)


def gates(
    x: Tensor,
    added: Tensor | None,
    norm: Norm,
    before: Tensor,
    initial: Tensor,
    keep: Tensor,
    deter: Tensor,
    used: Tensor,
    next_before: Tensor,
    next_joint: Tensor,
) -> None:
    if added is not None:
        x += added
    made = gru_update(_normed(x.float(), norm), before)
    kept = keep.unsqueeze(1)
    then = (1.0 - kept) * initial + kept * made
    for place, value in ((deter, made), (used, made), (next_before, then), (next_joint, then)):
        place.copy_(value)


def gates_backward(
    memory: Tensor, pulled: Tensor, x: Tensor, norm: Norm, before: Tensor, at: Tensor, out: Tensor, passed: Tensor
) -> None:
    with torch.enable_grad():
        start, past = x.detach().float().requires_grad_(), before.detach().clone().requires_grad_()
        middle = _normed(start, norm)
        inner = middle.detach().requires_grad_()
        above, beside = torch.autograd.grad(gru_update(inner, past), [inner, past], memory + pulled.float())
        at.copy_(above)
        passed.copy_(beside)
        out.copy_(torch.autograd.grad(middle, start, above)[0])


def draw(
    logits: Tensor,
    added: Tensor,
    numbers: Tensor,
    unimix: float,
    initial: Tensor,
    keep: Tensor,
    probs: Tensor,
    stoch: Tensor,
    start: Tensor,
) -> None:
    logits += added
    sample, found = draw_one_hot(logits.view_as(probs), numbers, unimix)
    probs.copy_(found)
    stoch.copy_(sample.flatten(1))
    kept = keep.unsqueeze(1)
    start.copy_((1.0 - kept) * initial + kept * stoch)


def draw_backward(
    outer: Tensor, pulled: Tensor, keep: Tensor, probs: Tensor, outer_logits: Tensor, unimix: float, out: Tensor
) -> None:
    grad = (outer.float() + keep.unsqueeze(1) * pulled.float()).view_as(probs)
    out.copy_((softmax_backward(grad, probs) * (1.0 - unimix) + outer_logits.float()).flatten(1))
