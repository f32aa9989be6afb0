"""Filtering with its gradients by hand on a GPU: :mod:`hd_agents.world_model.filtering` in a third of its launches.

Of each step only the four matrix products are operations of their own, forwards and backwards. What lies between two of
them is one of :mod:`hd_agents.nn.kernels`, which write where the next product reads: everything of all steps lies in
(T, B, ...) tensors from the start. The other module has the equations and the names.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hd_agents.nn import fused
from hd_agents.nn.functional import refuse_second_derivatives
from hd_agents.nn.layers import Activation
from hd_agents.world_model.filter_parts import Grads, Pulls, Seen, Sequences, Weights, gradients


class FusedFilter(torch.autograd.Function):
    """Arguments as those of ``filtering._Filter``; numbers are drawn, neither modes nor recorded classes."""

    @staticmethod
    def forward(ctx, settings: tuple[int, float, Activation], *tensors: Any) -> Grads:  # type: ignore[no-untyped-def]
        inputs, weights = Sequences(*tensors[: len(Sequences._fields)]), Weights.of(tensors[len(Sequences._fields) :])
        groups, unimix, act = settings
        assert inputs.draws is not None
        kernels = fused.kernels()
        dtype, device = inputs.from_action.dtype, inputs.keep.device
        into, gru, observe, post = (weight.to(dtype).contiguous().t() for weight in weights.products)
        actions, embeds = inputs.from_action.unbind(1), inputs.from_embed.unbind(1)
        batch, steps, width = inputs.from_action.shape
        size, flat = inputs.deter.shape[1], inputs.stoch.shape[1]
        initial_deter, initial_stoch = inputs.initial_deter.contiguous(), inputs.initial_stoch.contiguous()
        keep = F.pad(inputs.keep.squeeze(-1), (0, 0, 0, 1))  # nothing goes on after the last step
        draws = inputs.draws.contiguous()

        def room(*shape: int, of: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(*shape, dtype=of, device=device)

        start, joint = room(steps + 1, batch, flat, of=dtype), room(steps + 1, batch, size + width, of=dtype)
        before, deter, used = room(steps + 1, batch, size), room(steps, batch, size), room(steps, batch, size, of=dtype)
        x_in, x_obs, hidden = (room(steps, batch, width, of=dtype) for _ in range(3))
        x_gru, logits = room(steps, batch, 3 * size, of=dtype), room(steps, batch, flat, of=dtype)
        probs, stoch = room(steps, batch, groups, flat // groups), room(steps, batch, flat, of=dtype)

        first = inputs.keep[0]
        start[0] = torch.addcmul((1.0 - first) * initial_stoch, inputs.stoch, first)
        before[0] = torch.addcmul((1.0 - first) * initial_deter, inputs.deter, first)
        joint[0, :, :size] = before[0]
        for t in range(steps):
            torch.mm(start[t], into, out=x_in[t])
            kernels.norm_act(x_in[t], actions[t], weights.norm_in, act, joint[t, :, size:])
            torch.mm(joint[t], gru, out=x_gru[t])
            then = before[t + 1], joint[t + 1, :, :size]
            memory = before[t], initial_deter, keep[t + 1], deter[t], used[t]
            kernels.gates(x_gru[t], weights.gru_bias, weights.norm_gru, *memory, *then)
            torch.mm(used[t], observe, out=x_obs[t])
            kernels.norm_act(x_obs[t], embeds[t], weights.norm_obs, act, hidden[t])
            torch.mm(hidden[t], post, out=logits[t])
            sample = initial_stoch, keep[t + 1], probs[t], stoch[t], start[t + 1]
            kernels.draw(logits[t], weights.posterior_bias, draws[t], unimix, *sample)
        ctx.settings = settings
        ctx.save_for_backward(
            keep, start[:steps], before[:steps], joint[:steps], used, hidden, probs, x_in, x_gru, x_obs, *weights.flat
        )
        return deter, stoch, logits.unflatten(-1, (groups, -1))

    @staticmethod
    def backward(ctx, to_deter: Tensor, to_stoch: Tensor, to_logits: Tensor) -> Grads:  # type: ignore[no-untyped-def]
        refuse_second_derivatives()
        keep, start, before, joint, used, hidden, probs, x_in, x_gru, x_obs, *rest = ctx.saved_tensors
        weights, (_, unimix, act), kernels = Weights.of(rest), ctx.settings, fused.kernels()
        dtype, steps = x_in.dtype, len(x_in)
        into, gru, observe, post = (weight.to(dtype).contiguous() for weight in weights.products)
        to_deter, to_stoch, to_logits = to_deter.contiguous(), to_stoch.contiguous(), to_logits.contiguous()
        at_in, at_obs, at_before, at_gru = (
            torch.empty_like(x, dtype=torch.float32) for x in (x_in, x_obs, before, x_gru)
        )
        before_in, before_obs, before_gru = (torch.empty_like(x) for x in (x_in, x_obs, x_gru))
        logits = torch.empty_like(start)
        memory, passed, at_start = to_deter[-1].clone(), torch.empty_like(before[0]), torch.zeros_like(start[0])
        for t in reversed(range(steps)):
            kernels.draw_backward(to_stoch[t], at_start, keep[t + 1], probs[t], to_logits[t], unimix, logits[t])
            kernels.norm_act_backward(
                torch.mm(logits[t], post), x_obs[t], weights.norm_obs, act, at_obs[t], before_obs[t]
            )
            pulled = torch.mm(before_obs[t], observe)
            places = at_gru[t], before_gru[t], passed
            kernels.gates_backward(memory, pulled, x_gru[t], weights.norm_gru, before[t], *places)
            pulled, layer = torch.mm(before_gru[t], gru), (x_in[t], weights.norm_in, act)
            kernels.enter_backward(
                pulled, passed, to_deter[max(t - 1, 0)], keep[t], *layer, at_before[t], memory, at_in[t], before_in[t]
            )
            torch.mm(before_in[t], into, out=at_start)
        pulls = Pulls(logits, at_obs, before_obs, at_gru, before_gru, at_before, at_in, before_in)
        seen = Seen(start, joint, used, hidden, *((x, None, None) for x in (x_in, x_gru, x_obs)))
        return gradients(keep[:steps].unsqueeze(-1), weights, seen, pulls, at_start)
