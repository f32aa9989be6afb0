"""What one update asks of a GPU, counted on a machine without one: operations, memory traffic, arithmetic.

``python benchmarks/kernels.py nano atari100k --precision float32 bfloat16`` runs each update on a device that only
pretends (``pretend_cuda.py``), so it also shows that nothing waits for the device, which would stop it, and that no
tensor of the host takes part, whose number is printed. ``--sites`` adds which lines ask for the most.

The last column is a guess, not a measurement: every operation takes ``LAUNCH``, or what an H200 needs at best for its
memory traffic or arithmetic if that is longer.
"""

# ruff: noqa: E402  PyTorch comes after the device.

from __future__ import annotations

import sys
from pathlib import Path

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[:2])

import pretend_cuda

pretend_cuda.load()

import argparse
from collections import Counter
from typing import Any
from unittest import mock

import numpy as np
import torch
from cases import CASES, make_learner, make_networks, make_replay
from report import describe_machine, write_json
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hd_agents.nn import fused

LAUNCH = 2.5e-6  # seconds, of a small kernel in a graph
TRAFFIC = 4.8e12  # bytes/s
ARITHMETIC = {torch.bfloat16: 989e12, torch.float32: 495e12}  # operations/s of tensor cores, float32 as TF32
KERNELS = {"norm_act", "norm_act_backward", "enter_backward", "gates", "gates_backward", "draw", "draw_backward"}
MODE = FakeTensorMode()  # one for all, as constants are kept
PACKAGE = f"{Path(__file__).resolve().parents[1] / 'hd_agents'}/"


class Demands(TorchDispatchMode):
    """Sums up what is asked for; views and bare memory cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.from_host, self.traffic, self.arithmetic, self.seconds = 0, 0, 0, 0, 0.0
        self.sites: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one and let it happen."""
        results = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, results)) if isinstance(leaf, torch.Tensor)]
        self.from_host += any(tensor.device.type == "cpu" for tensor in tensors)
        views = [one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns]
        if any(views) or "empty" in func.name() or func.namespace == "prim" or not tensors:
            return results
        count = flop_registry.get(func.overloadpacket)
        work = 0 if count is None else count(*args, **(kwargs or {}), out_val=results)
        moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        rate = ARITHMETIC.get(tensors[0].dtype, ARITHMETIC[torch.float32])
        self.operations += 1
        self.traffic += moved
        self.arithmetic += work
        self.seconds += max(LAUNCH, moved / TRAFFIC, work / rate)
        self.sites[_site()] += 1
        return results

    def __getattr__(self, name: str) -> Any:
        """In the place of :mod:`hd_agents.nn.kernels`: whatever is launched is an operation without arithmetic."""
        if name not in KERNELS:
            raise AttributeError(name)

        def launch(*arguments: Any) -> None:
            tensors = {id(leaf): leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)}
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            self.operations += 1
            self.traffic += moved
            self.seconds += max(LAUNCH, moved / TRAFFIC)
            self.sites[_site()] += 1

        return launch


def _site() -> str:
    """The line of the package that asks; the backward pass of PyTorch's own functions has none."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{frame.f_code.co_filename[len(PACKAGE) :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "backward"


def _there(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")


def demands(name: str, precision: str, *, fused_kernels: bool) -> Demands:
    """Of one update of a case, the second: the first makes the optimisers' moments."""
    case = CASES[name]
    networks = pretend_cuda.move(make_networks(case), MODE)
    replay = make_replay(case, 2 * case.sequence_length)
    batch = replay.sample(case.batch_size, case.sequence_length, np.random.default_rng(0), "cpu")
    with MODE:
        there = type(batch)({key: _there(part) for key, part in batch.observation.items()}, *map(_there, batch[1:]))
        learner = make_learner(case, networks, bfloat16=precision == "bfloat16")
        learner.train_step(there)
        networks.world_model.rssm.fused = fused_kernels
        with Demands() as counted, mock.patch.multiple(fused, kernels=lambda: counted, usable=lambda *_, **__: True):
            learner.train_step(there)
    return counted


def main() -> None:
    """Parse the command line, count, print."""
    parser = argparse.ArgumentParser(description="Count what an update asks of a GPU, without one.")
    parser.add_argument("cases", nargs="*", default=["nano", "atari100k"], metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--precision", nargs="+", default=["bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--plain", action="store_true", help="without the kernels of hd_agents/nn/kernels.py")
    parser.add_argument("--sites", type=int, default=0, help="lines of code to show, those with the most operations")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name, precision in [(name, precision) for name in options.cases for precision in options.precision]:
        found = demands(name, precision, fused_kernels=not options.plain)
        numbers = {key: getattr(found, key) for key in ("operations", "from_host", "traffic", "arithmetic", "seconds")}
        rows.append({"case": name, "precision": precision, **numbers})
        print(
            f"{name:12} {precision:9} {found.operations:6,} operations, {found.from_host} with the host's tensors, "
            f"{found.traffic / 1e9:5.1f} GB, {found.arithmetic / 1e12:5.2f} TFLOP, guess {found.seconds * 1e3:5.1f} ms"
        )
        for site, count in found.sites.most_common(options.sites):
            print(f"  {count:6,} {site}")
    write_json(options.json, {"machine": describe_machine(torch.get_num_threads()), "rows": rows})


if __name__ == "__main__":
    main()
