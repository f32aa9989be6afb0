"""Adam for each part that learns: rates that may change at any step, and weights that may be replaced."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from hd_agents.backbones import Networks
from hd_agents.presets import BEHAVIOR_EPS, Defaults


class Optimizers:
    """One Adam each for ``model``, ``actor`` and ``critic``; in that of the model the harmoniser has its own group.

    Groups that others add to them are left alone.

    :param defaults: the backbone's epsilon and weight decay.
    """

    def __init__(self, networks: Networks, defaults: Defaults) -> None:
        self._device = next(networks.parameters()).device
        self.model = self._adam(networks.world_model, defaults.model_eps, defaults.weight_decay)
        self.actor = self._adam(networks.actor, BEHAVIOR_EPS, defaults.weight_decay)
        self.critic = self._adam(networks.critic, BEHAVIOR_EPS, defaults.weight_decay)
        if _learns(networks.harmonizer):
            self.model.add_param_group({"params": list(networks.harmonizer.parameters())})
        self._own_groups = len(self.model.param_groups)  # groups of ours
        self._rates: dict[str, torch.Tensor] = {}

    @property
    def by_name(self) -> dict[str, torch.optim.Adam]:
        """By what they train: "model" (the harmoniser with it), "actor", "critic"."""
        return {"model": self.model, "actor": self.actor, "critic": self.critic}

    def _adam(self, module: nn.Module, eps: float, decay: float) -> torch.optim.Adam:
        cuda = self._device.type == "cuda"
        optimizer = torch.optim.Adam(
            module.parameters(), lr=0.0, eps=eps, weight_decay=decay, fused=True, capturable=cuda
        )
        optimizer.register_state_dict_post_hook(_as_plain_rates)
        return optimizer

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For a copy, whose optimisers have lost their hooks, and their mark that they may step without a graph."""
        self.__dict__.update(state)
        for optimizer in self.by_name.values():
            optimizer._warned_capturable_if_run_uncaptured = True  # as a new one has it
            optimizer.register_state_dict_post_hook(_as_plain_rates)

    def set_rates(self, model: float, actor: float, critic: float, harmony: float) -> None:
        """Rates from the next step on."""
        rates = {"model": model, "actor": actor, "critic": critic, "harmony": harmony}
        groups = [optimizer.param_groups[0] for optimizer in self.by_name.values()]
        groups += self.model.param_groups[1 : self._own_groups]
        for group, (name, rate) in zip(groups, rates.items(), strict=False):
            if self._device.type != "cuda":
                group["lr"] = rate
                continue
            if name not in self._rates:  # tensors, always the same ones: a CUDA graph reads them where they are
                self._rates[name] = torch.zeros((), device=self._device)
            group["lr"] = self._rates[name].fill_(rate)

    def follow(self, networks: Networks) -> None:
        """Train what the networks are made of now, where parts were replaced. Weights that stay keep their moments."""
        if _learns(networks.harmonizer) and self._own_groups == 1:  # the one that it was made with had no sigmas
            self.model.add_param_group({"params": list(networks.harmonizer.parameters())})
            groups = self.model.param_groups
            groups.insert(1, groups.pop())
            self._own_groups = 2
        for optimizer, *modules in (
            (self.model, networks.world_model, networks.harmonizer),
            (self.actor, networks.actor),
            (self.critic, networks.critic),
        ):
            _forget_unfinished(optimizer)
            own = self._own_count(optimizer)
            elsewhere = {id(weight) for group in optimizer.param_groups[own:] for weight in group["params"]}
            for group, module in zip(optimizer.param_groups[:own], modules, strict=False):
                weights = [weight for weight in module.parameters() if id(weight) not in elsewhere]
                if [id(weight) for weight in group["params"]] != [id(weight) for weight in weights]:
                    group["params"] = weights
                    _forget_others(optimizer)

    def bound(self) -> Iterator[Any]:
        """What a graph of their steps holds for: settings, weights, and moments, which loading exchanges."""
        for optimizer in self.by_name.values():
            own = self._own_count(optimizer)
            for place, group in enumerate(optimizer.param_groups):
                read = {"params", "lr" if place < own else "params"}  # our rates are tensors, which it reads
                yield from (value for name, value in group.items() if name not in read)
                yield from ((weight.requires_grad, id(weight)) for weight in group["params"])
            yield from (state.get("exp_avg") for state in optimizer.state.values())

    def _own_count(self, optimizer: torch.optim.Adam) -> int:
        """How many of its groups are ours; the others were added."""
        return self._own_groups if optimizer is self.model else 1


def _learns(harmonizer: nn.Module) -> bool:
    """Whether it has numbers to learn: sigmas, or what another method has in their place."""
    return any(weight.numel() for weight in harmonizer.parameters())


def weights_of(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    """All that it trains."""
    for group in optimizer.param_groups:
        yield from group["params"]


def _forget_others(optimizer: torch.optim.Adam) -> None:
    kept = set(weights_of(optimizer))
    for gone in [weight for weight in optimizer.state if weight not in kept]:
        del optimizer.state[gone]


def _forget_unfinished(optimizer: torch.optim.Adam) -> None:
    """Moments that a Ctrl-C has kept from being made, of which Adam would miss the second."""
    for half in [weight for weight, state in optimizer.state.items() if state and "exp_avg_sq" not in state]:
        del optimizer.state[half]


def _as_plain_rates(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Files hold learning rates as numbers, wherever the optimiser keeps them."""
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}
