"""Checkpoints on the disk: complete or absent, checked before they are believed, and no more of them than wanted."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from hd_agents import files
from hd_agents.agent import HarmonyDreamAgent
from hd_agents.callbacks import RunCheckpoint
from hd_agents.saving import checkpoint
from hd_agents.saving.checkpoint import CheckpointError, newest_intact, prune, read_checkpoint, steps_in
from hd_agents.training.nonfinite import Tally
from tests.agents import Clock, Scripted, tiny
from tests.runs import fingerprint

STEPS = 70


def clocks(count: int = 1) -> DummyVecEnv:
    return DummyVecEnv([lambda: Clock(7)] * count)


def agent_of(count: int = 1, **changes: Any) -> HarmonyDreamAgent:
    return tiny(env=clocks(count), **{"seed": 3, "buffer_size": 40 * count, **changes})


def stored(folder: Path, steps: int = STEPS, **options: Any) -> HarmonyDreamAgent:
    """An agent that learnt for so many steps, with checkpoints in the folder."""
    agent = agent_of()
    return agent.learn(steps, callback=RunCheckpoint(folder, **{"every": 20, "keep": 2, **options}))


class At(BaseCallback):
    """Calls a function at a step."""

    def __init__(self, step: int, function: Callable[[], Any]) -> None:
        super().__init__()
        self.step, self.function = step, function

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            self.function()
        return True


def test_newest_are_kept_with_their_rows_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".agent-000000000020.zip.0123abcd.tmp").write_text("of a killed process")
    agent = stored(tmp_path)
    assert steps_in(tmp_path) == [70, 60]
    names = {path.name.split(".")[0] for path in tmp_path.iterdir()}
    # 40 rows fit. Those of steps 0 to 20 are overwritten by step 60 (each episode of 7 steps has 8 rows).
    rows = {"replay-000000000040", "replay-000000000060", "replay-000000000070"}
    both = {f"{kind}-0000000000{step}" for kind in ("agent", "state", "checkpoint") for step in (60, 70)}
    assert names == {"notes", "", *rows, *both}  # "" is .lock
    whole = agent.replay_buffer.nbytes_estimate()
    assert (tmp_path / "replay-000000000070.rows").stat().st_size < whole // 3 + 1_000
    loaded = HarmonyDreamAgent.load(tmp_path / "agent-000000000070.zip")
    assert loaded.num_timesteps == 70


def overwrite(name: str, at: int, byte: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.seek(at)
            file.write(byte)

    return damage


def edit(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "checkpoint-000000000070.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (overwrite("agent-000000000070.zip", 5_000, b"\x00\x01\x02"), "does not match its checksum"),
        (overwrite("replay-000000000070.rows", 300, b"\x07\x07"), "does not match its checksum"),
        (lambda folder: os.truncate(folder / "state-000000000070.zip", 99), "has 99 bytes instead of"),
        (lambda folder: (folder / "replay-000000000070.rows").unlink(), "is missing"),
        (lambda folder: os.truncate(folder / "checkpoint-000000000070.json", 200), "not that of a checkpoint"),
        (lambda folder: (folder / "checkpoint-000000000070.json").write_bytes(b"\xff"), "not that of a checkpoint"),
        (lambda folder: (folder / "checkpoint-000000000070.json").write_text("[]"), "not that of a checkpoint"),
        (edit(step=71), "does not match its own checksum"),
        (edit(version=2), "not of this release's format"),
    ],
)
def test_damaged_one_is_reported_and_the_one_before_is_used(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    stored(tmp_path)
    damage(tmp_path)
    callback = RunCheckpoint(tmp_path, every=20)
    with pytest.warns(UserWarning, match=message):
        agent = callback.resume(clocks(), device="cpu")
    assert agent.num_timesteps == 60
    agent.learn(5, callback=callback, reset_num_timesteps=False)
    assert steps_in(tmp_path) == [65, 60]  # the damaged one is gone
    for step in (65, 60):
        read_checkpoint(tmp_path, step)


def test_no_intact_one_is_an_error(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "replay-000000000060.rows").unlink()
    with pytest.warns(UserWarning, match="is skipped"), pytest.raises(CheckpointError, match="No checkpoint in"):
        RunCheckpoint(tmp_path).resume(clocks())


def test_names_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    stored(tmp_path)
    path = tmp_path / "checkpoint-000000000070.json"
    document = json.loads(path.read_text())
    del document["sha256"]
    document["files"]["../agent-000000000070.zip"] = document["files"].pop("agent-000000000070.zip")
    path.write_text(json.dumps({**document, "sha256": checkpoint._sum_of(document)}))
    with pytest.raises(CheckpointError, match="names other files"):
        read_checkpoint(tmp_path, 70)


def test_empty_folder_has_none(tmp_path: Path) -> None:
    assert newest_intact(tmp_path) is None
    assert RunCheckpoint(tmp_path / "missing").resume(clocks()) is None


def test_another_run_is_not_mixed_in(tmp_path: Path) -> None:
    agent = stored(tmp_path)
    with pytest.raises(CheckpointError, match="up to step 70"):
        stored(tmp_path)
    callback = RunCheckpoint(tmp_path / "own")
    with pytest.warns(UserWarning, match="No learning: 10 steps"):
        agent.learn(10, callback=callback)
    with pytest.raises(CheckpointError, match="begins at step 0"):
        agent_of().learn(10, callback=callback)
    agent.learn(10, callback=callback, reset_num_timesteps=False)
    assert steps_in(tmp_path / "own") == [20, 10]


def test_replaced_replay_is_stored_anew(tmp_path: Path) -> None:
    callback = RunCheckpoint(tmp_path / "run", every=20)
    agent = agent_of().learn(30, callback=callback)
    agent.save_replay_buffer(tmp_path / "rows")
    agent.learn(20, callback=callback, reset_num_timesteps=False)
    agent.load_replay_buffer(tmp_path / "rows")
    agent.learn(5, callback=callback, reset_num_timesteps=False)
    resumed = RunCheckpoint(tmp_path / "run").resume(clocks(), device="cpu")
    assert fingerprint(resumed)["replay"] == fingerprint(agent)["replay"]


@pytest.mark.parametrize("call", range(8))
def test_full_disk_ends_with_a_message_and_the_last_one_intact(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))  # two for each file: its bytes, and its name in the folder
    flush = os.fsync

    def full(file: int) -> None:
        if next(calls) == 6 + 8 + call:  # after the checkpoints of step 0, which has no rows, and of step 20
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    monkeypatch.setattr(files.os, "fsync", full)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(CheckpointError, match=r"step 40 .* No space left on device.* step 20 is intact"):
        stored(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    assert newest_intact(tmp_path).step == 20
    assert not [path for path in tmp_path.iterdir() if "40" in path.name]


def test_a_file_system_that_flushes_no_folders_keeps_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems answer."""
    flush = os.fsync

    def refuse(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(file)

    monkeypatch.setattr(files.os, "fsync", refuse)
    files.write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


def test_a_claim_on_a_full_disk_can_be_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, text: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.os, "write", full)
        checkpoint.claim(tmp_path)
    checkpoint.release(tmp_path)
    checkpoint.claim(tmp_path)
    checkpoint.release(tmp_path)


def test_read_only_folder_is_told_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files, "open", refuse, raising=False)
    agent = agent_of()
    with pytest.raises(CheckpointError, match=r"Read-only file system.* No checkpoint was written before"):
        agent.learn(10, callback=RunCheckpoint(tmp_path))
    assert agent.num_timesteps == 0


_LEARNER = """
import sys
from hd_agents.saving.checkpoint import claim
from pathlib import Path
claim(Path(sys.argv[1]))
print("claimed", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_learn_in_one_folder(tmp_path: Path) -> None:
    stored(tmp_path, 20)
    command = [sys.executable, "-c", _LEARNER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "claimed\n"
        callback = RunCheckpoint(tmp_path)
        agent = callback.resume(clocks(), device="cpu")
        with pytest.raises(CheckpointError, match=rf"Another process \(number {other.pid}\) is learning in"):
            agent.learn(5, callback=callback, reset_num_timesteps=False)
        assert agent.num_timesteps == 20
        other.kill()  # as anything may end it: nothing is left behind that keeps others out
    agent.learn(5, callback=callback, reset_num_timesteps=False)
    assert steps_in(tmp_path) == [25, 20]
    assert subprocess.run(command, input="", capture_output=True, text=True, check=False).stdout == "claimed\n"


def halved(progress: float) -> float:
    return 1e-3 * (0.5 + 0.5 * progress)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_stores_the_run_and_returns_the_agent(number: int, tmp_path: Path) -> None:
    expected = fingerprint(agent_of(2, learning_rate=halved).learn(120))
    before = signal.getsignal(number)
    callback = RunCheckpoint(tmp_path, every=50)
    agent = agent_of(2, learning_rate=halved)
    assert agent.learn(120, callback=[At(76, lambda: signal.raise_signal(number)), callback]) is agent
    assert (callback.stopped_by, agent.num_timesteps) == (signal.Signals(number).name, 76)
    assert signal.getsignal(number) is before
    assert steps_in(tmp_path) == [76, 50]
    # The rate goes on falling as that of the whole run, whose length is given again by what is left of it.
    resumed = RunCheckpoint(tmp_path).resume(clocks(2), device="cpu", learning_rate=halved)
    resumed.learn(120 - resumed.num_timesteps, reset_num_timesteps=False)
    found = fingerprint(resumed)
    assert found == expected
    assert found["rates"]["learning_rate"] == pytest.approx(5e-4)


def test_a_run_that_is_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    """As `nohup` starts it, with SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        callback = RunCheckpoint(tmp_path, every=50)
        agent = agent_of().learn(40, callback=[At(20, lambda: signal.raise_signal(signal.SIGHUP)), callback])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (agent.num_timesteps, callback.stopped_by) == (40, None)


def test_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        agent_of().learn(50, callback=[RunCheckpoint(tmp_path, every=20), At(33, twice)])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert newest_intact(tmp_path).step == 20


@pytest.mark.parametrize(("seconds", "step"), [(60.0, 33), (0.0, 20)])
def test_a_sigterm_that_is_passed_on_as_well_is_no_second_one(
    seconds: float, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch system signals every process, and `benchmark` those that it has started: both mean one stop."""

    def twice() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("hd_agents.run_checkpoint.ONE_STOP", seconds)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # not the end of all tests
    try:
        with pytest.raises(KeyboardInterrupt) if step == 20 else nullcontext():
            agent_of().learn(50, callback=[At(33, twice), RunCheckpoint(tmp_path, every=20)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert newest_intact(tmp_path).step == step


def test_signals_are_left_alone_once_learning_has_failed(tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    callback = RunCheckpoint(tmp_path, every=20)
    with pytest.raises(ZeroDivisionError):
        agent_of().learn(50, callback=[callback, At(33, fail)])
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class Engine(Scripted):
    """An environment with a part that cannot be stored."""

    def __init__(self) -> None:
        super().__init__(spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
        self.engine = object()


def test_episode_that_cannot_go_on_is_closed_as_truncated(tmp_path: Path) -> None:
    env = DummyVecEnv([Engine])
    agent = tiny(env=env, seed=3).learn(31, callback=RunCheckpoint(tmp_path))
    assert len(agent.replay_buffer) == 31 + 5
    with pytest.warns(UserWarning, match="their running episodes end here as truncated ones"):
        resumed = RunCheckpoint(tmp_path).resume(DummyVecEnv([Engine]), device="cpu")
    resumed.learn(2, reset_num_timesteps=False)
    columns = resumed.replay_buffer._columns
    assert columns["is_first"][0, 34:39].tolist() == [False, False, True, False, False]
    assert not columns["terminated"][0, 34:39].any()
    first = columns["observation.observation"][0, [0, 36]]
    assert not np.array_equal(first[0], first[1])  # not the run's first episode once more


def test_other_environments_are_refused(tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(ValueError, match="holds 1 environments, expected 2"):
        RunCheckpoint(tmp_path).resume(clocks(2), device="cpu")


def test_gradient_steps_and_episodes_between_two_learns_are_stored(tmp_path: Path) -> None:
    """A robot moves and learns by turns, and a demonstration needs no step at all: the number of env steps stays."""
    checkpoint = RunCheckpoint(tmp_path, every=20)
    agent = tiny(train_ratio=0.0)
    for _ in range(2):
        agent.learn(40, callback=checkpoint, reset_num_timesteps=False)
        agent.train(3)
        checkpoint.save()
    assert steps_in(tmp_path) == [80, 80]
    agent.add_episode(np.zeros((8, 4)), np.zeros(7, int), np.ones(7), terminated=True)
    agent.train(2)
    checkpoint.save()
    rows = len(agent.replay_buffer)
    (tmp_path / "agent-000000000080-3.zip").write_text("of a process that was killed before its checkpoint was one")

    newer = RunCheckpoint(tmp_path, every=20)
    found = newer.resume("CartPole-v1", device="cpu")
    assert (found.num_timesteps, found._n_updates, len(found.replay_buffer)) == (80, 8, rows)
    assert found.replay_buffer.added == agent.replay_buffer.added
    for name, column in agent.replay_buffer._columns.items():
        np.testing.assert_array_equal(found.replay_buffer._columns[name][:, :rows], column[:, :rows])
    found.learn(30, callback=newer, reset_num_timesteps=False)
    assert steps_in(tmp_path) == [110, 100]
    assert RunCheckpoint(tmp_path).resume("CartPole-v1", device="cpu")._n_updates == found._n_updates


def test_weights_and_settings_that_were_changed_between_two_learns_are_stored(tmp_path: Path) -> None:
    """They are no steps: what was asked to be stored is not looked for in the folder."""
    agent, other, checkpoint = agent_of(), agent_of(), RunCheckpoint(tmp_path, every=20)
    agent.learn(30, callback=checkpoint)
    agent.set_parameters(other.get_parameters())
    agent.entropy_coefficient = 0.5
    checkpoint.save()
    found = RunCheckpoint(tmp_path, every=20).resume(clocks(), device="cpu")
    assert found.entropy_coefficient == 0.5
    assert np.array_equal(found.policy.parameters_to_vector(), other.policy.parameters_to_vector())


def test_an_environment_that_draws_from_its_action_space_goes_on(tmp_path: Path) -> None:
    """The agent's random actions come from that generator too, in a resumed run as in a new one."""

    class Sticky(Clock):
        def __init__(self) -> None:
            super().__init__(7)
            self.action_space = spaces.Discrete(5)  # type: ignore[misc]  # not that of the class

        def step(self, action: int) -> Any:
            return super().step(self.action_space.sample())  # type: ignore[arg-type]

    def run(steps: int, folder: Path) -> HarmonyDreamAgent:
        env, checkpoint = DummyVecEnv([Sticky]), RunCheckpoint(folder)
        agent = checkpoint.resume(env, device="cpu") or tiny(env=env, seed=3)
        return agent.learn(steps - agent.num_timesteps, callback=checkpoint, reset_num_timesteps=False)

    run(10, tmp_path / "stopped")
    assert fingerprint(run(40, tmp_path / "stopped")) == fingerprint(run(40, tmp_path / "straight"))


def test_an_episode_goes_to_the_same_environment_in_a_resumed_run(tmp_path: Path) -> None:
    """That which has had the fewest rows, those that are no longer there included."""
    agent = agent_of(2, buffer_size=40, train_ratio=0.0)
    agent.add_episode(np.zeros((31, 3)), np.zeros(30, int), np.ones(30), terminated=True)
    agent.learn(120, callback=RunCheckpoint(tmp_path, every=10))
    resumed = RunCheckpoint(tmp_path).resume(clocks(2), device="cpu")
    assert resumed.replay_buffer.added == agent.replay_buffer.added
    assert len(set(resumed.replay_buffer.added)) == 2


def test_where_others_have_moved_the_environments_a_new_episode_begins(tmp_path: Path) -> None:
    """By an evaluation in the environments of training, between two learn() and in a callback, as in the run itself."""

    def fail() -> None:
        raise ZeroDivisionError

    def run(folder: Path, *, is_resumed: bool) -> dict[str, Any]:
        agent, checkpoint = agent_of(), RunCheckpoint(folder, every=20)
        agent.learn(30, callback=checkpoint)
        agent.env.reset()
        agent.train(1)
        checkpoint.save()
        if is_resumed:
            agent = checkpoint.resume(clocks())
        moves = At(40, lambda: agent.env.reset())
        if is_resumed:
            with pytest.raises(ZeroDivisionError):
                agent.learn(40, callback=[moves, checkpoint, At(45, fail)], reset_num_timesteps=False)
            agent = checkpoint.resume(clocks())
            assert agent.num_timesteps == 40
        agent.learn(STEPS - agent.num_timesteps, callback=[moves, checkpoint], reset_num_timesteps=False)
        return fingerprint(agent)

    assert run(tmp_path / "resumed", is_resumed=True) == run(tmp_path / "whole", is_resumed=False)


def test_skipped_gradient_steps_are_counted_on(tmp_path: Path) -> None:
    """Twenty in a row end bfloat16, or the run: a kill must not begin them anew."""
    agent = agent_of(train_ratio=0.0)
    agent.learner.guard.go_on(Tally(5, 7, {"loss/reward": 2}))
    agent.learn(30, callback=RunCheckpoint(tmp_path, every=20))
    assert agent._n_updates == 0
    resumed = RunCheckpoint(tmp_path).resume(clocks(), device="cpu")
    assert resumed.learner.guard.read() == Tally(5, 7, {"loss/reward": 2})
    resumed.train(1)
    assert resumed.learner.guard.read() == Tally(0, 7, {"loss/reward": 2})


def test_what_has_not_learned_since_it_was_resumed_can_be_stored(tmp_path: Path) -> None:
    tiny().learn(30, callback=RunCheckpoint(tmp_path))
    checkpoint = RunCheckpoint(tmp_path)
    agent = checkpoint.resume("CartPole-v1", device="cpu")
    agent.train(4)
    checkpoint.save()
    assert RunCheckpoint(tmp_path).resume("CartPole-v1", device="cpu")._n_updates == agent._n_updates


def test_a_run_that_others_have_gone_on_with_is_not_stored_over_theirs(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(tmp_path, every=10)
    agent = tiny().learn(50, callback=checkpoint)
    other = RunCheckpoint(tmp_path, every=10)
    other.resume("CartPole-v1", device="cpu").learn(25, callback=other, reset_num_timesteps=False)
    agent.train(1)
    with pytest.raises(CheckpointError, match="another process has gone on with it"):
        checkpoint.save()
    assert RunCheckpoint(tmp_path).resume("CartPole-v1", device="cpu").num_timesteps == 75


def test_what_goes_on_needs_its_environment_and_its_count(tmp_path: Path) -> None:
    tiny().learn(20, callback=RunCheckpoint(tmp_path))
    with pytest.raises(ValueError, match=r"env=None: .* pass one like it"):
        RunCheckpoint(tmp_path).resume(None)  # type: ignore[arg-type]
    checkpoint = RunCheckpoint(tmp_path)
    agent = checkpoint.resume("CartPole-v1", device="cpu")
    with pytest.raises(CheckpointError, match=r"learn\(\.\.\., reset_num_timesteps=False\)"):
        agent.learn(100, callback=checkpoint)


def test_an_agent_that_was_left_behind_removes_no_newer_checkpoints(tmp_path: Path) -> None:
    tiny(env=Clock(5)).learn(60, callback=RunCheckpoint(tmp_path, every=20))
    old, new = RunCheckpoint(tmp_path, every=20), RunCheckpoint(tmp_path, every=20)
    left, ahead = old.resume(Clock(5)), new.resume(Clock(5))
    assert left is not None
    assert ahead is not None
    ahead.learn(60, callback=new, reset_num_timesteps=False)
    there = steps_in(tmp_path)
    with pytest.raises(CheckpointError, match="holds checkpoints of a run up to step 120"):
        left.learn(10, callback=old, reset_num_timesteps=False)
    assert steps_in(tmp_path) == there
    ahead.learn(10, callback=new, reset_num_timesteps=False)  # the folder was given back


def test_rows_that_somebody_has_removed_are_stored_again(tmp_path: Path) -> None:
    class Cleaner(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 50:
                min(tmp_path.glob("replay-*.rows")).unlink()
            return True

    agent = tiny(env=Clock(5)).learn(90, callback=[Cleaner(), RunCheckpoint(tmp_path, every=20)])
    resumed = RunCheckpoint(tmp_path, every=20).resume(Clock(5))
    assert resumed is not None
    assert resumed.replay_buffer.added == agent.replay_buffer.added
    for name, column in agent.replay_buffer._columns.items():
        rows = len(agent.replay_buffer)
        assert np.array_equal(resumed.replay_buffer._columns[name][:, :rows], column[:, :rows])


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    checkpoint = RunCheckpoint("run", every=20)
    agent = tiny(env=Clock(5)).learn(30, callback=checkpoint)
    monkeypatch.chdir(tmp_path / "elsewhere")
    agent.learn(30, callback=checkpoint, reset_num_timesteps=False)
    assert steps_in(tmp_path / "run")[0] == 60
    assert not list((tmp_path / "elsewhere").iterdir())


def claimed_elsewhere(folder: Path) -> bool:
    """Whether another process can claim a folder."""
    command = [sys.executable, "-c", _LEARNER, str(folder)]
    return subprocess.run(command, input="", capture_output=True, text=True, check=False).stdout == "claimed\n"


def test_a_failed_learn_gives_folder_and_signals_back(tmp_path: Path) -> None:
    class Fails(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 25:
                raise RuntimeError("mine")
            return True

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="mine"):
        tiny(env=Clock(5)).learn(90, callback=[RunCheckpoint(tmp_path, every=20), Fails()])
    assert signal.getsignal(signal.SIGINT) is before
    done = subprocess.run(
        [sys.executable, "-c", _LEARNER, str(tmp_path)], input="", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_callback_that_fails_at_the_end_gives_folder_and_signals_back(tmp_path: Path) -> None:
    class FailsAtTheEnd(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            raise RuntimeError("no room for the report")

    before, checkpoint, agent = signal.getsignal(signal.SIGTERM), RunCheckpoint(tmp_path, every=20), agent_of()
    with pytest.raises(RuntimeError, match="no room"):
        agent.learn(30, callback=[FailsAtTheEnd(), checkpoint])
    assert signal.getsignal(signal.SIGTERM) is before
    assert claimed_elsewhere(tmp_path)
    agent.add_episode(np.zeros((3, 3)), np.zeros(2, int), np.zeros(2), terminated=True)  # learn() is over


def test_a_forked_process_has_no_claim(tmp_path: Path) -> None:
    checkpoint.claim(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            checkpoint.claim(tmp_path)
        except CheckpointError:
            os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    (tmp_path / ".lock").read_bytes()  # opening and closing it does not give it up
    done = subprocess.run(
        [sys.executable, "-c", _LEARNER, str(tmp_path)], input="", capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    checkpoint.release(tmp_path)


def test_what_is_removed_goes_before_the_files_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a process which is killed in between leaves no checkpoint that names files which are gone."""
    agent_of().learn(60, callback=RunCheckpoint(tmp_path, every=20, keep=3))
    removed: list[str] = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **how: removed.append(path.name) or unlink(path, **how))
    prune(tmp_path, [newest_intact(tmp_path)])
    kinds = ["checkpoint" if name.startswith("checkpoint") else "other" for name in removed]
    assert kinds == sorted(kinds)
    assert set(kinds) == {"checkpoint", "other"}
