"""The machine: processor and cores, how busy they are, and memory."""

import ctypes
import os
import platform
import re
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")
RUNNING = Path("/proc/loadavg")
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
        inactive = re.search(r"^inactive_file (\d+)", (CONTAINER / "memory.stat").read_text(), re.MULTILINE)
        found.append(max(0, limit - used + int(inactive[1] if inactive else 0)))
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
