"""Heads on the model features that predict one number: reward, value, continuation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hd_agents.nn.distributions import ScalarCodec, bernoulli_loss
from hd_agents.nn.layers import MLP, Activation, Init, linear


class ScalarHead(nn.Module):
    """A real number (reward or value), encoded by ``codec``.

    :param init: "zeros" starts every prediction at zero (DreamerV3's reward and critic).
    """

    def __init__(
        self, features: int, codec: ScalarCodec, *, units: int, layers: int, norm: bool, act: Activation, init: Init
    ) -> None:
        super().__init__()
        self.codec = codec
        self.mlp = MLP(features, units, layers, norm=norm, act=act)
        self.out = linear(self.mlp.outputs, codec.outputs, init)

    def forward(self, features: Tensor) -> Tensor:
        """(..., F) -> (..., outputs) for :meth:`mean` and :meth:`loss`."""
        return self.out(self.mlp(features))

    def exactly(self, features: Tensor) -> Tensor:
        """:meth:`forward` with the last layer in float32, also where the others compute in bfloat16.

        There a logit of 10 is off by up to 0.03, which is more than a head that knows its targets has left to learn.
        """
        hidden = self.mlp(features)
        with torch.autocast(features.device.type, enabled=False):
            return self.out(hidden.float())

    def mean(self, out: Tensor) -> Tensor:
        """(..., outputs) -> (...)."""
        return self.codec.mean(out)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """(..., outputs), (...) -> (...) negative log-likelihood."""
        return self.codec.loss(out, target)


class ContinueHead(nn.Module):
    """Whether the episode goes on after a state.

    :param target_scale: 1 in DreamerV3; DreamerV2 trains its head on gamma * (1 - terminated).
    :param hard: use the more likely outcome (DreamerV3) instead of the probability (DreamerV2).
    """

    def __init__(
        self, features: int, *, units: int, layers: int, norm: bool, act: Activation, target_scale: float, hard: bool
    ) -> None:
        super().__init__()
        self.target_scale, self.hard = target_scale, hard
        self.mlp = MLP(features, units, layers, norm=norm, act=act)
        self.out = linear(self.mlp.outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(..., F) -> logits (...)."""
        return self.out(self.mlp(features)).squeeze(-1)

    def loss(self, logits: Tensor, terminated: Tensor) -> Tensor:
        """(...), (...) -> (...) binary cross-entropy."""
        return bernoulli_loss(logits, self.target_scale * (1.0 - terminated.float()))

    def probability(self, logits: Tensor) -> Tensor:
        """(...) probability that the episode goes on."""
        return (logits.float().sigmoid() / self.target_scale).clamp(max=1.0)

    def discount(self, logits: Tensor, gamma: float) -> Tensor:
        """(...) the factor gamma * continue that discounts what follows the state."""
        if self.hard:
            return gamma * (logits.float() > 0.0).float()
        return logits.float().sigmoid() * (gamma / self.target_scale)
