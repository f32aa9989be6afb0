"""Replays whose rows tell where they come from, for the tests of the replay and of its file."""

from typing import Any

import numpy as np

from hd_agents.replay import SequenceReplay
from hd_agents.world_model.batch import Batch

IMAGE, VECTOR, ACTIONS = (5, 7, 3), 2, 11
EPISODE = 13


def make(capacity: int = 60, n_envs: int = 1, **changes: Any) -> SequenceReplay:
    shapes: dict[str, Any] = {"images": {"camera": IMAGE}, "vectors": {"joints": VECTOR}, "action_size": ACTIONS}
    return SequenceReplay(capacity, n_envs, **(shapes | changes))


def row(env: int, step: int) -> dict[str, Any]:
    """A row whose every part tells its environment and step."""
    return {
        "observation": {
            "camera": np.full(IMAGE, step % 251, np.uint8),
            "joints": np.array([env, step], np.float32),
        },
        "action": np.full(ACTIONS, step / 8, np.float32),
        "reward": float(step),
        "is_first": step % EPISODE == 0,
        "terminated": step % EPISODE == EPISODE - 1,
    }


def fill(replay: SequenceReplay, *steps: int, start: int = 0) -> SequenceReplay:
    for env, count in enumerate(steps):
        for step in range(start, start + count):
            replay.add(env, **row(env, step))
    return replay


def assert_rows_agree(batch: Batch) -> None:
    """Every part of every row tells the same step, and the steps of a window follow each other."""
    joints = batch.observation["joints"]
    steps = joints[..., 1]
    assert (joints[..., 0] == joints[:, :1, 0]).all(), "a window holds rows of two environments"
    assert (steps.diff(dim=1) == 1).all(), "a window is not contiguous in time"
    assert (batch.observation["camera"] == (steps % 251)[..., None, None, None]).all()
    assert (batch.action == steps[..., None] / 8).all()
    assert (batch.reward == steps).all()
    assert (batch.terminated == (steps % EPISODE == EPISODE - 1)).all()
    assert (batch.is_first[:, 1:] == (steps[:, 1:] % EPISODE == 0)).all()
    assert batch.is_first[:, 0].all()
