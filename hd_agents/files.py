"""Files that are whole or absent, and folders that one process at a time works in."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def write_text(path: Path, text: str) -> None:
    """Write a text file by :func:`atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_figure(path: Path, figure: Any) -> None:
    """Write a figure of matplotlib by :func:`atomic_write`, as what the path's ending says."""
    with atomic_write(path) as file:
        figure.savefig(file, dpi=120, format=path.suffix.removeprefix("."))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits; read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing so that ``path`` holds either its old content or all of the new one, never a part.

    The bytes go to a temporary file beside it, are flushed to the disk, and take the place of ``path`` at the end; an
    exception or a killed process leaves ``path`` as it was. Missing folders are made, and a symbolic link is followed.

    :raises OSError: if the folder cannot be written, the disk is full, or ``path`` is not an ordinary file; it names a
        file in any case.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(f"Cannot write {path}: it is a folder or a device, not an ordinary file. Give a file's path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # as where the disk is full
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the new name itself lives in the folder, which is flushed separately
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBADF):  # some network file systems flush no folders
                raise
        finally:
            os.close(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed in :func:`atomic_write` have left in a folder that no other writes to."""
    for path in folder.glob(f".*.{'[0-9a-f]' * 8}.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While inside, let others that ask for the same folder wait. The folder is made if it does not exist.

    Systems and file systems without locks keep nobody waiting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
