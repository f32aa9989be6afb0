"""Weights in fewer bits than they were trained with: half precision, or 8 bits per number.

In 8 bits a tensor of two or more dimensions is stored as int8 from -127 to 127, with ``<name>.scale`` beside it:
float32, one factor for each row of its first dimension. Vectors are few, and stay in half precision. Single numbers
are no weights (a range of returns, a loss's coefficient) and stay as they are.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from hd_agents.saving.jsonable import ArchiveError

# That a weight may have, and their name on a card.
BITS = {32: "as trained", 16: "float16", 8: "int8 matrices, float16 vectors"}
SCALE = ".scale"
LARGEST = 127


def reduced(state: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """The tensors as they are stored.

    :param bits: one of :data:`BITS`.
    :raises ValueError: for numbers beyond the range of half precision, unless they are kept, and for none at all.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{key} holds NaN or infinite numbers: such an agent is broken, and not worth a package.")
        if bits == 32 or tensor.ndim == 0:
            found[key] = tensor
            continue
        half = tensor.half()
        if not half.isfinite().all():
            raise ValueError(f"{key} holds numbers beyond half precision's range: pack it with bits=32 (--bits 32).")
        if bits == 8 and tensor.ndim > 1:
            scale = tensor.float().flatten(1).abs().amax(1) / LARGEST
            steps = tensor.float() / _spread(scale.where(scale > 0, 1.0), tensor)
            found |= {key: steps.round().to(torch.int8), key + SCALE: scale}
        else:
            found[key] = half
    return found


def restored(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`reduced`: what was stored in 8 bits as float32, the other tensors as they are.

    :raises ArchiveError: for a tensor in 8 bits without a scale that fits it.
    """
    short = [key for key, tensor in stored.items() if tensor.dtype == torch.int8]
    found = {key: tensor for key, tensor in stored.items() if key.removesuffix(SCALE) not in short}
    for key in short:
        tensor, scale = stored[key], stored.get(key + SCALE)
        if tensor.ndim < 2:
            raise ArchiveError(f"The package's {key} is in 8 bits and has the shape {tuple(tensor.shape)}: no matrix.")
        if scale is None or scale.dtype != torch.float32 or scale.shape != tensor.shape[:1]:
            given = "missing" if scale is None else f"{scale.dtype} of shape {tuple(scale.shape)}"
            raise ArchiveError(
                f"The package's {key} is in 8 bits, and its scale is {given}: expected torch.float32 of shape "
                f"({len(tensor)},)."
            )
        if not (scale.isfinite() & (scale >= 0)).all():
            raise ArchiveError(f"The package's {key}{SCALE} holds numbers that are not finite, or negative.")
        found[key] = tensor.float() * _spread(scale, tensor)
    return found


def _spread(scale: Tensor, tensor: Tensor) -> Tensor:
    """One factor per row of the first dimension, in a shape that multiplies ``tensor``."""
    return scale.reshape(-1, *[1] * (tensor.ndim - 1))
