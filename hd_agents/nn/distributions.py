"""What the heads and the actor mean by their outputs: scalar codecs and action distributions.

None of these validates its arguments on the device: that would stop the host at every call.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hd_agents.nn.functional import refuse_second_derivatives, sample_one_hot, symexp, symlog, unimix_log_probs


class ScalarCodec(Protocol):
    """How a head predicts one real number from ``outputs`` numbers."""

    outputs: int

    def mean(self, out: Tensor) -> Tensor:
        """(..., outputs) -> (...) the predicted number."""

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """(..., outputs), (...) -> (...) negative log-likelihood, constants left out; summed over an axis in front."""


class TwoHot(nn.Module):
    """A categorical over ``bins`` equally spaced points of symlog space (DreamerV3, 2023).

    A target becomes weights on its two neighbouring points; the prediction is symexp of the expected point.
    """

    def __init__(self, bins: int = 255, low: float = -20.0, high: float = 20.0) -> None:
        super().__init__()
        self.outputs = bins
        self.low, self.step = low, (high - low) / (bins - 1)
        self.register_buffer("points", torch.linspace(low, high, bins), persistent=False)
        self.points: Tensor

    def mean(self, out: Tensor) -> Tensor:
        """(..., bins) -> (...)."""
        with torch.autocast(out.device.type, enabled=False):
            return symexp(torch.softmax(out.float(), -1) @ self.points)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy (...) of the logits (..., bins) against the two-hot encoded ``target`` (...).

        A leading axis that ``target`` has beyond ``out`` is summed over: several targets for one pass over the logits.
        """
        squashed = symlog(target.float())
        below = ((squashed - self.low) / self.step).floor().long().clamp_(0, self.outputs - 2)
        above_weight = ((squashed - self.points[below]) / self.step).clamp(0.0, 1.0)
        index = torch.stack([below, below + 1], -1)
        weight = torch.stack([1.0 - above_weight, above_weight], -1)
        if target.dim() == out.dim():
            index, weight = (pair.movedim(0, -2).flatten(-2) for pair in (index, weight))
        return _SparseCrossEntropy.apply(out.float(), index, weight)


class _SparseCrossEntropy(torch.autograd.Function):
    """Cross-entropy of logits (..., K) against a few weighted classes, without a dense target in either direction."""

    @staticmethod
    def forward(ctx, logits: Tensor, index: Tensor, weight: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        log_probs = torch.log_softmax(logits, -1)
        ctx.save_for_backward(log_probs, index, weight)
        return -(log_probs.gather(-1, index) * weight).sum(-1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        refuse_second_derivatives()
        log_probs, index, weight = ctx.saved_tensors
        pull = weight * grad.unsqueeze(-1)
        out = log_probs.exp().mul_(pull.sum(-1, keepdim=True))
        for place, share in zip(index.split(1, -1), pull.split(1, -1), strict=True):  # one by one, in a fixed order
            out.scatter_add_(-1, place, -share)
        return out, None, None


class UnitNormal(nn.Module):
    """A Gaussian of variance one: half the squared error (DreamerV2)."""

    outputs = 1

    def mean(self, out: Tensor) -> Tensor:
        """(..., 1) -> (...)."""
        return out.squeeze(-1).float()

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """Half the squared error (...), summed over a leading axis that ``target`` has beyond ``out``."""
        error = 0.5 * (out.squeeze(-1).float() - target.float()).square()
        return error.sum(0) if target.dim() == out.dim() else error


class ActionDistribution(Protocol):
    """What the actor returns; ``draw`` holds the random numbers, so that a sample can be repeated."""

    def mode(self) -> Tensor:
        """The most likely action (..., A)."""

    def sample(self, draw: Tensor) -> Tensor:
        """An action (..., A), differentiable in the parameters."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability (density) of ``action`` (..., A) -> (...)."""

    def entropy(self) -> Tensor:
        """Entropy in nats (...)."""


class OneHotActions:
    """Independent categoricals, their one-hot vectors side by side: Discrete, MultiDiscrete and MultiBinary.

    :param logits: (..., A), A the sum of ``groups``.
    :param groups: number of choices of each categorical.
    """

    def __init__(self, logits: Tensor, groups: tuple[int, ...], unimix: float) -> None:
        self.parts = logits.float().split(groups, -1) if len(groups) > 1 else (logits.float(),)
        self.unimix = unimix

    @cached_property
    def log_probs(self) -> Tensor:
        """(..., A), which acting does without."""
        return _side_by_side([unimix_log_probs(part, self.unimix) for part in self.parts])

    def mode(self) -> Tensor:
        """(..., A)."""
        return _side_by_side([sample_one_hot(part, None, self.unimix) for part in self.parts])

    def sample(self, draw: Tensor) -> Tensor:
        """``draw`` (..., number of groups), uniform in [0, 1) or int64 class indices."""
        pairs = zip(self.parts, draw.unbind(-1), strict=True)
        return _side_by_side([sample_one_hot(part, number, self.unimix) for part, number in pairs])

    def log_prob(self, action: Tensor) -> Tensor:
        """(...)."""
        return (self.log_probs * action).sum(-1)

    def entropy(self) -> Tensor:
        """(...)."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)


def _side_by_side(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class NormalActions:
    """DreamerV3's Gaussian: mean in (-1, 1), standard deviation in (0.1, 1), samples not cut.

    :param out: (..., 2A), raw means beside raw standard deviations.
    """

    def __init__(self, out: Tensor) -> None:
        mean, std = out.float().chunk(2, -1)
        self.mean = torch.tanh(mean)
        self.std = 0.9 * torch.sigmoid(std + 2.0) + 0.1

    def mode(self) -> Tensor:
        """(..., A)."""
        return self.mean

    def sample(self, draw: Tensor) -> Tensor:
        """``draw`` (..., A), standard normal."""
        return self.mean + self.std * draw

    def log_prob(self, action: Tensor) -> Tensor:
        """(...)."""
        scaled = (action - self.mean) / self.std
        return -(0.5 * scaled.square() + torch.log(self.std) + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """(...)."""
        return (torch.log(self.std) + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


class TruncatedNormalActions:
    """DreamerV2's Gaussian cut to [-1, 1]: standard deviation in (0.1, 2.1).

    :param out: (..., 2A), raw means beside raw standard deviations.
    """

    def __init__(self, out: Tensor) -> None:
        loc, scale = out.float().chunk(2, -1)
        self.loc = torch.tanh(loc)
        self.scale = 2.0 * torch.sigmoid(scale / 2.0) + 0.1
        self._low, self._high = (-1.0 - self.loc) / self.scale, (1.0 - self.loc) / self.scale
        self._cdf_low = _normal_cdf(self._low)
        self._mass = (_normal_cdf(self._high) - self._cdf_low).clamp_min(torch.finfo(torch.float32).eps)

    def mode(self) -> Tensor:
        """(..., A)."""
        return self.loc.clamp(-1.0, 1.0)

    def sample(self, draw: Tensor) -> Tensor:
        """``draw`` (..., A), uniform in (0, 1); the cut to the open interval passes the gradient on."""
        standard = math.sqrt(2.0) * torch.erfinv(2.0 * (self._cdf_low + draw * self._mass) - 1.0)
        action = standard * self.scale + self.loc
        return action + (action.clamp(-1.0 + 1e-6, 1.0 - 1e-6) - action).detach()

    def log_prob(self, action: Tensor) -> Tensor:
        """(...)."""
        scaled = (action - self.loc) / self.scale
        constant = 0.5 * math.log(2 * math.pi)
        return -(0.5 * scaled.square() + torch.log(self._mass) + torch.log(self.scale) + constant).sum(-1)

    def entropy(self) -> Tensor:
        """(...)."""
        edges = (self._high * _normal_pdf(self._high) - self._low * _normal_pdf(self._low)) / self._mass
        constant = 0.5 * math.log(2 * math.pi * math.e)
        return (constant + torch.log(self._mass) - 0.5 * edges + torch.log(self.scale)).sum(-1)


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def _normal_pdf(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def bernoulli_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy (...) of logits (...) against targets (...) in [0, 1], soft targets allowed."""
    return F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
