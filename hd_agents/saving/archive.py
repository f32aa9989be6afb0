"""Agent archives without pickled objects: a zip of one JSON file and of tensors, read without running anything.

The members carry Stable-Baselines3's names: ``data`` (JSON), ``<name>.pth`` for each state dict,
``_stable_baselines3_version`` and ``system_info.txt``. Nothing is compressed, so that no file can unfold to more than
its own size.
"""

import io
import json
import os
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from stable_baselines3 import __version__ as sb3_version
from stable_baselines3.common.utils import get_system_info
from torch import Tensor

from hd_agents.files import atomic_write
from hd_agents.saving.jsonable import ArchiveError, from_json, to_json

FORMAT, FORMAT_VERSION = "hd_agents", 1
FORMAT_KEY, VERSION_KEY = "_format", "_format_version"
OTHER_MEMBERS = {"data", "_stable_baselines3_version", "system_info.txt"}
MEMBER_NAME = re.compile(r"\w[\w.-]*\.pth", re.ASCII)
# What torch.save names in the pickle of a state dict of tensors. All else is refused before torch sees it, also what
# weights_only would allow (a bytearray of any declared size, for one).
TENSOR_GLOBALS = re.compile(
    r"torch\._utils _rebuild_tensor_v[23]|collections OrderedDict|torch [A-Za-z0-9]+Storage"
    r"|torch\.storage UntypedStorage|torch uint(16|32|64)"  # kinds without a storage class of their own
)
CALLING_OPCODES = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1", "EXT2", "EXT4"}


def write_archive(path: str | Path | BinaryIO, data: Mapping[str, Any], tensors: Mapping[str, Mapping]) -> None:
    """Write an archive; a path without a suffix gets ``.zip``, and is either written whole or left as it was.

    :param path: Path, or a binary file open for writing.
    :param data: What :func:`~hd_agents.saving.jsonable.to_json` can write: numbers, text, containers, small arrays,
        spaces.
    :param tensors: Name to state dict: dicts (keys text or integers), lists and tuples of tensors, numbers, text and
        None.
    :raises ArchiveError: naming the value that cannot be stored; the file is not touched then.
    :raises OSError: if the file cannot be written.
    """
    if reserved := {FORMAT_KEY, VERSION_KEY} & data.keys():
        raise ArchiveError(f"data has the keys {sorted(reserved)}, which the archive itself uses.")
    values = to_json(data)
    from_json(values)  # what is written can be read: the reader's bounds are checked here too
    parts = {}
    for name, state in tensors.items():
        if not MEMBER_NAME.fullmatch(f"{name}.pth"):
            raise ArchiveError(f"The tensors are named {name!r}: expected letters, digits, '_', '-' and '.'.")
        parts[f"{name}.pth"] = _plain(state, name)
    document = {FORMAT_KEY: FORMAT, VERSION_KEY: FORMAT_VERSION, **values}
    if not isinstance(path, (str, Path)):
        _write_zip(path, document, parts)
        return
    with atomic_write(Path(path) if Path(path).suffix else Path(f"{path}.zip")) as file:
        _write_zip(file, document, parts)


def read_archive(path: str | Path | BinaryIO) -> tuple[dict[str, Any], dict[str, dict]]:
    """Read an archive as ``(data, tensors)``, with the tensors on the CPU.

    Nothing is executed, written to disk, or allocated beyond the file's own size (and a bounded size for spaces).

    :param path: Path (``.zip`` is tried after the path itself), or a seekable binary file.
    :raises FileNotFoundError: naming the paths that were tried.
    :raises ArchiveError: saying what is wrong with a file that is foreign, truncated, damaged, or of a newer format.
    """
    if isinstance(path, (str, Path)):
        found = _find(Path(path))
        with open(found, "rb") as file:
            return _read_zip(file, str(found))
    return _read_zip(path, "The archive")


def _write_zip(file: BinaryIO, document: dict[str, Any], parts: dict[str, Any]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("data", json.dumps(document, indent=1, allow_nan=False))
        for name, state in parts.items():
            with archive.open(name, "w", force_zip64=True) as member:
                torch.save(state, member)
        archive.writestr("_stable_baselines3_version", sb3_version)
        archive.writestr("system_info.txt", get_system_info(print_info=False)[1])


def _find(path: Path) -> Path:
    candidates = (path,) if path.suffix == ".zip" else (path, Path(f"{path}.zip"))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    for candidate in candidates:
        if candidate.exists():
            within = candidate / "agent.zip"
            wanted = f"pass {within}." if within.is_file() else "expected a file written by save()."
            raise ArchiveError(f"{candidate} is a folder or a device: {wanted}")
    raise FileNotFoundError(f"There is no saved agent: tried {' and '.join(map(str, candidates))}.")


def _read_zip(file: BinaryIO, name: str) -> tuple[dict[str, Any], dict[str, dict]]:
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        starts_as_zip = file.read(2) == b"PK"
        with zipfile.ZipFile(file) as archive:
            check_members(archive, size)
            data = _read_data(archive)
            members = [member for member in archive.namelist() if member not in OTHER_MEMBERS]
            if unknown := [member for member in members if not MEMBER_NAME.fullmatch(member)]:
                raise ArchiveError(f"it holds {unknown[0]!r}, which no archive of ours does.")
            return data, {part[: -len(".pth")]: read_tensors(archive.read(part), part) for part in members}
    except ArchiveError as error:
        raise ArchiveError(f"{name} cannot be loaded: {error}") from error.__cause__
    except zipfile.BadZipFile as error:
        what = "truncated or damaged" if starts_as_zip else "not a saved agent: expected a zip written by save()"
        raise ArchiveError(f"{name} is {what} ({error}).") from error
    except MemoryError:
        raise
    except Exception as error:  # the readers of the formats document no list of what they raise on damaged input
        raise ArchiveError(f"{name} is damaged ({type(error).__name__}: {error}).") from error


def check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse members that are compressed, encrypted, named twice, or larger together than the bytes they came in.

    :param size: of the zip, in bytes.
    :raises ArchiveError: naming the member.
    """
    infos = archive.infolist()
    if min((info.header_offset for info in infos), default=0):  # a cut file ends in one of the zips within it
        raise ArchiveError("it is truncated or damaged: it does not start where its table of contents says.")
    if len({info.filename for info in infos}) < len(infos):
        raise ArchiveError("two of its parts have the same name.")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise ArchiveError(
                f"its part {info.filename!r} is compressed or encrypted, which nothing of ours is. If it was packed "
                "again, pack it without compression (zip -0)."
            )
    if (declared := sum(info.file_size for info in infos)) > size:
        raise ArchiveError(f"its parts claim {declared:,} bytes, but the file has {size:,}.")


def _read_data(archive: zipfile.ZipFile) -> dict[str, Any]:
    members = archive.namelist()
    document: Any = None
    if "data" in members:
        try:
            document = json.loads(archive.read("data"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ArchiveError(f"its part 'data' is not JSON ({error}).") from error
    if not isinstance(document, dict) or document.get(FORMAT_KEY) != FORMAT:
        raise ArchiveError(
            f"it is a zip archive, but not of an hd_agents agent (its parts: {', '.join(members[:8])}). Load it with "
            "the library that wrote it."
        )
    if document.get(VERSION_KEY) != FORMAT_VERSION:
        raise ArchiveError(
            f"its format version is {document.get(VERSION_KEY)!r}, and this release of hd_agents reads version "
            f"{FORMAT_VERSION} only: install the release that wrote it or a newer one."
        )
    return from_json({key: item for key, item in document.items() if key not in (FORMAT_KEY, VERSION_KEY)})


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def read_tensors(raw: bytes, member: str) -> dict:
    """Load one state dict, after its own zip and the names in its pickle have been checked.

    :param raw: what ``torch.save`` wrote. :param member: its name for errors.
    :raises ArchiveError: for anything but dicts, lists and tuples of tensors, numbers and text.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            check_members(archive, len(raw))
            for pickled in (part for part in archive.namelist() if part.endswith(".pkl")):
                _check_pickle(archive.read(pickled))
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ArchiveError(f"it holds a {type(state).__name__} instead of a dict of tensors.")
        if (size := _check_tree(state, set())) > len(raw):
            raise ArchiveError(f"its tensors take {size:,} bytes, but it has {len(raw):,}.")
        return state
    except MemoryError:
        raise
    except Exception as error:
        raise ArchiveError(f"its part {member!r} is damaged or foreign: {error}") from error


def _check_pickle(raw: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(raw):
        if opcode.name in CALLING_OPCODES or (opcode.name == "GLOBAL" and not TENSOR_GLOBALS.fullmatch(str(argument))):
            raise ArchiveError(f"it asks for {argument or opcode.name!r}, which no dict of tensors needs.")


def _check_tree(value: Any, seen: set[int]) -> int:
    """Refuse what can be small in the file and endless in memory: containers within themselves, expanded tensors.

    :return: bytes of all tensors, those that share their storage counted each.
    """
    if isinstance(value, (dict, list, tuple)) and value:
        if id(value) in seen:
            raise ArchiveError("a container occurs twice in it.")
        seen.add(id(value))
        return sum(_check_tree(item, seen) for item in (value.values() if isinstance(value, dict) else value))
    if not isinstance(value, Tensor):
        return 0
    size = value.numel() * value.element_size()
    if value.layout != torch.strided or size > value.untyped_storage().nbytes():
        raise ArchiveError(f"a tensor of shape {tuple(value.shape)} has fewer numbers than its shape says.")
    if not _is_dense(value):
        raise ArchiveError(f"a tensor of shape {tuple(value.shape)} has numbers that share their places or lie apart.")
    return size


def _is_dense(tensor: Tensor) -> bool:
    """Whether each number has a place of its own, without gaps, in whatever order."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def _plain(value: Any, where: str) -> Any:
    """A copy made of plain containers, numbers, text and dense CPU tensors that own their memory and need no more."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized:
            raise ArchiveError(f"{where} is a {value.layout} tensor: only dense ones can be stored.")
        return value.detach().to("cpu", copy=True)  # another thread may train it while it is written
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise ArchiveError(f"{where} has the key {key!r}: expected text or integers.")
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ArchiveError(f"{where} is a {type(value).__name__}: expected tensors, numbers and text in dicts and lists.")
