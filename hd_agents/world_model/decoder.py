"""Model features -> the observation they stand for, and how wrong that is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hd_agents.nn.convolution import Conv
from hd_agents.nn.functional import refuse_second_derivatives, symexp
from hd_agents.nn.layers import MLP, Activation, linear
from hd_agents.world_model.encoder import model_size

DREAMERV2_KERNELS = (5, 5, 6, 6)  # 1 -> 5 -> 13 -> 30 -> 64 pixels
FRAMES_AT_ONCE = 512  # in training: memory for the activations of so many; half as many would take 2% more time


class ImageDecoder(nn.Module):
    """Transposed convolutions of stride 2 up to the image, the channels halving at every stage.

    :param shape: (H, W, C) of the image the network makes.
    :param padded: True doubles from a 4..7 pixel grid (DreamerV3), False is DreamerV2's stack from one pixel to 64x64.
    """

    def __init__(
        self, features: int, shape: tuple[int, int, int], depth: int, *, padded: bool, norm: bool, act: Activation
    ) -> None:
        super().__init__()
        height, width, channels = shape
        stages = model_size(height, width)[2]
        if padded:
            start, grid = depth * 2 ** (stages - 1), (height >> stages, width >> stages)
            kernels, padding = (4,) * stages, 1
        else:
            start, grid = depth * 2 ** (stages + 1), (1, 1)
            kernels, padding = DREAMERV2_KERNELS, 0
        self.grid = (*grid, start)
        self.first = linear(features, grid[0] * grid[1] * start)
        widths = [start] + [depth * 2 ** (stages - 2 - i) for i in range(stages - 1)]
        layers = [
            Conv(a, b, kernel=kernel, padding=padding, transposed=True, norm=norm, act=act)
            for a, b, kernel in zip(widths, widths[1:], kernels, strict=False)
        ]
        last = Conv(widths[-1], channels, kernel=kernels[-1], padding=padding, transposed=True, norm=False, act=None)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) -> the image (N, C, H, W), centred: 0 stands for mid-grey, not clipped."""
        return self.layers(self.first(features).unflatten(-1, self.grid).permute(0, 3, 1, 2))


class Decoder(nn.Module):
    """Predicts every observation key.

    :param images: key -> (H, W, C) as the environment gives them.
    :param vectors: key -> size.
    :param error_scale: 1 for the sum of squared errors (DreamerV3), 1/2 for a Gaussian of variance one (DreamerV2).
    :param squash: vectors are predicted in symlog space (DreamerV3).
    """

    def __init__(
        self,
        features: int,
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
        error_scale: float,
    ) -> None:
        super().__init__()
        self.image_keys, self.vectors = list(images), dict(vectors)
        self.shapes = {key: shape[:2] for key, shape in images.items()}
        self.squash, self.error_scale = squash, error_scale
        self.cnns = nn.ModuleList(
            ImageDecoder(features, (*model_size(*shape[:2])[:2], shape[2]), depth, padded=padded, norm=norm, act=act)
            for shape in images.values()
        )
        self.mlp = MLP(features, units, layers, norm=norm, act=act) if vectors else None
        outputs = self.mlp.outputs if self.mlp is not None else 0
        self.outs = nn.ModuleList(linear(outputs, size) for size in vectors.values())

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """(N, F) -> key -> image (N, C, H', W') in the model's size or vector (N, D), both as the networks see them."""
        return self._predict(features, dict(zip(self.image_keys, self.cnns, strict=True)))

    def _predict(self, features: Tensor, cnns: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """The images of ``cnns`` and all vectors."""
        out = {key: cnn(features) for key, cnn in cnns.items()}
        if self.mlp is not None:
            hidden = self.mlp(features)
            out |= {key: layer(hidden) for key, layer in zip(self.vectors, self.outs, strict=True)}
        return out

    def losses(self, features: Tensor, prepared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scaled squared error (N,) of each key, summed over its pixels and channels or its dimensions.

        Images of more than ``FRAMES_AT_ONCE`` steps have their mean instead (0-d) where gradients are wanted: it is
        made, with its gradients, of some frames at a time.

        :param features: (N, F). :param prepared: key -> what the networks see, as :meth:`Encoder.prepare` gives it.
        """
        losses, whole = {}, dict(zip(self.image_keys, self.cnns, strict=True))
        if len(features) > FRAMES_AT_ONCE and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            for key, cnn in whole.items():
                weights = [parameter for parameter in cnn.parameters() if parameter.requires_grad]
                losses[key] = _MeanImageError.apply(features, cnn, prepared[key], self.error_scale, *weights)
            whole = {}
        for key, prediction in self._predict(features, whole).items():
            if key in self.vectors and self.squash:
                error = (prediction.float() - prepared[key]).square()
                losses[key] = self.error_scale * torch.where(error < 1e-8, 0.0, error).sum(-1)  # as the official loss
            else:
                losses[key] = _SquaredError.apply(prediction.float(), prepared[key], self.error_scale)
        return losses

    def means(self, out: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In the environment's own terms: images (N, H, W, C) in [0, 1] at the original size, vectors (N, D)."""
        means = {}
        for key, prediction in out.items():
            prediction = prediction.float()
            if key in self.vectors:
                means[key] = symexp(prediction) if self.squash else prediction
                continue
            if tuple(prediction.shape[-2:]) != self.shapes[key]:
                prediction = F.interpolate(prediction, self.shapes[key], mode="bilinear", antialias=True)
            means[key] = (prediction + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)
        return means


class _SquaredError(torch.autograd.Function):
    """scale * sum of squared differences over all axes but the first; one pass over the images each way."""

    @staticmethod
    def forward(ctx, prediction: Tensor, target: Tensor, scale: float) -> Tensor:  # type: ignore[no-untyped-def]
        difference = prediction - target
        ctx.save_for_backward(difference)
        ctx.scale = scale
        return difference.square().sum(tuple(range(1, difference.dim()))).mul_(scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        refuse_second_derivatives()
        (difference,) = ctx.saved_tensors
        return difference * (2.0 * ctx.scale * grad).view(-1, *[1] * (difference.dim() - 1)), None, None


class _MeanImageError(torch.autograd.Function):
    """Mean over the frames of :class:`_SquaredError`, which holds the activations of a few frames only.

    Loss and gradients are made together, chunk by chunk; all that the backward pass does is to scale the gradients.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, features: Tensor, cnn: ImageDecoder, target: Tensor, scale: float, *weights: Tensor
    ) -> Tensor:
        total, ahead = features.new_zeros((), dtype=torch.float32), torch.empty_like(features)
        sums = [torch.zeros_like(weight) for weight in weights]
        for begin in range(0, len(features), FRAMES_AT_ONCE):
            rows = slice(begin, begin + FRAMES_AT_ONCE)
            with torch.enable_grad():
                part = features[rows].detach().requires_grad_()
                loss = _SquaredError.apply(cnn(part).float(), target[rows], scale / len(features)).sum()
                ahead[rows], *gradients = torch.autograd.grad(loss, [part, *weights], materialize_grads=True)
            total += loss.detach()
            for known, gradient in zip(sums, gradients, strict=True):
                known += gradient
        ctx.save_for_backward(ahead, *sums)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        refuse_second_derivatives()
        ahead, *sums = ctx.saved_tensors
        return ahead * grad, None, None, None, *(gradient * grad for gradient in sums)
