"""The recurrence of filtering with its gradients by hand, in half of the operations that autograd takes backwards.

One step, as :meth:`hd_agents.world_model.rssm.RSSM.observe_step` has it, from the state (deter, stoch) before it::

    start   = initial where an episode begins, else the state
    hidden  = act(norm(from_action + start.stoch W_in'))
    reset, candidate, update = norm([start.deter, hidden] W_gru' + bias)
    deter   = start.deter + sigmoid(update - 1) (tanh(sigmoid(reset) candidate) - start.deter)
    logits  = act(norm(from_embed + deter W_obs')) W_post' + bias
    stoch   ~ logits, straight through

Backwards, only what passes from a step to the one before it is computed step by step. Derivatives of activations and
gates are made for all steps at once before that loop, and the gradients of all weights in one product each after it;
in bfloat16 these sums are not rounded at every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hd_agents.nn.functional import draw_one_hot, gru_update, refuse_second_derivatives, softmax_backward
from hd_agents.nn.layers import NORM_EPS, Activation, activate
from hd_agents.nn.products import product
from hd_agents.world_model.filter_parts import WEIGHTS, Grads, Norm, Pulls, Seen, Sequences, Weights, gradients
from hd_agents.world_model.fused_filtering import FusedFilter


def filter_by_hand(
    inputs: Sequences, weights: Weights, stoch: int, unimix: float, act: Activation, *, fused: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Deter (T, B, D), stoch (T, B, S * K) and raw posterior logits (T, B, S, K) of all steps.

    :param stoch: S. :param unimix: uniform share of the posterior. :param act: of the two layers with a norm.
    :param fused: by the kernels of :mod:`hd_agents.world_model.fused_filtering`.
    """
    function: Any = FusedFilter if fused else _Filter
    with torch.autocast(inputs.keep.device.type, enabled=False):  # it casts by itself
        return function.apply((stoch, unimix, act), *inputs, *weights.flat)


class _Filter(torch.autograd.Function):
    """See the module."""

    @staticmethod
    def forward(ctx, settings: tuple[int, float, Activation], *tensors: Any) -> Grads:  # type: ignore[no-untyped-def]
        inputs, weights = Sequences(*tensors[: len(Sequences._fields)]), Weights.of(tensors[len(Sequences._fields) :])
        groups, unimix, act = settings
        dtype = inputs.from_action.dtype
        into, gru, observe, post = (weight.to(dtype).contiguous().t() for weight in weights.products)
        gru_bias = None if weights.gru_bias is None else weights.gru_bias.to(dtype)
        post_bias = weights.posterior_bias.to(dtype)
        reset = 1.0 - inputs.keep
        first_deter, first_stoch = (reset * inputs.initial_deter).unbind(), (reset * inputs.initial_stoch).unbind()
        keep, draws = inputs.keep.unbind(), [None] * len(reset) if inputs.draws is None else inputs.draws.unbind()
        deter, stoch = inputs.deter, inputs.stoch
        room = deter.new_zeros(len(stoch), groups, stoch.shape[-1] // groups + 1)
        steps: list[tuple[Tensor, ...]] = []
        made: list[tuple[Tensor, ...]] = []
        actions, embeds = inputs.from_action.unbind(1), inputs.from_embed.unbind(1)
        for t, (action, embed) in enumerate(zip(actions, embeds, strict=True)):
            start = torch.addcmul(first_stoch[t], stoch, keep[t]).to(dtype)
            before = torch.addcmul(first_deter[t], deter, keep[t])
            x_in = product(start, into, action)
            y_in, mean_in, rstd_in = _norm(x_in, weights.norm_in)
            joint = torch.cat([before, activate(y_in, act)], -1).to(dtype)
            x_gru = product(joint, gru, gru_bias)
            y_gru, mean_gru, rstd_gru = _norm(x_gru, weights.norm_gru)
            deter = gru_update(y_gru, before)
            deter_used = deter.to(dtype)
            x_obs = product(deter_used, observe, embed)
            y_obs, mean_obs, rstd_obs = _norm(x_obs, weights.norm_obs)
            hidden = activate(y_obs, act).to(dtype)
            logits = product(hidden, post, post_bias).unflatten(-1, (groups, -1))
            sample, probs = draw_one_hot(logits, draws[t], unimix, room)
            stoch = sample.flatten(-2)
            made.append((deter, stoch, logits))
            steps.append((start, before, joint, deter_used, hidden, probs, x_in, y_in, x_gru, y_gru, x_obs, y_obs))
            steps[-1] += (mean_in, rstd_in, mean_gru, rstd_gru, mean_obs, rstd_obs)
        ctx.settings, ctx.columns = settings, len(steps[0])
        ctx.save_for_backward(inputs.keep, *weights.flat, *(tensor for step in steps for tensor in step))
        return tuple(torch.stack(column) for column in zip(*made, strict=True))

    @staticmethod
    def backward(ctx, to_deter: Tensor, to_stoch: Tensor, to_logits: Tensor) -> Grads:  # type: ignore[no-untyped-def]
        refuse_second_derivatives()
        keep, *rest = ctx.saved_tensors
        weights, rest = Weights.of(rest[:WEIGHTS]), rest[WEIGHTS:]
        _, unimix, act = ctx.settings
        columns = [tuple(rest[column :: ctx.columns]) for column in range(ctx.columns)]
        start, before, joint, deter_used, hidden, probs, x_in, y_in, x_gru, y_gru, x_obs, y_obs, *moments = columns
        mean_in, rstd_in, mean_gru, rstd_gru, mean_obs, rstd_obs = moments
        dtype, size = x_in[0].dtype, before[0].shape[-1]
        into, gru, observe, post = (weight.to(dtype).contiguous() for weight in weights.products)

        # For all steps at once: how the memory answers its gates, and the slopes of the activations.
        opened, candidate, update = torch.stack(y_gru).chunk(3, -1)
        opened, update = torch.sigmoid(opened), torch.sigmoid(update - 1.0)
        reached = torch.tanh(opened * candidate)
        slope = update * (1.0 - reached.square()) * opened
        moved = (reached - torch.stack(before)) * update * (1.0 - update)
        gates = torch.stack([slope * candidate * (1.0 - opened), slope, moved], -2).unbind()  # (B, 3, D) each
        stays = (1.0 - update).unbind()
        slope_in, slope_obs = (_slope(torch.stack(y), act).unbind() for y in (y_in, y_obs))
        keeps, outer_deter, outer_stoch, outer_logits = (x.unbind() for x in (keep, to_deter, to_stoch, to_logits))

        # From the last step to the first.
        to_memory, to_sample = outer_deter[-1], outer_stoch[-1].float()
        kept: list[tuple[Tensor, ...]] = []
        for t in reversed(range(len(keeps))):
            pulled = softmax_backward(to_sample.view_as(probs[t]), probs[t])
            logits = torch.add(outer_logits[t], pulled, alpha=1.0 - unimix).flatten(-2).to(dtype)
            at_obs = product(logits, post) * slope_obs[t]
            before_obs = _norm_back(at_obs, x_obs[t], mean_obs[t], rstd_obs[t], weights.norm_obs).to(dtype)
            to_memory = _add_product(to_memory, before_obs, observe)
            at_gru = (to_memory.unsqueeze(-2) * gates[t]).flatten(-2)
            before_gru = _norm_back(at_gru, x_gru[t], mean_gru[t], rstd_gru[t], weights.norm_gru).to(dtype)
            at_joint = product(before_gru, gru)
            at_before = torch.addcmul(at_joint[:, :size], to_memory, stays[t])
            at_in = at_joint[:, size:] * slope_in[t]
            before_in = _norm_back(at_in, x_in[t], mean_in[t], rstd_in[t], weights.norm_in).to(dtype)
            at_start = product(before_in, into)
            if t:  # at the first step they are the gradients of the state before it
                to_memory = torch.addcmul(outer_deter[t - 1], at_before, keeps[t])
                to_sample = torch.addcmul(outer_stoch[t - 1], at_start, keeps[t])
            kept.append((logits, at_obs, before_obs, at_gru, before_gru, at_before, at_in, before_in))

        pulls = Pulls(*(torch.stack(column[::-1]) for column in zip(*kept, strict=True)))
        norms = (x_in, mean_in, rstd_in), (x_gru, mean_gru, rstd_gru), (x_obs, mean_obs, rstd_obs)
        return gradients(keep, weights, Seen(start, joint, deter_used, hidden, *norms), pulls, at_start)


def _norm(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm with its mean and inverse deviation, in float32; without weights the input and nothing."""
    weight, bias = norm
    if weight is None:
        return x, x, x
    return torch.native_layer_norm(x.float(), (x.shape[-1],), weight, bias, NORM_EPS)


def _norm_back(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, norm: Norm) -> Tensor:
    """The gradient before the norm, from the one after it."""
    if norm[0] is None:
        return grad
    arguments = grad.float(), x.float(), (x.shape[-1],), mean, rstd, *norm
    return torch.ops.aten.native_layer_norm_backward(*arguments, (True, False, False))[0]


def _slope(x: Tensor, act: Activation) -> Tensor:
    """The derivative of the activation."""
    if act == "silu":
        share = torch.sigmoid(x)
        return share * (1.0 + x * (1.0 - share))
    return torch.exp(x.clamp(max=0.0))


def _add_product(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """total + x weight, in the dtype of ``total``."""
    return product(x, weight, total) if x.dtype == total.dtype else total + product(x, weight)
