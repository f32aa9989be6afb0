"""What an update asks of a GPU, on a device that only pretends: it mixes no devices, waits for nothing, stays lean."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTED = "2.13.0"  # whose internals a device can be pretended in
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MOST = {"nano-pixels": 2_200, "nano-control": 4_200}  # operations, a tenth more than there are


def pretend_cuda():
    spec = importlib.util.spec_from_file_location("pretend_cuda", BENCHMARKS / "pretend_cuda.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    if reason := pretend_cuda().unavailable():
        pytest.skip(reason)
    report = tmp_path_factory.mktemp("kernels") / "report.json"
    words = [sys.executable, BENCHMARKS / "kernels.py", *MOST, "--precision", "bfloat16", "--json", report]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if "pretend.cpp:" in done.stderr and torch.__version__.split("+")[0] != TESTED:
        pytest.skip("this PyTorch has other internals than the one that the constraints name")
    assert done.returncode == 0, done.stderr
    return {row["case"]: row for row in json.loads(report.read_text())["rows"]}


@pytest.mark.parametrize("case", MOST)
def test_an_update_stays_on_the_gpu(case: str, rows: dict[str, dict[str, float]]) -> None:
    assert rows[case]["from_host"] == 0
    assert 0 < rows[case]["operations"] <= MOST[case]
