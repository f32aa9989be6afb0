"""Dreams: the world model rolled out by the actor from where real experience left off."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from hd_agents.behavior.actor_critic import Actor
from hd_agents.nn import fused
from hd_agents.nn.flat import FlatLayer, Kinds, can_be_flat
from hd_agents.nn.functional import draw_one_hot, gru_update
from hd_agents.nn.products import product_dtype
from hd_agents.world_model.rssm import RSSM, State
from hd_agents.world_model.world_model import WorldModel

# Modules that FlatDreaming can do without, beside those of nn/flat.py.
KINDS: Kinds = {WorldModel: None, RSSM: RSSM.PARTS, Actor: Actor.PARTS}


class Dream(NamedTuple):
    """N imagined trajectories of H steps.

    ::

        features[0] --action[0]--> features[1] --action[1]--> ... --action[H-1]--> features[H]

    :param features: (H + 1, N, F), in the dtype of products where no gradients pass through them.
    :param action: (H, N, A), taken in the state of the same index.
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
    if differentiable:
        stacked, actions, outputs = _roll_out(Dreaming(model, actor, start, len(draws)), start, draws, action_draws)
        return Dream(stacked, torch.stack(actions), torch.stack([step[-1] for step in outputs]))
    with torch.no_grad():
        flat = can_be_flat([model, *model.rssm.modules(), *actor.modules()], KINDS)
        kind = FlatDreaming if flat else Dreaming
        if flat and model.rssm.can_be_fused(draws, product_dtype(draws.device.type)):
            kind = FusedDreaming
        dreaming = kind(model, actor, start, len(draws))
        casts_itself = torch.autocast(start.deter.device.type, enabled=False) if flat else nullcontext()
        with casts_itself:
            stacked, actions, outputs = _roll_out(dreaming, start, draws, action_draws)
    if not flat:
        torch.clear_autocast_cache()  # before PyTorch 2.11 it has weights that were cast where no gradients pass
        return Dream(stacked, torch.stack(actions), actor.parameters_of(stacked[:-1]))
    parameters = actor.recall(stacked[:-1], [torch.stack(steps) for steps in zip(*outputs, strict=True)])
    return Dream(stacked, torch.stack(actions), parameters)


def _roll_out(
    dreaming: Dreaming, state: State, draws: Tensor, action_draws: Tensor
) -> tuple[Tensor, list[Tensor], list[list[Tensor]]]:
    """Features (H + 1, N, F); actions, and what the actor gave, of H steps."""
    features, actions, outputs = [dreaming.features(state)], [], []
    for draw, action_draw in zip(draws.unbind(0), action_draws.unbind(0), strict=True):
        outputs.append(dreaming.outputs(features[-1].detach()))
        actions.append(dreaming.actor.distribution(outputs[-1][-1]).sample(action_draw))
        state = dreaming.step(state, actions[-1], draw)
        features.append(dreaming.features(state))
    return dreaming.all_features(features), actions, outputs


class Dreaming:
    """Dreams by calling the modules, whatever they are.

    :param start: the state that the dream begins with, (N, ...). :param horizon: H, its steps.
    """

    def __init__(self, model: WorldModel, actor: Actor, start: State, horizon: int) -> None:
        self.model, self.actor = model, actor

    def features(self, state: State) -> Tensor:
        """(N, F), asked for once for every state, in their order."""
        return self.model.features(state)

    def all_features(self, features: list[Tensor]) -> Tensor:
        """(H + 1, N, F), of what :meth:`features` gave."""
        return torch.stack(features)

    def outputs(self, features: Tensor) -> list[Tensor]:
        """(N, F) -> :meth:`Actor.parameters_of`, at the end of whatever is worth remembering."""
        return [self.actor.parameters_of(features)]

    def step(self, state: State, action: Tensor, draw: Tensor) -> State:
        """See :meth:`RSSM.imagine_step`."""
        return self.model.rssm.imagine_step(state, action, draw)


class FlatDreaming(Dreaming):
    """The same by operations alone, with the weights of now, see :mod:`hd_agents.nn.flat`.

    A state is written where the actor and the next step's layers read it, beside what else they are given.
    """

    def __init__(self, model: WorldModel, actor: Actor, start: State, horizon: int) -> None:
        super().__init__(model, actor, start, horizon)
        rssm, gru = model.rssm, model.rssm.gru
        self.dtype = dtype = product_dtype(gru.linear.weight.device.type)
        self._actor = [FlatLayer.of(layer, dtype) for layer in (*actor.mlp, actor.out)]
        self._image_in = FlatLayer.of(rssm.image_in, dtype)
        self._gru = FlatLayer(gru.linear.weight, gru.linear.bias, gru.norm, dtype=dtype)
        self._image_out, self._prior_out = FlatLayer.of(rssm.image_out, dtype), FlatLayer.of(rssm.prior_out, dtype)
        deter, rows = start.deter, len(start.deter)
        self._features = deter.new_empty(horizon + 1, rows, rssm.deter + rssm.stoch_size, dtype=dtype)
        parts = self._features[..., : rssm.deter], self._features[..., rssm.deter :]
        self._places = zip(self._features.unbind(), *(part.unbind() for part in parts), strict=True)
        self._inputs = deter.new_empty(rows, self._image_in.weight.shape[0], dtype=dtype)
        self._joint = deter.new_empty(rows, self._gru.weight.shape[0], dtype=dtype)
        self._stoch, self._action = self._inputs[:, : rssm.stoch_size], self._inputs[:, rssm.stoch_size :]
        self._deter, self._hidden = self._joint[:, : rssm.deter], self._joint[:, rssm.deter :]
        self._room = deter.new_zeros(rows, rssm.stoch, rssm.classes + 1)

    def features(self, state: State) -> Tensor:
        """See :meth:`Dreaming.features`; in the dtype of products."""
        features, deter, stoch = next(self._places)
        for place in (deter, self._deter):
            place.copy_(state.deter)
        for place in (stoch, self._stoch):
            place.copy_(state.stoch)
        return features

    def all_features(self, features: list[Tensor]) -> Tensor:
        """See :meth:`Dreaming.all_features`."""
        return self._features

    def outputs(self, features: Tensor) -> list[Tensor]:
        """What each linear layer of the actor gives, for :meth:`Actor.recall`."""
        outputs = []
        for layer in self._actor:
            outputs.append(layer.product(features))
            features = self._finish(layer, outputs[-1])
        return outputs

    def _finish(self, layer: FlatLayer, x: Tensor) -> Tensor:
        """Norm and activation."""
        return layer.finish(x)

    def step(self, state: State, action: Tensor, draw: Tensor) -> State:
        """See :meth:`RSSM.imagine_step`; ``state`` is the one that :meth:`features` had last."""
        rssm = self.model.rssm
        self._action.copy_(rssm.clip(action))
        self._hidden.copy_(self._image_in(self._inputs))
        deter = gru_update(self._gru(self._joint), state.deter)
        logits = self._prior_out(self._image_out(deter)).unflatten(-1, (rssm.stoch, rssm.classes))
        return State(deter, draw_one_hot(logits, draw, rssm.unimix, self._room)[0].flatten(-2))


class FusedDreaming(FlatDreaming):
    """The same on a GPU, by :mod:`hd_agents.nn.kernels`: one launch between two products of the recurrence.

    The kernels write a step's state themselves.
    """

    def __init__(self, model: WorldModel, actor: Actor, start: State, horizon: int) -> None:
        super().__init__(model, actor, start, horizon)
        deter, stoch = start
        self._memory, self._keep, self._nothing = deter.clone(), deter.new_ones(len(deter)), torch.zeros_like(stoch)
        self._probs = deter.new_empty(len(deter), model.rssm.stoch, model.rssm.classes)
        self._made: Tensor | None = None  # features of the state made last

    def features(self, state: State) -> Tensor:
        """See :meth:`Dreaming.features`."""
        return super().features(state) if self._made is None else self._made

    def step(self, state: State, action: Tensor, draw: Tensor) -> State:
        """See :meth:`FlatDreaming.step`."""
        rssm, memory, keep, probs = self.model.rssm, self._memory, self._keep, self._probs
        self._made, deter, stoch = next(self._places)
        self._action.copy_(rssm.clip(action))
        self._finish(self._image_in, self._image_in.product(self._inputs), self._hidden)
        gates, norm = self._gru.product(self._joint), self._gru.norm_weights
        fused.kernels().gates(gates, None, norm, memory, memory, keep, memory, deter, memory, self._deter)
        hidden = self._finish(self._image_out, self._image_out.product(deter))
        logits, places = torch.mm(hidden, self._prior_out.weight), (self._nothing, keep, probs, stoch, self._stoch)
        fused.kernels().draw(logits, self._prior_out.bias, draw, rssm.unimix, *places)
        return State(deter, stoch)

    def _finish(self, layer: FlatLayer, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Norm and activation, to ``out`` if there is one."""
        if layer.act is None:
            return layer.finish(x)
        out = torch.empty_like(x) if out is None else out
        fused.kernels().norm_act(x, None, layer.norm_weights, layer.act, out)
        return out
