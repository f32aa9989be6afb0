"""`--track`: what Weights & Biases is told. A stand-in takes its place here."""

import errno
import sys
from argparse import Namespace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from hd_agents.cli import main, pictures, resuming, tracking, train
from tests.test_cli_resume import TINY

FLAGS = ["train", "CartPole-v1", "--device", "cpu", "--resume", "--track", *TINY]


class FakeWandb(ModuleType):
    """Remembers what was asked of it, and whether TensorBoard's writers were made while a run was open."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.runs: list[dict[str, Any]] = []
        self.exits: list[type | None] = []
        self.open = False
        self.writers: list[bool] = []
        self.refusal: Exception | None = None

    def init(self, **arguments: Any) -> Any:
        if self.refusal is not None:
            raise self.refusal
        self.runs.append(arguments)
        return Run(self, arguments["id"] or "abc")


class Run(SimpleNamespace):
    def __init__(self, wandb: FakeWandb, id: str) -> None:
        super().__init__(wandb=wandb, id=id)

    def __enter__(self) -> None:
        self.wandb.open = True

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.wandb.open = False
        self.wandb.exits.append(kind)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    init = SummaryWriter.__init__

    def remembered(writer: SummaryWriter, *arguments: Any, **named: Any) -> None:
        fake.writers.append(fake.open)
        init(writer, *arguments, **named)

    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(SummaryWriter, "__init__", remembered)
    monkeypatch.setattr(pictures, "leave", lambda *arguments: None)
    return fake


def test_a_run_is_tracked_and_goes_on_when_it_is_resumed(tmp_path: Path, wandb: FakeWandb) -> None:
    folder = tmp_path / "mine"
    assert main([*FLAGS, "--folder", str(folder), "--steps", "60", "--track-project", "tests"]) == 0
    assert main([*FLAGS, "--folder", str(folder), "--steps", "90", "--track-project", "tests"]) == 0
    first, second = wandb.runs
    expected = {"project": "tests", "name": f"{tmp_path.name}/mine", "sync_tensorboard": True, "resume": None}
    assert first.items() >= expected.items()
    assert first["config"].items() >= {"seed": 0, "n_timesteps": 60, "n_envs": 2, "batch_size": 2}.items()
    assert first["dir"] == str(folder)
    assert (second["id"], second["resume"], second["config"]["n_timesteps"]) == ("abc", "allow", 90)
    assert wandb.writers == [True, True]
    assert wandb.exits == [None, None]


def test_without_the_flag_nothing_is_sent(tmp_path: Path, wandb: FakeWandb) -> None:
    flags = [flag for flag in FLAGS if flag != "--track"]
    assert main([*flags, "--folder", str(tmp_path), "--steps", "30"]) == 0
    assert wandb.runs == []


@pytest.mark.parametrize("kind", [FakeWandb.Error, ValueError])  # the second for WANDB_MODE=ofline, say
def test_a_refusal_is_told(
    tmp_path: Path, wandb: FakeWandb, kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.refusal = kind("no login.")
    assert main([*FLAGS, "--folder", str(tmp_path), "--steps", "30"]) == 2
    assert "--track: no login. `wandb login`" in capsys.readouterr().err


def test_a_failing_run_is_marked_as_such(tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> int:
        raise RuntimeError("broken")

    monkeypatch.setattr(train, "_learn", fail)
    with pytest.raises(RuntimeError, match="broken"):
        main([*FLAGS, "--folder", str(tmp_path), "--steps", "30"])
    assert wandb.exits == [RuntimeError]
    assert wandb.runs[0]["project"] == "hd_agents"  # where none is named


def test_a_run_whose_number_cannot_be_kept_is_ended(
    tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    options = Namespace(track=True, track_project="tests")
    with pytest.raises(OSError, match="No space left"), tracking.tracked(options, tmp_path, {}):
        pass
    assert wandb.exits == [OSError]
    assert not list(tmp_path.iterdir())  # nor half of it


def test_without_wandb_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else 1)
    assert main(["train", "CartPole-v1", "--track", "--folder", str(tmp_path / "runs")]) == 2
    assert "hd_agents[track]" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_command_to_go_on_has_every_flag(wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(train, "run", lambda options: seen.append(options) or 0)
    typed = [
        "metaworld/lever-pull",
        "--preset",
        "nano",
        "--steps",
        "1e4",
        "--seed",
        "3",
        "--size",
        "xsmall",
        "--resume",
    ]
    typed += ["--device", "cpu", "--checkpoint-every", "500", "--track", "--track-project", "p", "--set=gamma=0.9"]
    assert main(["train", *typed, "--folder", "here"]) == 0
    again = resuming.resume_command(seen[0], Path("here")).split()
    assert again[:2] == ["hd-agents", "train"]
    assert main(again[1:]) == 0
    assert seen[0] == seen[1]
