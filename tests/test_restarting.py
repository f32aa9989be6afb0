"""Environments that raise, or whose process dies, are made anew; the episode is cut off and training goes on."""

import errno
import logging
import multiprocessing
import os
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor

from hd_agents.envs import processes, restarting
from hd_agents.envs.processes import RestartingSubprocVecEnv
from hd_agents.envs.restarting import RestartingEnv, new_seed
from hd_agents.envs.state import Restorable, get_state, get_vec_state, set_state, set_vec_state
from hd_agents.run_state import run_state
from hd_agents.saving.jsonable import from_json, to_json
from tests.agents import tiny
from tests.test_collection import rows


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr(restarting, "time", SimpleNamespace(sleep=waited.append))
    return waited


class Fragile(gym.Env[Any, Any]):
    """Observes the seed it began with and its steps; fails at step ``fails_at``, once for each file in ``fuses``.

    :param how: "raise" what a lost connection does, "mistake" to raise what one in its code does, "exit" to end the
        process, "half an answer" to end it while it writes one, or "hang".
    """

    observation_space = spaces.Box(-1.0, 2.0**33, (2,), np.float64)
    action_space = spaces.Discrete(3)

    def __init__(self, fuses: Path | None = None, fails_at: int = 3, how: str = "raise", length: int = 5) -> None:
        self.fuses, self.fails_at, self.how, self.length = fuses, fails_at, how, length
        self.began, self.time = -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.began, self.time = seed if seed is not None else int(self.np_random.integers(1000)), 0
        self._fail()
        return np.array([self.began, 0.0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self._fail()
        return np.array([self.began, self.time], float), 1.0, self.time == self.length, False, {}

    def _fail(self) -> None:
        fuse = next(iter(sorted(self.fuses.iterdir())), None) if self.fuses else None
        if fuse is not None and self.time == self.fails_at:
            fuse.unlink()
            if self.how == "mistake":
                raise KeyError("position")
            if self.how == "exit":
                os._exit(7)
            if self.how == "half an answer":
                frame = sys._getframe()
                while "remote" not in frame.f_locals:
                    frame = frame.f_back
                os.write(frame.f_locals["remote"].fileno(), struct.pack("!i", 1000) + b"the beginning")
                os._exit(7)
            if self.how == "hang":
                time.sleep(600)
            raise OSError("simulator lost")


def fuses(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / str(number)).touch()
    return folder


def play(env: VecEnv, steps: int) -> list[tuple[list[list[float]], list[bool]]]:
    seen = [(env.reset().tolist(), [])]
    for _ in range(steps):
        observations, _, dones, _ = env.step(np.zeros(env.num_envs, int))
        seen.append((observations.tolist(), dones.tolist()))
    return seen


def test_an_exception_cuts_the_episode_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = RestartingEnv(lambda: Fragile(fuses(tmp_path / "f", 0), fails_at=3))
    fuses(tmp_path / "f", 1)
    env.reset(seed=11)
    env.step(0)
    before, *_ = env.step(0)
    with caplog.at_level(logging.WARNING):
        observation, reward, terminated, truncated, info = env.step(0)
    assert np.array_equal(observation, before)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "simulator lost" in info["restarted"]
    assert "restart 1 of 10" in caplog.text and "simulator lost" in caplog.text
    observation, _ = env.reset()
    assert observation[0] > 1000  # a seed of its own, which the agent's seed determines
    lit = fuses(tmp_path / "g", 1)
    again = RestartingEnv(lambda: Fragile(lit, fails_at=0))
    assert again.reset(seed=11)[0][0] == observation[0]


def test_every_restart_has_a_seed_of_its_own() -> None:
    assert len({new_seed(first, restarts) for first in (0, 1) for restarts in range(1, 11)}) == 20
    assert new_seed(7, 3) == new_seed(7, 3)
    assert new_seed(None, 3) is None


def test_the_number_of_restarts_is_bounded(tmp_path: Path) -> None:
    made: list[Fragile] = []

    def make() -> Fragile:
        made.append(Fragile(tmp_path / "f", fails_at=1))
        return made[-1]

    fuses(tmp_path / "f", 9)
    env = RestartingEnv(make, max_restarts=2)
    for _ in range(2):
        env.reset(seed=0)
        assert env.step(0)[3]
    env.reset()
    with pytest.raises(RuntimeError, match="after 2 restarts") as caught:
        env.step(0)
    assert isinstance(caught.value.__cause__, OSError)
    assert len(made) == 3


def test_a_run_that_goes_on_may_restart_as_often_again(tmp_path: Path) -> None:
    env = RestartingEnv(lambda: Fragile(fuses(tmp_path / "f", 3), fails_at=2), max_restarts=3)
    one, other = RestartingEnv(Fragile, max_restarts=3), RestartingSubprocVecEnv([Fragile], "fork", max_restarts=3)
    env.reset(seed=1)
    while env.restarts < 3:
        if env.step(0)[3]:
            env.reset()
    one.set_state(env.get_state())
    other.set_state({"restarts": [3], "seeds": [1], "last": [None]})
    other.close()
    assert one.restarts == 3 and other.restarts == [3]  # so that seeds go on
    assert [each._restarts.limit for each in (env, one)] == [3, 6]
    assert other._restarts[0].limit == 6


def test_what_cannot_be_made_anew_is_tried_again_later(tmp_path: Path, pauses: list[float]) -> None:
    """As the controller of a robot that is booting."""
    made: list[bool] = []

    def make() -> Fragile:
        made.append(True)
        if 1 < len(made) < 6:
            raise ConnectionRefusedError("booting")
        return Fragile(fuses(tmp_path / "f", 1) if len(made) == 1 else None)

    env, closed = RestartingEnv(make), list[bool]()
    env.env.close = lambda: closed.append(True)  # type: ignore[method-assign]
    env.reset(seed=0)
    while not env.step(0)[3]:
        pass
    assert (env.restarts, closed) == (5, [True])
    assert pauses == [0.0, 1.0, 2.0, 4.0, 8.0]
    env.reset()
    env.step(0)
    env._restart(OSError("again"))
    assert pauses[5:] == [0.0]  # a step has succeeded in between


@pytest.mark.parametrize("fails_at", [0, 1])
def test_what_has_never_worked_is_not_tried_again(fails_at: int, tmp_path: Path, pauses: list[float]) -> None:
    """Such as a mistake in the environment's code."""

    def begin(env: Any, action: Any) -> None:
        env.reset()
        env.step(action)

    env = RestartingEnv(lambda: Fragile(fuses(tmp_path / "f", 1), fails_at=fails_at, how="mistake"))
    with pytest.raises(RuntimeError, match=r"failed before its first step was done: KeyError\('position'\)$"):
        begin(env, 0)
    folder = tmp_path / "g"
    processes = RestartingSubprocVecEnv([lambda: Fragile(fuses(folder, 1), fails_at=fails_at, how="mistake")], "fork")
    try:
        with pytest.raises(RuntimeError, match=r"environment 0 died \(exit code 1\), before its first step was done"):
            begin(processes, np.array([0]))
    finally:
        processes.close()
    assert pauses == []


class OldGym(Fragile):
    """Returns what environments of OpenAI Gym do, from ``reset`` or from ``step``."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def reset(self, **arguments: Any) -> Any:
        returned = super().reset(**arguments)
        return np.zeros(3) if self.method == "reset" else returned

    def step(self, action: Any) -> Any:
        return super().step(action)[1:] if self.method == "step" else super().step(action)


@pytest.mark.parametrize("wrapper", [lambda env: env, lambda env: RestartingEnv(lambda: env)])
@pytest.mark.parametrize("method", ["reset", "step"])
def test_an_environment_of_old_gym_is_told_what_to_return(method: str, wrapper: Any) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"reset\(\) returns \(observation, info\), and its step\(\)"):
        tiny(env=wrapper(OldGym(method))).learn(10)


def test_other_mistakes_in_unpacking_stay_what_they_are() -> None:
    class Wrong(Fragile):
        def step(self, action: Any) -> Any:
            one, other = 1, 2, 3
            return one, other

    class Short(DummyVecEnv):
        def step_wait(self) -> Any:
            return super().step_wait()[:3]

    for env in (Wrong(), VecMonitor(Short([Fragile]))):
        with pytest.raises(ValueError, match=r"^(too many|not enough) values to unpack"):
            tiny(env=env).learn(10)


def test_failures_in_a_row_are_bounded_whatever_is_allowed() -> None:
    made: list[bool] = []

    def make() -> Fragile:
        made.append(True)
        if len(made) > 1:
            raise ConnectionRefusedError("gone")
        return Fragile()

    env = RestartingEnv(make, max_restarts=1_000)
    with pytest.raises(RuntimeError, match="failed after 10 restarts: ConnectionRefusedError"):
        env._restart(OSError("simulator lost"))
    assert len(made) == 11


def test_training_goes_on_after_exceptions(tmp_path: Path) -> None:
    folder = fuses(tmp_path / "f", 2)
    env = make_vec_env(lambda: RestartingEnv(lambda: Fragile(folder)), 1, seed=0)
    agent = tiny(env=env, seed=0).learn(40)
    assert agent.num_timesteps == 40
    assert agent._n_updates > 0
    found = rows(agent)
    ends = [n for n in range(len(found) - 1) if found[n + 1][3]]
    assert [found[n][0][1] for n in ends[:4]] == [2.0, 2.0, 5.0, 5.0]
    assert [found[n][4] for n in ends[:4]] == [False, False, True, True]  # cut off is not terminated
    assert [found[n][2] for n in ends[:4]] == [0.0, 0.0, 1.0, 1.0]
    assert [info["l"] for info in agent.ep_info_buffer][:3] == [3, 3, 5]


@pytest.mark.parametrize("kind", [SubprocVecEnv, RestartingSubprocVecEnv])
def test_each_process_has_its_own_seed_as_in_one_process(kind: type[VecEnv]) -> None:
    makers = [Fragile] * 3
    processes, here = kind(makers, "fork"), DummyVecEnv(makers)
    for env in (processes, here):
        env.seed(40)
    expected = play(here, 12)
    assert [observation[0] for observation in expected[0][0]] == [40, 41, 42]
    assert play(processes, 12) == expected
    assert len({tuple(observation) for observation in expected[6][0]}) == 3  # after the seeds were used up
    processes.close()


@pytest.mark.parametrize(
    ("how", "failure"), [("exit", "exit code 7"), ("raise", "exit code 1"), ("hang", "no answer for 3 s")]
)
def test_a_process_that_fails_is_replaced(
    how: str, failure: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fuses(tmp_path / "f", 1)
    makers = [lambda: Fragile(folder, how=how), lambda: Fragile(length=4)]
    env = RestartingSubprocVecEnv(makers, "fork", timeout=3.0 if how == "hang" else None)
    env.seed(5)
    env.reset()
    for _ in range(2):
        before, *_ = env.step(np.zeros(2, int))
    with caplog.at_level(logging.WARNING):
        observations, rewards, dones, infos = env.step(np.zeros(2, int))
    assert dones.tolist() == [True, False]
    assert rewards.tolist() == [0.0, 1.0]
    assert infos[0]["TimeLimit.truncated"] and infos[0]["restarted"] == failure
    assert np.array_equal(infos[0]["terminal_observation"], before[0])
    assert observations[0][0] > 1000 and observations[0][1] == 0
    assert observations[1].tolist() == [6.0, 3.0]
    assert f"environment 0 died ({failure}); restart 1 of 10" in caplog.text
    assert env.step(np.zeros(2, int))[2].tolist() == [False, True]
    env.close()
    assert not any(process.is_alive() for process in env.processes)


@pytest.mark.parametrize("how", ["exit", "hang"])
def test_what_a_process_has_started_ends_with_it(how: str, tmp_path: Path) -> None:
    class Started(Fragile):
        """Has its simulator in a process of its own, which lives as long as the other end of a pipe is open there."""

        def __init__(self) -> None:
            super().__init__(fuses(tmp_path / "f", 1), 1, how)
            subprocess.Popen(["sleep", "60"], pass_fds=[alive])

    seen, alive = os.pipe()
    env = RestartingSubprocVecEnv([Started], "fork", max_restarts=0, timeout=2.0)
    os.close(alive)
    env.reset()
    with pytest.raises(RuntimeError, match="before its first step was done"):
        env.step(np.zeros(1, int))
    assert select.select([seen], [], [], 1.0)[0]  # the end of the pipe, as nobody holds the other one
    os.close(seen)
    env.close()


def test_a_group_of_dead_processes_may_not_be_signalled_on_macos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(group: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", denied)
    env = RestartingSubprocVecEnv([lambda: Fragile(fuses(tmp_path / "f", 1), 1, "exit")], "fork")
    env.reset()
    assert env.step(np.zeros(1, int))[2].tolist() == [True]
    env.close()


def test_a_process_that_dies_in_the_middle_of_its_answer_is_replaced(tmp_path: Path) -> None:
    folder = fuses(tmp_path / "f", 1)
    env = RestartingSubprocVecEnv([lambda: Fragile(folder, 1, "half an answer")], "fork")
    env.reset()
    _, _, dones, infos = env.step(np.zeros(1, int))
    assert (dones.tolist(), infos[0]["restarted"]) == ([True], "exit code 7")
    env.close()


def test_deaths_in_a_row_are_bounded_and_close_still_works(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Fragile:
        return Fragile(fuses(tmp_path / str(os.getpid()), 1), 0, "exit")

    env = RestartingSubprocVecEnv([make] * 2, "fork", max_restarts=2)
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match=r"exit code 7.*after 2 restarts"):
        env.reset()
    assert "restart 2 of 2" in caplog.text
    env.close()
    assert not any(process.is_alive() for process in env.processes)


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a batch system's SIGTERM ends the forkserver just now: it is made anew once it has gone."""
    env = RestartingSubprocVecEnv([lambda: Fragile(fuses(tmp_path / "f", 1), 1, "exit")], "fork")
    env.reset()
    start, errors = env._context.Process.start, iter([EOFError("unexpected EOF"), ConnectionRefusedError()])

    def failing(process: Any) -> None:
        for error in errors:
            raise error
        start(process)

    monkeypatch.setattr(env._context.Process, "start", failing)
    monkeypatch.setattr(restarting, "PAUSES", (0.0,))
    assert env.step(np.zeros(1, int))[2].tolist() == [True]
    assert env.restarts == [3]
    env.close()


def test_close_ends_a_process_that_hangs(tmp_path: Path) -> None:
    env = RestartingSubprocVecEnv([lambda: Fragile(fuses(tmp_path / "f", 1), 1, "hang")], "fork", timeout=2.0)
    env.reset()
    env.step_async(np.zeros(1, int))
    env.close()
    assert not any(process.is_alive() for process in env.processes)


def test_processes_end_where_one_of_them_makes_no_environment() -> None:
    def broken() -> gym.Env[Any, Any]:
        raise RuntimeError("no simulator")

    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="A process ended before its environment was made") as error:
        RestartingSubprocVecEnv([broken, Fragile], "fork")
    assert error.value.__cause__ is not None  # it holds the frames, and these the pipes
    assert not set(multiprocessing.active_children()) - before


def test_timeout_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="timeout=0 is not allowed"):
        RestartingSubprocVecEnv([Fragile], timeout=0)


def test_processes_do_not_import_everything_anew() -> None:
    from multiprocessing import forkserver

    RestartingSubprocVecEnv([Fragile], "forkserver").close()
    assert "hd_agents.envs.processes" in forkserver._forkserver._preload_modules


def test_ctrl_c_in_the_terminal_does_not_end_the_processes() -> None:
    env = RestartingSubprocVecEnv([Fragile])
    try:
        env.reset()
        os.kill(env.processes[0].pid, signal.SIGINT)
        observation, *_ = env.step(np.zeros(1, int))
        assert (observation[0][1], env.restarts) == (1.0, [0])
    finally:
        env.close()


def test_close_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "CLOSING_SECONDS", 0.5)
    env = RestartingSubprocVecEnv([lambda: Fragile(fuses(tmp_path / "f", 1), 1, "hang")], "fork")
    env.reset()
    env.step_async(np.zeros(1, int))
    env.close()
    assert not any(process.is_alive() for process in env.processes)


class Kill(BaseCallback):
    """Kills the first environment's process at one step, as an operating system out of memory does."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.restarted: list[tuple[int, str]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "restarted" in info:
                self.restarted.append((self.num_timesteps, info["restarted"]))
        if self.num_timesteps == self.at:
            os.kill(self.training_env.unwrapped.processes[0].pid, signal.SIGKILL)
        return True


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_learning_survives_a_killed_worker(start_method: str) -> None:
    env = VecMonitor(RestartingSubprocVecEnv([Fragile, Fragile], start_method))
    agent, kill = tiny(env=env, seed=0), Kill(at=34)
    agent.learn(80, callback=kill)
    env.close()
    assert agent.num_timesteps == 80
    assert agent._n_updates > 0
    assert kill.restarted == [(36, "exit code -9")]
    found = rows(agent)
    ends = [n for n in range(len(found) - 1) if found[n + 1][3]]
    assert [found[n][0][1] for n in ends[:5]] == [5.0, 5.0, 5.0, 2.0, 5.0]
    assert [found[n][4] for n in ends[:5]] == [True, True, True, False, True]
    lengths = [info["l"] for info in agent.ep_info_buffer]
    assert lengths.count(5) == len(lengths) - 1
    assert lengths.count(3) == 1


class Mortal(Fragile):
    """Its process ends at action 2."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 2:
            os._exit(7)
        return super().step(action)


def test_restarts_of_processes_are_stored() -> None:
    """Else a resumed run would begin with the seeds of its first restarts once more."""
    one, other = (RestartingSubprocVecEnv([lambda: Restorable(Mortal())] * 2) for _ in range(2))
    dies = np.array([2, 0])
    try:
        one.seed(3)
        one.reset()
        one.step(dies)
        one.step(np.zeros(2, int))
        assert set_vec_state(other, from_json(to_json(get_vec_state(one))))
        (seen, _, _, infos), (expected, _, _, others) = one.step(dies), other.step(dies)
        assert seen.tolist() == expected.tolist()
        assert infos[0]["terminal_observation"].tolist() == others[0]["terminal_observation"].tolist()
        assert one.get_state()["restarts"] == [2, 0]
    finally:
        one.close()
        other.close()


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_a_process_that_dies_before_a_checkpoint_leaves_no_answers_of_others_behind(start_method: str) -> None:
    """As where gradient steps take the memory that a simulator needs."""
    agent = tiny(env=RestartingSubprocVecEnv([Fragile] * 2, start_method)).learn(4)
    process = agent.env.processes[1]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(EOFError, match="The process of environment 1 has died: the next step or reset replaces it"):
        agent.env.get_attr("length")
    assert run_state(agent)[0]["env"] is None
    agent.learn(4, reset_num_timesteps=False)
    assert agent.env.restarts == [0, 1]
    agent.env.close()


def test_a_process_that_dies_at_a_checkpoint_leaves_no_answers_of_others_behind() -> None:
    class Silent(Fragile):
        def get_state(self) -> Any:
            raise OSError("simulator lost")

        def set_state(self, state: Any) -> None: ...

    makers = [lambda: Restorable(Silent()), lambda: Restorable(Fragile())]
    agent = tiny(env=RestartingSubprocVecEnv(makers)).learn(4)
    assert run_state(agent)[0]["env"] is None
    agent.learn(4, reset_num_timesteps=False)
    assert agent.env.restarts == [1, 0]
    agent.env.close()


@pytest.mark.parametrize("kind", [SubprocVecEnv, RestartingSubprocVecEnv])
def test_a_run_is_stored_whose_processes_are_closed(kind: type[VecEnv]) -> None:
    """As where gradient steps go on without them."""
    agent = tiny(env=kind([Fragile], "fork")).learn(4)
    agent.env.close()
    assert run_state(agent)[0]["env"] is None


def test_a_step_that_was_interrupted_leaves_no_answer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-C in a notebook: the answers that nobody took are not taken for those of the reset."""
    env = RestartingSubprocVecEnv([lambda: gym.make("CartPole-v1")] * 2)
    try:
        first = env.reset()
        receive = env._receive

        def interrupted(number: int) -> Any:
            if number == 1:
                raise KeyboardInterrupt
            return receive(number)

        with monkeypatch.context() as patch:
            patch.setattr(env, "_receive", interrupted)
            env.step_async(np.zeros(2, int))
            with pytest.raises(KeyboardInterrupt):
                env.step_wait()
        assert env.reset().shape == first.shape
        _, rewards, dones, _ = env.step(np.zeros(2, int))
        assert rewards.tolist() == [1.0, 1.0]
        assert not dones.any()
    finally:
        env.close()


def test_wrappers_see_through() -> None:
    env = Monitor(RestartingEnv(lambda: gym.make("CartPole-v1", render_mode="rgb_array")))
    assert env.spec.id == "CartPole-v1"
    assert env.render_mode == "rgb_array"
    env.close()


def test_state_of_an_environment_goes_through() -> None:
    """Else a run of `hd-agents train` would close its episodes when it resumes."""
    one, other = (RestartingEnv(lambda: gym.make("hd_agents/Catch-v0")) for _ in range(2))
    one.reset(seed=3)
    for _ in range(5):
        one.step(0)
    state = get_state(one)
    assert state is not None
    other.reset(seed=4)
    set_state(other, state)
    for _ in range(40):
        left, right = one.step(2), other.step(2)
        assert np.array_equal(left[0], right[0])
        assert left[1:4] == right[1:4]
