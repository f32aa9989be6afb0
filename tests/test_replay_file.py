"""The replay's file: what was stored comes back and goes on, and a file is checked before it is believed."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from replay_rows import assert_rows_agree, fill, make, row

from hd_agents.replay.file import MAGIC, VERSION


@pytest.mark.parametrize("steps", [(0, 0), (5, 0), (19, 7), (50, 20)])
def test_saved_rows_come_back_and_go_on(steps: tuple[int, int], tmp_path: Path) -> None:
    replay = fill(make(40, 2), *steps)
    path = tmp_path / "folder" / "replay.bin"
    replay.save(path)
    assert [file.name for file in path.parent.iterdir()] == ["replay.bin"]
    assert path.stat().st_size < len(replay) * replay.nbytes_estimate() / 40 + 1000
    loaded = fill(make(40, 2), 9, 9, start=500)
    loaded.load(str(path))
    assert len(loaded) == len(replay)
    for step in range(steps[0], steps[0] + 9):
        for each in (replay, loaded):
            each.add(0, **row(0, step))
            if each.can_sample(3):
                batch = each.sample(50, 3, np.random.default_rng(step), "cpu")
                assert_rows_agree(batch)
        one, two = (each.sample(50, min(9, step + 1 - steps[0]), np.random.default_rng(2)) for each in (replay, loaded))
        assert torch.equal(one.observation["joints"], two.observation["joints"])


@pytest.mark.parametrize("steps", [[(3, 0), (5, 9)], [(19, 2), (7, 0), (0, 30), (1, 1)], [(50, 21), (20, 19), (3, 0)]])
def test_pieces_add_up_to_the_whole(steps: list[tuple[int, int]], tmp_path: Path) -> None:
    replay, copy = make(40, 2), make(40, 2)
    done = [0, 0]
    for number, counts in enumerate(steps):
        since = list(replay.added)
        for env, count in enumerate(counts):
            for step in range(done[env], done[env] + count):
                replay.add(env, **row(env, step))
            done[env] += count
        replay.save(tmp_path / str(number), since)
        copy.append(tmp_path / str(number))
        whole, pieces = io.BytesIO(), io.BytesIO()
        replay.save(whole)
        copy.save(pieces)
        assert pieces.getvalue() == whole.getvalue()
    assert replay.added == done
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < (sum(done) + 1) * 150 + 400 * len(steps)


def test_rows_that_are_added_while_it_is_written_do_not_shift_columns() -> None:
    """As where one thread saves what another one fills."""
    replay = fill(make(40), 15)

    class Filled(io.BytesIO):
        def write(self, data: Any) -> int:
            replay.add(0, **row(0, replay.added[0]))
            return super().write(data)

    file, loaded = Filled(), make(40)
    replay.save(file)
    assert len(replay) > 15
    loaded.load(io.BytesIO(file.getvalue()))
    assert len(loaded) == 15
    assert_rows_agree(loaded.sample(20, 7, np.random.default_rng(0)))


def test_a_piece_that_cannot_be_read_leaves_an_empty_replay(tmp_path: Path) -> None:
    fill(make(40, 2), 9, 4).save(tmp_path / "rows")
    raw = bytearray((tmp_path / "rows").read_bytes())
    raw[-1] = 7  # the last flag of all
    (tmp_path / "rows").write_bytes(raw)
    replay = fill(make(40, 2), 15, 3)
    with pytest.raises(ValueError, match="a flag holds 7"):
        replay.append(tmp_path / "rows")
    assert (len(replay), replay.added) == (0, [0, 0])
    assert_rows_agree(fill(replay, 8, 5).sample(20, 4, np.random.default_rng(0)))
    assert (len(replay), replay.added) == (13, [8, 5])


def test_file_objects_and_larger_replays_take_it() -> None:
    file = io.BytesIO()
    fill(make(20), 33).save(file)
    file.seek(0)
    loaded = make(100)
    loaded.load(file)
    batch = fill(loaded, 30, start=33).sample(100, 50, np.random.default_rng(0), "cpu")
    assert_rows_agree(batch)


def saved() -> bytes:
    file = io.BytesIO()
    fill(make(20), 15).save(file)
    return file.getvalue()


def with_header(**changes: Any) -> bytes:
    raw = saved()
    size = struct.unpack("<I", raw[12:16])[0]
    header = json.dumps(json.loads(raw[16 : 16 + size]) | changes).encode()
    return raw[:12] + struct.pack("<I", len(header)) + header + raw[16 + size :]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not a replay file"),
        (b"\x80\x04\x95 a pickle", "not a replay file: it starts with"),
        (MAGIC + b"\1", "truncated"),
        (MAGIC + struct.pack("<II", VERSION + 1, 9), "version 2; this release reads version 1"),
        (MAGIC + struct.pack("<II", VERSION, 1 << 31), "header claims 2,147,483,648 bytes"),
        (MAGIC + struct.pack("<II", VERSION, 50) + b"{}", "header ends after 2 of 50"),
        (MAGIC + struct.pack("<II", VERSION, 2) + b"{]", "not JSON"),
        (MAGIC + struct.pack("<II", VERSION, 40_000) + b"[" * 40_000, "not JSON"),
        (MAGIC + struct.pack("<II", VERSION, 2) + b"[]", "lacks columns or rows"),
        (with_header(rows=[-1]), "lacks columns or rows"),
        (with_header(rows=[True]), "lacks columns or rows"),
        (with_header(rows=[]), "lacks columns or rows"),
        (with_header(columns=3), "lacks columns or rows"),
        (with_header(actions=[]), "does not tell actions"),
        (with_header(actions={"low": [[]]}), "does not tell actions"),
        (with_header(actions={"low": [10**400]}), "does not tell actions"),
        (with_header(rows=[10**15]), "has room for 20"),
        (with_header(rows=[16]), "truncated: its rows take"),
        (with_header(rows=[14]), "damaged: its rows take"),
        (with_header(rows=[15, 0]), "holds 2 environments, expected 1"),
        (saved()[:-1], "truncated"),
        (saved() + b"x", "damaged"),
        (saved()[:-1] + b"\2", "flag holds 2"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message) as error:
        make(20).load(path)
    assert str(path) in str(error.value)


def test_every_cut_of_a_file_is_refused() -> None:
    raw = saved()
    replay = fill(make(20), 4)
    for end in range(0, len(raw), 37):
        with pytest.raises(ValueError, match=r"truncated|not a replay file"):
            replay.load(io.BytesIO(raw[:end]))
    assert len(replay) == 4, "a refused file must leave the rows as they were"


def test_damage_in_the_rows_leaves_an_empty_replay_that_works() -> None:
    replay = fill(make(20), 20)
    with pytest.raises(ValueError, match="flag"):
        replay.load(io.BytesIO(saved()[:-1] + b"\2"))
    assert len(replay) == 0
    assert_rows_agree(fill(replay, 25).sample(100, 9, np.random.default_rng(0), "cpu"))


def test_non_finite_rewards_of_a_file_are_refused() -> None:
    replay = fill(make(20), 15)
    replay._columns["reward"][0, 3] = np.nan
    file = io.BytesIO()
    replay.save(file)
    file.seek(0)
    with pytest.raises(ValueError, match="a reward, action or observation is not finite"):
        make(20).load(file)


@pytest.mark.parametrize("changes", [{"action_size": 3}, {"images": {}}, {"images": {"camera": (7, 5, 3)}}])
def test_files_of_another_environment_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not belong to this agent's environment: it holds"):
        make(20, **changes).load(io.BytesIO(saved()))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        make().load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is a folder"):
        make().load(tmp_path)
