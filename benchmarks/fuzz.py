"""Feed every reader of files thousands of damaged ones: each must give an agent or our own error.

    python benchmarks/fuzz.py --inputs 10000

Real files (agents, policies, parameters, replays, records of failed steps, both releases' models) are changed in their
bytes, their JSON, their tensors and their zip's members. Counted as failures: any exception that is not ours, more than
20 seconds, more than 1.5 GB of additional memory (the process may have no more), and a crash (the input is kept in
--folder, as those of all failures). Needs Linux. Exit status 1 if there were failures.
"""

import argparse
import collections
import faulthandler
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from fuzzing import Readers, corpus, mutants, outcome  # noqa: E402

SECONDS, EXTRA_BYTES = 20, 1_500_000_000


def limit_memory() -> None:
    """Let this process claim ``EXTRA_BYTES`` more than it has."""
    status = Path("/proc/self/status").read_text()
    size = 1024 * int(status.split("VmSize:")[1].split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size + EXTRA_BYTES, resource.RLIM_INFINITY))


def too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where failing inputs are kept (default: a new temporary one)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    faulthandler.enable()
    signal.signal(signal.SIGALRM, too_long)
    files, counts, failures = corpus(), collections.Counter(), collections.Counter()
    start, slowest = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as scratch:
        readers = Readers(Path(scratch))
        for kind, raw in files.items():
            assert outcome(readers, kind, raw) == "read", kind
        limit_memory()

        @seed(options.seed)
        @settings(
            max_examples=options.inputs,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(mutants(files))
        def run(case: tuple[str, bytes]) -> None:
            nonlocal slowest
            kind, raw = case
            (folder / "newest.bin").write_bytes(raw)
            begin = time.monotonic()
            signal.alarm(SECONDS)
            result = outcome(readers, kind, raw)
            signal.alarm(0)
            slowest = max(slowest, time.monotonic() - begin)
            counts[kind, result if result in ("read", "refused") else "FAILED"] += 1
            if result not in ("read", "refused"):
                failures[f"{kind}: {result.splitlines()[0][:150]}"] += 1
                (folder / f"{kind}-{counts[kind, 'FAILED']}.bin").write_bytes(raw)
                (folder / f"{kind}-{counts[kind, 'FAILED']}.txt").write_text(result)
            if counts.total() % 1000 == 0:
                print(f"{counts.total()} inputs, {failures.total()} failures", flush=True)

        run()
    print(f"{'file':12}{'read':>8}{'refused':>9}{'FAILED':>8}")
    for kind in files:
        print(f"{kind:12}{counts[kind, 'read']:8}{counts[kind, 'refused']:9}{counts[kind, 'FAILED']:8}")
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = f"{time.monotonic() - start:.0f} s, the slowest {slowest:.1f} s"
    print(f"{counts.total()} inputs in {took}; peak {peak / 1e6:.0f} MB")
    for text, count in failures.most_common():
        print(f"{count:6} x {text}")
    print(f"{failures.total()} failures" + (f", kept in {folder}" if failures else ""))
    return int(failures.total() > 0)


if __name__ == "__main__":
    raise SystemExit(main())
