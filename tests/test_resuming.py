"""A run that was stored and goes on in another process is the run that was never interrupted, bit for bit."""

from pathlib import Path
from typing import Any

import pytest

from tests.runs import atari, cartpole, catch, control, in_new_process, metaworld, pendulum, run

STEPS = 80


@pytest.mark.parametrize(
    ("functions", "backbone", "subproc"),
    [
        (catch, "dreamerv3", False),
        (catch, "dreamerv2", True),
        (cartpole, "dreamerv2", False),
        (cartpole, "dreamerv3", True),
        (pendulum, "dreamerv3", False),
        (atari, "dreamerv3", True),
        (control, "dreamerv2", False),
        (metaworld, "dreamerv3", False),
    ],
)
def test_stored_half_way_and_resumed_is_the_same_run(
    functions: Any, backbone: str, subproc: bool, tmp_path: Path
) -> None:
    pytest.importorskip({atari: "ale_py", control: "dm_control", metaworld: "metaworld"}.get(functions, "gymnasium"))
    setting = functions, backbone, subproc
    in_new_process(run, *setting, STEPS // 2, tmp_path)
    assert in_new_process(run, *setting, STEPS, tmp_path) == in_new_process(run, *setting, STEPS)
