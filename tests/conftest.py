"""Shared by all tests: one torch thread, so that results repeat and runs side by side do not fight for cores; the
OpenGL that draws here, before any test imports dm_control, which looks for it only then; a Ctrl-C that interrupts."""

import signal
from importlib.util import find_spec

import torch

from hd_agents.envs.rendering import choose_backend

torch.set_num_threads(1)
if find_spec("mujoco") is not None:
    choose_backend()
# A script's background commands (`make test &`) start with SIGINT ignored: tests that raise it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
