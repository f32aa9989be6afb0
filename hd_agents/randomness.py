"""States of random generators as plain values: Python's, NumPy's, torch's and those of Gymnasium's spaces."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

BIT_GENERATORS = {"PCG64": np.random.PCG64, "MT19937": np.random.MT19937}


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch draw from ``seed`` on inside, on the CPU and on ``device``; afterwards it goes on as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all devices
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def new_generator(state: Mapping[str, Any]) -> np.random.Generator:
    """A generator that goes on from another's ``bit_generator.state``.

    :raises ValueError: for one that is neither PCG64, NumPy's default, nor MT19937.
    """
    name = state["bit_generator"]
    if name not in BIT_GENERATORS:
        raise ValueError(f"The random generator {name!r} cannot be restored: expected {sorted(BIT_GENERATORS)}.")
    generator = np.random.Generator(BIT_GENERATORS[name]())
    generator.bit_generator.state = state
    return generator


def space_state(space: spaces.Space[Any]) -> list[Any]:
    """State of a space's generator (None before its first use), and of the spaces within it."""
    generator = space._np_random
    own = None if generator is None else generator.bit_generator.state
    return [own, [space_state(part) for part in parts_of(space)]]


def set_space_state(space: spaces.Space[Any], state: list[Any]) -> None:
    """Undo :func:`space_state`."""
    own, parts = state
    space._np_random = None if own is None else new_generator(own)  # type: ignore[assignment]
    for part, inner in zip(parts_of(space), parts, strict=True):
        set_space_state(part, inner)


def parts_of(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    """The spaces that a Dict or Tuple consists of; none of others."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.values())
    return list(space.spaces) if isinstance(space, spaces.Tuple) else []


def global_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The process's own generators: Python's and NumPy's as plain values, torch's (CPU and CUDA) as tensors."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)}, tensors  # noqa: NPY002  others draw from it


def set_global_state(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Undo :func:`global_state`; CUDA devices that this machine lacks are left out."""
    random.setstate(values["python"])
    np.random.set_state(values["numpy"])  # noqa: NPY002
    torch.set_rng_state(tensors["cpu"])
    for index in range(torch.cuda.device_count()):
        if (state := tensors.get(f"cuda{index}")) is not None:
            torch.cuda.set_rng_state(state, index)
