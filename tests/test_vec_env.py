"""Training in environments that have a process each: ``vec_env="subproc"``, ``--vec-env subproc``."""

from pathlib import Path

import pytest
import torch

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import main, pictures
from hd_agents.envs.processes import RestartingSubprocVecEnv
from hd_agents.zoo.training import plan
from tests.agents import tiny

SMALL = {"batch_size": 2, "sequence_length": 8, "train_ratio": 4, "learning_starts": 40, "n_envs": 2}
RATES = dict.fromkeys(("learning_rate", "actor_learning_rate", "critic_learning_rate"), 0.001)  # whatever the steps
TINY = [f"--set={name}={value}" for name, value in (SMALL | RATES).items()]


def learn(folder: Path, kind: str, steps: int, *more: str) -> HarmonyDreamAgent:
    command = ["train", "CartPole-v1", "--folder", str(folder), "--resume", "--steps", str(steps), "--device", "cpu"]
    command += ["--checkpoint-every", "60"]
    assert main([*command, "--vec-env", kind, *TINY, *more]) == 0
    return HarmonyDreamAgent.load(folder / "agent.zip")


def episodes(folder: Path) -> list[list[str]]:
    """Return and length of each environment's episodes, after the file's two first lines."""
    files = sorted(folder.glob("*.monitor.csv"))
    return [[line.rpartition(",")[0] for line in file.read_text().splitlines()[2:]] for file in files]


def test_a_run_is_the_same_in_processes_and_may_change_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pictures, "leave", lambda *arguments: None)
    here = learn(tmp_path / "here", "dummy", 180)
    learn(tmp_path / "there", "dummy", 60)
    for kind, before, steps in (("subproc", 60, 120), ("dummy", 120, 180)):
        there = learn(tmp_path / "there", kind, steps)
        assert f"changed: n_timesteps {before} -> {steps}, vec_env" in capsys.readouterr().out
    assert episodes(tmp_path / "there") == episodes(tmp_path / "here")
    assert all(episodes(tmp_path / "there"))
    expected = here.policy.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in there.policy.state_dict().items())


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_a_process_that_dies_costs_an_episode_and_keeps_the_file_of_the_others(how: str, tmp_path: Path) -> None:
    settings = {"vec_env": "subproc", "env_kwargs": {"folder": str(tmp_path), "how": how}}
    env = plan("tests.mortal:Mortal-v0", settings=settings).make_envs(0, tmp_path)
    try:
        agent = tiny("MlpPolicy", env).learn(120)
        died = how == "exit"
        assert env.restarts == [int(died)]  # type: ignore[attr-defined]
        assert env.get_attr("restarts") == [int(not died)]
        lengths = [int(line.split(",")[1]) for line in episodes(tmp_path)[0]]
        assert len(lengths) == agent._ended.item() >= 3
        assert (lengths[1] == 2) == (not died)  # the monitor dies with its process, and the end it would have told
        assert all(length > 2 for length in lengths[2:])
    finally:
        env.close()


def test_kinds_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"vec_env='threads': use one of \['dummy', 'subproc'\]"):
        zoo.train("CartPole-v1", vec_env="threads")
    with pytest.raises(SystemExit):
        main(["train", "CartPole-v1", "--vec-env", "threads"])
    assert "argument --vec-env: 'threads': use one of dummy, subproc" in capsys.readouterr().err


def test_zoo_train_leaves_its_processes_to_the_agent() -> None:
    agent = zoo.train("CartPole-v1", steps=20, n_envs=2, vec_env="subproc")
    env = agent.get_env()
    assert env is not None and isinstance(env.unwrapped, RestartingSubprocVecEnv)
    env.close()


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_check_counts_failures_in_processes(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    env_kwargs = ["--env-kwargs", f"folder={tmp_path}", "--env-kwargs", f"how={how}"]
    task = ["check", "tests.mortal:Mortal-v0", "--steps", "100", "--vec-env", "subproc"]
    assert main([*task, *env_kwargs, *TINY, "--set=n_envs=1"]) == 0
    assert "warning: it failed once in " in capsys.readouterr().out
    assert ("died (exit code 7)" in caplog.text) == (how == "exit")
