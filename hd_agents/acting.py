"""One step of acting: the posterior state after an observation, and the parameters of the actor's choice in a state.

:class:`FlatActing` does by operations alone what :class:`Acting` does by calling modules, see :mod:`hd_agents.nn.flat`;
the numbers are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hd_agents.behavior.actor_critic import Actor
from hd_agents.graphs import Parts
from hd_agents.nn.convolution import Conv
from hd_agents.nn.flat import FlatLayer, Kinds, can_be_flat
from hd_agents.nn.functional import draw_one_hot, gru_update
from hd_agents.nn.layers import MLP
from hd_agents.nn.plain import hooks_of
from hd_agents.world_model.encoder import Encoder, ImageEncoder
from hd_agents.world_model.rssm import RSSM, State
from hd_agents.world_model.world_model import WorldModel

# Modules that FlatActing can do without, beside those of nn/flat.py.
KINDS: Kinds = {
    WorldModel: None,
    Encoder: {"cnns": nn.ModuleList, "mlp": MLP},
    nn.ModuleList: {"": ImageEncoder},
    ImageEncoder: {"layers": nn.Sequential},
    nn.Sequential: {"": Conv},
    Conv: {"conv": nn.Conv2d, "norm": nn.LayerNorm},
    nn.Conv2d: {},
    RSSM: RSSM.PARTS,
    Actor: Actor.PARTS,
}

SETTINGS = ("act", "eps", "stride", "padding", "dilation", "padding_mode")  # of layers


class Acting:
    """Acts by calling the modules, whatever they are.

    :param model: filters. :param actor: chooses.
    """

    def __init__(self, model: WorldModel, actor: Actor) -> None:
        self.model, self.actor = model, actor
        self._now: Parts | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, whose parts are others."""
        return {**self.__dict__, "_now": None}

    def fits(self, model: WorldModel, actor: Actor) -> bool:
        """Whether this still acts as these networks would."""
        return model is self.model and actor is self.actor

    def parts(self) -> list[Any]:
        """What a graph of it depends on, and can change while it still :meth:`fits`."""
        if self._now is None or self._now.change():
            self._now = Parts(_modules(self.model, self.actor))
        return [self._now]

    def filter(
        self, observation: Mapping[str, Tensor], state: State, action: Tensor, first: Tensor | None, draw: Tensor | None
    ) -> State:
        """The posterior state (N, ...) after one observation; for the rest see :meth:`RSSM.observe_step`."""
        return self.model.rssm.observe_step(state, action, self.model.encode(observation), first, draw)

    def choose(self, state: State) -> Tensor:
        """The raw parameters (N, outputs) of the distribution over actions in ``state``."""
        return self.actor.parameters_of(self.model.features(state))


class FlatActing(Acting):
    """The same by operations alone. Reads the weights where they are, and so acts with what they have become."""

    def __init__(self, model: WorldModel, actor: Actor) -> None:
        super().__init__(model, actor)
        rssm, encoder = model.rssm, model.encoder
        self._rssm, self._encoder = rssm, encoder
        owners = _modules(model, actor)
        self._hooks = hooks_of(owners)
        self._owners = [(one, type(one), vars(one), len(vars(one))) for one in owners]
        self._counts = [(one._modules, len(one._modules)) for one in owners]
        self._parts = [(owner._modules, name, part) for owner in owners for name, part in owner._modules.items()]
        self._parts += [(vars(one), name, vars(one)[name]) for one in owners for name in SETTINGS if name in vars(one)]
        weights = [(owner._parameters, name) for owner in owners for name in owner._parameters]
        found = [(owner, name, weight) for owner, name in weights if (weight := owner[name]) is not None]
        self._weights = [(*slot, slot[-1].data_ptr()) for slot in found]
        self._cnns = [[Convolution(layer) for layer in cnn] for cnn in encoder.convolutions()]
        self._mlp = None if encoder.mlp is None else [FlatLayer.of(layer) for layer in encoder.mlp]
        self._image_in, self._observe_in = FlatLayer.of(rssm.image_in), FlatLayer.of(rssm.observe_in)
        self._gru = FlatLayer(rssm.gru.linear.weight, rssm.gru.linear.bias, rssm.gru.norm)
        self._posterior = FlatLayer.of(rssm.posterior_out)
        self._actor = [*(FlatLayer.of(layer) for layer in actor.mlp), FlatLayer.of(actor.out)]

    def fits(self, model: WorldModel, actor: Actor) -> bool:
        """Whether this still acts as these networks would.

        No module has another type, part, weight, setting, method or hook, and no weight has moved.
        """
        if (
            any(self._hooks)
            or not super().fits(model, actor)
            or model.rssm is not self._rssm
            or model.encoder is not self._encoder
        ):
            return False
        for module, kind, own, count in self._owners:  # a method of an instance's own is one more entry
            if type(module) is not kind or len(own) != count:
                return False
        for owner, name, weight, place in self._weights:
            if owner.get(name) is not weight or weight.data_ptr() != place:
                return False
        if any(len(parts) != count for parts, count in self._counts):
            return False
        return all(owner.get(name) is part for owner, name, part in self._parts)

    def parts(self) -> list[Any]:
        """Numbers that are read at each step; after any other change it no longer fits."""
        return [self._rssm.unimix, self._rssm.clip_action, self.actor.unimix, self.actor.bounded]

    def filter(
        self, observation: Mapping[str, Tensor], state: State, action: Tensor, first: Tensor | None, draw: Tensor | None
    ) -> State:
        """See :meth:`Acting.filter`."""
        rssm = self._rssm
        embed, action = self._embed(observation), rssm.clip(action)
        if first is not None:
            state, action = rssm.restart(state, action, first)
        deter, stoch = state
        hidden = self._image_in(torch.cat([stoch, action], -1))
        deter = gru_update(self._gru(torch.cat([deter, hidden], -1)), deter)
        logits = self._posterior(self._observe_in(torch.cat([deter, embed], -1)))
        sample, _ = draw_one_hot(logits.view(len(logits), rssm.stoch, rssm.classes), draw, rssm.unimix)
        return State(deter, sample.flatten(1))

    def choose(self, state: State) -> Tensor:
        """See :meth:`Acting.choose`."""
        x = torch.cat([state.deter, state.stoch], -1)
        for layer in self._actor:
            x = layer(x)
        return x

    def _embed(self, observation: Mapping[str, Tensor]) -> Tensor:
        encoder, prepared = self._encoder, self._encoder.prepare(observation)
        parts = []
        for key, layers in zip(encoder.image_keys, self._cnns, strict=True):
            image = prepared[key].permute(0, 2, 3, 1)
            for convolution in layers:
                image = convolution(image)
            parts.append(image.flatten(1))
        if self._mlp is not None:
            vectors = [prepared[key] for key in encoder.vector_keys]
            x = vectors[0] if len(vectors) == 1 else torch.cat(vectors, -1)
            for layer in self._mlp:
                x = layer(x)
            parts.append(x)
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def make_acting(model: WorldModel, actor: Actor) -> Acting:
    """A flat one, unless there are modules that are not ours, or hooks, which have to be called."""
    flat = can_be_flat(_modules(model, actor), KINDS)
    flat = flat and all(layer.is_plain() for layers in model.encoder.convolutions() for layer in layers)
    return (FlatActing if flat else Acting)(model, actor)


def _modules(model: WorldModel, actor: Actor) -> list[nn.Module]:
    """All that acting would call."""
    return [model, *model.encoder.modules(), *model.rssm.modules(), *actor.modules()]


class Convolution:
    """A convolution of stride 2, its norm and activation, with channels last: (N, H, W, C) -> (N, H', W', outputs)."""

    def __init__(self, layer: Conv) -> None:
        self.weight, self.padding = layer.conv.weight.detach(), layer.padding
        rows = self.weight.permute(0, 2, 3, 1).flatten(1)  # of which no product is made here: norm and activation are
        self.layer = FlatLayer(rows, layer.conv.bias, layer.norm, layer.act)

    def __call__(self, x: Tensor) -> Tensor:
        x = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.layer.bias, 2, self.padding)
        return self.layer.finish(x.permute(0, 2, 3, 1))
