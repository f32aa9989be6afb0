"""Stable-Baselines3's contract: the log table, TensorBoard, speed and the windows of the means."""

import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from gymnasium import spaces
from stable_baselines3.common.logger import KVWriter, Logger, configure
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.agents import Clock, Scripted, tiny


class Memory(KVWriter):
    """Keeps every table that is written."""

    def __init__(self) -> None:
        self.tables: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.tables.append((step, dict(key_values)))

    def close(self) -> None:
        pass


def logged(agent: Any, steps: int, **options: Any) -> list[tuple[int, dict[str, Any]]]:
    memory = Memory()
    agent.set_logger(Logger(None, [memory]))
    agent.learn(steps, **options)
    return memory.tables


def test_the_standard_keys() -> None:
    env = Scripted(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), length=5)
    agent = tiny(env=env, action_repeat=4)
    tables = logged(agent, 60, log_interval=2)
    assert [step for step, _ in tables] == [10, 20, 30, 40, 50, 60]
    first, last = tables[0][1], tables[-1][1]
    assert not any(key.startswith("train/") for key in first)
    assert last["rollout/ep_rew_mean"] == last["rollout/ep_len_mean"] == 5
    assert last["rollout/success_rate"] == 1.0
    assert last["time/episodes"] == 12
    assert last["time/total_timesteps"] == last["time/agent_steps"] == 60
    assert last["time/frames"] == 240
    assert last["time/fps"] > 0
    assert last["train/n_updates"] == 2
    assert last["train/updates_per_second"] > 0
    assert last["train/learning_rate"] == agent.learning_rate
    table = next(values for _, values in tables if "train/loss/reward" in values)
    for name in ("observation", "reward", "dynamics"):
        assert table[f"train/sigma/{name}"] * table[f"train/weight/{name}"] == pytest.approx(1.0, rel=1e-4)
        assert table[f"train/loss/{name}"] > 0
    shares = [value for key, value in table.items() if key.startswith("train/share/")]
    assert sum(shares) == pytest.approx(1.0, rel=1e-4)
    assert {"train/kl", "train/imagined_return", "train/entropy/actor", "train/grad_norm/model"} <= table.keys()


def test_gradient_steps_per_second_are_those_of_this_learn() -> None:
    agent = tiny(env=Scripted(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), length=5)).learn(60)
    agent.train_ratio = 0.0
    ((_, table),) = logged(agent, 5, log_interval=1, reset_num_timesteps=False)
    assert (table["train/n_updates"], table["train/updates_per_second"]) == (agent._n_updates, 0.0)


@pytest.mark.parametrize("log_interval", [1, 3, None])
def test_the_interval_counts_episodes(log_interval: int | None) -> None:
    tables = logged(tiny(env=DummyVecEnv([lambda: Clock(5), lambda: Clock(5)])), 40, log_interval=log_interval)
    assert len(tables) == (8 // log_interval if log_interval else 0)


def test_means_are_over_the_window() -> None:
    agent = tiny(env=Clock(2), stats_window_size=3)
    tables = logged(agent, 10, log_interval=1)
    assert agent.ep_info_buffer.maxlen == agent.ep_success_buffer.maxlen == 3
    totals = [2 * 100 * n + 3 for n in (1, 2, 3, 4, 5)]
    assert [t["rollout/ep_rew_mean"] for _, t in tables] == pytest.approx(
        [sum(totals[max(0, n - 2) : n + 1]) / min(n + 1, 3) for n in range(5)]
    )


@pytest.mark.parametrize("mine", [3, {"number": 3}])
def test_an_environment_may_mean_something_else_by_an_episode(mine: Any, tmp_path: Path) -> None:
    class Numbered(Clock):
        def step(self, action: int) -> Any:
            *result, info = super().step(action)
            return *result, {**info, "episode": mine}

    agent = tiny(env=Numbered(5))
    assert logged(agent, 30, log_interval=1)[-1][1]["rollout/ep_len_mean"] == 5
    assert len(agent.ep_info_buffer) == agent._ended.sum() == 6
    agent.save(tmp_path / "agent")


def test_an_environment_may_always_give_the_same_info() -> None:
    class Kept(Clock):
        kept: ClassVar[dict[str, Any]] = {}  # where its monitor leaves an episode's end

        def step(self, action: int) -> Any:
            return *super().step(action)[:-1], self.kept

    agent = tiny(env=Kept(5))
    logged(agent, 18, log_interval=1)
    assert [info["r"] for info in agent.ep_info_buffer] == [515.0, 1015.0, 1515.0]


def test_speed_is_that_of_the_present_learn() -> None:
    class Slow(Clock):
        def step(self, action: int) -> Any:
            time.sleep(0.004)
            return super().step(action)

    agent = tiny(env=Slow(5), learning_starts=10**6)
    assert 25 < logged(agent, 30, log_interval=1)[-1][1]["time/fps"] <= 250
    agent.num_timesteps = 20_000
    assert 25 < logged(agent, 30, log_interval=1, reset_num_timesteps=False)[-1][1]["time/fps"] <= 250


def test_no_time_at_all_is_no_division_by_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    agent = tiny()
    agent.set_logger(Logger(None, [Memory()]))
    agent.learn(30)
    agent.dump_logs()


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    tiny(env=Clock(5), verbose=1).learn(60, log_interval=1)
    out = capsys.readouterr().out
    assert "ep_rew_mean" in out
    assert "total_timesteps" in out
    assert "n_updates" in out


def test_long_names_of_observations_fit_into_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a_very_long_name_of_a_sensor_on_the_{side}" for side in ("left", "right")]
    space = spaces.Dict({name: spaces.Box(-1, 1, (3,)) for name in names})
    tiny("MultiInputPolicy", Scripted(space, spaces.Discrete(2)), verbose=1).learn(60, log_interval=1)
    out = capsys.readouterr().out
    assert all(f"loss/observation/{name}" in out for name in names)


@pytest.mark.parametrize("reset", [True, False])
def test_tensorboard(tmp_path: Path, reset: bool) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    agent = tiny(env=Clock(5), tensorboard_log=str(tmp_path))
    agent.learn(60, log_interval=1)
    agent.learn(30, log_interval=1, reset_num_timesteps=reset, tb_log_name="HarmonyDream")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["HarmonyDream_1", *["HarmonyDream_2"] * reset]
    events = EventAccumulator(str(tmp_path / "HarmonyDream_1"))
    events.Reload()
    assert {"rollout/ep_rew_mean", "time/fps", "time/frames", "train/sigma/reward"} <= set(events.Tags()["scalars"])
    assert 10 in {event.step for event in events.Scalars("rollout/ep_rew_mean")}


def test_csv(tmp_path: Path) -> None:
    agent = tiny(env=Clock(5))
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(60, log_interval=1)
    agent.logger.close()
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 1 + 12
