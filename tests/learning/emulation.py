"""bfloat16 on a CPU without its instructions, at four fifths of the speed of float32.

PyTorch's own bfloat16 products make an update take five times as long there. They are made here as the instructions
make them: inputs rounded to bfloat16, summed in float32, the result rounded to bfloat16. Only the order of the sums
differs, as it does between any two CPUs.
"""

from typing import Any

import torch
from torch import Tensor

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")


def emulate_bfloat16() -> None:
    """Replace PyTorch's products of bfloat16 tensors on the CPU, for as long as this process lives."""
    for name in PRODUCTS:
        _replace(name)


def _replace(name: str) -> None:
    kernel = torch.library.get_kernel(f"aten::{name}", "CPU")

    def run(keys: Any, *words: Any) -> Any:
        if not any(isinstance(word, Tensor) and word.dtype is torch.bfloat16 for word in words):
            return kernel.call_boxed(keys, *words)
        made = kernel.call_boxed(keys, *(_as(word, torch.bfloat16, torch.float32) for word in words))
        if isinstance(made, tuple):
            return tuple(_as(part, torch.float32, torch.bfloat16) for part in made)
        return _as(made, torch.float32, torch.bfloat16)

    _LIBRARY.impl(name, run, "CPU", with_keyset=True)


def _as(word: Any, given: torch.dtype, wanted: torch.dtype) -> Any:
    return word.to(wanted) if isinstance(word, Tensor) and word.dtype is given else word


_LIBRARY = torch.library.Library("aten", "IMPL")
