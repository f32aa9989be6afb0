"""What each of the things that make an update fast is worth: the time with it, and with the plain way in its place.

``python benchmarks/ablation.py cpu-small --precision bfloat16`` runs the contenders in turns, as ``update.py`` does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[:2])

import torch
import torch.nn.functional as F
from cases import CASES
from report import describe_machine, write_json
from torch import Tensor, nn
from update import Updates, Worker, take_turns

from hd_agents.behavior import imagination
from hd_agents.behavior.actor_critic import Actor
from hd_agents.nn import convolution, layers, products
from hd_agents.nn.convolution import Conv
from hd_agents.nn.distributions import TwoHot
from hd_agents.nn.functional import symlog
from hd_agents.nn.layers import Activation, activate
from hd_agents.world_model import rssm
from hd_agents.world_model.rssm import RSSM


def recurrence_by_autograd() -> None:
    """Gradients of the recurrence as autograd finds them, step by step."""
    RSSM._filter_by_hand = RSSM._filter  # type: ignore[method-assign]


def channels_first() -> None:
    """Images channel by channel in memory, as PyTorch has them by default."""
    forward = Conv.forward

    def contiguous(self: Conv, x: Tensor) -> Tensor:
        self.conv.weight.data = self.conv.weight.data.contiguous()
        return forward(self, x.contiguous())

    Conv.forward = contiguous  # type: ignore[method-assign]


def actor_twice() -> None:
    """The actor along a dream computed once more for its gradients."""
    Actor.recall = lambda actor, features, _: actor.parameters_of(features)  # type: ignore[method-assign]


def dreams_by_modules() -> None:
    """Every layer of a dream called as a module."""
    imagination.can_be_flat = lambda *_: False


def library_convolutions() -> None:
    """All gradients of convolutions as PyTorch has them."""
    Conv._convolve = lambda layer, x: layer.conv(x)  # type: ignore[method-assign]


def norms_through_float32() -> None:
    """Norms and activations of bfloat16 with what is between them in float32."""

    def plain(x: Tensor, norm: nn.LayerNorm, act: Activation | None) -> Tensor:
        x = norm(x.float())
        return x if act is None else activate(x, act)

    layers.norm_activate = convolution.norm_activate = plain


def small_products_too() -> None:
    """The recurrence in bfloat16 however small its products are."""
    rssm.SMALL_PRODUCT = {}


def library_products() -> None:
    """Every product in float32 by the library that PyTorch asks."""
    products._onednn_is_faster = lambda: False


def dense_targets() -> None:
    """Two-hot targets as vectors over all bins."""

    def loss(self: TwoHot, out: Tensor, target: Tensor) -> Tensor:
        place = ((symlog(target.float()) - self.low) / self.step).clamp(0.0, self.outputs - 1.0)
        below = place.floor().long().clamp(max=self.outputs - 2)
        above = (place - below).unsqueeze(-1)
        hot = (F.one_hot(below, self.outputs) * (1.0 - above)) + F.one_hot(below + 1, self.outputs) * above
        losses = -(hot * torch.log_softmax(out.float(), -1)).sum(-1)
        return losses.sum(0) if target.dim() == out.dim() else losses

    TwoHot.loss = loss  # type: ignore[method-assign]


def give_memory_back() -> None:
    """Freed memory goes back to the kernel, as glibc has it by default."""
    os.environ["MALLOC_TRIM_THRESHOLD_"] = "131072"


UNDONE: dict[str, Callable[[], None]] = {
    "nothing undone": lambda: None,
    "freed memory given back": give_memory_back,
    "channels first": channels_first,
    "recurrence by autograd": recurrence_by_autograd,
    "actor computed twice": actor_twice,
    "dreams by modules": dreams_by_modules,
    "PyTorch's convolutions": library_convolutions,
    "PyTorch's products": library_products,
    "norms through float32": norms_through_float32,
    "small products in bfloat16": small_products_too,
    "dense two-hot targets": dense_targets,
}


def worker(options: argparse.Namespace) -> None:
    """Answer each line on stdin with an update."""
    torch.set_num_threads(options.threads)
    name, case, precision = options.worker
    UNDONE[name]()
    run = Updates(CASES[case], precision, "cpu", {})
    for _ in sys.stdin:
        print(json.dumps(run.times()), flush=True)


def main() -> None:
    """Parse the command line, time, print."""
    parser = argparse.ArgumentParser(description="Time an update without each of the things that make it fast.")
    parser.add_argument("case", nargs="?", default="cpu-small", choices=list(CASES))
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--block", type=int, default=5, help="timed updates of each before it is the next one's turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    words = [sys.executable, __file__, "--threads", str(options.threads), "--worker"]
    workers = [Worker((name,), [*words, name, options.case, options.precision], options.threads) for name in UNDONE]
    take_turns(workers, options.warmup, options.updates, options.block)
    rows: list[dict[str, Any]] = [{"undone": one.label[0], **one.times} for one in workers]
    for one in workers:
        cpu = statistics.median(one.times["cpu_seconds"])
        print(f"{one.label[0]:30} {one.median:.4f} s  CPU {cpu:.4f} s  {one.median / workers[0].median:.2f} times")
    machine = describe_machine(options.threads) | {"case": options.case, "precision": options.precision}
    write_json(options.json, {**machine, "rows": rows})


if __name__ == "__main__":
    main()
