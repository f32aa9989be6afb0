"""Time one training update: sampling, world model, imagination, actor, critic, optimisers, slow critic.

``python benchmarks/update.py nano cpu-small --precision float32 bfloat16`` times the named cases interleaved and prints
seconds per update (median), the share of each part, parameters, peak memory and the number of operations;
``--json FILE`` keeps all numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[:2])

from cases import CASES, Case, make_learner, make_networks, make_replay
from report import describe_machine, write_json

import hd_agents.training.learner
from hd_agents.graphs import capture_on_cuda
from hd_agents.host import keep_freed_memory
from hd_agents.training.learner import Learner

PARTS = (
    *("sample", "draw", "world model forward", "world model backward and step", "imagination", "predictions"),
    *("actor backward and step", "critic backward and step", "other"),
)


def label_parts(learner: Learner) -> None:
    """Make the profiler show the parts of ``train_step``."""

    def label(owner: Any, name: str, part: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def labelled(*values: Any, **named: Any) -> Any:
            with torch.profiler.record_function(part(*values)):
                return original(*values, **named)

        setattr(owner, name, labelled)

    names = {
        id(learner.model_optimizer): "world model",
        id(learner.actor_optimizer): "actor",
        id(learner.critic_optimizer): "critic",
    }
    label(learner, "draw", lambda *_: "draw")
    label(learner, "_losses", lambda *_: "world model forward")
    label(learner, "_evaluate", lambda *_: "predictions")
    label(learner, "_step", lambda optimizer, *_: f"{names[id(optimizer)]} backward and step")
    label(hd_agents.training.learner, "imagine", lambda *_: "imagination")


class Operations(TorchDispatchMode):
    """Counts what is computed, views and bare memory apart: about the kernels that a GPU would be asked to launch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one and let it happen."""
        views = [one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns]
        self.count += not any(views) and "empty" not in func.name()
        return func(*args, **(kwargs or {}))


class Updates:
    """One case, ready to be updated."""

    def __init__(self, case: Case, precision: str, device: str, options: dict[str, Any], n_envs: int = 1) -> None:
        if device == "cpu":
            keep_freed_memory()  # as learn() does
        torch.manual_seed(0)
        self.case = case
        self.device = torch.device(device)
        capture = None if device == "cpu" else capture_on_cuda  # as learn() does
        networks = make_networks(case).to(device)
        self.learner = make_learner(case, networks, bfloat16=precision == "bfloat16", capture=capture, **options)
        self.replay = make_replay(self.case, max(500, 2 * n_envs * case.sequence_length), n_envs)
        self.rng = np.random.default_rng(0)

    def update(self) -> None:
        """One update, to its end."""
        with torch.profiler.record_function("sample"):
            batch = self.replay.sample(self.case.batch_size, self.case.sequence_length, self.rng, self.device)
        self.learner.train_step(batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def times(self) -> dict[str, float]:
        """Wall and CPU seconds of one update."""
        start, cpu = time.perf_counter(), time.process_time()
        self.update()
        return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}

    def operations(self) -> int:
        """How many operations an update is made of."""
        self.learner._run = self.learner.gradient_step  # a graph is one
        with Operations() as counter:
            self.update()
        return counter.count

    def shares(self, steps: int) -> dict[str, float]:
        """Share of each part in the time of the update; labels the learner, so no update after it is to be timed."""
        label_parts(self.learner)
        self.learner._run = self.learner.gradient_step  # a graph has no labels
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
        with profile(activities=activities) as profiled:
            for _ in range(steps):
                with torch.profiler.record_function("update"):
                    self.update()
        attribute = "device_time_total" if self.device.type == "cuda" else "cpu_time_total"
        times = {event.key: getattr(event, attribute) for event in profiled.key_averages()}
        whole = times["update"] or 1.0
        shares = {part: times.get(part, 0.0) / whole for part in PARTS}
        return shares | {"other": 1.0 - sum(shares.values())}


def worker(options: argparse.Namespace) -> None:
    """Answer each line on stdin with one line of JSON: an update, or at the end the report."""
    torch.set_num_threads(options.threads)
    if options.device != "cpu":
        torch.set_float32_matmul_precision("high")  # as `hd-agents train` does
    name, precision = options.worker
    run = Updates(CASES[name], precision, options.device, {"compiled": options.compile})
    for line in sys.stdin:
        if line.strip() == "update":
            print(json.dumps(run.times()), flush=True)
            continue
        usage = resource.getrusage(resource.RUSAGE_SELF)
        peak = torch.cuda.max_memory_allocated(run.device) if run.device.type == "cuda" else usage.ru_maxrss * 1024
        parameters = sum(p.numel() for p in run.learner.networks.parameters())
        report: dict[str, Any] = {"peak_bytes": peak, "parameters": parameters, "operations": run.operations()}
        report["shares"] = run.shares(options.profiled) if options.profiled else {}
        print(json.dumps(report), flush=True)
        return


class Worker:
    """A process of its own for each contender, so that peak memory is its own and turns can be taken.

    :param label: what it is. :param words: its command line; it answers each line on stdin with one line of JSON.
    """

    def __init__(self, label: tuple[str, ...], words: Sequence[str], threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.label = label
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment)
        self.times: dict[str, list[float]] = {"seconds": [], "cpu_seconds": []}

    def ask(self, word: str) -> dict[str, Any]:
        """Send a word, read the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.label}: the process ended early, exit status {self.process.wait()}.")
        return json.loads(line)

    @property
    def median(self) -> float:
        """Median wall seconds of an update."""
        return statistics.median(self.times["seconds"])


def take_turns(workers: Sequence[Worker], warmup: int, updates: int, block: int) -> None:
    """A few updates of each in turn, again and again: whatever disturbs the machine disturbs all of them.

    :param warmup: updates of each before the first turn. :param block: timed updates per turn; one more goes before
        them untimed, which finds the caches full of another process's data.
    """
    for one in workers:
        for _ in range(warmup):
            one.ask("update")
    for done in range(0, updates, block):
        for one in workers:
            one.ask("update")
            for _ in range(min(block, updates - done)):
                for kind, seconds in one.ask("update").items():
                    one.times[kind].append(seconds)


def main() -> None:
    """Parse the command line, time, print."""
    parser = argparse.ArgumentParser(description="Time one training update.")
    parser.add_argument("cases", nargs="*", default=["nano", "cpu-small"], metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--updates", type=int, default=15, help="timed updates per case")
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--block", type=int, default=5, help="timed updates of a case before it is the next one's turn")
    parser.add_argument("--profiled", type=int, default=2, help="further updates under the profiler, for the shares")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the world model's losses")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    common = ["--threads", str(options.threads), "--device", options.device, "--profiled", str(options.profiled)]
    common += ["--compile"] * options.compile
    labels = [(name, precision) for name in options.cases for precision in options.precision]
    words = [sys.executable, __file__, *common, "--worker"]
    workers = [Worker(label, [*words, *label], options.threads) for label in labels]
    take_turns(workers, options.warmup, options.updates, options.block)
    rows = []
    for one in workers:
        report = one.ask("report")
        rows.append({"case": one.label[0], "precision": one.label[1], **one.times, **report})
        wall, cpu = one.times["seconds"], statistics.median(one.times["cpu_seconds"])
        print(
            f"{one.label[0]:12} {one.label[1]:9} {one.median:.4f} s/update ({min(wall):.4f} to {max(wall):.4f}, CPU "
            f"{cpu:.4f})  "
            f"{report['parameters'] / 1e6:.2f} M parameters  peak {report['peak_bytes'] / 2**20:.0f} MiB  "
            f"{report['operations']:,} operations"
        )
        print("  " + "  ".join(f"{part} {share:.0%}" for part, share in report["shares"].items()))
    machine = describe_machine(options.threads) | {"device": options.device, "compiled": options.compile}
    write_json(options.json, {**machine, "rows": rows})


if __name__ == "__main__":
    main()
