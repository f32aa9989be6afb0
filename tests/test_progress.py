"""What a person is told while an agent learns."""

import itertools
import time
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from hd_agents.progress import Forecast, ProgressBar, bar_is_seen, episode_bar
from tests.agents import tiny


def started(total: int, envs: int = 1) -> Any:
    bar: Any = ProgressBar()
    bar.model = SimpleNamespace(num_timesteps=0, _too_early=lambda: True, compile="auto", _n_updates=0)
    bar.model.get_env = lambda: SimpleNamespace(num_envs=envs)
    bar.locals = {"total_timesteps": total}
    bar._on_training_start()
    return bar


@pytest.mark.parametrize(("envs", "total", "expected"), [(1, 30, 30), (3, 30, 30), (4, 30, 32), (7, 1, 7)])
def test_the_bar_ends_where_the_last_step_of_all_environments_does(envs: int, total: int, expected: int) -> None:
    bar = started(total, envs)
    assert bar._bar.total == expected
    bar.close()


def test_time_left_follows_when_learning_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random steps are a thousand times faster; a dozen slow ones later nothing of that may be left in the estimate."""
    monkeypatch.setattr("hd_agents.progress.FILE_SECONDS", 0.1)
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


@pytest.mark.parametrize(("terminal", "told", "seconds"), [(False, None, 10.0), (False, "0.3", 0.1), (True, None, 0.1)])
def test_a_bar_in_a_file_is_drawn_every_ten_seconds(
    terminal: bool, told: str | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.1 is tqdm's own, which it reads from TQDM_MININTERVAL when it is imported."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monkeypatch.setenv("TQDM_MININTERVAL", told) if told else monkeypatch.delenv("TQDM_MININTERVAL", raising=False)
    bars = started(100)._bar, episode_bar(100)
    assert [bar.mininterval for bar in bars] == [seconds, seconds]
    for bar in bars:
        bar.close()


def test_between_two_lines_of_a_bar_is_its_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Env steps and gradient steps draw it, together no more often than either alone."""
    monkeypatch.setattr("hd_agents.progress.REFRESH_SECONDS", 0.1)
    bar = started(100)
    bar._bar.mininterval = 0.3
    capsys.readouterr()
    begun = time.monotonic()
    while time.monotonic() - begun < 1.5:
        time.sleep(0.04)
        bar._on_step()
        bar.on_update()
    seconds, drawn = time.monotonic() - begun, capsys.readouterr().err.count("env steps [")
    bar.close()
    assert 2 <= drawn <= seconds / 0.3 + 1


def test_a_bar_goes_to_whatever_takes_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the text field of a window, which has no isatty()."""
    lines: list[str] = []
    monkeypatch.setattr("sys.stderr", SimpleNamespace(write=lines.append, flush=lambda: None))
    tiny().learn(30, progress_bar=True)
    assert not bar_is_seen()
    assert "30/30 env steps" in "".join(lines)


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let every gradient step take ``seconds``: the agent looks at the clock before and after each."""
    clock = itertools.count(0.0, seconds)
    monkeypatch.setattr("hd_agents.training.replay_learning.time", SimpleNamespace(perf_counter=lambda: next(clock)))


def test_a_run_of_hours_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 13.0)
    agent = tiny(train_ratio=16.0, learning_starts=8)  # a gradient step per env step
    message = (
        r"The 3,9\d\d gradient steps that are left will take about 14 hours on this CPU, 13 s each.*"
        r"train_ratio \(now 16\), batch_size \(2\) and sequence_length \(8\). With progress_bar"
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


def test_an_environment_that_is_slow_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient steps are timed, and not what lies between them."""
    now, times = [0.0], []
    monkeypatch.setattr("hd_agents.training.replay_learning.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Forecast, "on_update", lambda self, seconds: times.append(seconds))

    def step(*_: Any) -> bool:
        now[0] += 100.0
        return True

    agent = tiny(train_ratio=16.0, learning_starts=8).learn(30, callback=step)
    assert times == [0.0] * agent._n_updates
    assert len(times) > 10


def facts(**changes: Any) -> Any:
    usual = {"train_ratio": 512.0, "batch_size": 16, "sequence_length": 64, "pretrain_steps": 0, "size": "small"}
    usual |= {
        "device": SimpleNamespace(type="cpu"),
        "num_timesteps": 1_000,
        "_total_timesteps": 2_000,
        "_pretrained": False,
    }
    return SimpleNamespace(**{**usual, **changes})


def foreseen(agent: Any, times: list[float]) -> str | None:
    forecast = Forecast(agent)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seconds in times:
            forecast.on_update(seconds)
    assert len(caught) <= 1
    return str(caught[0].message) if caught else None


def test_what_is_foreseen() -> None:
    said = foreseen(facts(), [90.0, 60.0, *[20.0] * 50])
    assert said is not None and "500 gradient steps that are left will take about 3 hours" in said
    assert "20 s each" in said and "a smaller size ('small'; the smallest is 'nano')" in said
    said = foreseen(facts(size="nano"), [20.0] * 9)
    assert said is not None and "smaller size" not in said
    assert foreseen(facts(), [20.0] * 4) is None  # the first two are slower than the rest, and two are too few
    assert foreseen(facts(), [1.0, 1.0, 1.0, 900.0, 1.0, 1.0]) is None  # the machine slept
    assert foreseen(facts(), [14.0] * 9) is None  # under two hours
    said = foreseen(facts(pretrain_steps=605), [14.0] * 9)
    assert said is not None and "1,100 gradient steps" in said
    assert foreseen(facts(pretrain_steps=605, _pretrained=True), [14.0] * 9) is None  # they have been made
    assert foreseen(facts(device=SimpleNamespace(type="cuda")), [20.0] * 9) is None


@pytest.mark.parametrize("bar", [True, False])
@pytest.mark.parametrize("when", ["_init_callback", "_on_training_start"])
def test_a_callback_that_cannot_start_leaves_the_agent_as_it_was(when: str, bar: bool) -> None:
    class Broken(BaseCallback):
        def _init_callback(self) -> None:
            if when == "_init_callback":
                raise RuntimeError("no disk")

        def _on_training_start(self) -> None:
            raise RuntimeError("no disk")

        def _on_step(self) -> bool:
            return True

    agent = tiny()
    with pytest.raises(RuntimeError, match="no disk"):
        agent.learn(20, callback=Broken(), progress_bar=bar)
    assert agent._progress is None
    agent.learn(30)
    agent.train(2)


def test_what_the_bar_says_before_the_first_gradient_step() -> None:
    bar: Any = ProgressBar()
    model = SimpleNamespace(_too_early=lambda: True, compile="auto", _n_updates=0)
    bar.model, says = model, lambda: bar.describe(1.0)
    bar.close()  # it has no line yet
    assert says() == "random actions first"
    bar._updates_at_start = model._n_updates = 3
    assert says() == "not learning yet"  # it plays by itself
    model._too_early = lambda: False
    assert says() == "3 gradient steps"
    model.compile = True
    assert says().startswith("compiling, which takes a minute")
    model._n_updates = 5
    assert says() == "5 gradient steps, 2.0/s"


def test_a_bar_that_tqdm_is_told_to_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    bar = started(10)
    bar._shown = 0.0
    bar._on_step()
    bar.close()


def test_a_line_above_the_bar_leaves_what_is_true_now(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a file the bar is drawn seldom by itself, and again with every line that somebody writes."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    monkeypatch.delenv("TQDM_MININTERVAL", raising=False)
    bar = started(2_000)
    bar._shown = 0.0
    bar._on_step()
    bar.model._n_updates = 30
    bar.on_update(0.1)
    assert "random actions" in capsys.readouterr().err
    bar._bar.write("a report")
    said = capsys.readouterr()
    assert said.out == "a report\n"
    assert "30 gradient steps" in said.err and "random actions" not in said.err
    bar.close()
