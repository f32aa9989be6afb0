"""Arguments of the environment: from what is typed to the run, its files, its evaluation and its package."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces

from hd_agents import zoo
from hd_agents.cli import main
from hd_agents.cli.tasks import UsageError, make_plan
from hd_agents.evaluation import evaluate

ID = "hd_agents_tests/Corridor-v0"
TINY = ["batch_size=2", "sequence_length=8", "train_ratio=1", "learning_starts=40", "size=nano"]
TRAINED = {"length": 5, "colour": "red"}


class Corridor(gym.Env[np.ndarray, int]):
    """As many steps as it is told, with a reward of one each."""

    def __init__(self, length: int = 9, colour: str = "grey") -> None:
        if colour not in ("grey", "red"):
            raise ValueError(f"colour={colour!r}: choose grey or red")
        self.length = length
        self.observation_space = spaces.Box(0.0, 100.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        return np.full(1, self.count, np.float32), 1.0, False, self.count == self.length, {}


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    gym.register(ID, Corridor)
    yield
    del gym.registry[ID]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corridor") / "run"
    typed = [f"--set={setting}" for setting in TINY]
    typed += ["--env-kwargs", "length=5", "--env-kwargs=colour=red"]
    assert main(["train", ID, "--steps", "60", "--folder", str(folder), "--resume", *typed]) == 0
    return folder


def test_plan_takes_entries_one_by_one() -> None:
    plan = make_plan(ID, settings=["env_kwargs.length=5", "policy_kwargs.units=32", "harmony.reward=False"])
    assert plan.env_kwargs == {"length": 5}
    assert plan.arguments["policy_kwargs"] == {"units": 32}
    assert plan.arguments["harmony"] == {"reward": False}
    assert plan.make_env().unwrapped.length == 5  # type: ignore[attr-defined]
    row = zoo.hyperparameters("classic/Catch")["policy_kwargs"]
    changed = make_plan("classic/Catch", settings=["policy_kwargs.units=32"]).arguments["policy_kwargs"]
    assert changed == {**row, "units": 32}
    assert make_plan("classic/Catch", settings=["policy_kwargs={'units': 32}"]).arguments["policy_kwargs"] == {
        "units": 32
    }


@pytest.mark.parametrize(("setting", "said"), [("depth=2", "depth"), ("colour=blue", "choose grey or red")])
def test_arguments_that_are_not_taken(setting: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        make_plan(ID, settings=[f"env_kwargs.{setting}"])
    assert main(["train", "CartPole-v1", "--env-kwargs=depth=2", "--folder", str(tmp_path / "runs")]) == 2
    assert not (tmp_path / "runs").exists()


def test_run_keeps_them(trained: Path) -> None:
    lengths = [line.split(",")[1] for line in (trained / "0.monitor.csv").read_text().splitlines()[2:]]
    assert set(lengths) == {"5"}
    facts = json.loads((trained / "run.json").read_text())
    assert facts["env_kwargs"] == TRAINED
    assert "--set=env_kwargs.length=5" in facts["command"]
    assert yaml.safe_load((trained / "config.yml").read_text())[ID]["env_kwargs"] == TRAINED


def test_evaluation_takes_the_runs_own(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", ID, "--model", str(trained), "--episodes", "2"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["lengths"], found["env_kwargs"]) == ([5, 5], TRAINED)
    assert main([*command, "--env-kwargs", "length=3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["lengths"], found["env_kwargs"]) == ([3, 3], {**TRAINED, "length": 3})
    assert main(["enjoy", str(trained), "--episodes", "1"]) == 0
    assert "in 5 steps" in capsys.readouterr().out


def test_resuming_with_others_says_so(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = [f"--set={setting}" for setting in TINY]
    assert main(["train", ID, "--steps", "64", "--folder", str(trained), "--resume", *typed]) == 0
    assert "env_kwargs {'length': 5, 'colour': 'red'} -> None" in capsys.readouterr().out


def test_package_is_evaluated_and_verified_with_them(trained: Path, tmp_path: Path) -> None:
    facts = {**json.loads((trained / "run.json").read_text()), "env_kwargs": TRAINED}
    target = zoo.pack(trained / "agent.zip", ID, facts, episodes=3, target=tmp_path / "corridor")
    card = zoo.card(target)
    assert (card["env_kwargs"], card["evaluation"]["lengths"]) == (TRAINED, [5, 5, 5])
    assert f"zoo.make_env(\"{ID}\", length=5, colour='red')" in (target / "README.md").read_text()
    assert zoo.verify(target).passed


def test_python_takes_a_dict(capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {key: int(value) for key, _, value in (text.partition("=") for text in TINY[:4])}
    agent = zoo.train(ID, steps=60, size="nano", env_kwargs={"length": 4}, **settings)
    assert {info["l"] for info in agent.ep_info_buffer or ()} == {4}
    with pytest.raises(ValueError, match="env_kwargs"):
        evaluate(agent, Corridor, 1, env_kwargs={"length": 4})
    with pytest.raises(ValueError, match="env_kwargs"):
        zoo.train(ID, steps=60, env_kwargs=3)
