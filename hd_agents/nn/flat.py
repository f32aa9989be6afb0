"""Layers as operations on their weights, for loops that need no gradients.

On a small network it takes longer to find its layers, to check what they are given and to prepare for gradients and
lower precision than to compute. So the layers are found once, and the operations alone are left, in the same order and
with the same results to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hd_agents.nn.layers import MLP, NORM_EPS, Activation, Dense, GRUCell, activate, has_our_numbers, norm_weight
from hd_agents.nn.plain import has_methods, hooks_of
from hd_agents.nn.products import Linear, product

# Modules whose operations are known, and what may stand where in them ("" is everywhere); None for whatever it is.
Places = Mapping[str, type[nn.Module]]
Kinds = Mapping[type[nn.Module], Places | None]
LAYER: Places = {"linear": Linear, "norm": nn.LayerNorm}
OURS: Kinds = {MLP: {"": Dense}, Dense: LAYER, GRUCell: LAYER, Linear: {}, nn.LayerNorm: {}}


class FlatLayer:
    """Product, norm and activation, each where there is one. Reads the weights where they are, if in their own dtype.

    :param weight: (outputs, inputs). :param act: None for none.
    :param dtype: of the product.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        norm: nn.LayerNorm | None = None,
        act: Activation | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        self.weight, self.bias = weight.detach().to(dtype).t(), None if bias is None else bias.detach().to(dtype)
        self.norm = None
        if norm is not None:
            of = torch.float32 if act is None else dtype  # what :meth:`finish` gives the norm
            scale, shift = norm_weight(norm.weight.detach(), of), norm_weight(norm.bias.detach(), of)
            self.norm = [len(weight)], scale, shift, NORM_EPS
        self.act = act

    @classmethod
    def of(cls, layer: Dense | nn.Linear, dtype: torch.dtype = torch.float32) -> FlatLayer:
        """The whole of a layer."""
        if isinstance(layer, nn.Linear):
            return cls(layer.weight, layer.bias, dtype=dtype)
        return cls(layer.linear.weight, layer.linear.bias, layer.norm, layer.act, dtype)

    @property
    def norm_weights(self) -> tuple[Tensor | None, Tensor | None]:
        """The norm's weight and bias."""
        return (None, None) if self.norm is None else self.norm[1:3]

    def __call__(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return self.finish(self.product(x))

    def product(self, x: Tensor) -> Tensor:
        """What comes before norm and activation, in ``dtype``."""
        return product(x.to(self.dtype), self.weight, self.bias)

    def finish(self, x: Tensor) -> Tensor:
        """Norm and activation over the last axis."""
        if self.norm is None:
            return x if self.act is None else activate(x, self.act)
        if self.act is None:
            x = x.float()
        x = torch.native_layer_norm(x, *self.norm)[0]
        return x if self.act is None else activate(x, self.act, inplace=True)


def can_be_flat(modules: Iterable[nn.Module], kinds: Kinds) -> bool:
    """Whether operations alone do what calling these does.

    They are of ``kinds`` or :data:`OURS`, not of subclasses, and stand where these have them. They have no hooks and no
    methods of their own, and their norms are like ours.
    """
    modules, kinds = list(modules), {**OURS, **kinds}
    return all(_is_plain(module, kinds) for module in modules) and not any(hooks_of(modules))


def _is_plain(module: nn.Module, kinds: Kinds) -> bool:
    kind: Any = type(module)
    if kind not in kinds or has_methods(module) or (kind is nn.LayerNorm and not has_our_numbers(module)):
        return False
    places = kinds[kind]
    return places is None or all(
        part is None or type(part) is places.get(name, places.get("")) for name, part in module._modules.items()
    )
