"""Archives made and changed in memory, for the tests of writing and of reading them."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from hd_agents.saving.archive import write_archive

DATA = {"gamma": 0.997, "sizes": [2, 3], "policy_kwargs": {"units": 64, "nested": (1, (None, "x"))}, "seed": None}


def state() -> dict[str, Any]:
    return {
        "weight": torch.arange(15.0).reshape(5, 3),
        "half": torch.ones(7, dtype=torch.bfloat16),
        "steps": torch.tensor(3),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 5),
    }


def archive(data: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None) -> bytes:
    file = io.BytesIO()
    write_archive(file, DATA if data is None else data, {"policy": state()} if tensors is None else tensors)
    return file.getvalue()


def repacked(
    raw: bytes, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED
) -> io.BytesIO:
    """The zip with its members changed."""
    with zipfile.ZipFile(io.BytesIO(raw)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    change(members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return file
