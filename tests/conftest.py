"""Shared by all tests: one torch thread, so that results repeat and runs side by side do not fight for cores; the
OpenGL that draws here, before any test imports dm_control, which looks for it only then; a Ctrl-C that interrupts; a
folder of pytest's for Stable-Baselines3's loggers; no GPU, unless tests are asked for that need one."""

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

from hd_agents.envs.rendering import choose_backend

torch.set_num_threads(1)
if find_spec("mujoco") is not None:
    choose_backend()
# A script's background commands (`make test &`) start with SIGINT ignored: tests that raise it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # which `nohup` ignores
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Tests that are not marked gpu are meant for a CPU, and so is what they start: device="auto" would take a GPU."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True, scope="session")
def logs_of_stable_baselines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Without it every agent that learns without a log folder leaves an empty one in /tmp."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("logs")))
        yield
