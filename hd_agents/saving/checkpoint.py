"""The folder of a run's checkpoints: files that are whole or absent, and checked before they are believed.

::

    agent-000000020000.zip         what HarmonyDreamAgent.save writes, and load reads, at env step 20,000
    state-000000020000.zip         random generators and environments
    replay-000000020000.rows       the replay's rows since the checkpoint before; see hd_agents.replay.file
    checkpoint-000000020000.json   written last: the names, sizes and SHA-256 sums of all files that belong together
    agent-000000020000-1.zip ...   the second at a step: gradient steps or episodes came to it between two learn()
    .lock                          keeps other processes out while one learns, whose number it holds

A checkpoint exists once its last file does. Each file is written beside its place, flushed to the disk and renamed, so
a process may be killed at any moment. Rows stay in the file that they were first written to for as long as a
checkpoint refers to it.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hd_agents.files import sha256_of, write_text
from hd_agents.saving.jsonable import DAMAGE, ArchiveError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT, VERSION = "hd_agents checkpoint", 1
SUFFIXES = {"agent": "zip", "state": "zip", "replay": "rows", "checkpoint": "json"}
OURS = re.compile(r"(agent|state|replay|checkpoint)-(\d{12})(?:-(\d{1,6}))?\.(zip|rows|json)", re.ASCII)
ABANDONED = re.compile(rf"\.{OURS.pattern}\.[0-9a-f]{{8}}\.tmp", re.ASCII)  # of a process that was killed while writing
MAX_MANIFEST = 1 << 24  # bytes
LOCK = ".lock"
_claimed: dict[Path, tuple[int, int]] = {}  # folders: descriptor of the lock, and the process that has it


class CheckpointError(ArchiveError):
    """A checkpoint that cannot be written or read. Says what, where, and what to do."""


class Manifest(NamedTuple):
    """One checkpoint: the env ``step`` it was made at, how many had been made there before (``repeat``), and its files.

    ``files`` is name to (size in bytes, SHA-256 in hexadecimal); ``replay`` is the name of each file of rows, oldest
    first, to how many it has of each environment.
    """

    step: int
    files: dict[str, tuple[int, str]]
    replay: dict[str, list[int]]
    repeat: int = 0

    def name(self, kind: str) -> str:
        """The name of its file of a kind."""
        return file_name(kind, self.step, self.repeat)


def file_name(kind: str, step: int, repeat: int = 0) -> str:
    """The name of a file; ``kind`` is "agent", "state", "replay" or "checkpoint"."""
    return f"{kind}-{step:012d}{f'-{repeat}' if repeat else ''}.{SUFFIXES[kind]}"


def steps_in(folder: Path) -> list[int]:
    """Env steps of the checkpoints in a folder, intact or not, newest first."""
    return [step for step, _ in all_in(folder)]


def all_in(folder: Path) -> list[tuple[int, int]]:
    """Step and repeat of the checkpoints in a folder, intact or not, newest first."""
    found = [OURS.fullmatch(path.name) for path in folder.glob("checkpoint-*.json")]
    return sorted(((int(match[2]), int(match[3] or 0)) for match in found if match), reverse=True)


def newest_intact(folder: Path) -> Manifest | None:
    """The newest checkpoint whose files are all as they were written; None in a folder without checkpoints.

    Damaged ones are skipped with a warning that says what is wrong.

    :raises CheckpointError: if there are checkpoints, but no intact one.
    """
    problems = []
    for step, repeat in all_in(folder):
        try:
            return read_checkpoint(folder, step, repeat)
        except (CheckpointError, OSError) as error:
            problems.append(f"{folder / file_name('checkpoint', step, repeat)} is damaged: {error}")
            warnings.warn(f"{problems[-1]} It is skipped.", UserWarning, stacklevel=3)
    if problems:
        raise CheckpointError(
            f"No checkpoint in {folder} is intact. {' '.join(problems)} If an agent-*.zip there is whole, "
            "HarmonyDreamAgent.load reads it by itself; to begin again, use another folder."
        )
    return None


def read_checkpoint(folder: Path, step: int, repeat: int = 0) -> Manifest:
    """The checkpoint of a step and repeat, after all of its files have been compared with their checksums.

    :raises CheckpointError: saying which file is damaged, and how.
    """
    manifest = _read_manifest(folder / file_name("checkpoint", step, repeat), step, repeat)
    for name, (size, checksum) in manifest.files.items():
        _verify(folder / name, size, checksum)
    return manifest


def commit(
    folder: Path, step: int, repeat: int, replay: Mapping[str, Sequence[int]], known: Manifest | None
) -> Manifest:
    """Make a checkpoint of files that are in their places already.

    :param replay: as in :class:`Manifest`. :param known: an earlier checkpoint; its sums of the same rows still hold.
    :raises OSError: if the folder cannot be read or written.
    """
    names = [file_name("agent", step, repeat), file_name("state", step, repeat), *replay]
    old = {} if known is None else {name: known.files[name] for name in known.replay}
    files = {name: old.get(name) or _sums(folder / name) for name in names}
    manifest = Manifest(step, files, {name: list(rows) for name, rows in replay.items()}, repeat)
    document = {"format": FORMAT, "version": VERSION, "step": step, "files": files, "replay": manifest.replay}
    document["turn"] = repeat
    text = json.dumps({**document, "sha256": _sum_of(document)}, indent=1)
    write_text(folder / manifest.name("checkpoint"), text)
    return manifest


def is_whole(folder: Path, known: Manifest) -> bool:
    """Whether the rows of a checkpoint are still there, as far as their files' sizes tell."""
    sizes = {name: known.files[name][0] for name in known.replay}
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def still_in_ring(files: dict[str, list[int]], rows_per_env: int) -> dict[str, list[int]]:
    """The files of rows, oldest first, without those that the newer ones have overwritten in every ring."""
    needed: dict[str, list[int]] = {}
    after = [0] * len(next(iter(files.values()), []))
    for name, rows in reversed(files.items()):
        if all(count >= rows_per_env for count in after):
            break
        needed[name] = rows
        after = [one + other for one, other in zip(after, rows, strict=True)]
    return dict(reversed(needed.items()))


def prune(folder: Path, kept: Sequence[Manifest]) -> None:
    """Remove what belongs to none of the ``kept`` checkpoints: older and damaged ones, and what killed processes left.

    A checkpoint's own file goes before the files that it names. Other files in the folder are left alone.
    """
    names = {name for manifest in kept for name in (manifest.name("checkpoint"), *manifest.files)}
    ours = [path for path in folder.iterdir() if OURS.fullmatch(path.name) or ABANDONED.fullmatch(path.name)]
    for path in sorted(ours, key=lambda path: not path.name.startswith("checkpoint")):
        if path.name not in names:
            with suppress(FileNotFoundError):
                path.unlink()


def claim(folder: Path) -> None:
    """Keep other processes from learning in this folder until :func:`release`, or until this process ends.

    A process may claim a folder that it has claimed already. Systems and file systems without locks keep nobody out.

    :raises CheckpointError: if another process has claimed it. :raises OSError: if the folder cannot be written.
    """
    if fcntl is None or _claimed.get(folder.resolve(), (0, 0))[1] == os.getpid():  # not of a process that was forked
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise CheckpointError(
            f"Another process (number {owner}) is learning in {folder}, and two would remove each other's checkpoints. "
            "Wait for it or end it, or give another folder."
        ) from error
    except OSError:  # a file system without locks
        os.close(descriptor)
        return
    with suppress(OSError):  # a full disk: the number is for those who are kept out, and the lock holds without it
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    _claimed[folder.resolve()] = descriptor, os.getpid()


def release(folder: Path) -> None:
    """Let other processes learn in this folder again; nothing if this one has not claimed it."""
    if claimed := _claimed.pop(folder.resolve(), None):
        os.close(claimed[0])


def _read_manifest(path: Path, step: int, repeat: int) -> Manifest:
    if path.stat().st_size > MAX_MANIFEST:
        raise CheckpointError(f"it has {path.stat().st_size:,} bytes, at most {MAX_MANIFEST:,} are allowed.")
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        checksum = document.pop("sha256")
        if document.pop("format") != FORMAT or document.pop("version") != VERSION:
            raise CheckpointError(f"it is not of this release's format ({FORMAT}, version {VERSION}).")
        if checksum != _sum_of({"format": FORMAT, "version": VERSION, **document}):
            raise CheckpointError("its text does not match its own checksum.")
        files = {name: (int(size), str(checksum)) for name, (size, checksum) in document["files"].items()}
        replay = {str(name): [int(count) for count in rows] for name, rows in document["replay"].items()}
        manifest = Manifest(document["step"], files, replay, document["turn"])
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise CheckpointError(f"its text is not that of a checkpoint ({type(error).__name__}: {error}).") from error
    foreign = sorted(name for name in files if not OURS.fullmatch(name))
    needed = {file_name("agent", step, repeat), file_name("state", step, repeat), *replay}
    if (manifest.step, manifest.repeat) != (step, repeat) or foreign or files.keys() != needed:
        raise CheckpointError(f"it names other files than a checkpoint of step {step} has: {sorted(files)}.")
    return manifest


def _verify(path: Path, size: int, checksum: str) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing.")
    if (found := path.stat().st_size) != size:  # told before gigabytes are read
        raise CheckpointError(f"{path.name} has {found:,} bytes instead of {size:,}.")
    if sha256_of(path) != checksum:
        raise CheckpointError(f"{path.name} does not match its checksum.")


def _sums(path: Path) -> tuple[int, str]:
    return path.stat().st_size, sha256_of(path)


def _sum_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
