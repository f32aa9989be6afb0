"""Files of the official releases, read without unpickling and without taking a declared size for granted."""

import io
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from hd_agents.saving.archive import check_members, read_tensors
from hd_agents.saving.jsonable import ArchiveError
from hd_agents.saving.vetting import blamed_on

Array = NDArray[Any]


def read(path: str | Path) -> dict[str, Array]:
    """Arrays of an official file: wmlib's ``variables.pt``, or an ``.npz`` of the JAX agent's arrays by name.

    No file is unpickled, and none takes more memory than its own size. A JAX checkpoint is a pickle: open it where it
    was made and ``numpy.savez`` the arrays of its "agent" entry.

    :raises ValueError: for another kind of file, or a damaged one.
    """
    suffix = Path(path).suffix
    if suffix not in (".npz", ".pt", ".pth"):
        raise ValueError(f"{path}: use wmlib's variables.pt, or an .npz of the JAX agent's arrays by name")
    raw = Path(path).read_bytes()
    with blamed_on(str(path)):
        return clean(read_npz(raw) if suffix == ".npz" else read_tensors(raw, str(path)))


def clean(params: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays or tensors by official name -> arrays by name without a prefix such as ``agent/``.

    :raises ValueError: where the names are those of neither release.
    """
    params = {str(name): value for name, value in params.items()}
    matches = (re.fullmatch(r"(.*?)wm(/rssm/gru/kernel|\.rssm\._cell\._layer\.weight)", name) for name in params)
    prefix = next((match[1] for match in matches if match), None)
    if prefix is None:
        raise ValueError(
            "Neither 'wm/rssm/gru/kernel' (dreamerv3-jax) nor 'wm.rssm._cell._layer.weight' (wmlib) is among the names "
            f"{sorted(params)[:4]}..."
        )
    found = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
    arrays = {
        name: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in found.items()
    }
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} is an array of {array.dtype}: expected numbers")
    return arrays


def read_npz(raw: bytes) -> dict[str, Array]:
    """The arrays of numbers in what ``numpy.savez`` wrote, by name.

    :raises ArchiveError: for another kind of file, one of ``savez_compressed`` (which could unfold to any size), and
        arrays that are no numbers or have other bytes than their header declares.
    """
    if not zipfile.is_zipfile(io.BytesIO(raw)):
        raise ArchiveError("it is no zip: expected what numpy.savez writes.")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        check_members(archive, len(raw))
        return {name.removesuffix(".npy"): _read_array(name, archive.read(name)) for name in archive.namelist()}


def _read_array(name: str, raw: bytes) -> Array:
    file = io.BytesIO(raw)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(npy.read_magic(file))
    if read_header is None:
        raise ArchiveError(f"{name} is of a newer version of NumPy's format.")
    shape, fortran, dtype = read_header(file)
    count = math.prod(shape)
    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or count * dtype.itemsize != len(raw) - file.tell():
        raise ArchiveError(f"{name} declares {dtype} of shape {shape}, which are not the bytes it has.")
    return np.frombuffer(raw, dtype, count, file.tell()).reshape(shape, order="F" if fortran else "C").copy()
