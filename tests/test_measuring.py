"""The programs of benchmarks/ still run: with little to do, and only when asked for."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_what_runs_as_a_graph_is_counted_and_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    made = runpy.run_path(str(ROOT / "benchmarks" / "update.py"))
    run = made["Updates"](made["CASES"]["nano"], "float32", "cpu", {})
    run.update()  # the first makes the moments
    plain = run.operations()
    run.learner._run = lambda *given: {}  # a graph, of which the host sees nothing
    assert run.operations() == plain
    run.learner._run = lambda *given: {}
    assert run.shares(1)["imagination"] > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "update.py nano --updates 2 --block 1 --profiled 1",
        "ablation.py nano --updates 2 --block 1 --warmup 1",
        "ablation.py nano --updates 2 --block 1 --warmup 1 --precision bfloat16",
        "policy.py nano",
        "replay.py --rows 2000",
        "train_loop.py --env CartPole-v1 --steps 20",
        "baselines.py classic/Pendulum --algorithm td3 --steps 120 --episodes 2",
        "baselines.py classic/Pendulum --algorithm ppo --steps 100 --set n_steps=64 --episodes 2",
    ],
)
def test_it_runs(command: str) -> None:
    program, *words = command.split()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / program), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if "n_steps" in command:
        assert json.loads(done.stdout)["steps"] == 128  # those that were made
