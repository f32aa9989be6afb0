"""The agent learns. Last weights, 20 evaluation episodes with sampled actions, the bar on the mean of every seed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from learning.foresight import main as ask_foresight
from learning.precision import compare
from learning.run import main
from learning.tasks import DREAMERV2, TASKS
from learning.trial import BASELINES, Trial, learn_from_records, plot_harmony, run_agent, run_baseline, write_curve

SEEDS = (0, 1)
MANY_SEEDS = (0, 1, 2, 3)
HARMONY_SEEDS = (0, 1, 2)


@pytest.fixture(autouse=True)
def one_thread_afterwards() -> Iterator[None]:
    yield
    torch.set_num_threads(1)  # as tests/conftest.py has it


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [name for name in TASKS if name != "static"])
def test_learns(name: str, seed: int) -> None:
    trial = run_agent(name, TASKS[name], seed)
    print(f"{name}, seed {seed}: {trial.mean:.2f} ± {np.std(trial.returns):.2f} after {trial.minutes:.1f} min")
    assert trial.mean >= TASKS[name].bar, trial.returns


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", DREAMERV2)
def test_dreamerv2_learns(name: str, seed: int) -> None:
    settings, difficulty, steps, bar = DREAMERV2[name]
    task = TASKS[name]._replace(steps=steps)
    trial = run_agent(name, task, seed, {"backbone": "dreamerv2", **settings}, difficulty)
    print(f"dreamerv2, {name}, seed {seed}: {trial.mean:.2f} ± {np.std(trial.returns):.2f}")
    assert trial.mean >= bar, trial.returns


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_learns_from_recorded_random_play(seed: int) -> None:
    """Random play opens locks, and so shows what there is. It does not hold a pendulum up (docs/learning.md)."""
    returns = learn_from_records("locks", TASKS["locks"], seed)
    print(f"locks, from records, seed {seed}: {np.mean(returns):.2f} ± {np.std(returns):.2f}")
    assert np.mean(returns) >= TASKS["locks"].bar, returns


@pytest.mark.slow
def test_gradients_of_bfloat16_point_where_those_of_float32_do() -> None:
    """Also where little is left to learn: a reward head whose logits were rounded had 0.68."""
    cosines = {name: np.mean(found) for name, (found, _) in compare("catch", 1000, seed=0).items()}
    assert min(cosines.values()) > 0.95, cosines


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BASELINES)
def test_model_free_agents_fall_short_of_catch(algorithm: str) -> None:
    """At the same steps, by the mean over seeds: single seeds of DQN differ by more than its distance to the bar."""
    means = [run_baseline(algorithm, TASKS["catch"], seed).mean for seed in MANY_SEEDS]
    assert np.mean(means) < TASKS["catch"].bar, means


@pytest.mark.slow
@pytest.mark.parametrize("seed", HARMONY_SEEDS)
def test_harmony_solves_what_the_plain_backbone_does_not(seed: int, tmp_path: Path) -> None:
    task = TASKS["static"]
    on = run_agent("static", task, seed)
    off = run_agent("static", task, seed, {"harmony": False})
    report(on, off, seed, Path(os.environ.get("HD_AGENTS_RESULTS", tmp_path)))
    assert on.mean >= task.bar, on.returns
    assert off.mean < (task.chance + task.bar) / 2, off.returns


def report(on: Trial, off: Trial, seed: int, folder: Path) -> None:
    """Leave both curves as CSV and their picture with the sigmas as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    write_curve(on.curve, folder / f"harmony_on_seed{seed}.csv")
    write_curve(off.curve, folder / f"harmony_off_seed{seed}.csv")
    plot_harmony(on, off, folder / f"harmony_seed{seed}.png", f"static, seed {seed}")


TINY = ["learning_starts=30", "batch_size=2", "sequence_length=8", "train_ratio=4", "horizon=3"]


@pytest.mark.parametrize("algorithm", ["agent", "dqn"])
def test_script_prints_its_evaluation(algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curve = tmp_path / "curve.csv"
    main(["previous_action", "--algorithm", algorithm, "--steps", "80", "--csv", str(curve), "--set", *TINY])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["algorithm"] == algorithm
    assert printed["steps"] == 80
    assert 0.0 <= printed["mean"] <= 1.0
    assert len(curve.read_text().splitlines()) == 1 + 40


_PRODUCTS = """
import torch
from torch.nn import functional as F
from learning import emulation

torch.manual_seed(0)
image, kernel = torch.randn(4, 8, 16, 16).bfloat16(), torch.randn(8, 8, 4, 4).bfloat16()
left, right, bias = torch.randn(32, 256).bfloat16(), torch.randn(64, 256).bfloat16(), torch.randn(64).bfloat16()


def products():
    plain = left.float() @ right.float().t()
    return [F.conv2d(image, kernel, stride=2), left @ right.t(), F.linear(left, right, bias), plain]


native, convert, converted = products(), emulation._as, []
emulation._as = lambda *words: converted.append(words) or convert(*words)
emulation.emulate_bfloat16()
emulated = products()
assert converted  # else these were PyTorch's own again
for one, other in zip(native, emulated, strict=True):
    assert one.dtype == other.dtype and one.stride() == other.stride()
    torch.testing.assert_close(one, other, rtol=2**-7, atol=2**-7 * float(one.abs().max()) / 256)
"""


@pytest.mark.skipif(not hasattr(torch.library, "get_kernel"), reason="needs a newer PyTorch to replace its kernels")
def test_emulated_bfloat16_is_bfloat16_but_for_the_order_of_sums() -> None:
    """In a process of its own, as the products stay replaced."""
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", _PRODUCTS], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_foresight_is_asked_of_play_unseen(capsys: pytest.CaptureFixture[str]) -> None:
    ask_foresight(["--updates", "1", "2", "--steps", "200", "--sequences", "40", "--set", "batch_size=2"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["updates"] for line in lines] == [1, 2]
    for line in lines:
        assert line["balls"] > 20
        assert 0.1 < line["caught"] < 0.9
        assert 0.0 <= line["near"] <= 1.0


def test_report_holds_the_sigmas(tmp_path: Path) -> None:
    task = TASKS["locks"]._replace(steps=60)
    tiny = {"learning_starts": 30, "batch_size": 2, "sequence_length": 8, "train_ratio": 4, "horizon": 3}
    on, off = (run_agent("locks", task, 0, {**tiny, "harmony": harmony}) for harmony in (True, False))
    report(on, off, 0, tmp_path)
    header = (tmp_path / "harmony_on_seed0.csv").read_text().splitlines()[0].split(",")
    assert {"train/sigma/observation", "train/sigma/reward", "train/sigma/dynamics"} <= set(header)
    assert "sigma" not in (tmp_path / "harmony_off_seed0.csv").read_text()
    assert (tmp_path / "harmony_seed0.png").stat().st_size > 5_000
