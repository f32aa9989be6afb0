"""Time the replay: rows added and sequences sampled per second, and the memory that it takes.

``python benchmarks/replay.py --rows 100000 1000000`` fills a ring of 64x64x3 images with so many rows and samples
batches of the paper's size from it. A million rows are 12.3 GB; ``--folder`` keeps them in a file instead of memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[:2])

from cases import ACTIONS, EPISODE
from memory import resident
from report import describe_machine, write_json

from hd_agents.host import format_bytes
from hd_agents.replay import SequenceReplay

SHAPE = (64, 64, 3)


def measure(
    rows: int, n_envs: int, batch_size: int, length: int, samples: int, folder: Path | None
) -> dict[str, float]:
    """Fill a replay of ``rows`` rows to its end, then sample from it."""
    rng = np.random.default_rng(0)
    before = resident()["total"]
    replay = SequenceReplay(rows, n_envs, {"image": SHAPE}, {}, ACTIONS, folder=folder)
    images = rng.integers(0, 256, (64, *SHAPE), dtype=np.uint8)
    action = np.eye(ACTIONS, dtype=np.float32)[0]
    start = time.perf_counter()
    for row in range(rows // n_envs):
        first = row % EPISODE == 0
        for env in range(n_envs):
            replay.add(env, {"image": images[(row + env) % 64]}, action, 0.0, first, row % EPISODE == EPISODE - 1)
    added = time.perf_counter() - start
    times = []
    for _ in range(samples):
        start = time.perf_counter()
        replay.sample(batch_size, length, rng, torch.device("cpu"))
        times.append(1e3 * (time.perf_counter() - start))
    return {
        "rows": rows,
        "envs": n_envs,
        "rows_per_second": rows / added,
        "sample_ms": statistics.median(times),
        "estimated_bytes": replay.nbytes_estimate(),
        "resident_bytes": resident()["total"] - before,
    }


def main() -> None:
    """Parse the command line, fill, sample, print."""
    parser = argparse.ArgumentParser(description="Time the replay.")
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000])
    parser.add_argument("--envs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="keep the images in a file there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for count in options.rows:
        row = measure(count, options.envs, options.batch_size, options.sequence_length, options.samples, options.folder)
        rows.append(row)
        print(
            f"{count:9,d} rows  {row['rows_per_second']:8,.0f} rows added/s  {row['sample_ms']:6.2f} ms per batch of "
            f"{options.batch_size} x {options.sequence_length}  {format_bytes(row['resident_bytes'])} taken, "
            f"{format_bytes(row['estimated_bytes'])} estimated"
        )
    write_json(options.json, {**describe_machine(torch.get_num_threads()), "rows": rows})


if __name__ == "__main__":
    main()
