"""Jobs in processes of their own: their order, those that fail, and how they are stopped."""

import errno
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hd_agents.cli.errors import UsageError
from hd_agents.cli.running import EXIT_SIGNALS, Job, last_line, locked, run_jobs, stopped_once


def shell(name: str, folder: Path, *scripts: str) -> Job:
    return Job(name, tuple(("sh", "-c", script) for script in scripts), folder / f"{name}.log")


def ignore(*arguments: object) -> None:
    pass


def test_commands_follow_each_other_until_one_fails(tmp_path: Path) -> None:
    jobs = [
        shell("good", tmp_path, "echo one", "echo two; echo three >&2"),
        shell("bad", tmp_path, "echo one", "echo broken; exit 7", "echo never"),
        shell("after", tmp_path, "echo $OMP_NUM_THREADS"),
    ]
    ended: dict[str, int] = {}
    run_jobs(jobs, 1, lambda job, status: ended.update({job.name: status}), ignore)
    assert ended == {"good": 0, "bad": 7, "after": 0}
    assert jobs[0].log.read_text() == "one\ntwo\nthree\n"
    assert last_line(jobs[1].log) == "broken"
    assert int(last_line(jobs[2].log)) >= 1
    assert last_line(tmp_path / "nothing.log") == ""


def test_so_many_run_at_once(tmp_path: Path) -> None:
    jobs = [shell(f"job{number}", tmp_path, "sleep 0.5") for number in range(5)]
    seen: list[int] = []
    run_jobs(jobs, 2, ignore, lambda running: seen.append(len(running)))
    assert max(seen) == 2


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), *((one, SystemExit) for one in EXIT_SIGNALS)]
)
def test_stopping_lets_the_jobs_store_themselves(
    number: signal.Signals, expected: type[BaseException], tmp_path: Path
) -> None:
    waits = "trap 'echo stored; exit 1' TERM; echo ready; while true; do sleep 0.05; done"
    jobs = [shell(f"job{index}", tmp_path, waits, "echo never") for index in range(3)]

    def stop(running: list[Job]) -> None:
        if all(last_line(job.log) == "ready" for job in running):
            signal.raise_signal(number)

    before = [signal.getsignal(one) for one in EXIT_SIGNALS]
    with pytest.raises(expected):
        run_jobs(jobs, 2, ignore, stop)
    assert [last_line(job.log) for job in jobs] == ["stored", "stored", ""]
    assert [signal.getsignal(one) for one in EXIT_SIGNALS] == before


def test_a_sigterm_that_is_passed_on_as_well_does_not_kill_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch system signals every process, and one such as `uv run` passes its own on: both mean one stop."""
    monkeypatch.setattr("hd_agents.cli.running.ONE_STOP", 60.0)
    slow = "trap 'echo stopping; sleep 0.5; echo stored; exit 1' TERM; echo ready; while true; do sleep 0.05; done"
    job = shell("job", tmp_path, slow)

    def once_more() -> None:
        while last_line(job.log) != "stopping":
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    def stop(running: list[Job]) -> None:
        if last_line(job.log) == "ready":
            threading.Thread(target=once_more).start()
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        run_jobs([job], 1, ignore, stop)
    assert last_line(job.log) == "stored"


def test_jobs_run_in_other_threads_too(tmp_path: Path) -> None:
    job = shell("job", tmp_path, "echo done")
    thread = threading.Thread(target=run_jobs, args=([job], 1, ignore, ignore))
    thread.start()
    thread.join()
    assert last_line(job.log) == "done"


def test_a_folder_is_locked_while_those_who_were_started_live(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with locked(folder):
        with pytest.raises(UsageError, match="in use by another hd-agents"), locked(folder):
            pass
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with pytest.raises(UsageError, match="or by runs that a killed one has left: wait for them"), locked(folder):
            pass
    finally:
        child.communicate(b"\n")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with locked(folder):
                return
        except UsageError:
            time.sleep(0.05)
    pytest.fail("the lock outlived the process")


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path / "runs"), locked(tmp_path / "runs"):
        assert (tmp_path / "runs").is_dir()


@pytest.mark.parametrize(
    ("first", "raised"), [(signal.SIGINT, KeyboardInterrupt), *((one, SystemExit) for one in EXIT_SIGNALS)]
)
def test_what_comes_after_the_first_signal_is_left_alone(first: int, raised: type[BaseException]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, *EXIT_SIGNALS)]
    with stopped_once():
        with pytest.raises(raised):
            signal.raise_signal(first)
        for number in (signal.SIGINT, *EXIT_SIGNALS, signal.SIGINT):
            signal.raise_signal(number)  # while it is being saved
    assert [signal.getsignal(number) for number in (signal.SIGINT, *EXIT_SIGNALS)] == before
