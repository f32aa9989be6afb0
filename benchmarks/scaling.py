"""How the time of an update grows with one of its sizes, the others held.

``python benchmarks/scaling.py cpu-small batch_size=4,8,16,32 sequence_length=16,32,64 units=128,256,512`` prints
seconds per update (median) for each. ``units`` sets all widths of the networks' vectors, ``depth`` those of images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[:2])

import torch
from cases import CASES, Case
from report import describe_machine, write_json
from update import Updates

DEFAULT = ("batch_size=4,8,16,32", "sequence_length=16,32,64", "units=128,256,512", "depth=8,16,32", "n_envs=1,8,64")


def resized(case: Case, name: str, value: int) -> Case:
    """The case with one of its sizes changed."""
    if name in ("batch_size", "sequence_length"):
        return case._replace(**{name: value})
    if name == "n_envs":  # the replay's rings
        return case
    widths = ("deter", "hidden", "units") if name == "units" else (name,)
    return case._replace(overrides={**case.overrides, **dict.fromkeys(widths, value)})


def measure(case: Case, options: argparse.Namespace, n_envs: int) -> float:
    """Median wall seconds of an update."""
    run = Updates(case, options.precision, options.device, {}, n_envs)
    for _ in range(options.warmup):
        run.update()
    return statistics.median(run.times()["seconds"] for _ in range(options.updates))


def main() -> None:
    """Parse the command line, time, print."""
    parser = argparse.ArgumentParser(description="Time updates of growing size.")
    parser.add_argument("case", nargs="?", default="cpu-small", choices=list(CASES))
    parser.add_argument("sizes", nargs="*", default=DEFAULT, metavar="NAME=A,B,...", help=" ".join(DEFAULT))
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--updates", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for words in options.sizes:
        name, _, values = words.partition("=")
        for value in map(int, values.split(",")):
            seconds = measure(resized(CASES[options.case], name, value), options, value if name == "n_envs" else 1)
            rows.append({"size": name, "value": value, "seconds": seconds})
            print(f"{name:16} {value:5d}  {seconds:.4f} s/update", flush=True)
    machine = describe_machine(options.threads) | {"case": options.case, "precision": options.precision}
    write_json(options.json, {**machine, "rows": rows})


if __name__ == "__main__":
    main()
