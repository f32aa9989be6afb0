"""The paper's contribution: losses kept in balance by learned coefficients (Ma et al., ICML 2024).

Every harmonised loss L_i is divided by its own sigma_i = exp(log_sigma_i), and a regulariser keeps sigma_i from growing
without bound (eq. 5):

    total = sum_i  L_i / sigma_i + w_i * log(1 + sigma_i)

At the optimum sigma = (L + sqrt(L^2 + 4L)) / 2 for w = 1: about sqrt(L) for small losses, L + 1 for large ones. So a
large loss contributes about one, however large it is, and the weight of a vanishing loss grows with L^-1/2 only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Term(NamedTuple):
    """How one loss enters the total.

    :param scale: fixed weight of the loss where it is not harmonised.
    :param harmonized: divide by a learned sigma instead.
    :param regularizer: weight w of log(1 + sigma); 5/6 for the dynamics loss of the official DreamerV3 code, else 1.
    """

    scale: float = 1.0
    harmonized: bool = True
    regularizer: float = 1.0


class Harmonizer(nn.Module):
    """Sums named losses into one, the harmonised ones divided by their learned sigma.

    :param terms: one :class:`Term` per loss name.
    :param kind: "rectified" regularises with log(1 + sigma) as the paper's method (eq. 5), "naive" with log(sigma)
        (eq. 4), whose weights explode as a loss goes to zero.
    """

    def __init__(self, terms: Mapping[str, Term], kind: Literal["rectified", "naive"] = "rectified") -> None:
        super().__init__()
        if kind not in ("rectified", "naive"):
            raise ValueError(f"kind={kind!r} is not a regulariser of the harmoniser; use 'rectified' or 'naive'")
        self.terms = dict(terms)
        self.kind = kind
        self._made_for = self._learned()
        self.harmonized = list(self._made_for)
        self.log_sigma = nn.Parameter(torch.zeros(len(self.harmonized)))
        weights = torch.tensor(list(self._made_for.values()))
        self.register_buffer("regularizer_weights", weights, persistent=False)
        self.regularizer_weights: Tensor

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss (0-d) and its metrics (0-d, detached).

        :param losses: exactly the names of ``terms``, any shape each; their means count.
        :raises KeyError: when a loss has no term or a term no loss, so that none is dropped in silence.
        :raises ValueError: when other terms are harmonised now, or regularised otherwise, than when it was made.
        """
        if losses.keys() != self.terms.keys():
            raise KeyError(f"losses {sorted(losses)} do not match the terms {sorted(self.terms)} of the harmoniser")
        if self._learned() != self._made_for:
            raise ValueError(
                f"The terms of the harmoniser are {self.terms} now, and its sigmas were made for others: make another "
                "Harmonizer(terms)."
            )
        means = {name: loss.float().mean() for name, loss in losses.items()}
        scales = {name: self.terms[name].scale for name in means if name not in self.harmonized}
        plain = [scale * means[name] for name, scale in scales.items() if scale]  # at 0 no gradient, not one of zeros
        total = torch.stack(plain).sum() if plain else self.log_sigma.new_zeros(())
        weighted = {name: self.terms[name].scale * mean.detach() for name, mean in means.items()}
        if self.harmonized:
            raw = torch.stack([means[name] for name in self.harmonized])
            divided = raw * torch.exp(-self.log_sigma)
            penalty = F.softplus(self.log_sigma) if self.kind == "rectified" else self.log_sigma
            total = total + (divided + self.regularizer_weights * penalty).sum()
            weighted |= dict(zip(self.harmonized, divided.detach().unbind(), strict=True))
        return total, self._metrics(means, weighted)

    def _learned(self) -> dict[str, float]:
        """The harmonised terms and their regularisers."""
        return {name: term.regularizer for name, term in self.terms.items() if term.harmonized}

    @torch.no_grad()
    def _metrics(self, means: Mapping[str, Tensor], weighted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        metrics = {f"loss/{name}": mean.detach() for name, mean in means.items()}
        sizes = torch.stack(list(weighted.values())).abs()
        metrics |= {
            f"share/{name}": share for name, share in zip(weighted, (sizes / sizes.sum()).unbind(), strict=True)
        }
        of_terms = {"sigma": self.log_sigma.exp(), "weight": (-self.log_sigma).exp()}
        for kind, values in of_terms.items():
            metrics |= {f"{kind}/{name}": value for name, value in zip(self.harmonized, values.unbind(), strict=True)}
        return metrics


def select_terms(
    terms: Mapping[str, Term], harmony: bool | Mapping[str, bool | float], groups: Mapping[str, Sequence[str]]
) -> dict[str, Term]:
    """Apply the user's choice of which losses are harmonised.

    :param terms: the terms with harmony on.
    :param harmony: True as given, False none. A mapping changes the losses it names: True harmonises, False uses the
        plain scale of the base method, a number is a fixed weight. Losses it does not name stay as with True.
    :param groups: short names that stand for several losses, such as "observation" for every observation key.
    :raises ValueError: for a name that is no loss, listing the names there are.
    """
    if isinstance(harmony, bool):
        harmony = {} if harmony else dict.fromkeys(terms, False)
    chosen = dict(terms)
    for key, choice in harmony.items():
        names = [key] if key in terms else list(groups.get(key, ()))
        if not names:
            known = sorted({*terms, *groups})
            raise ValueError(f"harmony={dict(harmony)!r}: {key!r} is no loss of this model; its losses are {known}")
        fixed = not isinstance(choice, bool | np.bool_)
        if fixed and not (isinstance(choice, int | float | np.number) and 0 <= choice < math.inf):
            raise ValueError(f"harmony[{key!r}]={choice!r}: use True, False or a fixed weight of at least 0")
        change = {"harmonized": False, "scale": float(choice)} if fixed else {"harmonized": bool(choice)}
        chosen |= {name: chosen[name]._replace(**change) for name in names}
    if not any(term.harmonized or term.scale for term in chosen.values()):
        raise ValueError(
            f"harmony={dict(harmony)!r} leaves no loss with a weight above 0: the model would learn nothing."
        )
    return chosen
