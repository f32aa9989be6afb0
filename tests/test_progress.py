"""What a person is told while an agent learns."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from hd_agents.progress import ProgressBar


def started(total: int) -> Any:
    bar: Any = ProgressBar()
    bar.model = SimpleNamespace(num_timesteps=0, learning_starts=0, compile="auto", _n_updates=0)
    bar.model.get_env = lambda: SimpleNamespace(num_envs=1)
    bar.locals = {"total_timesteps": total}
    bar._on_training_start()
    return bar


def test_time_left_follows_when_learning_begins(capsys: pytest.CaptureFixture[str]) -> None:
    """Random steps are a thousand times faster; a dozen slow ones later nothing of that may be left in the estimate."""
    bar = started(2_000)
    begun = time.monotonic()
    while time.monotonic() - begun < 0.3:
        bar._on_step()
        time.sleep(0.0002)
    assert bar._bar.format_dict["rate"] > 200
    for _ in range(16):
        time.sleep(0.11)
        bar._on_step()
    assert bar._bar.format_dict["rate"] < 20
    bar.close()
    assert " env steps [" in capsys.readouterr().err


@pytest.mark.parametrize(("interval", "expected"), [(60.0, range(1, 5)), (0.1, range(6, 60))])
def test_the_bar_moves_as_seldom_as_tqdm_is_told(
    interval: float, expected: range, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a file needs, which keeps every line: TQDM_MININTERVAL, which tqdm reads when it is imported, is 60 there."""
    monkeypatch.setattr("hd_agents.progress.REFRESH_SECONDS", 0.1)
    bar = started(100)
    bar._bar.mininterval = interval
    for _ in range(20):
        time.sleep(0.05)
        bar._on_step()
    bar.close()
    assert capsys.readouterr().err.count("env steps [") in expected
