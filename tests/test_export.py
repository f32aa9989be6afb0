"""Exported programs act as the agent does, in ONNX Runtime and by torch.export."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from hd_agents.cli import main
from hd_agents.player import Player
from hd_agents.policies import DreamPolicy
from tests.agents import TINY

MIXED = spaces.Dict(
    eye=spaces.Box(0, 255, (20, 16, 3), np.uint8),  # not of a size that can be halved
    arm=spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    force=spaces.Box(-1.0, 1.0, ()),
    grip=spaces.Discrete(4, start=2),
    keys=spaces.MultiBinary(2),
)
VECTOR = spaces.Box(-1.0, 1.0, (3,))
SPEED = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 9.0], np.float32))
CASES = [
    (MIXED, SPEED, "dreamerv3"),
    (VECTOR, spaces.Discrete(4, start=1), "dreamerv3"),
    (VECTOR, spaces.MultiDiscrete([3, 2]), "dreamerv2"),
    (spaces.Box(0, 255, (64, 64, 1), np.uint8), spaces.Box(0, 7, (2,), np.int32), "dreamerv2"),
]
Run = Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]


def policy(observations: spaces.Space[Any], actions: spaces.Space[Any], backbone: str = "dreamerv3") -> DreamPolicy:
    torch.manual_seed(0)
    return DreamPolicy(observations, actions, backbone=backbone, size="nano", overrides=TINY["policy_kwargs"])


def opened(path: Path) -> tuple[Run, dict[str, Any]]:
    """What runs the file, and what it says of itself."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        about = session.get_modelmeta().custom_metadata_map["hd_agents"]
        return lambda given: session.run(None, given), json.loads(about)
    extra = {"hd_agents": ""}
    program = torch.export.load(path, extra_files=extra).module()
    run = lambda given: [out.numpy() for out in program(*map(torch.from_numpy, given.values()))]  # noqa: E731
    return run, json.loads(extra["hd_agents"])


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(("observations", "actions", "backbone"), CASES)
def test_the_program_acts_as_the_player(
    observations: Any, actions: Any, backbone: str, deterministic: bool, suffix: str, tmp_path: Path
) -> None:
    ours, path, n = policy(observations, actions, backbone), tmp_path / f"step{suffix}", 2
    player = Player(ours, deterministic)
    if suffix == ".onnx" and backbone == "dreamerv2" and isinstance(actions, spaces.Box) and not deterministic:
        with pytest.raises(ValueError, match="ONNX lacks what DreamerV2 samples numbers by: use a deterministic"):
            player.export(path, n)
        return
    ports = player.export(path, n)
    run, about = opened(path)
    assert about == json.loads(ports.to_json())
    assert ("latent_draw" in [port.name for port in ports.inputs]) != deterministic
    observations.seed(0)
    given: dict[str, NDArray[Any]] = {port.name: np.zeros(port.shape, port.dtype) for port in ports.inputs}
    for step in range(6):
        rows = [observations.sample() for _ in range(n)]
        if observations is MIXED:
            observed: Any = {key: np.stack([row[key] for row in rows]) for key in MIXED}
            parts = {f"observation.{key}": part for key, part in observed.items()}
        else:
            observed = np.stack(rows)
            parts = {"observation": observed}
        given |= {name: part.astype(given[name].dtype) for name, part in parts.items()}
        given["episode_start"] = np.array([step == 0, step in (0, 3)])
        torch.manual_seed(step)
        if not deterministic:
            given["latent_draw"], given["action_draw"] = (draw.numpy() for draw in ours.draw(n))
        torch.manual_seed(step)
        action = player.act(observed, given["episode_start"])
        found = run(given)
        assert [(part.shape, part.dtype) for part in found] == [(port.shape, port.dtype) for port in ports.outputs]
        assert found[0].dtype == (np.int64 if ours.actions.groups else action.dtype)
        assert player.state is not None
        for part, expected in zip(found, (action, *player.state), strict=True):
            assert np.allclose(part, expected, rtol=1e-5, atol=2e-5 if suffix == ".onnx" else 0.0)
        given |= dict(zip(("deter", "stoch", "last_action"), found[1:], strict=True))


def test_a_model_of_the_zoo_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policies" / "cartpole.onnx"
    assert main(["export", "classic/CartPole", "--output", str(path), "--deterministic"]) == 0
    told = capsys.readouterr()
    assert "  observation          float32  1 x 4            as the environment gives it\n" in told.out
    assert "  action               int64    1                as the environment takes it\n" in told.out
    assert not told.err
    inputs = onnxruntime.InferenceSession(path).get_inputs()
    assert [one.name for one in inputs] == ["observation", "deter", "stoch", "last_action", "episode_start"]


def test_no_more_than_pytorch_is_needed(tmp_path: Path) -> None:
    Player(policy(VECTOR, SPEED), deterministic=True).export(tmp_path / "a.pt2")
    script = (
        "import sys; sys.modules |= dict.fromkeys(('hd_agents', 'gymnasium', 'stable_baselines3'))\n"
        "import json, torch; about = {'hd_agents': ''}\n"
        f"step = torch.export.load({str(tmp_path / 'a.pt2')!r}, extra_files=about).module()\n"
        "ports = json.loads(about['hd_agents'])['inputs']\n"
        "action, *_ = step(*(torch.ones(port['shape'], dtype=getattr(torch, port['dtype'])) for port in ports))\n"
        "print(tuple(action.shape))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "(1, 2)\n", done.stderr


def test_small_networks_are_exported_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Player(policy(VECTOR, spaces.Discrete(3)), deterministic=True).export(tmp_path / "policy.onnx")
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


@pytest.mark.parametrize("name", ["policy", "policy.zip", "policy.pt"])
def test_other_files_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "classic/CartPole", "--output", str(tmp_path / name)]) == 2
    assert "name the file .onnx (ONNX) or .pt2 (of torch.export)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_agent_stays_as_it_is(tmp_path: Path) -> None:
    ours = policy(VECTOR, SPEED)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    drawn = torch.get_rng_state()
    Player(ours).export(tmp_path / "a.pt2")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.requires_grad for parameter in ours.networks.actor.parameters())
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    with pytest.raises(ValueError, match="n_envs=0"):
        Player(ours).export(tmp_path / "b.pt2", 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "trace", [torch.jit.trace, lambda module, given: torch.export.export(module, (given,), strict=False)]
)
def test_what_stable_baselines3_exports_names_the_program_with_a_memory(trace: Callable[[Any, Any], Any]) -> None:
    """Its recipe traces the policy itself, which turns observations into NumPy's: they would not count any more."""
    made = policy(VECTOR, SPEED)
    with pytest.raises(RuntimeError, match=r"use agent\.player\(deterministic=True\)\.export\('policy\.onnx'\)"):
        trace(made, torch.zeros(1, 3))
    assert made(torch.zeros(1, 3), deterministic=True).shape == (1, 2)
