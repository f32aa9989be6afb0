"""The actor, its losses and those of the critic, on imagined experience."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from hd_agents.behavior.returns import Targets
from hd_agents.nn.distributions import ActionDistribution, NormalActions, OneHotActions, TruncatedNormalActions
from hd_agents.nn.flat import Places
from hd_agents.nn.known import known_linear
from hd_agents.nn.layers import MLP, Activation, linear
from hd_agents.nn.products import Linear
from hd_agents.world_model.heads import ScalarHead


class Actor(nn.Module):
    """Model features -> a distribution over actions.

    :param groups: sizes of the one-hot groups of the action; empty for continuous actions.
    :param bounded: the truncated normal of DreamerV2 instead of DreamerV3's normal, for continuous actions.
    """

    PARTS: ClassVar[Places] = {"mlp": MLP, "out": Linear}  # see RSSM.PARTS

    def __init__(
        self,
        features: int,
        action: int,
        groups: tuple[int, ...],
        *,
        units: int,
        layers: int,
        norm: bool,
        act: Activation,
        unimix: float,
        bounded: bool,
    ) -> None:
        super().__init__()
        self.groups, self.bounded, self.unimix = groups, bounded, unimix
        self.action = action
        self.mlp = MLP(features, units, layers, norm=norm, act=act)
        self.out = linear(self.mlp.outputs, action if groups else 2 * action)
        if not groups:  # mean and deviation are two layers to the official initialisation, not one of twice the width
            for half in self.out.weight.data.chunk(2, 0):
                half.copy_(linear(self.mlp.outputs, action).weight.data)

    @property
    def discrete(self) -> bool:
        """True for one-hot actions."""
        return bool(self.groups)

    def parameters_of(self, features: Tensor) -> Tensor:
        """(..., F) -> raw parameters of the distribution (..., outputs)."""
        return self.out(self.mlp(features))

    def recall(self, features: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """:meth:`parameters_of` in the graph, without its products, whose results are ``outputs``."""
        for layer, known in zip(self.mlp, outputs, strict=False):
            features = layer.finish(known_linear(layer.linear, features, known))
        return known_linear(self.out, features, outputs[-1])

    def distribution(self, parameters: Tensor) -> ActionDistribution:
        """Raw parameters -> the distribution."""
        if self.groups:
            return OneHotActions(parameters, self.groups, self.unimix)
        return TruncatedNormalActions(parameters) if self.bounded else NormalActions(parameters)

    def draw(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Random numbers for ``shape`` samples, from torch's global generator."""
        if self.groups:
            return torch.rand(*shape, len(self.groups), device=device)
        if self.bounded:
            eps = torch.finfo(torch.float32).eps
            return torch.empty(*shape, self.action, device=device).uniform_(eps, 1.0 - eps)
        return torch.randn(*shape, self.action, device=device)


class ReturnScale(nn.Module):
    """Running 5th and 95th percentile of the returns; advantages are divided by their distance if above 1 (DreamerV3).

    :param decay: of the exponential moving average, which starts at zero.
    """

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("levels", torch.tensor([0.05, 0.95]), persistent=False)
        self.low: Tensor
        self.high: Tensor
        self.levels: Tensor

    @torch.no_grad()
    def update(self, returns: Tensor, skip: Tensor | None = None) -> Tensor:
        """Take in a batch of returns, any shape, and give the scale (0-d).

        :param skip: (0-d) 1 to leave these returns out, as percentiles are that are not finite.
        """
        found = torch.quantile(returns.detach().float().flatten(), self.levels)
        sound = found.isfinite() if skip is None else found.isfinite() & (skip == 0)
        low, high = torch.where(sound, found, torch.stack([self.low, self.high])).unbind()
        self.low.lerp_(low, 1.0 - self.decay)
        self.high.lerp_(high, 1.0 - self.decay)
        return (self.high - self.low).clamp(min=1.0)


class NoScale(nn.Module):
    """Advantages as they are (DreamerV2)."""

    def update(self, returns: Tensor, skip: Tensor | None = None) -> Tensor:
        """One (0-d), whatever the returns."""
        return torch.ones((), device=returns.device)


class ActorLoss(NamedTuple):
    """How the actor learns.

    :param entropy_coefficient: weight of the entropy, in units of (normalised) return per nat.
    :param reinforce: score-function gradient (discrete actions) instead of backpropagation through the dynamics.
    :param baseline: subtract the baseline also without ``reinforce`` (DreamerV3).
    """

    entropy_coefficient: float
    reinforce: bool
    baseline: bool

    def __call__(
        self, policy: ActionDistribution, entropy: Tensor, action: Tensor, targets: Targets, scale: Tensor
    ) -> Tensor:
        """The loss (0-d) of ``policy`` at states 0..L-1, where ``action`` (L, N, A) was taken; L as in ``targets``.

        :param entropy: (L, N) of ``policy``.
        """
        if self.reinforce:
            advantage = (targets.actor_return - targets.baseline) / scale
            objective = policy.log_prob(action.detach()) * advantage.detach()
        elif self.baseline:
            objective = (targets.actor_return - targets.baseline) / scale
        else:
            objective = targets.actor_return
        objective = objective + self.entropy_coefficient * entropy
        return -(targets.actor_weight * objective).mean()


class CriticLoss(NamedTuple):
    """How the critic learns.

    :param slow_regularizer: add the loss against the slow critic's prediction (DreamerV3).
    """

    slow_regularizer: bool

    def __call__(self, critic: ScalarHead, out: Tensor, targets: Targets, slow_value: Tensor) -> Tensor:
        """The loss (0-d) of the critic's output ``out`` (L, N, outputs) at states 0..L-1; ``slow_value`` (L, N)."""
        target = targets.critic_return.detach()
        if self.slow_regularizer:  # both in one pass over the logits
            target = torch.stack([target, slow_value])
        return (targets.critic_weight * critic.loss(out, target)).mean()


@torch.no_grad()
def update_slow(slow: nn.Module, critic: nn.Module, fraction: float) -> None:
    """Move every parameter of ``slow`` by ``fraction`` of the way to ``critic``, 1 copies; copy its buffers."""
    sources: list[Tensor] = list(critic.parameters())
    targets: list[Tensor] = list(slow.parameters())
    if fraction == 1.0:
        torch._foreach_copy_(targets, sources)
    else:
        torch._foreach_lerp_(targets, sources, fraction)
    for target, source in zip(slow.buffers(), critic.buffers(), strict=True):
        target.copy_(source)
