"""Dreams: the world model rolled out by the actor from where real experience left off."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from hd_agents.behavior.actor_critic import Actor
from hd_agents.world_model.rssm import State
from hd_agents.world_model.world_model import WorldModel


class Dream(NamedTuple):
    """N imagined trajectories of H steps.

    ::

        features[0] --action[0]--> features[1] --action[1]--> ... --action[H-1]--> features[H]

    :param features: (H + 1, N, F). :param action: (H, N, A), taken in the state of the same index.
    :param actor_parameters: (H, N, outputs) of the actor at states 0..H-1, in the graph of the actor.
    """

    features: Tensor
    action: Tensor
    actor_parameters: Tensor


def imagine(
    model: WorldModel, actor: Actor, start: State, draws: Tensor, action_draws: Tensor, *, differentiable: bool
) -> Dream:
    """Roll out ``actor`` in ``model`` from ``start``.

    :param start: (N, ...), detached. :param draws: (H, N, S) for the latent samples.
    :param action_draws: (H, N, ...) for the actions, as :meth:`Actor.draw` makes them.
    :param differentiable: keep the graph from actions to later states, for backpropagation through the dynamics; the
        actor's own inputs are cut from it either way.
    """
    state, features = start, [model.features(start)]
    actions, outputs = [], []
    with nullcontext() if differentiable else torch.no_grad():
        for draw, action_draw in zip(draws.unbind(0), action_draws.unbind(0), strict=True):
            outputs.append(actor.linear_outputs(features[-1].detach()))
            actions.append(actor.distribution(outputs[-1][-1]).sample(action_draw))
            state = model.rssm.imagine_step(state, actions[-1], draw)
            features.append(model.features(state))
    stacked = torch.stack(features)
    if differentiable:
        parameters = torch.stack([step[-1] for step in outputs])
    else:
        parameters = actor.recall(stacked[:-1], [torch.stack(steps) for steps in zip(*outputs, strict=True)])
    return Dream(stacked, torch.stack(actions), parameters)
