"""Time acting: one step of filtering and the choice of an action, from NumPy to NumPy, as evaluation does it.

``python benchmarks/policy.py nano atari100k --batch 1 16`` prints the median and the 90th percentile in milliseconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[:2])

from cases import ACTIONS, CASES, OBSERVATIONS, Case
from report import describe_machine, write_json

from hd_agents.policies import CnnPolicy, DreamPolicy, MlpPolicy


def make_policy(case: Case, device: str) -> DreamPolicy:
    """A policy of the case's networks."""
    actions = gym.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32) if case.continuous else gym.spaces.Discrete(ACTIONS)
    if case.images:
        kind, space = CnnPolicy, gym.spaces.Box(0, 255, next(iter(case.images.values())), np.uint8)
    else:
        kind, space = MlpPolicy, gym.spaces.Box(-np.inf, np.inf, (sum(case.vectors.values()),), np.float32)
    policy = kind(space, actions, backbone=case.backbone, size=case.size, overrides=case.overrides)
    return policy.to(device)


def make_player(case: Case) -> Callable[[], NDArray[Any]]:
    """Chooses one environment's next action, each time for the next of a few observations."""
    policy, state, starts = make_policy(case, "cpu"), None, np.ones(1, bool)
    seen = cycle([policy.observation_space.sample()[None] for _ in range(OBSERVATIONS)])

    def act() -> NDArray[Any]:
        nonlocal state, starts
        action, state = policy.predict(next(seen), state, starts)
        starts = np.zeros(1, bool)
        return action

    return act


def milliseconds(policy: DreamPolicy, batch: int, steps: int) -> list[float]:
    """Times of ``steps`` calls of predict for ``batch`` environments, after a few to warm up."""
    seen = np.stack([policy.observation_space.sample() for _ in range(batch)])
    state, starts, times = None, np.ones(batch, bool), []
    for step in range(steps + 20):
        begun = time.perf_counter()
        _, state = policy.predict(seen, state, starts)
        if step >= 20:
            times.append(1e3 * (time.perf_counter() - begun))
        starts = np.zeros(batch, bool)
    return times


def main() -> None:
    """Parse the command line, time, print."""
    parser = argparse.ArgumentParser(description="Time the choice of an action.")
    parser.add_argument("cases", nargs="*", default=["nano", "cpu-small", "atari100k"], metavar="CASE")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16], help="environments at once")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = []
    for name in options.cases:
        policy = make_policy(CASES[name], options.device)
        for batch in options.batch:
            times = milliseconds(policy, batch, options.steps)
            median, slow = np.percentile(times, [50, 90])
            print(f"{name:12} batch {batch:3}  {median:.3f} ms  (90th percentile {slow:.3f} ms)")
            rows.append({"case": name, "batch": batch, "milliseconds": median, "percentile_90": slow})
    write_json(options.json, {**describe_machine(options.threads), "device": options.device, "rows": rows})


if __name__ == "__main__":
    main()
