"""What is printed never ends a command."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from hd_agents.cli import main
from hd_agents.cli.output import lasting


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


def test_without_it_the_reader_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w", buffering=1)
    monkeypatch.setattr(sys, "stdout", stream)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        print("line", flush=True)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_signs_that_a_terminal_has_none_for(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with lasting():
        print("1.0 \u00b1 0.5 in f\u00fcr")
    assert raw.getvalue() == b"1.0 \\xb1 0.5 in f\\xfcr\n"


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with lasting(), pytest.raises(OSError, match="No space left"):
        print("line")


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
    for work in ("HarmonyDreamAgent.learn", "evaluation.evaluate_policy", "filming.play"):
        monkeypatch.setattr(f"hd_agents.{work}", None)
    assert main([word.replace("{}", str(tmp_path)) for word in words]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"hd-agents: cannot write into the folder {tmp_path}")
