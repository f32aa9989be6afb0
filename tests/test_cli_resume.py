"""The command line: runs that are stored, stopped and gone on with."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import facts, main, pictures, resuming, train
from hd_agents.files import write_text
from hd_agents.saving import checkpoint
from hd_agents.saving.checkpoint import steps_in
from tests.agents import Clock, tiny

TINY = [
    f"--set={setting}"
    for setting in ("batch_size=2", "sequence_length=8", "train_ratio=1", "learning_starts=40", "n_envs=2")
]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "leave", lambda *arguments: print("pictures"))


def learn(folder: Path, *arguments: str) -> int:
    return main(["train", "CartPole-v1", "--folder", str(folder), "--device", "cpu", *TINY, *arguments])


def stop_by(number: signal.Signals) -> Callable[[train.ReturnPrinter], bool]:
    """A report that sends its own process a signal after 46 env steps."""

    def stop(report: train.ReturnPrinter) -> bool:
        if report.num_timesteps == 46:
            signal.raise_signal(number)
        return True

    return stop


def test_resume_begins_goes_on_and_has_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    assert learn(folder, "--resume", "--steps", "60", "--checkpoint-every", "25") == 0
    assert "resumed" not in capsys.readouterr().out
    assert steps_in(folder / "checkpoints") == [60, 50]
    episodes = (folder / "0.monitor.csv").read_text()
    (folder / ".run.json.0123abcd.tmp").write_text("of a killed process")
    assert learn(folder, "--resume", "--steps", "100", "--set=gamma=0.9") == 0
    changed = f"n_timesteps 60 -> 100, gamma {zoo.hyperparameters('CartPole-v1')['gamma']} -> 0.9"
    assert f"resumed at step 60; changed: {changed}\n" in capsys.readouterr().out
    assert (folder / "0.monitor.csv").read_text().startswith(episodes)
    assert not list(folder.glob(".*"))
    agent = HarmonyDreamAgent.load(folder / "agent.zip", device="cpu")
    assert (agent.num_timesteps, agent.gamma) == (100, 0.9)
    assert learn(folder, "--resume", "--steps", "100", "--set=gamma=0.9") == 0
    assert (
        "resumed at step 100\nAll 100 env steps are done: to go on, give a larger --steps.\n" in capsys.readouterr().out
    )


def test_the_time_of_all_sittings_counts(tmp_path: Path) -> None:
    assert learn(tmp_path, "--resume", "--steps", "30", "--seed", "3") == 0
    path = tmp_path / "run.json"
    facts = json.loads(path.read_text())
    assert 0 < facts["wall_seconds"] < 100
    assert facts["seed"] == 3
    config = (tmp_path / "config.yml").read_text()
    assert config.startswith("# hd-agents") and yaml.safe_load(config)["CartPole-v1"]["seed"] == 3
    repeated = ["hd-agents", "train", "CartPole-v1", "--seed", "3", "--steps", "30", *TINY]
    assert facts["command"] == shlex.join(repeated), "neither the folder nor that it may go on"
    path.write_text(json.dumps({**facts, "wall_seconds": 1000.0}))
    assert learn(tmp_path, "--resume", "--steps", "40", "--seed", "3") == 0
    assert 1000 < json.loads(path.read_text())["wall_seconds"] < 1100


def run_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_goes_on_with_its_seed_and_tells_what_was_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learn(tmp_path, "--resume", "--steps", "30", "--seed", "5") == 0
    assert learn(tmp_path, "--resume", "--steps", "30") == 0
    assert "resumed at step 30\n" in capsys.readouterr().out
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["seed"] == 5 and "--seed 5" in facts["command"] and "changes" not in facts
    assert learn(tmp_path, "--resume", "--steps", "40", "--seed", "6") == 0
    gamma, kept = zoo.hyperparameters("CartPole-v1")["gamma"], run_files(tmp_path)
    for other in (["--steps=40", "--set=gamma=0.5"], ["--steps=40", "--seed=7"], ["--steps=35"]):
        assert learn(tmp_path, "--resume", *other) == 2  # nothing would be learned with it
    assert "none is left for n_timesteps 40 -> 35: to go on" in capsys.readouterr().err
    assert run_files(tmp_path) == kept
    assert learn(tmp_path, "--resume", "--steps", "50", "--set=gamma=0.5") == 0
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["seed"] == 6
    assert facts["changes"] == [
        {"env_steps": 30, "changed": "seed 5 -> 6, n_timesteps 30 -> 40"},
        {"env_steps": 40, "changed": f"n_timesteps 40 -> 50, gamma {gamma} -> 0.5"},
    ]


def test_a_setting_that_is_no_longer_typed_is_the_default_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = ["--resume", "--set=entropy_coefficient=0.1", "--set=harmony=False"]
    assert learn(tmp_path, *begun, "--steps", "30") == 0
    assert learn(tmp_path, "--resume", "--steps", "40") == 2
    assert "harmony=True differs from the stored False" in capsys.readouterr().err
    assert learn(tmp_path, "--resume", "--steps", "40", "--set=harmony=False") == 0
    changed = "n_timesteps 30 -> 40, entropy_coefficient 0.1 -> None"
    assert f"resumed at step 30; changed: {changed}\n" in capsys.readouterr().out
    assert HarmonyDreamAgent.load(tmp_path / "agent.zip", device="cpu").entropy_coefficient == 0.0003
    assert learn(tmp_path, "--resume", "--steps", "40", "--set=harmony=False") == 0
    assert "resumed at step 40\n" in capsys.readouterr().out


def test_a_run_tells_that_it_went_on_by_other_code_or_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> dict[str, Any]:
        return dict(json.loads((tmp_path / "run.json").read_text()))

    monkeypatch.setattr(facts, "commit", lambda: "a1")
    monkeypatch.setattr(facts, "machine", lambda device: "a desk, 2 threads")
    assert learn(tmp_path, "--resume", "--steps", "30") == 0
    assert learn(tmp_path, "--resume", "--steps", "30") == 0
    assert "changes" not in told()
    monkeypatch.setattr(facts, "commit", lambda: "b2")
    assert learn(tmp_path, "--resume", "--steps", "40") == 0
    monkeypatch.setattr(facts, "machine", lambda device: "a desk, 1 threads")
    assert learn(tmp_path, "--resume", "--steps", "40") == 0
    assert told()["changes"] == [
        {"env_steps": 30, "changed": "n_timesteps 30 -> 40, commit a1 -> b2"},
        {"env_steps": 40, "changed": "machine a desk, 2 threads -> a desk, 1 threads"},
    ]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_stopped_run_says_how_to_go_on(
    number: signal.Signals,
    status: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train.ReturnPrinter, "_on_step", stop_by(number))
    assert learn(tmp_path, "--steps", "100", "--checkpoint-every", "1e3") == status
    printed = capsys.readouterr().out
    assert ("pictures" in printed) == (number == signal.SIGINT)  # whoever terminates a process wants it to end
    told = next(line for line in printed.splitlines() if line.startswith("To continue: "))
    command = told.removeprefix("To continue: hd-agents ")
    monkeypatch.undo()
    monkeypatch.setattr(pictures, "leave", lambda *arguments: None)
    assert main(shlex.split(command)) == 0
    assert "resumed at step 46\n" in capsys.readouterr().out
    agent = HarmonyDreamAgent.load(tmp_path / "CartPole-v1_1" / "agent.zip", device="cpu")
    assert agent.num_timesteps == 100


@pytest.mark.parametrize("protected", ["checkpoints", "checkpoints/.lock", "0.monitor.csv"])
def test_a_run_of_somebody_else_that_cannot_be_written_is_named(
    protected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("0.monitor.csv", "checkpoints/.lock"):
        (tmp_path / name).touch()
    # Root, whom nothing is forbidden, may run the tests.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / protected)
    assert learn(tmp_path, "--resume") == 2
    assert f"hd-agents: cannot write {tmp_path / protected}: " in capsys.readouterr().err


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert learn(tmp_path, "--resume") == 2
    assert "holds files, but no run" in capsys.readouterr().err
    assert learn(tmp_path / "notes.txt", "--resume") == 2
    assert "is a file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        learn(tmp_path / "run", "--checkpoint-every", "0")
    assert "is not a whole number of at least 1" in capsys.readouterr().err
    run = tmp_path / "runs" / "one"
    assert learn(run, "--resume", "--steps", "20") == 0
    assert learn(run.parent, "--resume") == 2
    assert f"Did you mean {run}?" in capsys.readouterr().err
    assert learn(run, "--resume", "--size", "xsmall") == 2
    assert "differs from the stored 'nano'" in capsys.readouterr().err
    for path in (run / "checkpoints").glob("state-*"):
        path.unlink()
    assert learn(run, "--resume", "--steps", "20") == 1
    assert "No checkpoint in" in capsys.readouterr().err


def test_episodes_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    head = '#{"t_start": 0.0}\nr,l,t\n'
    (tmp_path / "0.monitor.csv").write_text(head + "1,10,1.0\n2,20,4.0\n3,5,5.0\n4,1")
    (tmp_path / "1.monitor.csv").write_text(head + "1,33,1.0\n")
    (tmp_path / "2.monitor.csv").write_text(head)
    resuming._forget_episodes(tmp_path, [2, 0, 0, 5])  # a file that somebody has removed is no concern
    texts = [(tmp_path / f"{index}.monitor.csv").read_text() for index in range(3)]
    assert texts == [head + "1,10,1.0\n2,20,4.0\n", head, head]


def fail_at(step: int) -> Callable[[train.ReturnPrinter], bool]:
    def fail(report: train.ReturnPrinter) -> bool:
        if report.num_timesteps == step:
            raise RuntimeError("power lost")
        return True

    return fail


def test_rows_of_closed_episodes_are_not_made_up_for_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where episodes cannot go on, the file has fewer steps than the run: it is cut by episodes, not by steps."""

    class Elsewhere(Clock):
        def __init__(self) -> None:
            super().__init__(7)
            self.engine = object()

    monkeypatch.setitem(gym.registry, "Elsewhere-v0", gym.envs.registration.EnvSpec("Elsewhere-v0", Elsewhere))
    words = ["train", "Elsewhere-v0", "--folder", str(tmp_path), "--resume", "--checkpoint-every", "20"]
    words += ["--device", "cpu", "--steps", "100", "--set=learning_starts=1000"]
    for step in (39, 59):
        with monkeypatch.context() as patch:
            patch.setattr(train.ReturnPrinter, "_on_step", fail_at(step))
            assert main(words) == 1
    assert main(words) == 0
    agent = HarmonyDreamAgent.load(tmp_path / "agent.zip", device="cpu")
    assert agent._episode_num == 2 + 2 + 8  # up to the steps 20, 40 and 100
    assert len((tmp_path / "0.monitor.csv").read_text().splitlines()) - 2 == agent._episode_num


def test_tensorboard_has_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def logged(folder: Path) -> list[int]:
        return [event.step for event in EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("time/fps")]

    words = ["--resume", "--checkpoint-every", "50", "--steps", "300"]
    assert learn(tmp_path / "straight", *words) == 0
    with monkeypatch.context() as patch:
        patch.setattr(train.ReturnPrinter, "_on_step", fail_at(248))
        assert learn(tmp_path / "killed", *words) == 1
    for _ in range(2):  # a second time after its end
        assert learn(tmp_path / "killed", *words) == 0
        assert logged(tmp_path / "killed") == logged(tmp_path / "straight")


def test_a_full_disk_leaves_the_settings_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--resume", "--checkpoint-every", "20", "--steps"]
    assert learn(tmp_path, *words, "40") == 0
    before = (tmp_path / "config.yml").read_text()

    def full(path: Path, text: str) -> None:
        if path.name == "config.yml":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(facts, "write_text", full)
        assert learn(tmp_path, *words, "60") == 1
    assert "No space" in capsys.readouterr().err
    assert (tmp_path / "config.yml").read_text() == before
    assert learn(tmp_path, *words, "60") == 0


def test_a_finished_run_without_checkpoints_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learn(tmp_path, "--steps", "60") == 0
    folder = tmp_path / "CartPole-v1_1"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert learn(folder, "--resume", "--steps", "60") == 2
    assert "holds a run without checkpoints" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    before.pop(folder / "agent.zip")
    (folder / "agent.zip").unlink()  # as where it runs still, or was killed
    assert learn(folder, "--resume", "--steps", "60") == 2
    assert "holds a run without checkpoints" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "checkpoints").mkdir()  # as of a run with checkpoints that was killed before the first
    assert learn(folder, "--resume", "--steps", "60") == 0
    assert (folder / "agent.zip").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_run_without_checkpoints_leaves_its_agent(
    number: signal.Signals,
    status: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # without the fix not the end of all tests
    try:
        monkeypatch.setattr(train.ReturnPrinter, "_on_step", stop_by(number))
        assert learn(tmp_path, "--steps", "100") == status
    finally:
        signal.signal(signal.SIGTERM, before)
    file = tmp_path / "CartPole-v1_1" / "agent.zip"
    printed = capsys.readouterr().out
    assert f"The agent of 46 env steps is in {file}. Without checkpoints" in printed
    assert "--checkpoint-every 5." in printed
    assert ("pictures" in printed) == (number == signal.SIGINT)
    assert HarmonyDreamAgent.load(file, device="cpu").num_timesteps == 46


@pytest.mark.parametrize("command", ["train", "compare"])
def test_resume_needs_a_folder(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command, "CartPole-v1", "--resume", "--steps", "20", *TINY]) == 2
    assert "--resume needs --folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("disk", ["full", "all full"])
def test_an_agent_whose_folder_is_full_goes_elsewhere(
    disk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, elsewhere = HarmonyDreamAgent.save, tmp_path / "elsewhere"
    elsewhere.mkdir()

    def full(agent: Any, path: Path) -> None:
        if disk == "all full" or elsewhere not in path.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(agent, path)

    monkeypatch.setattr(HarmonyDreamAgent, "save", full)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(elsewhere))
    assert learn(tmp_path / "runs", "--steps", "30") == 1
    printed = capsys.readouterr()
    assert "agent.zip cannot be written: [Errno 28] No space left on device" in printed.err
    assert "pictures" not in printed.out
    if disk == "full":
        (file,) = elsewhere.glob("*.zip")  # torch may have made a folder of its own there
        assert f"The agent of 30 env steps is in {file}." in printed.out
        assert HarmonyDreamAgent.load(file, device="cpu").num_timesteps == 30


def test_a_full_disk_without_a_temporary_folder_leaves_the_home_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    agent, runs, home = tiny(), tmp_path / "runs", tmp_path / "home"
    save = type(agent).save

    def full(agent: Any, path: Path) -> None:
        if runs in path.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(agent, path)

    monkeypatch.setattr(type(agent), "save", full)
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(Path, "home", lambda: home)
    assert not train._saved(agent, runs / "agent.zip")
    assert list(home.glob("runs_*_agent.zip"))


def test_a_run_of_another_task_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gym.register("tests/Same-v0", CartPoleEnv, max_episode_steps=500)
    assert learn(tmp_path, "--resume", "--steps", "20") == 0
    episodes = (tmp_path / "0.monitor.csv").read_text()
    for other in ("Acrobot-v1", "tests/Same-v0"):  # of other spaces, and of the same class
        assert main(["train", other, "--folder", str(tmp_path), "--resume", "--device", "cpu", *TINY]) == 2
        told = capsys.readouterr().err
        assert f"{tmp_path} holds a run of CartPole-v1, which cannot go on with {other}: give the run's task" in told
    assert (tmp_path / "0.monitor.csv").read_text() == episodes
    del gym.registry["tests/Same-v0"]


def test_other_numbers_of_environments_leave_no_files_of_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their number env steps are counted in a learning curve."""
    assert learn(tmp_path, "--resume", "--steps", "20", "--set=n_envs=3", "--set=horizon=0") == 2
    assert learn(tmp_path, "--resume", "--steps", "20") == 0
    assert sorted(path.name for path in tmp_path.glob("*.monitor.csv")) == ["0.monitor.csv", "1.monitor.csv"]
    capsys.readouterr()
    assert learn(tmp_path, "--resume", "--steps", "40", "--set=n_envs=3") == 2
    told = f"{tmp_path} holds a run in 2 environments, and cannot go on in 3: give --set n_envs=2, or another --folder."
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("*.monitor.csv")) == ["0.monitor.csv", "1.monitor.csv"]


@pytest.mark.parametrize("stored", [True, False])
def test_an_environment_that_fails_costs_nothing_of_what_was_learnt(
    stored: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = CartPoleEnv.step

    def broken(env: CartPoleEnv, action: Any) -> Any:
        obs, *rest = step(env, action)
        steps.append(1)
        return (obs * np.nan if len(steps) == 90 else obs, *rest)

    steps: list[int] = []
    monkeypatch.setattr(CartPoleEnv, "step", broken)
    words = ["--checkpoint-every", "30"] if stored else []
    command = ["train", "CartPole-v1", "--folder", str(tmp_path), "--device", "cpu", "--steps", "200"]
    assert main([*command, *TINY, *words]) == 1
    told, folder = capsys.readouterr(), tmp_path / "CartPole-v1_1"
    last = "hd-agents: the training failed after 88 env steps: Environment 1 returned a wrong observation"
    assert told.err.rstrip().splitlines()[-1].startswith(last)  # what a benchmark shows of it
    assert "Traceback" in told.err
    assert "pictures" not in told.out
    assert not (folder / "agent.zip").exists()  # it would be in the way of beginning again
    if stored:
        again = f"hd-agents train CartPole-v1 --folder {folder} --resume"
        assert f"To continue from the last checkpoint: {again}" in told.out
        assert main([*command[:2], "--folder", str(folder), *command[4:], "--resume", *TINY]) == 0
        assert "resumed at step 60" in capsys.readouterr().out
        return
    agent = HarmonyDreamAgent.load(folder / "agent_until_failure.zip", device="cpu")
    assert agent.num_timesteps == 88  # before the step that failed
    assert agent._n_updates > 0


def test_a_run_that_failed_at_once_can_be_begun_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(env: CartPoleEnv, **_: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:  # the first is to see whether it can be made
            raise RuntimeError("the robot is switched off")
        return reset(env)

    calls: list[int] = []
    reset = CartPoleEnv.reset
    with monkeypatch.context() as patch:
        patch.setattr(CartPoleEnv, "reset", broken)
        patch.setattr("hd_agents.envs.restarting.MAX_RESTARTS", 0)
        assert learn(tmp_path, "--resume", "--steps", "20") == 1
    assert "To continue" not in capsys.readouterr().out
    assert learn(tmp_path, "--resume", "--steps", "20") == 0
    assert HarmonyDreamAgent.load(tmp_path / "agent.zip", device="cpu").num_timesteps == 20


def test_a_second_command_leaves_the_running_one_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before it has touched a file of the run."""
    folder = tmp_path / "run"
    assert learn(folder, "--resume", "--checkpoint-every", "30", "--steps", "60", "--eval-every", "20") == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    other = "import sys, pathlib; from hd_agents.saving.checkpoint import claim; claim(pathlib.Path(sys.argv[1])); "
    words = [sys.executable, "-c", other + "print(1, flush=True); sys.stdin.read()", str(folder / "checkpoints")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        capsys.readouterr()
        assert learn(folder, "--resume", "--checkpoint-every", "30", "--steps", "90") == 1
        assert "is learning in" in capsys.readouterr().err
        process.kill()
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before
    assert learn(folder, "--resume", "--checkpoint-every", "30", "--steps", "90") == 0


def test_a_run_that_another_process_has_just_begun_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is begun, and killed, after this command has found no checkpoint and before it has the folder."""

    def begun(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "checkpoint-000000000000.json").write_text("of the other one")
        (tmp_path / "0.monitor.csv").write_text("of the other one")
        checkpoint.claim(folder)

    monkeypatch.setattr(train, "claim", begun)
    assert learn(tmp_path, "--resume") == 1
    assert "has begun the run" in capsys.readouterr().err
    assert (tmp_path / "0.monitor.csv").read_text() == "of the other one"


@pytest.mark.parametrize("resume", [True, False])
def test_environments_that_cannot_be_made_leave_nothing_behind(
    resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a folder kept from other processes, nor a run folder that holds no run."""

    def broken(env: CartPoleEnv, *arguments: Any, **named: Any) -> None:
        made.append(1)
        if len(made) > 1:  # the first is to see whether it can be made
            raise RuntimeError("the robot is in use")
        make(env, *arguments, **named)

    made: list[int] = []
    make = CartPoleEnv.__init__
    monkeypatch.setattr(CartPoleEnv, "__init__", broken)
    with pytest.raises(RuntimeError, match="the robot is in use"):
        learn(tmp_path, *(["--resume"] if resume else []))
    assert not checkpoint._claimed
    assert resume or not list(tmp_path.iterdir())
