"""Does the memory of a training process stay flat? Prints a curve of resident memory over env steps, writes it as JSON.

    python benchmarks/memory.py --steps 100000 --train-ratio 4
    python benchmarks/memory.py --steps 100000 --train-ratio 4 --replay-folder /some/disk

Tiny networks on random 32x32 frames; the replay is full after the first quarter, so that what grows later is a leak.
"anonymous" is memory that only this process can give back; "files" are mapped pages of files, which the system takes
back when it needs memory. Needs Linux's /proc. Exit status 1 if anonymous memory grew by more than 5 MB over the last
half of the run.
"""

import argparse
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from report import write_json
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from hd_agents import HarmonyDreamAgent

ALLOWED_GROWTH = 5_000_000  # bytes
TINY = {"deter": 16, "hidden": 16, "stoch": 3, "classes": 4, "units": 16, "depth": 2}


class Frames(gym.Env):
    """Random 32x32 frames; episodes of 100 steps."""

    observation_space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._frame(), {}

    def step(self, action):
        self.time += 1
        return self._frame(), float(action), False, self.time == 100, {}

    def _frame(self):
        return self.np_random.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def resident() -> dict[str, int]:
    """Bytes of this process in memory, by kind."""
    names = {"RssAnon": "anonymous", "RssFile": "files", "RssShmem": "shared"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    found = {names[parts[0][:-1]]: 1024 * int(parts[1]) for parts in lines if parts[0][:-1] in names}
    return found | {"total": sum(found.values())}


class Curve(BaseCallback):
    """Measures every ``every`` env steps."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.points, self.start = every, [], time.monotonic()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            point = {"steps": self.num_timesteps, "updates": self.model._n_updates, **resident()}
            self.points.append(point | {"seconds": round(time.monotonic() - self.start, 1)})
            kinds = "  ".join(f"{kind} {point[kind] / 1e6:7.1f} MB" for kind in ("total", "anonymous", "files"))
            print(f"{self.num_timesteps:>8} steps  {self.model._n_updates:>6} updates  {kinds}", flush=True)
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--train-ratio", type=float, default=4.0)
    parser.add_argument("--replay-folder", type=Path)
    parser.add_argument("--json", type=Path, default=Path("memory.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    agent = HarmonyDreamAgent(
        "CnnPolicy",
        Frames(),
        size="nano",
        policy_kwargs=TINY,
        batch_size=4,
        sequence_length=16,
        horizon=3,
        train_ratio=options.train_ratio,
        learning_starts=500,
        buffer_size=options.steps // 4,
        replay_folder=options.replay_folder,
        device="cpu",
        verbose=1,
        seed=0,
    )
    curve = Curve(max(1, options.steps // 20))
    with tempfile.TemporaryDirectory() as folder:
        agent.set_logger(configure(folder, []))
        agent.learn(options.steps, callback=curve)
    half = curve.points[len(curve.points) // 2 :]
    grown = half[-1]["anonymous"] - half[0]["anonymous"]
    print(f"Anonymous memory over the last half: {grown / 1e6:+.1f} MB")
    write_json(options.json, {"arguments": vars(options), "points": curve.points})
    return int(grown > ALLOWED_GROWTH)


if __name__ == "__main__":
    raise SystemExit(main())
