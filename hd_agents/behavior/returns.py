"""Credit in imagination: lambda-returns and the two ways the Dreamers line them up in time."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Targets(NamedTuple):
    """What actor and critic learn from, on a dream of H steps; the actor learns at the first L_a states.

    :param critic_return: (H, N) for the values of states 0..H-1. :param critic_weight: (H, N), detached.
    :param actor_return: (L_a, N) of the actions taken in states 0..L_a-1, in the graph.
    :param baseline: (L_a, N). :param actor_weight: (L_a, N), detached.
    """

    critic_return: Tensor
    critic_weight: Tensor
    actor_return: Tensor
    baseline: Tensor
    actor_weight: Tensor


def add_entropy(targets: Targets, bonus: Tensor) -> Targets:
    """Targets whose critic returns hold ``bonus`` (L_a, N), the entropy term of the actor loss, of the state before.

    An accident of wmlib: its actor loss adds the term in place to ``target[1:]``, which the critic is then trained on.
    """
    first, rest = targets.critic_return[:1], targets.critic_return[1:]
    return targets._replace(critic_return=torch.cat([first, rest + bonus.detach()], 0))


class CreditAssignment(Protocol):
    """Turns predictions at states 0..H into targets."""

    @property
    def from_slow(self) -> bool:
        """Whether the values are those of the slow critic instead of the critic itself."""

    def __call__(self, reward: Tensor, discount: Tensor, value: Tensor, gamma: float) -> Targets:
        """All (H + 1, N): reward on arriving in a state, discount of what follows it, value."""


def lambda_return(reward: Tensor, discount: Tensor, value: Tensor, return_lambda: float) -> Tensor:
    """TD(lambda) returns (H, N).

    ::

        return[t] = reward[t] + discount[t] * ((1 - lambda) * value[t] + lambda * return[t + 1]),
        return[H] = value[H - 1]

    :param reward: (H, N). :param discount: (H, N). :param value: (H, N) of the state after that of return[t].
    """
    interim = reward + discount * value * (1.0 - return_lambda)
    factors = (discount * return_lambda).unbind(0)
    returns = []
    last = value[-1]
    for step, factor in zip(reversed(interim.unbind(0)), reversed(factors), strict=True):
        last = torch.addcmul(step, factor, last)
        returns.append(last)
    return torch.stack(returns[::-1], 0)


class NextStateCredit(NamedTuple):
    """DreamerV3: an action is credited with the reward of the state it leads to, values come from the critic itself.

    ::

        action      a0    a1    a2                       returns of states 0..H-1:
        state    s0 -> s1 -> s2 -> s3                    R0 = r1 + d1 ((1-l) v1 + l R1), ..., R2 = r3 + d3 v3
        weight   c0  g c0 c1  ...                        baseline v0..v2
    """

    return_lambda: float
    from_slow: bool = False

    def __call__(self, reward: Tensor, discount: Tensor, value: Tensor, gamma: float) -> Targets:
        """As :class:`CreditAssignment`; the weight of a state is the discounted chance to get there."""
        returns = lambda_return(reward[1:], discount[1:], value[1:], self.return_lambda)
        weight = (torch.cumprod(discount.detach(), 0) / gamma)[:-1]
        return Targets(returns, weight, returns, value[:-1], weight)


class SameStateCredit(NamedTuple):
    """DreamerV2: the return of a state contains the state's own reward, values come from the slow critic.

    ::

        action      a0    a1    a2                       returns of states 0..H-1:
        state    s0 -> s1 -> s2 -> s3                    R0 = r0 + d0 ((1-l) v1 + l R1), ..., R2 = r2 + d2 v3
        weight   1   d0   d0 d1                          a0 is credited with R1, a1 with R2; baseline v0, v1

    Two states are lost to the actor: the last bootstraps, and the action taken before it leads to no return.
    """

    return_lambda: float
    from_slow: bool = True

    def __call__(self, reward: Tensor, discount: Tensor, value: Tensor, gamma: float) -> Targets:
        """As :class:`CreditAssignment`."""
        returns = lambda_return(reward[:-1], discount[:-1], value[1:], self.return_lambda)
        steps = torch.cat([torch.ones_like(discount[:1]), discount[:-1]], 0)
        weight = torch.cumprod(steps, 0).detach()
        return Targets(returns, weight[:-1], returns[1:], value[:-2], weight[:-2])
