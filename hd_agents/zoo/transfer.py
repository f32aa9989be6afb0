"""Training that begins with the weights of a trained agent instead of random ones."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.harmony import Harmonizer
from hd_agents.zoo.models import find_agent
from hd_agents.zoo.packages import FULL, ActingAgent

HARMONIZER = "networks.harmonizer."  # names of its weights begin with this
NETWORKS = ("policy", "backbone", "size", "policy_kwargs")  # settings that say what the weights are of


def whole_agent(source: HarmonyDreamAgent | str | Path) -> HarmonyDreamAgent:
    """The agent itself, or that of a name or path, as :func:`hd_agents.zoo.models.find_agent` finds it, on the CPU.

    :raises ValueError: where there is none, and for one that was packed for acting only.
    """
    found = source if isinstance(source, HarmonyDreamAgent) else find_agent(source, "cpu")
    if isinstance(found, ActingAgent):
        raise ValueError(f"The trained agent was packed for acting only, and cannot learn on. {FULL}")
    return found


def network_settings(trained: HarmonyDreamAgent, typed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that its weights ask for.

    :param typed: settings that somebody asked for, also as ``policy_kwargs.units``.
    :raises ValueError: where these contradict.
    """
    names: dict[Any, str] = {kind: name for name, kind in HarmonyDreamAgent.policy_aliases.items()}
    own: dict[str, Any] = {name: deepcopy(getattr(trained, name)) for name in NETWORKS if name != "policy"}
    own["policy"] = names.get(trained.policy_class, trained.policy_class)
    for key, value in typed.items():
        name, _, entry = key.partition(".")
        if name not in NETWORKS:
            continue
        has = own[name].get(entry) if entry else own[name]
        if name == "policy":
            value = names.get(value, value) if isinstance(value, type) else value
        elif name == "policy_kwargs" and not entry:
            value = dict(value or {})
        if value != has:
            made = "was made without it" if has is None else f"has {has!r}"
            raise ValueError(f"{key}={value!r}: the trained agent {made}, and its networks are kept. Leave {key} out.")
    return own


def take_over(agent: HarmonyDreamAgent, trained: HarmonyDreamAgent) -> None:
    """Give ``agent``, which is new, the weights and the count of gradient steps of ``trained``; optimisers stay new.

    Of the coefficients it takes those of the losses that both harmonise. Weights that its class adds stay new, and so
    does a harmoniser of another kind.

    :raises ValueError: where its class has put something else in a part's place.
    """
    own, theirs = agent.policy.networks.harmonizer, trained.policy.networks.harmonizer
    alike = type(own) is type(theirs) and own.terms.keys() == theirs.terms.keys()
    stored = trained.policy.state_dict()
    weights = {name: weight for name, weight in stored.items() if alike or not name.startswith(HARMONIZER)}
    if isinstance(own, Harmonizer):
        known = {}
        if isinstance(theirs, Harmonizer):
            known = dict(zip(theirs.harmonized, theirs.log_sigma.tolist(), strict=True))
        weights[f"{HARMONIZER}log_sigma"] = torch.tensor([known.get(name, 0.0) for name in own.harmonized])
    place = agent.policy.state_dict()
    for name, weight in weights.items():
        if name not in place or _shape(place[name]) != _shape(weight):
            raise ValueError(
                f"The trained agent's {name} of shape {_shape(weight)} has no place in {type(agent).__name__}: "
                "begin with an agent of that class."
            )
    agent.policy.load_state_dict({**place, **weights})
    agent._n_updates = agent.learner.updates = trained._n_updates


def _shape(weight: Any) -> tuple[int, ...] | None:
    """None for a module's extra state, which is of any kind."""
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else None
