"""Time the whole loop: env steps and gradient steps per second of learn(), and the share that is gradient steps.

``python benchmarks/train_loop.py --env hd_agents/Catch-v0 --steps 400 --set size=nano batch_size=4`` learns for as many
env steps after the random ones, and prints what the wall time went into: updates, acting, environment, the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[:2])

import torch
from report import describe_machine, write_json

from hd_agents import HarmonyDreamAgent
from hd_agents.cli.tasks import checked_env, parse_setting
from hd_agents.spaces import ObservationCodec


class Clock:
    """Adds up the wall seconds of named functions."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count the time of ``owner.name`` as ``part``."""
        original: Callable[..., Any] = getattr(owner, name)

        def timed(*values: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = original(*values, **named)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
            return result

        setattr(owner, name, timed)


def main() -> None:
    """Parse the command line, learn, print."""
    parser = argparse.ArgumentParser(description="Time learn() as a whole.")
    parser.add_argument("--env", default="hd_agents/Catch-v0")
    parser.add_argument("--steps", type=int, default=400, help="env steps after the random ones")
    parser.add_argument("--set", nargs="+", default=["size=nano"], metavar="KEY=VALUE", help="agent settings")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = {"buffer_size": 10_000, "learning_starts": 200, "seed": 0} | dict(map(parse_setting, options.set))
    env = checked_env(options.env, {})
    agent = HarmonyDreamAgent(ObservationCodec(env.observation_space).policy, env, device=options.device, **settings)
    agent.learn(agent.learning_starts + 20)  # the first gradient steps are slower
    clock, updates = Clock(agent.device), agent._n_updates
    clock.watch(agent, "train", "gradient steps")
    clock.watch(agent._collector, "act", "acting")
    clock.watch(agent.env, "step", "environment")
    start = time.perf_counter()
    agent.learn(options.steps, reset_num_timesteps=False)
    wall = time.perf_counter() - start
    updates = agent._n_updates - updates
    print(f"{options.env}: {options.steps / wall:.1f} env steps/s, {updates / wall:.2f} gradient steps/s")
    shares = {part: seconds / wall for part, seconds in clock.seconds.items()}
    shares["the rest"] = 1.0 - sum(shares.values())
    print("  " + "  ".join(f"{part} {share:.1%}" for part, share in shares.items()))
    report = describe_machine(options.threads) | {"env": options.env, "settings": settings, "seconds": wall}
    write_json(options.json, {**report, "steps": options.steps, "updates": updates, "shares": shares})


if __name__ == "__main__":
    main()
