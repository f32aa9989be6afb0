"""Shared by all tests: one torch thread, so that results repeat and runs side by side do not fight for cores."""

import torch

torch.set_num_threads(1)
