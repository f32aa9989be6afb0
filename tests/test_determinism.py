"""The same seed gives the same run on CPU, in one process or several."""

import pytest

from tests.runs import cartpole, in_new_process, run


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_same_seed_same_run(backbone: str) -> None:
    first = in_new_process(run, cartpole, backbone, False, 90)
    assert in_new_process(run, cartpole, backbone, False, 90) == first
    assert in_new_process(run, cartpole, backbone, True, 90) == first
    assert in_new_process(run, cartpole, backbone, True, 90, seed=8)["weights"] != first["weights"]
