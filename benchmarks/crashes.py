"""Kill a learning process again and again, and look at what it leaves: ``python -m benchmarks.crashes --kills 100``.

Every second kill -9 comes at any moment (start, loading, learning, writing), the others while a checkpoint is being
written. After each one every checkpoint in the folder must be intact and the newest at least as new as the last one
that the process had reported; the next process must resume there. In the end the run, killed so many times, must be bit
for bit the run that was never killed: weights, replay, random generators.
"""

import argparse
import random
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hd_agents.callbacks import RunCheckpoint
from hd_agents.saving.checkpoint import newest_intact, read_checkpoint, steps_in
from tests.runs import PROCESSES, cartpole, in_new_process, make_vec, new_agent, run

BACKBONE = "dreamerv3"
EVERY = 15  # env steps between two checkpoints
LONGEST = 1.5  # seconds after which a process is killed that may be killed at any moment
ENDLESS = 10**9  # env steps


class Reporting(RunCheckpoint):
    """Tells when it begins to write a checkpoint and when that is done."""

    def __init__(self, folder: Path, pipe: Any) -> None:
        super().__init__(folder, EVERY, keep=2)
        self.pipe = pipe

    def save(self) -> None:
        self.pipe.send(("saving", self.model.num_timesteps, time.monotonic()))
        super().save()
        self.pipe.send(("saved", self.model.num_timesteps, time.monotonic()))


def learn(folder: Path, pipe: Any) -> None:
    """Go on with the run in ``folder`` until killed."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # a damaged checkpoint would be reported by one
    env = make_vec(cartpole(), False)
    checkpoint = Reporting(folder, pipe)
    agent = checkpoint.resume(env, device="cpu")
    pipe.send(("resumed", 0 if agent is None else agent.num_timesteps, time.monotonic()))
    agent = agent or new_agent(env, BACKBONE)
    agent.learn(ENDLESS, callback=checkpoint, reset_num_timesteps=False)


class Kill(NamedTuple):
    """One kill: what the process had resumed from (None: killed before), saved last, and whether it was writing."""

    resumed: int | None
    saved: int | None
    writing: bool


class Killer:
    """Starts processes on one folder and kills them at random moments."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.seconds = 0.02  # that writing a checkpoint takes: the average of those seen
        self.newest = 0  # step of the newest checkpoint that is known to be complete

    def kill(self, while_writing: bool) -> Kill:
        """Start a process, kill it, and check what it leaves."""
        ours, theirs = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=learn, args=(self.folder, theirs))
        process.start()
        theirs.close()
        told: list[tuple[str, int, float]] = []
        if while_writing:
            count = self.random.randint(1, 4)
            while [name for name, *_ in told].count("saving") < count:
                told.append(ours.recv())
            time.sleep(self.random.uniform(0.0, self.seconds))
        else:
            time.sleep(self.random.uniform(0.0, LONGEST))
        process.kill()
        process.join()
        assert process.exitcode == -9, f"The process ended by itself: {process.exitcode}"
        told += _rest(ours)
        return self._check(told)

    def _check(self, told: list[tuple[str, int, float]]) -> Kill:
        resumed = next((step for name, step, _ in told if name == "resumed"), None)
        saved = [step for name, step, _ in told if name == "saved"]
        times = {(name, step): moment for name, step, moment in told}
        for step in saved:
            self.seconds += 0.1 * (times["saved", step] - times["saving", step] - self.seconds)
        assert resumed is None or resumed >= self.newest, f"resumed at {resumed}, but {self.newest} had been stored"
        self.newest = max([self.newest, *saved])
        for step in steps_in(self.folder):
            read_checkpoint(self.folder, step)
        manifest = newest_intact(self.folder)
        assert manifest is None or manifest.step >= self.newest, (
            f"{self.newest} had been stored, {manifest.step} is left"
        )
        return Kill(resumed, saved[-1] if saved else None, bool(told) and told[-1][0] == "saving")


def _rest(pipe: Any) -> list[tuple[str, int, float]]:
    """What is left in the pipe of a process that was killed, perhaps in the middle of a message."""
    told = []
    try:
        while True:
            told.append(pipe.recv())
    except (EOFError, OSError):
        return told


def crash(folder: Path, kills: int, seed: int) -> list[Kill]:
    """Kill a run ``kills`` times, let it end, and compare it with one that was never killed."""
    killer = Killer(folder, seed)
    done = [killer.kill(while_writing=number % 2 == 1) for number in range(kills)]
    last = steps_in(folder)[0] + EVERY
    setting = partial(in_new_process, run, cartpole, BACKBONE, False, last - last % 3)
    killed, straight = setting(folder), setting()
    different = [name for name in straight if killed[name] != straight[name]]
    assert not different, f"after {kills} kills the run differs in {different}"
    return done


def main() -> None:
    """Print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = crash(Path(folder), options.kills, options.seed)
        steps = steps_in(Path(folder))[0]
    print(f"kills                                  {len(done)}")
    print(f"  of them while writing a checkpoint   {sum(kill.writing for kill in done)}")
    print(f"  of them before the run was loaded    {sum(kill.resumed is None for kill in done)}")
    print(f"env steps at the end                   {steps}, bit for bit as without kills")
    print("checkpoints lost or damaged            0")
    print(f"seconds                                {time.monotonic() - began:.0f}")


if __name__ == "__main__":
    main()
