"""Observations -> one embedding vector: a strided CNN per image key, one MLP for all vector keys together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hd_agents.nn.convolution import Conv
from hd_agents.nn.functional import symlog
from hd_agents.nn.layers import MLP, Activation


def model_size(height: int, width: int) -> tuple[int, int, int]:
    """The image size that the networks use, and how often they halve it.

    The shorter side is halved until 4 to 7 pixels are left; sizes that cannot be halved that often are rounded to the
    nearest that can, so that 64x64 stays, 84x84 becomes 80x80 and 210x160 becomes 224x160. What comes out stays as it
    is the next time.

    :return: height, width, stages.
    """
    stages = int(math.log2(min(height, width) / 4))
    unit = 2**stages
    left = [max(4, round(side / unit)) for side in (height, width)]
    if min(left) == 8:  # which could be halved once more
        left = [7 if side == 8 else side for side in left]
    return left[0] * unit, left[1] * unit, stages


class ImageEncoder(nn.Module):
    """4x4 convolutions of stride 2, the channels doubling at every stage.

    :param shape: (H, W, C) of the image the network sees.
    :param padded: True keeps exact halves (DreamerV3), False is DreamerV2's unpadded stack for 64x64.
    """

    def __init__(self, shape: tuple[int, int, int], depth: int, *, padded: bool, norm: bool, act: Activation) -> None:
        super().__init__()
        height, width, channels = shape
        stages = model_size(height, width)[2]
        widths = [channels] + [depth * 2**i for i in range(stages)]
        padding = 1 if padded else 0
        self.layers = nn.Sequential(*[Conv(a, b, padding=padding, norm=norm, act=act) for a, b in pairwise(widths)])
        for _ in range(stages):
            height, width = (height + 2 * padding - 4) // 2 + 1, (width + 2 * padding - 4) // 2 + 1
        self.outputs = height * width * widths[-1]

    def forward(self, image: Tensor) -> Tensor:
        """Centred images (N, C, H, W), channels-last in memory -> (N, outputs), flattened as H, W, C."""
        return self.layers(image).permute(0, 2, 3, 1).flatten(1)


class Encoder(nn.Module):
    """Embeds a dictionary of observations.

    :param images: key -> (H, W, C) as the environment gives them.
    :param vectors: key -> size.
    :param squash: apply symlog to vectors (DreamerV3).
    """

    def __init__(
        self,
        images: Mapping[str, tuple[int, int, int]],
        vectors: Mapping[str, int],
        *,
        depth: int,
        units: int,
        layers: int,
        padded: bool,
        norm: bool,
        act: Activation,
        squash: bool,
    ) -> None:
        super().__init__()
        self.image_keys, self.vector_keys = list(images), list(vectors)
        self.sizes = {key: model_size(*shape[:2])[:2] for key, shape in images.items()}
        self.squash = squash
        self.cnns = nn.ModuleList(
            ImageEncoder((*self.sizes[key], shape[2]), depth, padded=padded, norm=norm, act=act)
            for key, shape in images.items()
        )
        self.mlp = MLP(sum(vectors.values()), units, layers, norm=norm, act=act) if vectors else None
        self.outputs = sum(cnn.outputs for cnn in self.cnns) + (self.mlp.outputs if self.mlp is not None else 0)  # type: ignore[misc]

    def convolutions(self) -> list[list[Conv]]:
        """The layers of each image network, in the order of ``image_keys``."""
        return [list(cnn.layers) for cnn in self.cnns]  # type: ignore[arg-type]

    def prepare(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the networks see and the decoder is asked for, with the leading axes flattened to N.

        Images (..., H, W, C) uint8 -> (N, C, H', W') in [-0.5, 0.5], resized where the size cannot be halved; vectors
        (..., D) -> (N, D), squashed by symlog where the backbone does so.
        """
        prepared = {}
        for key in self.image_keys:
            image = observation[key].flatten(0, -4).permute(0, 3, 1, 2)  # channels-last memory, no copy
            image = image.to(torch.float32).mul_(1 / 255).sub_(0.5)
            if tuple(image.shape[-2:]) != self.sizes[key]:
                image = F.interpolate(image, self.sizes[key], mode="bilinear", antialias=True)
            prepared[key] = image
        for key in self.vector_keys:
            vector = observation[key].flatten(0, -2).float()
            prepared[key] = symlog(vector) if self.squash else vector
        return prepared

    def forward(self, prepared: Mapping[str, Tensor]) -> Tensor:
        """The output of :meth:`prepare` -> (N, E)."""
        parts = [cnn(prepared[key]) for key, cnn in zip(self.image_keys, self.cnns, strict=True)]
        if self.mlp is not None:
            parts.append(self.mlp(torch.cat([prepared[key] for key in self.vector_keys], -1)))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]
