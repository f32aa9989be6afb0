"""An environment that sometimes raises: what is played after a training, and what is left of it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from hd_agents.cli import main
from hd_agents.evaluation import evaluate
from hd_agents.evaluation.episodes import EpisodeError
from tests.agents import tiny
from tests.test_cli import TINY


class Flaky(gym.Env[Any, Any]):
    """Episodes of 7 steps; the third step of those with one of ``seeds`` fails."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, seeds: tuple[int, ...] = (), closes: bool = True, how: str = "raises") -> None:
        self.seeds, self.closes, self.how = seeds, closes, how

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left, self.fails = 7, seed in self.seeds
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        if self.fails and self.left == 4:
            if self.how == "exits":
                sys.exit("robot lost")
            if self.how == "observes nan":
                return np.full(3, np.nan, np.float32), 1.0, False, False, {}
            if self.how == "pays nothing":
                return np.zeros(3, np.float32), np.inf, False, False, {}
            raise RuntimeError("motor driver timeout")
        return np.zeros(3, np.float32), 1.0, self.left == 0, False, {}

    def close(self) -> None:
        if not self.closes:
            raise RuntimeError("brake")


@pytest.fixture(autouse=True)
def flaky() -> Iterator[None]:
    gym.register("Flaky-v0", Flaky)
    yield
    del gym.registry["Flaky-v0"]


def test_a_training_leaves_its_curve_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "Flaky-v0", "--steps", "60", "--folder", str(tmp_path), "--env-kwargs", "seeds=[0]", *TINY]
    assert main(words) == 0
    told, folder = capsys.readouterr().out.splitlines(), tmp_path / "Flaky-v0_1"
    assert (
        "Pictures left out: The environment failed in the episode of seed 0: RuntimeError('motor driver timeout')"
        in told
    )
    for name in ("agent.zip", "curve.png", "tensorboard"):
        assert (folder / name).exists()
        assert any(line.startswith(f"  {folder / name}  ") for line in told)
    assert not (folder / "dream.png").exists()
    assert not any("dream.png" in line for line in told)


def test_evaluate_and_enjoy_name_error_and_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = tiny(env=Flaky())
    said = (
        r"The environment failed in the episode of seed 2: RuntimeError('motor driver timeout'); "
        "2 of 4 episodes were played to their end, with the returns 7, 7."
    )
    with pytest.raises(EpisodeError) as caught:
        evaluate(agent, lambda: Flaky((2,)), 4)
    assert str(caught.value) == said
    assert isinstance(caught.value.__cause__, RuntimeError)
    agent.save(tmp_path / "agent.zip")
    words = ["evaluate", "Flaky-v0", "--model", str(tmp_path / "agent.zip"), "--episodes", "4"]
    assert main([*words, "--env-kwargs", "seeds=[2]"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"hd-agents: {said}"
    watched = ["enjoy", str(tmp_path / "agent.zip"), "--task", "Flaky-v0", "--env-kwargs", "seeds=[2]"]
    assert main(watched) == 1
    failed = "hd-agents: The environment failed in the episode of seed 2: RuntimeError('motor driver timeout')"
    assert capsys.readouterr().err.splitlines()[-1] == failed
    assert main([*watched, "--episodes", "2"]) == 0


@pytest.mark.parametrize("n_envs", [1, 2])
def test_episodes_that_do_not_count_are_not_begun(n_envs: int) -> None:
    class Stuck(Flaky):
        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Any, dict[str, Any]]:
            if seed is None:
                raise RuntimeError("not homed")
            return super().reset(seed=seed, options=options)

    assert evaluate(tiny(env=Flaky()), Stuck, 3, n_envs=n_envs).returns == [7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("observes nan", "a wrong observation: the key 'observation' holds nan, expected finite numbers"),
        ("pays nothing", "the reward inf"),
    ],
)
def test_numbers_that_cannot_be_are_the_environments(how: str, what: str, tmp_path: Path) -> None:
    agent = tiny(env=Flaky())
    with pytest.raises(EpisodeError) as caught:
        evaluate(agent, lambda: Flaky((2,), how=how), 4)
    assert str(caught.value).startswith(f"The environment failed in the episode of seed 2: {what}; 2 of 4 episodes")


def test_an_environment_that_cannot_be_closed_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = tiny(env=Flaky())
    with pytest.warns(UserWarning, match=r"failed when it was closed: RuntimeError\('brake'\)"):
        found = evaluate(agent, lambda: Flaky(closes=False), 2)
    assert found.returns == [7.0, 7.0]
    words = ["Flaky-v0", "--steps", "60", "--env-kwargs", "closes=False", *TINY]
    with pytest.warns(UserWarning, match="failed when it was closed"):
        assert main(["train", *words, "--folder", str(tmp_path)]) == 0
    folder = tmp_path / "Flaky-v0_1"
    assert {path.name for path in folder.iterdir()} >= {"agent.zip", "curve.png", "dream.png"}
    with pytest.warns(UserWarning, match="failed when it was closed"):
        assert main(["evaluate", "Flaky-v0", "--model", str(folder), "--episodes", "2"]) == 0
    with pytest.warns(UserWarning, match="failed when it was closed"):
        assert main(["enjoy", str(folder), "--episodes", "1"]) == 0
    with pytest.warns(UserWarning, match="failed when it was closed"):
        assert main(["check", *words]) == 0
    assert "passed the checks of Gymnasium" in capsys.readouterr().out


def test_an_environment_that_exits_is_no_signal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "Flaky-v0", "--steps", "60", "--folder", str(tmp_path), *TINY]
    assert main([*words, "--env-kwargs", "how=exits", "--env-kwargs", "seeds=[0]"]) == 1
    told = capsys.readouterr()
    assert "the training failed after 2 env steps: sys.exit('robot lost')" in told.err.splitlines()[-1]


def test_a_folder_is_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "CartPole-v1", "--model", "classic/CartPole", "--output"]
    assert main([*words, str(tmp_path)]) == 2
    assert f"--output {tmp_path} is a folder: give a file's name." in capsys.readouterr().err
