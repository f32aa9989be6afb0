"""What a person is told while an agent learns."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from hd_agents import progress
from hd_agents.progress import Forecast, ProgressBar
from tests.agents import tiny


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


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let every look at the clock find it ``seconds`` later."""
    clock = iter(range(1_000_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds * next(clock))


def test_a_run_of_hours_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 10.0)  # the clock is read once a gradient step, twice at the second
    agent = tiny(train_ratio=16.0, learning_starts=8)  # a gradient step per env step
    message = (
        r"The 3,9\d\d gradient steps that are left will take about 15 hours on this CPU, 13 s each.*"
        r"train_ratio \(now 16\), batch_size \(2\) and sequence_length \(8\), and a smaller size \('nano'"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        agent.learn(4_000, callback=lambda local, _: agent._n_updates < 20)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert agent._progress is None


@pytest.mark.parametrize(("seconds", "steps", "bar"), [(1e-3, 4_000, False), (10.0, 60, False), (10.0, 4_000, True)])
def test_runs_that_need_no_warning(
    seconds: float, steps: int, bar: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is fast, one that is short, and one that is watched: warnings are errors in these tests."""
    slow(monkeypatch, seconds)
    agent = tiny(train_ratio=16.0, learning_starts=8)
    agent.learn(steps, callback=lambda local, _: agent._n_updates < 20, progress_bar=bar)
    assert agent._n_updates >= 20


def test_nothing_is_foreseen_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 10.0)
    agent = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    forecast = Forecast(agent)
    for _ in range(10):
        forecast.on_update()
