"""One step of acting: the posterior state after an observation, and the parameters of the actor's choice in a state.

For one environment it takes a small network longer to find its layers, to check what it is given and to prepare for
gradients than to compute. So :class:`FlatActing` finds the layers once and keeps the operations alone. In the same
order they give the same numbers to the last bit, except that a single image is convolved by matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hd_agents.behavior.actor_critic import Actor
from hd_agents.nn.functional import draw_one_hot
from hd_agents.nn.layers import MLP, NORM_EPS, Activation, Conv, Dense, GRUCell, activate
from hd_agents.world_model.encoder import Encoder, ImageEncoder
from hd_agents.world_model.rssm import RSSM, State
from hd_agents.world_model.world_model import WorldModel

OURS = {Encoder, ImageEncoder, RSSM, Actor, MLP, Dense, Conv, GRUCell}
OURS |= {nn.Linear, nn.Conv2d, nn.LayerNorm, nn.Sequential, nn.ModuleList}


class Acting:
    """Acts by calling the modules, whatever they are.

    :param model: filters. :param actor: chooses.
    """

    def __init__(self, model: WorldModel, actor: Actor) -> None:
        self.model, self.actor = model, actor

    def fits(self, model: WorldModel, actor: Actor) -> bool:
        """Whether it would act as these do."""
        return model is self.model and actor is self.actor

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
        self._hooks = _hooks(owners)
        self._parts = [(owner._modules, name, part) for owner in owners for name, part in owner._modules.items()]
        weights = [(owner._parameters, name) for owner in owners for name in owner._parameters]
        found = [(owner, name, weight) for owner, name in weights if (weight := owner[name]) is not None]
        self._weights = [(*slot, slot[-1].data_ptr()) for slot in found]
        self._cnns = [[Convolution(layer) for layer in cnn] for cnn in encoder.convolutions()]
        self._mlp = None if encoder.mlp is None else [_Layer.of(layer) for layer in encoder.mlp]
        into, observe = rssm.image_in.linear, rssm.observe_in.linear
        self._from_action = _Layer(into.weight[:, rssm.flat :], into.bias)
        self._from_stoch = _Layer(into.weight[:, : rssm.flat], None, rssm.image_in.norm, rssm.image_in.act)
        self._gru = _Layer(rssm.gru.linear.weight, rssm.gru.linear.bias, rssm.gru.norm)
        self._from_embed = _Layer(observe.weight[:, rssm.deter :], observe.bias)
        self._from_deter = _Layer(observe.weight[:, : rssm.deter], None, rssm.observe_in.norm, rssm.observe_in.act)
        self._posterior = _Layer(rssm.posterior_out.weight, rssm.posterior_out.bias)
        self._actor = [*(_Layer.of(layer) for layer in actor.mlp), _Layer(actor.out.weight, actor.out.bias)]

    def fits(self, model: WorldModel, actor: Actor) -> bool:
        """Whether it would act as these do: no module has another part, weight or hook, and no weight has moved."""
        if (
            any(self._hooks)
            or not super().fits(model, actor)
            or model.rssm is not self._rssm
            or model.encoder is not self._encoder
        ):
            return False
        for owner, name, weight, place in self._weights:
            if owner.get(name) is not weight or weight.data_ptr() != place:
                return False
        return all(owner.get(name) is part for owner, name, part in self._parts)

    def filter(
        self, observation: Mapping[str, Tensor], state: State, action: Tensor, first: Tensor | None, draw: Tensor | None
    ) -> State:
        """See :meth:`Acting.filter`."""
        rssm = self._rssm
        embed, action = self._embed(observation), rssm.clip(action)
        if first is not None:
            state, action = rssm.restart(state, action, first)
        deter, stoch = state
        hidden = self._from_stoch(stoch, self._from_action(action))
        opened, candidate, update = self._gru(torch.cat([deter, hidden], -1)).chunk(3, -1)
        deter = torch.lerp(deter, torch.tanh(torch.sigmoid(opened) * candidate), torch.sigmoid(update - 1.0))
        logits = self._posterior(self._from_deter(deter, self._from_embed(embed)))
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
    """A flat one, unless there are modules that are not ours, or hooks, which want them called."""
    modules = _modules(model, actor)
    ours = type(model) is WorldModel and {type(module) for module in modules} <= OURS
    return (FlatActing if ours and not any(_hooks(modules)) else Acting)(model, actor)


def _modules(model: WorldModel, actor: Actor) -> list[nn.Module]:
    """All that acting would call."""
    return [*model.encoder.modules(), *model.rssm.modules(), *actor.modules()]


def _hooks(modules: list[nn.Module]) -> list[Mapping[int, Any]]:
    return [hooks for one in modules for hooks in (one._forward_hooks, one._forward_pre_hooks)]


class _Layer:
    """Product, norm and activation, each where there is one.

    :param weight: (outputs, inputs). :param act: None for none.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, norm: nn.LayerNorm | None = None, act: Activation | None = None
    ) -> None:
        self.weight, self.bias = weight.detach().t(), None if bias is None else bias.detach()
        self.norm = None if norm is None else ([len(weight)], norm.weight.detach(), norm.bias.detach(), NORM_EPS)
        self.act = act

    @classmethod
    def of(cls, layer: Dense) -> _Layer:
        """The whole of a layer."""
        return cls(layer.linear.weight, layer.linear.bias, layer.norm, layer.act)

    def __call__(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """(N, inputs) -> (N, outputs). :param more: (N, outputs), added to the product in the place of a bias."""
        added = self.bias if more is None else more
        return self.finish(torch.mm(x, self.weight) if added is None else torch.addmm(added, x, self.weight))

    def finish(self, x: Tensor) -> Tensor:
        """Norm and activation over the last axis."""
        if self.norm is not None:
            x = torch.native_layer_norm(x, *self.norm)[0]
        return x if self.act is None else activate(x, self.act)


class Convolution:
    """A convolution of stride 2, its norm and activation, with channels last: (N, H, W, C) -> (N, H', W', outputs)."""

    def __init__(self, layer: Conv) -> None:
        weight = layer.conv.weight.detach()
        self.weight, self.kernel, self.padding = weight, weight.shape[-1], layer.padding
        rows = weight.permute(0, 2, 3, 1).flatten(1)
        self.product = _Layer(rows, layer.conv.bias, layer.norm, layer.act)
        self.channels_last = rows.data_ptr() == weight.data_ptr()  # as we make them; else these rows are a copy

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) == 1 and x.device.type == "cpu" and self.channels_last:
            return self._one(x)
        x = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.product.bias, 2, self.padding)
        return self.product.finish(x.permute(0, 2, 3, 1))

    def _one(self, x: Tensor) -> Tensor:
        """One image by a matrix product; oneDNN would rearrange the whole weight for it."""
        kernel, padding = self.kernel, self.padding
        x = F.pad(x, (0, 0, padding, padding, padding, padding)).contiguous()
        _, height, width, channels = x.shape
        height, width, line = (height - kernel) // 2 + 1, (width - kernel) // 2 + 1, width * channels
        # As the weight has them; a row of a patch is one piece of memory.
        patches = x.as_strided((height, width, kernel, kernel * channels), (2 * line, 2 * channels, line, 1))
        return self.product(patches.reshape(height * width, -1)).view(1, height, width, -1)
