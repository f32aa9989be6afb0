"""What both ways of filtering with gradients by hand share: what goes in, and how weights learn from all steps at once.

:mod:`hd_agents.world_model.filtering` has the equations and the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hd_agents.nn.layers import NORM_EPS
from hd_agents.nn.products import product

Grads = tuple[Tensor | None, ...]
Norm = tuple[Tensor | None, Tensor | None]  # weight and bias
Rows = Tensor | tuple[Tensor, ...]
WEIGHTS = 12  # tensors of :class:`Weights`


class Sequences(NamedTuple):
    """What is filtered; time comes first in everything but the two inputs.

    :param from_action: (B, T, U), what the first layer makes of the actions. :param from_embed: (B, T, U), what the
        posterior's first layer makes of the embeddings. The dtype of the two is the one that products are made in.
    :param initial_deter: (B, D) and :param initial_stoch: (B, S * K), where episodes begin.
    :param deter: (B, D) and :param stoch: (B, S * K), the state before the first step.
    :param keep: (T, B, 1), 0 where an episode begins, else 1. :param draws: (T, B, S), or None for modes.
    """

    from_action: Tensor
    from_embed: Tensor
    initial_deter: Tensor
    initial_stoch: Tensor
    deter: Tensor
    stoch: Tensor
    keep: Tensor
    draws: Tensor | None


class Weights(NamedTuple):
    """The layers of a step: (outputs, inputs) each, and norms where the backbone has them.

    :param norm_in: weight and bias, or None twice; likewise ``norm_obs``.
    """

    into: Tensor
    norm_in: Norm
    gru: Tensor
    gru_bias: Tensor | None
    norm_gru: Norm
    observe: Tensor
    norm_obs: Norm
    posterior: Tensor
    posterior_bias: Tensor

    @classmethod
    def of(cls, tensors: Sequence[Any]) -> Weights:
        """From :attr:`flat`."""
        w_in, n_in, b_in, w_gru, b_gru, n_gru, nb_gru, w_obs, n_obs, b_obs, w_post, b_post = tensors
        return cls(w_in, (n_in, b_in), w_gru, b_gru, (n_gru, nb_gru), w_obs, (n_obs, b_obs), w_post, b_post)

    @property
    def flat(self) -> list[Tensor | None]:
        """One after the other, without pairs."""
        return [tensor for part in self for tensor in (part if isinstance(part, tuple) else (part,))]

    @property
    def products(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the layers, in the order of a step."""
        return self.into, self.gru, self.observe, self.posterior


class Seen(NamedTuple):
    """What the layers were given and the norms made of it: (T, B, ...) each, or T of (B, ...).

    :param norm_in: inputs of the norm, means and inverse deviations, None where these are not known; likewise the rest.
    """

    start: Rows
    joint: Rows
    deter_used: Rows
    hidden: Rows
    norm_in: tuple[Rows, Rows | None, Rows | None]
    norm_gru: tuple[Rows, Rows | None, Rows | None]
    norm_obs: tuple[Rows, Rows | None, Rows | None]


class Pulls(NamedTuple):
    """Gradients, all (T, B, ...): ``at`` what comes behind a norm and ``before`` it, see the equations."""

    logits: Tensor
    at_obs: Tensor
    before_obs: Tensor
    at_gru: Tensor
    before_gru: Tensor
    at_before: Tensor
    at_in: Tensor
    before_in: Tensor


def gradients(keep: Tensor, weights: Weights, seen: Seen, pulls: Pulls, at_start: Tensor) -> Grads:
    """What the settings, :class:`Sequences` and :attr:`Weights.flat` get; weights learn from all steps at once.

    :param keep: (T, B, 1). :param at_start: (B, S * K), the gradient at the sample that the first step starts with.
    """
    before_in, before_obs, before_gru, at_before = pulls.before_in, pulls.before_obs, pulls.before_gru, pulls.at_before
    to_initial, bias = ((1.0 - keep) * at_before).sum(0), weights.gru_bias
    return (
        *(None, before_in.transpose(0, 1), before_obs.transpose(0, 1), to_initial, None),
        *(at_before[0] * keep[0], at_start * keep[0], None, None),
        *(_product(before_in, seen.start, weights.into), *_norm_weights(pulls.at_in, seen.norm_in, weights.norm_in)),
        *(_product(before_gru, seen.joint, weights.gru), None if bias is None else _sum(before_gru, bias)),
        *_norm_weights(pulls.at_gru, seen.norm_gru, weights.norm_gru),
        _product(before_obs, seen.deter_used, weights.observe),
        *_norm_weights(pulls.at_obs, seen.norm_obs, weights.norm_obs),
        *(_product(pulls.logits, seen.hidden, weights.posterior), _sum(pulls.logits, weights.posterior_bias)),
    )


def _norm_weights(grad: Tensor, seen: tuple[Rows, Rows | None, Rows | None], norm: Norm) -> Grads:
    """Gradients of the norm's weight and bias."""
    if norm[0] is None:
        return None, None
    rows, *moments = (None if part is None else _rows(part) for part in seen)
    assert rows is not None
    rows, shape = rows.float(), rows.shape[-1:]
    if moments[0] is None:
        _, *moments = torch.native_layer_norm(rows, shape, *norm, NORM_EPS)
    arguments = grad.flatten(0, 1).float(), rows, shape, *moments, *norm
    return torch.ops.aten.native_layer_norm_backward(*arguments, (False, True, True))[1:]


def _rows(x: Rows) -> Tensor:
    """(T B, ...)."""
    return x.flatten(0, 1) if isinstance(x, Tensor) else torch.cat(x)


def _product(grad: Tensor, x: Rows, weight: Tensor) -> Tensor:
    """The gradient of a linear layer's weight, from those of its outputs (T, B, outputs) and its inputs."""
    return product(grad.flatten(0, 1).t(), _rows(x)).to(weight.dtype)


def _sum(grad: Tensor, bias: Tensor) -> Tensor:
    return grad.sum((0, 1), dtype=bias.dtype)
