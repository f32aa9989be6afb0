"""The machine: processor and cores, how busy they are, memory, what is installed; files that are whole or absent."""

import ctypes
import hashlib
import importlib.util
import os
import platform
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MEMINFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")
RUNNING = Path("/proc/loadavg")
PROJECTS = {"cv2": "OpenCV", "yaml": "PyYAML"}  # modules whose name is not that of what to install
LOOKS, BETWEEN = 5, 0.01  # how often the number of running threads is read, and the seconds in between


def available_memory() -> int | None:
    """Bytes of memory that can be claimed without swapping; None where the system does not tell.

    On Linux the kernel's own estimate, and no more than a container's limit leaves; on other POSIX systems the free
    (or, for want of it, the physical) pages.
    """
    found = []
    try:
        lines = MEMINFO.read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):
            if name in getattr(os, "sysconf_names", {}):
                found.append(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))
                break
    with suppress(OSError, ValueError):  # no container, one without a limit, or an older kind
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        cache = re.search(r"^inactive_file (\d+)", (CONTAINER / "memory.stat").read_text(), re.MULTILINE)
        found.append(max(0, limit - used + int(cache[1] if cache else 0)))
    return min(found, default=None)


def cores() -> int:
    """How many of the processor's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    return _cpu_fact("model name") or platform.processor() or platform.machine()


def crowding(threads: int) -> str | None:
    """What to tell a process that will use ``threads`` threads where other work leaves it too few cores; else None.

    Threads wait for each other in every operation: where one has to share its core, all are as slow as that one.
    """
    if threads < 2:
        return None
    usable = cores()
    try:
        busy = min(_running_now(index * BETWEEN) for index in (0, *[1] * (LOOKS - 1)))
    except (OSError, ValueError, IndexError):
        return None  # no Linux
    free = max(1, usable - busy)
    if free >= min(threads, usable):
        return None
    return (
        f"Other work keeps {min(busy, usable)} of {usable} cores busy. {threads} threads that wait for each other are "
        f"far slower then, 67 times in one case: set OMP_NUM_THREADS={free}."
    )


def _running_now(wait: float) -> int:
    """Threads of other processes that want a core, after so many seconds."""
    time.sleep(wait)
    return int(RUNNING.read_text().split()[3].partition("/")[0]) - 1


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16 itself (AVX512-BF16 or AMX); False where nothing tells."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_fact("flags").split())


def cpu_beyond_mkl() -> bool:
    """Whether the processor has AVX512 without being Intel's, whose MKL does not use it then; False if unknown."""
    return "avx512f" in _cpu_fact("flags").split() and _cpu_fact("vendor_id") != "GenuineIntel"


def _cpu_fact(name: str) -> str:
    """What the system has on the first processor under ``name``; empty where it does not tell."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


@cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep the memory that this process frees, for reuse; whether it could be told.

    Every update on the CPU claims and frees gigabytes of activations. By default glibc hands large blocks back to the
    kernel at once, which has to clear them page by page at the next claim: about 40% of the time of an update at the
    papers' sizes. The price is that memory once used stays with the process. The user's own MALLOC_ variables win;
    other C libraries are left alone.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of <malloc.h>
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, -1))


def format_bytes(count: float) -> str:
    """A number of bytes for people, in decimal units: ``format_bytes(12_300_000) == "12.3 MB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def require(what: str, extra: str, *modules: str) -> None:
    """Check that packages which ``what`` needs and ``extra`` brings are installed, without importing them.

    :raises ImportError: naming those that are not, and the extra.
    """
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise ImportError(wanting(what, extra, missing))


@contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """For imports of what ``extra`` brings: where one fails, the ImportError says that ``what`` needs it."""
    try:
        yield
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise ImportError(wanting(what, extra, [error.name or "more"], reason)) from error


def wanting(what: str, extra: str, names: Iterable[str], reason: str = "") -> str:
    """What to tell where ``what`` needs modules that ``extra`` brings and that are not there."""
    names = [PROJECTS.get(name.partition(".")[0], name.partition(".")[0].replace("_", "-")) for name in names]
    them = "them" if len(names) > 1 else "it"
    return f'{what} needs {", ".join(names)}{reason}: install {them} with `pip install "hd_agents[{extra}]"`.'


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
