"""What is printed never ends a command."""

import errno
import io
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hd_agents import HarmonyDreamAgent
from hd_agents.cli import main
from hd_agents.cli.output import lasting
from hd_agents.saving.checkpoint import steps_in
from tests.test_cli import TINY


def test_a_reader_who_has_left_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `head` does when it has seen enough."""
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w", buffering=1)
    monkeypatch.setattr(sys, "stdout", stream)
    os.close(reader)
    with lasting():
        for number in range(3):
            print("line", number, flush=True)
        assert sys.stdout.isatty() is False  # all else is the stream's own
    assert sys.stdout is stream
    stream.close()


def test_signs_that_a_terminal_has_none_for(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with lasting():
        print("1.0 \u00b1 0.5 in f\u00fcr")
    assert raw.getvalue() == b"1.0 \\xb1 0.5 in f\\xfcr\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_was_closed_before(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As by `>&-` in a shell."""
    monkeypatch.setattr(sys, name, None)
    assert main(["list", "classic"]) == 0
    assert getattr(sys, name) is None
    assert ("classic/Catch" in capsys.readouterr().out) == (name == "stderr")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals.")
def test_a_training_whose_terminal_closes_stores_itself(tmp_path: Path) -> None:
    import fcntl
    import pty
    import termios

    command = ["train", "CartPole-v1", "--folder", str(tmp_path), "--resume", "--checkpoint-every", "50000"]
    command += ["--steps", "1e6", "--set", "learning_starts=1e6", "--device", "cpu"]
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-m", "hd_agents", *command])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # else there is no room for a bar
    seen = b""
    while b"random actions first" not in seen:  # it plays
        seen += os.read(terminal, 1000)
    time.sleep(0.5)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    steps = HarmonyDreamAgent.load(tmp_path / "agent.zip", device="cpu").num_timesteps
    assert steps > 0
    assert steps_in(tmp_path / "checkpoints")[0] == steps


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["list", "classic"]) == 1
    told = "hd-agents: not all of the output could be written: [Errno 28] No space left on device\n"
    assert capsys.readouterr().err == told


def test_a_stream_that_somebody_has_put_in_place_ends_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """As an environment's own log of all that is printed."""
    before, own = sys.stdout, io.StringIO()
    with lasting():
        print("before")
        sys.stdout = own
        print("after")
    assert sys.stdout is before
    assert (capsys.readouterr().out, own.getvalue()) == ("before\n", "after\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has it.")
def test_a_full_disk_is_told_where_it_shows_in_the_last_moment() -> None:
    """A few lines are only written when the command ends: Python told of them in its own words, with status 120."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "hd_agents", "list", "cartpole"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    told = "hd-agents: not all of the output could be written: [Errno 28] No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_a_full_disk_that_holds_the_log_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Filling(io.StringIO):
        room = 600

        def write(self, text: str) -> int:
            self.room -= len(text)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(text)

    monkeypatch.setattr(sys, "stdout", Filling())
    monkeypatch.setattr("hd_agents.cli.pictures.leave", lambda *arguments: None)
    command = ["train", "CartPole-v1", "--folder", str(tmp_path), "--device", "cpu", "--steps", "120"]
    assert main([*command, *TINY]) == 1
    assert "not all of the output could be written" in capsys.readouterr().err
    assert HarmonyDreamAgent.load(tmp_path / "CartPole-v1_1" / "agent.zip", device="cpu").num_timesteps == 120


def no_room(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["export", "classic/CartPole"], "--output a.onnx"),
        (["enjoy", "classic/CartPole", "--episodes", "1"], "--dream a.png"),
        (["evaluate", "classic/CartPole", "--model", "classic/CartPole", "--episodes", "1"], "--output a.json"),
        (["plot", "classic"], "--output scores.png"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_full_disk_names_the_file_and_leaves_no_part_of_it(
    words: list[str], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flag, name = file.split()
    monkeypatch.setattr("hd_agents.files.os.fsync", no_room)
    assert main([*words, flag, str(tmp_path if words[0] == "plot" else tmp_path / name)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"hd-agents: [Errno 28] No space left on device: '{tmp_path / name}'"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_no_more_than_what_had_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hd_agents.cli.curves.write_figure", no_room)
    command = ["train", "CartPole-v1", "--folder", str(tmp_path), "--device", "cpu", "--steps", "120"]
    assert main([*command, *TINY, "--no-video"]) == 0
    told = capsys.readouterr().out
    assert "Learning curve left out: [Errno 28] No space left on device" in told
    assert "agent.zip  the trained agent" in told


SHORT = ["--steps", "60", "--set", "learning_starts=50"]


@pytest.mark.parametrize(
    "words",
    [
        ["train", "CartPole-v1", "--folder", "{}", *SHORT],
        ["train", "CartPole-v1", "--folder", "{}", "--resume", *SHORT],
        ["train", "CartPole-v1", "--folder", "{}/new", "--resume", *SHORT],
        ["benchmark", "classic", "--folder", "{}", *SHORT],
        ["benchmark", "classic", "--folder", "{}", "--results", "{}/results.csv", *SHORT],
        ["compare", "CartPole-v1", "--harmony", "on", "--folder", "{}", "--resume", *SHORT],
        ["compare", "CartPole-v1", "--harmony", "on", "--folder", "{}", *SHORT],
        ["tune", "CartPole-v1", "--folder", "{}", "--steps", "60"],
        ["plot", "classic", "--output", "{}"],
        ["evaluate", "classic/CartPole", "--model", "classic/CartPole", "--output", "{}/played.json"],
        ["enjoy", "classic/CartPole", "--video", "{}/out.mp4"],
        ["enjoy", "classic/CartPole", "--dream", "{}/out.png"],
    ],
    ids=lambda words: " ".join(words[:1] + words[-1:]),
)
def test_folders_that_cannot_be_written_are_told_before_any_work(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    access = os.access

    def read_only(path: Any, mode: int, **how: Any) -> bool:
        return not (mode & os.W_OK and Path(path).is_relative_to(tmp_path)) and access(path, mode, **how)

    monkeypatch.setattr("hd_agents.cli.errors.os.access", read_only)
    for work in ("HarmonyDreamAgent.learn", "evaluation.rules.evaluate_policy", "films.filming.play"):
        monkeypatch.setattr(f"hd_agents.{work}", None)
    assert main([word.replace("{}", str(tmp_path)) for word in words]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"hd-agents: cannot write into the folder {tmp_path}")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_files_of_somebody_else_are_told_in_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run in a folder that only its owner may enter."""
    refused = OSError(number, os.strerror(number), "theirs/card.json")

    def stat(*arguments: Any, **named: Any) -> None:
        raise refused

    monkeypatch.setattr("hd_agents.zoo.models.Path.is_file", stat)
    assert main(["enjoy", "theirs"]) == 2
    assert capsys.readouterr().err == f"hd-agents: {refused}\n"
