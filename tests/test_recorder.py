"""Failures in a row: float32 instead of bfloat16, or a stop with a record that can be replayed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.cli import main
from hd_agents.saving.archive import ArchiveError, read_archive, write_archive
from hd_agents.training.nonfinite import PATIENCE
from hd_agents.training.recorder import NonFiniteError, read_record, write_record
from tests.agents import Scripted, tiny

SPACE = spaces.Dict({"eye": spaces.Box(0, 255, (16, 17, 3), np.uint8), "arm": spaces.Box(-1, 1, (5,))})


def failing(folder: Path, **changes: Any) -> HarmonyDreamAgent:
    """An agent that has learnt a little and whose replay then held a reward no float32 loss can take."""
    agent = tiny("MultiInputPolicy", Scripted(SPACE, spaces.Discrete(3)), seed=0, backbone="dreamerv2", **changes)
    agent.set_logger(configure(str(folder), []))
    agent.learn(40)
    assert agent._n_updates
    agent.replay_buffer._columns["reward"][:] = 3e38  # type: ignore[union-attr]  # its square is infinite
    return agent


def test_float32_stops_with_a_record_that_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = failing(tmp_path)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    with pytest.raises(NonFiniteError, match=r"gradient steps were not finite.*loss/reward.*replay-nan") as error:
        agent.train(3 * PATIENCE)
    assert all(torch.equal(before[name], value) for name, value in agent.policy.state_dict().items())
    path = tmp_path / f"nonfinite-{agent._n_updates}.zip"
    assert str(path) in str(error.value)
    assert agent._n_updates < 2 * PATIENCE + 2, "it must stop at the first check after that many"

    assert main(["replay-nan", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "batch.reward: largest size 3e+38" in shown
    assert "loss/reward; 16 of 16 not finite, first at (0, 0)" in shown
    assert "Not finite: loss/reward, loss/model, grad_norm/model." in shown
    assert "The step fails again." in shown
    HarmonyDreamAgent.load(path, device="cpu")  # it is an ordinary archive too


def test_weights_that_overflow_are_found_by_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = failing(tmp_path)
    with torch.no_grad():
        agent.policy.networks.world_model.reward_head.out.weight.fill_(3e38)
        agent.policy.networks.actor.out.bias[0] = float("nan")
    with pytest.raises(NonFiniteError):
        agent.train(3 * PATIENCE)
    assert main(["replay-nan", str(next(tmp_path.glob("nonfinite-*.zip")))]) == 0
    shown = capsys.readouterr().out
    assert "weights actor.out.bias of shape (3,); 1 of 3 not finite, first at (0,)" in shown
    assert "first failing layer: world_model.reward_head.out; its input is finite" in shown


def test_bfloat16_falls_back_to_float32_and_stays_there(tmp_path: Path) -> None:
    agent = failing(tmp_path, precision="bfloat16")
    with pytest.warns(RuntimeWarning, match=r"loss/reward .*Going on in float32"):
        agent.train(2 * PATIENCE - agent._n_updates % PATIENCE)
    assert not agent.learner.bfloat16
    agent.save(tmp_path / "agent")
    assert not HarmonyDreamAgent.load(tmp_path / "agent", device="cpu").learner.bfloat16
    agent.replay_buffer._columns["reward"][:] = 1.0  # type: ignore[union-attr]
    agent.train(PATIENCE)
    assert agent.learner.guard.read().in_a_row == 0


def test_the_log_table_counts_and_names(tmp_path: Path) -> None:
    agent = failing(tmp_path)
    agent.train(3)
    agent.dump_logs()
    assert agent.learner.guard.report() == {
        "skipped_updates": 3,
        "nonfinite/loss/reward": 3,
        "nonfinite/loss/model": 3,
        "nonfinite/grad_norm/model": 3,
    }


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = failing(tmp_path)
    agent.save(tmp_path / "agent")
    assert main(["replay-nan", str(tmp_path / "agent.zip")]) == 2
    assert "expected a nonfinite-*.zip" in capsys.readouterr().err
    assert main(["replay-nan", str(tmp_path / "nothing.zip")]) == 2


def _without(part: dict[str, Any], name: str) -> None:
    del part[name]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["draws"].update(prior=torch.zeros(3, 16, 2)),
        lambda record: record["draws"].update(action=torch.zeros(3, 16, 1, dtype=torch.int64)),
        lambda record: record["batch"]["observation"].update(eye=torch.zeros(2, 8, 16, 17, 1, dtype=torch.uint8)),
        lambda record: record["batch"].update(reward=3),
        lambda record: _without(record["batch"], "is_first"),
        lambda record: _without(record, "draws"),
        lambda record: record.update(batch=[1]),
    ],
)
def test_records_that_do_not_fit_are_refused(change: Any, tmp_path: Path) -> None:
    agent = failing(tmp_path)
    data, tensors = read_archive(write_record(agent, tmp_path))
    change(tensors["nonfinite"])
    write_archive(tmp_path / "changed.zip", data, tensors)
    with pytest.raises(ArchiveError, match="record"):
        read_record(agent, read_archive(tmp_path / "changed.zip")[1])


def test_the_device_is_checked_before_the_file_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["replay-nan", "nonfinite-1.zip", "--device", "foo"])
    assert "'foo' is not a device" in capsys.readouterr().err
