"""Commands in processes of their own, several at a time, with what they print in files."""

import math
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hd_agents.cli.errors import UsageError, make_folder
from hd_agents.host import cores
from hd_agents.signals import ONE_STOP, SIGNALS, Handlers

POLL_SECONDS = 0.2
EXIT_SIGNALS = [number for name, number in SIGNALS.items() if name != "SIGINT"]


class Job(NamedTuple):
    """Commands that run one after the other as long as they succeed.

    :param commands: each a program and its arguments. :param log: the file that their output is appended to.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    log: Path


def run_jobs(
    jobs: Sequence[Job], at_once: int, ended: Callable[[Job, int], None], watch: Callable[[list[Job]], None]
) -> None:
    """Run all jobs, ``at_once`` at a time. One that fails does not keep the others from running.

    When this process is stopped (Ctrl-C, SIGTERM, SIGHUP) the running ones get SIGTERM, on which a training stores
    itself, and are waited for; a second signal kills them, but for a SIGTERM or SIGHUP within ONE_STOP of another one.

    :param ended: called with each job when it has ended, and with the exit status of its last command.
    :param watch: called several times a second with the jobs that run.
    """
    waiting, running = deque(jobs), dict[Job, tuple[subprocess.Popen[bytes], deque[tuple[str, ...]]]]()
    with sigterm_as_exit():
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.popleft()
                    commands = deque(job.commands)
                    running[job] = _start(commands.popleft(), job.log, at_once), commands
                for job, (process, commands) in list(running.items()):
                    status = process.poll()
                    if status == 0 and commands:
                        running[job] = _start(commands.popleft(), job.log, at_once), commands
                    elif status is not None:
                        del running[job]
                        ended(job, status)
                watch(list(running))
                time.sleep(POLL_SECONDS)
        except BaseException:
            _stop([process for process, _ in running.values()])
            raise


def last_line(log: Path) -> str:
    """The last line of a log that says anything, without what was overwritten on it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep the folder for this process and those that it starts, for as long as any of them lives.

    File systems without locks do not keep anyone out.

    :raises UsageError: if others have it, or it cannot be written.
    """
    import fcntl  # POSIX only, as the rest of this module

    make_folder(folder)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UsageError(
                f"{folder} is in use by another hd-agents, or by runs that a killed one has left: wait for them, or "
                "give another --folder."
            ) from error
        except OSError:  # a file system without locks
            pass
        os.set_inheritable(file.fileno(), True)
        yield


def _start(command: Sequence[str], log: Path, at_once: int) -> subprocess.Popen[bytes]:
    # tqdm: a line per minute in the log is enough. Threads: processes that share the cores must not fight for them.
    defaults = {"TQDM_MININTERVAL": "60", "OMP_NUM_THREADS": str(max(1, cores() // at_once))}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**defaults, **os.environ},
            start_new_session=True,  # Ctrl-C is for us to pass on
            close_fds=False,  # they keep the folder's lock
        )


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    except BaseException:
        for process in processes:
            process.kill()
        raise


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise SystemExit: time to stop children, or to save.

    Those that follow within ONE_STOP seconds do nothing.
    """
    came = -math.inf

    def leave(number: int, frame: object) -> None:
        nonlocal came
        if time.monotonic() - came >= ONE_STOP:
            came = time.monotonic()
            _leave(number, frame)

    with _handled(dict.fromkeys(EXIT_SIGNALS, leave)):
        yield


@contextmanager
def stopped_once() -> Iterator[None]:
    """Inside, the first SIGINT raises KeyboardInterrupt, the first of EXIT_SIGNALS SystemExit; the rest do nothing."""

    def stop(number: int, frame: object) -> None:
        for one in (signal.SIGINT, *EXIT_SIGNALS):
            signal.signal(one, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        _leave(number, frame)

    with _handled(dict.fromkeys((signal.SIGINT, *EXIT_SIGNALS), stop)):
        yield


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _handled(handlers: Mapping[int, Callable[[int, object], None]]) -> Iterator[None]:
    installed = Handlers(handlers)
    try:
        yield
    finally:
        installed.give_back()
