"""Time our update beside other implementations', by turns in one run; with ``--acting`` the choice of an action.

``python benchmarks/peers.py cpu-small --peers sheeprl r2dreamer --checkouts ~/peers --python ~/peers/bin/python`` runs
the same shapes through each contender's own update function, a few updates of each in turn, and prints ratios.
sheeprl has to be installed for the given interpreter, r2dreamer checked out in the given folder; none of it is part of
this project. Ours takes its batch from replay, the peers get theirs ready-made.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
import warnings
from pathlib import Path

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[:2])

import torch
from cases import CASES
from report import describe_machine, write_json
from update import Worker, take_turns


def worker(options: argparse.Namespace) -> None:
    """Update, or act, for each line on stdin."""
    from peer_updates import PEERS
    from policy import make_player

    warnings.filterwarnings("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever the peer prints is no answer
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    name, case, precision = options.worker
    if name == "hd_agents":
        work = make_player(CASES[case])
    else:
        made = PEERS[name](CASES[case], options.checkouts, precision == "bfloat16")
        work = made.act if options.acting else made.update
    for line in sys.stdin:
        if line.strip() == "update":
            start, cpu = time.perf_counter(), time.process_time()
            work()
            answer = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        else:
            answer = {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Parse the command line, time, print."""
    parser = argparse.ArgumentParser(description="Time our update beside other implementations'.")
    parser.add_argument("case", nargs="?", default="cpu-small", choices=list(CASES))
    parser.add_argument("--peers", nargs="+", default=["sheeprl"], help="sheeprl, r2dreamer")
    parser.add_argument("--peer-precision", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--checkouts", type=Path, default=Path("peers"), help="folder with one checkout per peer")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has what the peers import")
    parser.add_argument("--updates", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--block", type=int, default=5, help="timed updates of each before it is the next one's turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--acting", action="store_true", help="time the choice of an action, in float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    threads = str(options.threads)
    common = [__file__, "--threads", threads, "--checkouts", str(options.checkouts), *["--acting"] * options.acting]
    theirs = [options.python, *common]
    if options.acting:
        options.precision = options.peer_precision = ["float32"]
        ours = [sys.executable, *common, "--worker", "hd_agents"]
    else:
        update = str(Path(__file__).with_name("update.py"))
        ours = [sys.executable, update, "--threads", threads, "--profiled", "0", "--worker"]
    workers = [Worker(("hd_agents", kind), [*ours, options.case, kind], options.threads) for kind in options.precision]
    workers += [
        Worker((name, kind), [*theirs, "--worker", name, options.case, kind], options.threads)
        for name in options.peers
        for kind in options.peer_precision
    ]
    take_turns(workers, options.warmup, options.updates, options.block)
    rows = [{"name": one.label[0], "precision": one.label[1], **one.times, **one.ask("report")} for one in workers]
    fastest = min(one.median for one in workers if one.label[0] != "hd_agents")
    what = "actions" if options.acting else "updates"
    print(f"{options.case}, {threads} threads, {options.updates} {what} each, median of wall seconds")
    for one, row in zip(workers, rows, strict=True):
        cpu, peak = statistics.median(row["cpu_seconds"]), row["peak_bytes"] / 2**20
        print(
            f"{one.label[0]:10} {one.label[1]:9} {one.median:9.5f} s  CPU {cpu:9.5f} s  peak {peak:6.0f} MiB  "
            f"{fastest / one.median:5.2f} times the fastest peer's speed"
        )
    write_json(options.json, {"case": options.case, **describe_machine(options.threads), "rows": rows})


if __name__ == "__main__":
    main()
