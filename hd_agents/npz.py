"""NumPy's .npz files, read without unpickling and without taking a size for granted."""

import io
import zipfile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from hd_agents.saving import ArchiveError, check_members


def read_npz(raw: bytes) -> dict[str, NDArray]:
    """The arrays of numbers in what ``numpy.savez`` wrote, by name.

    :raises ArchiveError: for another kind of file, one of ``savez_compressed`` (which could unfold to any size), and
        arrays that are no numbers or have other bytes than their header declares.
    """
    if not zipfile.is_zipfile(io.BytesIO(raw)):
        raise ArchiveError("it is no zip: expected what numpy.savez writes.")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        check_members(archive, len(raw))
        return {name.removesuffix(".npy"): _read_array(name, archive.read(name)) for name in archive.namelist()}


def _read_array(name: str, raw: bytes) -> NDArray:
    file = io.BytesIO(raw)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(npy.read_magic(file))
    if read_header is None:
        raise ArchiveError(f"{name} is of a newer version of NumPy's format.")
    shape, fortran, dtype = read_header(file)
    count = 1
    for size in shape:
        count *= size
    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or count * dtype.itemsize != len(raw) - file.tell():
        raise ArchiveError(f"{name} declares {dtype} of shape {shape}, which are not the bytes it has.")
    return np.frombuffer(raw, dtype, count, file.tell()).reshape(shape, order="F" if fortran else "C").copy()
