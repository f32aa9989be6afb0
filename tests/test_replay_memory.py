"""Replay in files: the same rows as in memory, checked disk space, nothing left behind."""

import copy
import io
import mmap
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from gymnasium import spaces

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.footprint import describe_replay
from hd_agents.replay import memory as replay_memory
from tests.agents import Clock, Scripted, tiny
from tests.replay_rows import assert_rows_agree, fill, make


def test_rows_in_a_folder_are_those_in_memory(tmp_path: Path) -> None:
    replays = [fill(make(60, 2, folder=folder), 47, 23) for folder in (None, tmp_path)]
    batches = [replay.sample(31, 11, np.random.default_rng(0)) for replay in replays]
    assert_rows_agree(batches[1])
    assert all((one == two).all() for one, two in zip(batches[0][1:], batches[1][1:], strict=True))
    files = [io.BytesIO(), io.BytesIO()]
    for replay, file in zip(replays, files, strict=True):
        replay.save(file)
    assert files[0].getvalue() == files[1].getvalue()
    files[0].seek(0)
    again = make(60, 2, folder=tmp_path)
    again.load(files[0])
    assert_rows_agree(again.sample(31, 11, np.random.default_rng(0)))
    assert describe_replay(replays[1]).endswith(f"of {tmp_path} when full")


def test_the_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "replay"
    fill(make(folder=folder), 20)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("rows", [(0, 0), (3, 2), (47, 23)])
def test_a_copy_takes_the_room_of_the_rows_that_are_stored(folder: bool, rows: tuple[int, int], tmp_path: Path) -> None:
    replay = fill(make(60, 2, folder=tmp_path if folder else None), *rows)
    for copied in (copy.deepcopy(replay), pickle.loads(pickle.dumps(replay))):
        files = [io.BytesIO(), io.BytesIO()]
        for one, file in zip((replay, copied), files, strict=True):
            one.save(file)
        assert files[0].getvalue() == files[1].getvalue()
        assert copied.added == replay.added
        fill(copied, 40, 40)
        assert len(copied) == 60
        assert all(isinstance(column, np.memmap) == folder for column in copied._columns.values())
    assert len(pickle.dumps(fill(make(1_000_000), 1))) < 10_000


def test_a_copy_holds_no_rows_that_another_thread_adds_meanwhile() -> None:
    replay, copied = fill(make(60), 15), make(60)
    state = replay.__getstate__()
    fill(replay, 9, start=15)
    copied.__setstate__(copy.deepcopy(state))
    assert (len(copied), len(replay)) == (15, 24)
    fill(copied, 9, start=15)
    assert_rows_agree(copied.sample(31, 11, np.random.default_rng(0)))


class Usage(NamedTuple):
    free: int


def disk(free: int) -> Callable[[Any], Usage]:
    return lambda path: Usage(free)


def test_disk_space_is_checked_before_the_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_memory.shutil, "disk_usage", disk(10_000))
    with pytest.raises(OSError, match=r"1,000 rows need 163.0 kB of disk space in .*10.0 kB are available.*at most 61"):
        fill(make(1000, folder=tmp_path / "new"), 1)
    assert not (tmp_path / "new").exists()
    assert make(None, folder=tmp_path).capacity == 10_000 // 2 // 163


def test_too_little_room_for_a_sequence_is_not_blamed_on_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_memory.shutil, "disk_usage", disk(0))
    with pytest.raises(ValueError, match=r"Half of the free disk space of .*new holds no sequence of 7.* another re"):
        tiny(buffer_size=None, sequence_length=7, replay_folder=tmp_path / "new")
    monkeypatch.setattr(replay_memory, "available_memory", lambda: 100)
    with pytest.raises(ValueError, match=r"Half of the free memory holds no sequence.* give replay_folder on"):
        tiny(buffer_size=None, sequence_length=7)


def test_more_than_the_memory_fits_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_memory, "available_memory", lambda: 10_000)
    with pytest.raises(MemoryError, match="or a replay_folder on a disk with more room"):
        fill(make(1000), 1)
    fill(make(1000, folder=tmp_path), 1)


def test_an_agent_learns_from_a_folder_and_its_archive_names_none(tmp_path: Path) -> None:
    agent = tiny(env=Clock(9), replay_folder=tmp_path / "replay", seed=0).learn(60)
    assert agent._n_updates
    assert isinstance(agent.replay_buffer._columns["reward"], np.memmap)  # type: ignore[union-attr]
    agent.save(tmp_path / "agent")
    assert b"replay_folder" not in (tmp_path / "agent.zip").read_bytes(), "no file may choose where to write"
    assert HarmonyDreamAgent.load(tmp_path / "agent").replay_folder is None
    assert HarmonyDreamAgent.load(tmp_path / "agent", replay_folder="rows").replay_folder == "rows"


def test_sizes_are_printed_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaces.Dict({"eye": spaces.Box(0, 255, (16, 17, 3), np.uint8), "arm": spaces.Box(-1, 1, (5,))})
    agent = tiny("MultiInputPolicy", Scripted(space, spaces.Discrete(3)), verbose=1, buffer_size=3_000)
    out = capsys.readouterr().out
    weights = sum(parameter.numel() for parameter in agent.policy.parameters())
    assert f"Networks: {weights:,} weights, {4 * weights / 1000:.1f} kB; {16 * weights / 1000:.1f} kB with" in out
    row = 16 * 17 * 3 + 4 * (5 + 3 + 1) + 2
    assert f"Batch: 16 rows of {row} B, {16 * row / 1000:.1f} kB" in out
    assert f"{3 * row / 1000:.1f} MB of memory when full, {3 * 16 * 17 * 3 / 1000:.1f} MB of them frames" in out
    assert "WARNING" not in out
    folders: list[Any] = []
    monkeypatch.setattr("hd_agents.footprint.free_bytes", lambda folder: folders.append(folder) or 1_000_000)
    tiny("MultiInputPolicy", Scripted(space, spaces.Discrete(3)), verbose=1, buffer_size=3_000)
    assert "WARNING: only 1.0 MB are free for the replay" in capsys.readouterr().out
    tiny(verbose=1, replay_folder=tmp_path)
    assert folders == [None, tmp_path]  # the disk where the replay goes is what counts


@pytest.mark.skipif(not hasattr(mmap, "MAP_PRIVATE"), reason="has no private mappings")
def test_sizes_are_of_no_interest_where_nothing_is_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = tiny(env=Clock(9), verbose=1)
    agent.save(tmp_path / "agent")
    capsys.readouterr()
    agent = HarmonyDreamAgent.load(tmp_path / "agent")
    assert (agent.verbose, capsys.readouterr().out) == (1, "")
    HarmonyDreamAgent.load(tmp_path / "agent", env=Clock(9))
    assert "Replay: 0 of" in capsys.readouterr().out


def test_rows_in_memory_are_a_mapping_of_their_own() -> None:
    (owner,) = replay_memory.allocate({"x": (np.dtype(np.float32), (3,))}, 2, 5, None).values()
    assert owner.shape == (2, 5, 3)
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(memoryview(owner).obj, mmap.mmap)
