"""Sequence replay: rows come back in order and evenly sampled, and wrong rows are refused by name."""

import copy
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_rows import ACTIONS, IMAGE, VECTOR, assert_rows_agree, fill, make, row

from hd_agents.footprint import describe_replay
from hd_agents.replay import SequenceReplay
from hd_agents.replay import batches as replay_batches
from hd_agents.replay import memory as replay_memory
from hd_agents.world_model.batch import Batch


def test_batch_has_the_stated_shapes_and_types() -> None:
    batch = fill(make(), 40).sample(17, 19, np.random.default_rng(0), "cpu")
    assert batch.observation["camera"].shape == (17, 19, *IMAGE)
    assert batch.observation["camera"].dtype == torch.uint8
    assert batch.observation["joints"].shape == (17, 19, VECTOR)
    assert batch.action.shape == (17, 19, ACTIONS)
    assert {batch.observation["joints"].dtype, batch.action.dtype, batch.reward.dtype} == {torch.float32}
    assert batch.reward.shape == batch.is_first.shape == batch.terminated.shape == (17, 19)
    assert {batch.is_first.dtype, batch.terminated.dtype} == {torch.bool}


@pytest.mark.parametrize("steps", [20, 59, 60, 61, 97, 120, 163], ids=lambda steps: f"{steps}_rows_into_60")
def test_windows_are_contiguous_before_and_after_wrapping(steps: int) -> None:
    replay = fill(make(60), steps)
    batch = replay.sample(200, 17, np.random.default_rng(steps), "cpu")
    assert_rows_agree(batch)
    kept = batch.observation["joints"][..., 1]
    assert kept.min() >= max(0, steps - 60)
    assert len(replay) == min(steps, 60)


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(1, 19), st.integers(0, 9))
def test_any_fill_samples_what_was_stored_or_refuses(steps: list[int], length: int, seed: int) -> None:
    replay = fill(make(19 * len(steps), len(steps)), *steps)
    assert replay.can_sample(length) == any(min(count, 19) >= length for count in steps)
    if replay.can_sample(length):
        batch = replay.sample(23, length, np.random.default_rng(seed), "cpu")
        assert_rows_agree(batch)
        envs, starts = batch.observation["joints"][:, 0].long().T
        assert all(
            max(0, steps[env] - 19) <= start <= steps[env] - length for env, start in zip(envs, starts, strict=True)
        )
    else:
        with pytest.raises(ValueError, match=f"sequences of {length} rows"):
            replay.sample(23, length, np.random.default_rng(seed), "cpu")


def test_every_window_of_every_environment_is_equally_likely() -> None:
    length, draws = 7, 40_000
    replay = fill(make(3 * 29, 3), 29 + 11, 17, 5)  # one ring wrapped, one partly filled, one too short
    batch = replay.sample(draws, length, np.random.default_rng(3), "cpu")
    envs, starts = batch.observation["joints"][:, 0].long().T
    windows = {(0, 11 + i) for i in range(23)} | {(1, i) for i in range(11)}
    pairs, counts = np.unique(np.stack([envs, starts], 1), axis=0, return_counts=True)
    assert {tuple(pair) for pair in pairs.tolist()} == windows
    expected = draws / len(windows)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = len(windows) - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_first_row_is_first_in_the_copy_and_not_in_storage() -> None:
    replay = fill(make(), 30)
    for _ in range(3):
        batch = replay.sample(300, 2, np.random.default_rng(0), "cpu")
        batch.is_first.fill_(True)
        batch.reward.fill_(-1.0)
    # If sampling wrote to storage, starts in mid-episode would now be marked as first in every other window.
    assert_rows_agree(replay.sample(300, 29, np.random.default_rng(1), "cpu"))


def test_terminal_row_carries_its_reward_and_the_reset_row_none() -> None:
    replay = make(action_size=1, images={}, vectors={"x": 1})
    for value, reward, first, terminated in ((0, 0, True, False), (1, 0, False, False), (2, 5, False, True)):
        replay.add(0, {"x": np.array([value], np.float32)}, np.ones(1, np.float32), reward, first, terminated)
    replay.add(0, {"x": np.array([9], np.float32)}, np.zeros(1, np.float32), 0.0, True, False)
    batch = replay.sample(1, 4, np.random.default_rng(0), "cpu")
    assert batch.observation["x"][0, :, 0].tolist() == [0, 1, 2, 9]
    assert batch.reward[0].tolist() == [0, 0, 5, 0]
    assert batch.terminated[0].tolist() == [False, False, True, False]
    assert batch.is_first[0].tolist() == [True, False, False, True]


def test_rows_are_copied() -> None:
    replay, parts = make(), row(0, 1)
    replay.add(0, **parts)
    parts["observation"]["camera"][:] = 99
    parts["action"][:] = 99
    assert (replay.sample(1, 1, np.random.default_rng(0), "cpu").observation["camera"] == 1).all()


def test_same_generator_same_batch() -> None:
    replay = fill(make(40, 2), 33, 25)
    one, two = (replay.sample(5, 3, np.random.default_rng(7), "cpu").observation["joints"] for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"observation": {"camera": np.zeros(IMAGE, np.float32), "joints": np.zeros(2, np.float32)}},
            "'camera' is float",
        ),
        ({"observation": {"camera": np.zeros((7, 5, 3), np.uint8), "joints": np.zeros(2, np.float32)}}, r"\(7, 5, 3\)"),
        (
            {"observation": {"camera": np.zeros(IMAGE, np.uint8), "joints": np.zeros(2)}},
            "'joints' is float64 .*float32",
        ),
        ({"observation": {"camera": np.zeros(IMAGE, np.uint8), "joints": [0.0, 0.0]}}, "'joints' is a list"),
        ({"observation": {"camera": np.zeros(IMAGE, np.uint8)}}, r"\['camera'\]: expected \['camera', 'joints'\]"),
        ({"action": np.zeros(ACTIONS)}, r"action is float64 of shape \(11,\): expected float32"),
        ({"action": np.zeros((1, ACTIONS), np.float32)}, r"shape \(1, 11\): expected float32 of shape \(11,\)"),
        ({"reward": float("nan")}, "reward of env 0 is nan: expected a finite"),
        ({"reward": -float("inf")}, "reward of env 0 is -inf"),
        ({"reward": 1e39}, "fits into float32"),
        ({"env": 1}, "env=1: expected 0 to 0"),
        ({"env": -1}, "env=-1"),
    ],
)
def test_wrong_rows_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    replay = make()
    with pytest.raises(ValueError, match=message):
        replay.add(**({"env": 0, **row(0, 0)} | change))
    assert len(replay) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"capacity": 3, "n_envs": 4},
        {"n_envs": 0},
        {"action_size": 0},
        {"images": {"camera": (5, 0, 3)}},
        {"vectors": {"camera": 2}},
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|both"):
        make(**changes)


@pytest.mark.parametrize(("batch_size", "length"), [(0, 3), (3, 0)])
def test_empty_batches_are_refused(batch_size: int, length: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        fill(make(), 10).sample(batch_size, length, np.random.default_rng(0), "cpu")


def test_estimate_is_what_the_rings_take_and_nothing_is_taken_before_the_first_row() -> None:
    replay = make(1001, 3)
    assert replay.capacity == 999
    assert replay._columns == {}
    fill(replay, 1)
    assert sum(column.nbytes for column in replay._columns.values()) == replay.nbytes_estimate()
    assert replay.nbytes_estimate() == 999 * (5 * 7 * 3 + 4 * 2 + 4 * 11 + 4 + 1 + 1)
    assert describe_replay(replay) == "Replay: 1 of 999 rows stored (3 x 333), 162.8 kB of memory when full"


def test_too_large_a_replay_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_memory, "available_memory", lambda: 10_000)
    replay = make(1000)
    with pytest.raises(
        MemoryError, match=r"1,000 rows need 163.0 kB .* 10.0 kB are available.*buffer_size of at most 61"
    ):
        fill(replay, 1)
    assert len(replay) == 0
    fill(make(61), 1)
    monkeypatch.setattr(replay_memory, "available_memory", lambda: None)
    fill(make(1000), 1)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("piece", [1, 400, 1 << 26])
def test_rows_kept_on_the_device_make_the_same_batches(
    piece: int, n_envs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's part of it, on the CPU: rings that wrap, rows added in between, files read, many rows at once."""
    monkeypatch.setattr(replay_batches, "PIECE", piece)
    kept, host = make(60 * n_envs, n_envs), make(60 * n_envs, n_envs)
    rngs = np.random.default_rng(0), np.random.default_rng(0)

    def assert_same_batches() -> None:
        monkeypatch.setattr(replay_batches, "fits_on", lambda device, size: True)
        found = kept.sample(31, 17, rngs[0])
        monkeypatch.setattr(replay_batches, "fits_on", lambda device, size: False)
        expected = host.sample(31, 17, rngs[1])
        for key, value in expected.observation.items():
            assert torch.equal(found.observation[key], value)
        assert all(map(torch.equal, found[1:], expected[1:]))
        assert kept._kept.rows is not None
        assert host._kept.rows is None

    for rows in (30, 1, 7, 97, 400):
        each = [rows + 3 * env if rows > 1 else (env + 1) % 2 for env in range(n_envs)]
        fill(kept, *each)
        fill(host, *each)
        assert_same_batches()
    other = fill(make(60 * n_envs, n_envs), *range(41, 41 + n_envs))
    file = BytesIO()
    other.save(file)
    for replay in (kept, host):
        file.seek(0)
        replay.load(file)
    assert_same_batches()
    assert kept.leave_device()
    assert not kept.leave_device()
    monkeypatch.setattr(replay_batches, "fits_on", lambda device, size: True)
    file.seek(0)
    kept.load(file)
    kept.sample(5, 5, rngs[0])
    assert kept._kept.rows is None


def test_rows_stay_on_the_host_where_others_took_the_memory_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(columns: Any, device: torch.device) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(replay_batches, "fits_on", lambda device, size: True)
    monkeypatch.setattr(replay_batches, "DeviceRows", short)
    rows = fill(make(60), 41).sample(3, 5, np.random.default_rng(0))
    assert rows.reward.shape == (3, 5)


def test_a_copy_keeps_rows_of_its_own_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_batches, "fits_on", lambda device, size: True)
    replay = fill(make(60), 41)
    replay.sample(3, 5, np.random.default_rng(0))
    copied = copy.deepcopy(replay)
    assert copied._kept.rows is None
    fill(copied, 37, start=41)
    assert_rows_agree(copied.sample(31, 17, np.random.default_rng(0)))
    assert copied._kept.rows is not None


def test_a_sample_for_the_host_leaves_the_rows_on_the_device() -> None:
    replay, rows = fill(make(60), 41), SimpleNamespace(device=torch.device("cuda:0"))
    replay._kept.rows, replay._kept._of = rows, (rows.device, replay.history)  # type: ignore[assignment]
    assert replay.sample(31, 17, np.random.default_rng(0)).reward.device.type == "cpu"
    assert replay._kept.rows is rows


def rows_on(replay: SequenceReplay, device: str) -> replay_batches.DeviceRows | None:
    return replay._kept.on(torch.device(device), replay._columns, replay.history)


@pytest.mark.gpu
def test_one_device_by_two_names_is_one() -> None:
    replay = fill(make(60), 41)
    rows = rows_on(replay, "cuda")
    assert rows is not None
    assert rows_on(replay, "cuda:0") is rows


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_batches_reach_the_gpu_unchanged(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_batches, "SHARE", share)
    replay = fill(make(60), 97)
    assert (rows_on(replay, "cuda") is None) == (share == 0.0)
    batches = [replay.sample(31, 17, np.random.default_rng(0), "cuda") for _ in range(20)]
    for batch in batches:
        assert batch.reward.is_cuda
        assert_rows_agree(
            Batch({k: v.cpu() for k, v in batch.observation.items()}, *(part.cpu() for part in batch[1:]))
        )


@pytest.mark.gpu
def test_drawing_new_rows_on_the_gpu_does_not_wait_for_it() -> None:
    replay = fill(make(60), 41)
    rows = rows_on(replay, "cuda")
    assert rows is not None
    rows.follow(replay.added, replay._heads)
    fill(replay, 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        replay.sample(31, 17, np.random.default_rng(0), "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_rows_that_were_never_added_cannot_be_taken_for_older_ones() -> None:
    replay = make(6, 1)
    fill(replay, 4)
    replay.count_as([9])
    assert replay.added == [9]
    for wrong in ([3], [], [4, 4]):
        with pytest.raises(ValueError, match="the environments have"):
            replay.count_as(wrong)
