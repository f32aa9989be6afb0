"""`hd-agents check`: what it says of sound and unsound environments, and how it comes to the time of a run."""

import copy
import itertools
import re
import time
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from hd_agents import HarmonyDreamAgent
from hd_agents.cli import check, main
from hd_agents.cli.soundness import check_once
from hd_agents.cli.tasks import make_plan
from hd_agents.graphs import WARMUP

FAULTS = ("", "goes on", "leaves", "wanders", "fails", "refuses", "breaks", "tires")
STARTS = itertools.cycle(range(50))
TINY = ["--set=batch_size=2", "--set=sequence_length=8", "--set=train_ratio=4", "--set=learning_starts=40"]


class Drift(gym.Env[np.ndarray, int]):
    """Counts up. Faults by name: it leaves its space, starts anywhere whatever the seed, or fails."""

    def __init__(self, fault: str = "") -> None:
        self.observation_space = spaces.Box(0.0, 100.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.fault = fault
        self.steps = 0
        if fault == "breaks":
            raise KeyError("whatever")

    def _seen(self) -> np.ndarray:
        return np.array([-1.0 if self.fault == "leaves" else float(self.start + self.count)], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if self.fault == "fails":
            raise RuntimeError("no robot on the line")
        if self.fault == "refuses":
            raise ValueError("whatever")
        self.count = 0
        self.start = next(STARTS) if self.fault == "wanders" else 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        self.steps += 1
        if self.fault == "tires" and self.steps > 40:
            raise RuntimeError("the battery is empty")
        return self._seen(), float(self.count), False, self.count == 7 and self.fault != "goes on", {}


class Plus(gym.ObservationWrapper[np.ndarray, int, np.ndarray]):
    """Adds a number to what is observed."""

    def __init__(self, env: gym.Env[np.ndarray, int], number: float, space: spaces.Box | None = None) -> None:
        super().__init__(env)
        self.number = number
        if space is not None:
            self.observation_space = space

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation + np.float32(self.number)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(check, "STEPS", 60)
    monkeypatch.setattr(check, "UPDATES", 2)
    for fault in FAULTS:
        gym.register(f"Drift{fault.title().replace(' ', '')}-v0", lambda fault=fault: Drift(fault))
    gym.register("DriftLimited-v0", lambda: Drift("goes on"), max_episode_steps=1000)
    yield
    for task in [task for task in gym.registry if task.startswith("Drift")]:
        del gym.registry[task]


def test_sound_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "Drift-v0", "--steps", "1000", *TINY, "--set=pretrain_steps=3"]) == 0
    said = capsys.readouterr().out
    assert "Drift-v0: passed the checks of Gymnasium" in said
    assert "steps 7 to 7, returns 28 to 28" in said
    assert "rewards from 1 to 7" in said
    assert "Gradient step: " in said
    # 960 steps after the random ones, 4 replayed steps each, of 2 x 8 in a gradient step; and three at once.
    assert "1,000 env steps and 243 gradient steps: about" in said


@pytest.mark.filterwarnings("ignore:.*is not within the observation space:UserWarning")
def test_observation_outside_its_space(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "DriftLeaves-v0", *TINY]) == check.FAILED
    said = capsys.readouterr().out
    assert "DriftLeaves-v0: NOT SOUND: AssertionError: " in said
    assert "The whole run" in said  # which may learn: Gymnasium only warns in play
    assert "\x1b" not in said


class Sensors(gym.Env[dict, int]):
    """Delivers ``first`` at its reset and ``then`` at every step."""

    observation_space = spaces.Dict(joints=spaces.Box(-1.0, 1.0, (3,), np.float32), mode=spaces.Discrete(2))
    action_space = spaces.Discrete(2)

    def __init__(self, first: dict, then: dict) -> None:
        self.first, self.then = first, then

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        return copy.deepcopy(self.first), {}

    def step(self, action: int) -> tuple[dict, float, bool, bool, dict]:
        return copy.deepcopy(self.then), 0.0, False, False, {}


RIGHT = {"joints": np.zeros(3, np.float32), "mode": 1}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"joints": np.zeros(3)}, "'joints' is float64, its space float32"),
        ({"joints": np.float32([0.0, -3.0, 2.0])}, "'joints' is -3.0 at (1,), its space goes from -1.0 to 1.0 there"),
        ({"joints": np.zeros((3, 1), np.float32)}, "'joints' has the shape (3, 1), its space (3,)"),
        ({"joints": np.float32([0.0, np.nan, 0.0])}, "'joints' is nan at (1,), its space goes from -1.0 to 1.0 there"),
        ({"joints": [0.0, -3.0, 2.0]}, "'joints' is -3.0 at (1,), its space goes from -1.0 to 1.0 there"),
        ({"joints": [0.0, "a", 2.0]}, "'joints' is [0.0, 'a', 2.0], its space Box(-1.0, 1.0, (3,), float32)"),
        ({"mode": 2}, "'mode' is 2, its space Discrete(2)"),
        ({"more": 1}, "the keys are ['joints', 'mode', 'more'], those of the space ['joints', 'mode']"),
    ],
)
def test_what_is_outside_its_space_is_named(wrong: dict, reason: str) -> None:
    fault, remarks = check_once(Sensors({**RIGHT, **wrong}, RIGHT))
    assert fault is not None and "not within the observation space" in fault
    assert f"the observation of reset(): {reason}" in remarks
    if "more" not in wrong and "shape" not in reason:  # for which Gymnasium raises something of its own
        _, remarks = check_once(Sensors(RIGHT, {**RIGHT, **wrong}))
        assert f"the observation of step(): {reason}" in remarks


class Closing(Sensors):
    """Is interrupted in its reset, or fails when it is closed."""

    closed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        if not self.first:
            raise KeyboardInterrupt
        return super().reset(seed=seed)

    def close(self) -> None:
        self.closed += 1
        raise OSError("the brake is stuck")


def test_environments_are_closed_whatever_comes_and_what_that_says_is_a_remark() -> None:
    interrupted = Closing({}, RIGHT)
    with pytest.raises(KeyboardInterrupt):
        check_once(interrupted)
    assert interrupted.closed == 1
    assert any("the brake is stuck" in remark for remark in check_once(Closing(RIGHT, RIGHT))[1])


def test_environment_without_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "DriftWanders-v0", *TINY]) == check.FAILED
    said = capsys.readouterr().out
    assert "DriftWanders-v0: NOT SOUND: AssertionError: " in said
    assert "seed" in said
    assert "The whole run" in said  # which may learn, though not twice in the same way


def test_environment_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "DriftFails-v0", *TINY]) == check.FAILED
    said = capsys.readouterr().out
    assert "NOT SOUND: RuntimeError: no robot on the line" in said
    assert "NOT SOUND: it cannot be played: RuntimeError: no robot on the line" in said


def test_environment_that_fails_later(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["check", "DriftTires-v0", *TINY]) == 0
    assert "  warning: it failed once in " in capsys.readouterr().out
    monkeypatch.setattr(check, "RESTARTS", 0)
    assert main(["check", "DriftTires-v0", *TINY]) == check.FAILED
    said = capsys.readouterr().out
    assert "DriftTires-v0: passed the checks of Gymnasium" in said
    assert "NOT SOUND: it cannot be played: RuntimeError: " in said
    assert "failed after 0 restarts: RuntimeError('the battery is empty')" in said


def test_remarks_and_other_work_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (5.0, 0.0, 0.0))
    gym.register("Open-v0", lambda: Plus(Drift(), 0.0, spaces.Box(-np.inf, np.inf, (1,), np.float32)))
    try:
        assert main(["check", "Open-v0", *TINY]) == 0
    finally:
        del gym.registry["Open-v0"]
    said = capsys.readouterr().out
    assert said.count("\n  remark: A Box observation space minimum value is -infinity.") == 1
    assert "The machine had other work to do (a load of 5.0)" in said


@pytest.mark.parametrize(("task", "expected"), [("DriftGoesOn-v0", 1), ("DriftLimited-v0", 0)])
def test_episodes_that_never_end(task: str, expected: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", task, *TINY]) == 0
    said = capsys.readouterr().out
    assert "no episode ended within" in said
    assert said.count("evaluations do not end. Register it with max_episode_steps=...") == expected


def test_episodes_of_a_suite_end_without_a_time_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dm_control")
    monkeypatch.setattr(check, "STEPS", 100)
    assert main(["check", "dmc_proprio/cartpole-swingup", "--preset", "nano", *TINY]) == 0
    said = capsys.readouterr().out
    assert "no episode ended within" in said
    assert "max_episode_steps" not in said


@pytest.mark.parametrize(("first", "every"), [(2, 31), (40, 40), (40, 4)])
def test_failures_of_an_environment_that_is_made_anew(
    first: int, every: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second step is one of Gymnasium's checks."""
    step, steps, failed = Drift.step, itertools.count(1), list[int]()

    def fails(env: Drift, action: int) -> Any:
        number = next(steps)
        if number >= first and (number - first) % every == 0:
            failed.append(number)
            raise RuntimeError("no robot on the line")
        return step(env, action)

    monkeypatch.setattr(Drift, "step", fails)
    assert main(["check", "Drift-v0", "--steps", "200", *TINY]) == 0
    told = capsys.readouterr()
    assert "passed the checks of Gymnasium" in told.out
    in_checks = first == 2
    assert ("checks, and passed them made anew (RuntimeError: no robot on the line)" in told.out) == in_checks
    found = re.search(r"warning: it failed (once|\d+ times) in (\d+) steps", told.out)
    assert found and int(found[1].replace("once", "1").split()[0]) == len(failed) - in_checks
    assert int(found[2]) > 60
    assert ("too few for 200 steps at this rate" in told.out) == (every == 4)
    assert told.err.count("Traceback") <= 1
    assert "The whole run" in told.out


def test_an_environment_that_often_fails_to_reset_is_played_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reset, resets = Drift.reset, itertools.count()

    def fails(env: Drift, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if next(resets) % 4 == 1:
            raise RuntimeError("not homed")
        return reset(env, seed=seed, options=options)

    monkeypatch.setattr(Drift, "reset", fails)
    assert main(["check", "Drift-v0", "--steps", "200", *TINY]) == check.FAILED  # Gymnasium's checks reset more often
    said = capsys.readouterr().out
    assert "NOT SOUND: RuntimeError: not homed" in said
    assert "cannot be played" not in said
    assert "`train` makes it anew up to 10 times, too few" in said
    assert "The whole run" in said


@pytest.mark.parametrize("fault", ["refuses", "breaks"])
def test_any_failure_is_the_environments(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"Drift{fault.title()}-v0", *TINY]) == check.FAILED
    said = capsys.readouterr().out
    assert "NOT SOUND" in said
    assert "whatever" in said


def test_wrappers_of_its_own_are_checked_too(capsys: pytest.CaptureFixture[str]) -> None:
    gym.register("Wrapped-v0", lambda: Plus(Drift(), -5.0))
    gym.register("Repaired-v0", lambda: Plus(Drift("leaves"), 2.0))
    try:
        assert main(["check", "Repaired-v0", *TINY]) == 0
        assert "remark" not in capsys.readouterr().out
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert main(["check", "Wrapped-v0", *TINY]) == check.FAILED
    finally:
        del gym.registry["Wrapped-v0"], gym.registry["Repaired-v0"]


def test_settings_that_are_not_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "Drift-v0", "--set=gamma=2"]) == 2
    assert "gamma=2" in capsys.readouterr().err


def test_agent_and_environments_are_measured() -> None:
    more = ("--set=n_envs=3", "--set=pretrain_steps=30")
    plan = make_plan("Drift-v0", settings=[text.removeprefix("--set=") for text in (*TINY, *more)])
    agent = HarmonyDreamAgent(env=make_vec_env("Drift-v0", plan.n_envs), seed=0, **plan.arguments)
    times = check.measure(agent)
    assert 0 < times.random < 60
    assert 0 < times.acting < 60
    assert agent.num_timesteps == 3 + 60 + 3 + 15  # a step of each environment begins the time
    assert 0 < times.update < 60
    assert agent._n_updates == 3  # the first, and two that are timed
    assert (agent.learning_starts, agent.train_ratio) == (40, 4)


def test_updates_and_actions_before_a_graph_do_not_count() -> None:
    """On CUDA the first ones run without a graph, and one captures it."""
    plan = make_plan("Drift-v0", settings=[text.removeprefix("--set=") for text in TINY])
    agent = HarmonyDreamAgent(env="Drift-v0", seed=0, **plan.arguments)
    calls: list[float] = []
    acted: list[float] = []

    def act(*given: Any) -> Any:
        acted.append(time.perf_counter())
        time.sleep(0.4 if len(acted) <= WARMUP + 1 else 0.0)
        return agent.policy.step(*given, deterministic=False)

    def update(batch: Any) -> dict[str, torch.Tensor]:
        calls.append(time.perf_counter())
        time.sleep(0.2 if len(calls) <= WARMUP + 2 else 0.0)
        return {}

    agent.learner.train_step, agent.learner.graphed = update, True  # type: ignore[assignment]
    agent._collector._step = act
    times = check.measure(agent)
    assert len(acted) > WARMUP + 2
    assert times.acting < 0.04
    assert len(calls) == WARMUP + 2 + 2
    assert times.update < 0.1
    assert times.first_update >= 0.2


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1040, (250, 500.0, 40 * 0.5 + 1000 * 1.0)), (40, (0, 0.0, 20.0)), (10, (0, 0.0, 5.0))],
)
def test_time_of_a_run(steps: int, expected: tuple[int, float, float]) -> None:
    plan = make_plan("Drift-v0", steps, settings=[text.removeprefix("--set=") for text in TINY])
    agent = HarmonyDreamAgent(env="Drift-v0", **plan.arguments)
    times = check.Times(random=0.5, acting=1.0, update=2.0, first_update=9.0)
    assert times.of(plan, agent) == expected
    _, learning, others = expected
    assert f", {learning / (learning + others):.0%} of it gradient steps" in check._tell(plan, agent, times)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00031, "0.31 ms"),
        (0.145, "145 ms"),
        (0.9996, "1 s"),
        (59.97, "1 min"),
        (1.52, "1.52 s"),
        (59, "59 s"),
        (61, "1 min"),
        (3600, "1 h"),
        (5000, "1 h 23 min"),
        (44.2 * 3600, "1 day 20 h"),
        (49 * 3600, "2 days 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert check._spell(seconds) == text
