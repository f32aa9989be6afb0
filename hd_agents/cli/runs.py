"""Runs of `benchmark` and `compare`, each trained and evaluated in a process of its own, and what is told of them."""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hd_agents.cli import flags
from hd_agents.cli.curves import EVALUATION_ENVS, EVALUATION_SEED, read_episodes, read_evaluation
from hd_agents.cli.resuming import typed_flags
from hd_agents.cli.running import Job, last_line, run_jobs
from hd_agents.cli.tasks import class_in, plan_of
from hd_agents.files import write_text
from hd_agents.progress import bar_is_seen
from hd_agents.saving.jsonable import DamagedError
from hd_agents.zoo.models import AGENT_FILE, CHECKPOINTS, RUN, training_facts
from hd_agents.zoo.own_rows import is_file
from hd_agents.zoo.training import Plan

EVALUATION = "evaluation.json"  # in a run's folder once the run is done
WATCH_SECONDS = 5.0
PROGRAM = (sys.executable, "-m", "hd_agents")


class Run(NamedTuple):
    """A run of a task or variant called ``name``; it is called by its label where people read of it."""

    name: str
    seed: int
    plan: Plan
    folder: Path
    label: str
    options: argparse.Namespace

    def evaluation(self) -> dict[str, Any] | None:
        """What it came to, once it is done. Raises DamagedError where the file says nothing."""
        path = self.folder / EVALUATION
        return read_evaluation(path) if path.exists() else None

    def facts(self) -> dict[str, Any]:
        """How a run that is done was trained. Raises DamagedError where its folder does not say."""
        facts = training_facts(self.folder) or {}
        if missing := {"wall_seconds", "machine", "commit", "trained"} - facts.keys():
            raise DamagedError(f"{self.folder / RUN} is damaged: it lacks {', '.join(sorted(missing))}.")
        return facts

    def steps_done(self) -> int:
        """Env steps up to the end of the last episode."""
        steps, _ = read_episodes(self.folder)
        return int(steps[-1]) if len(steps) else 0

    def tidy(self) -> None:
        """Delete its checkpoints, if that is asked for. Nothing goes on without them; agent, pictures and logs stay."""
        if self.options.delete_checkpoints:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def preset(self) -> Path:
        """Where it has a copy of the file of settings that it is planned by, which may change before it begins."""
        return self.folder.with_name(f"{self.folder.name}.yml")

    def job(self) -> Job:
        """The commands that are left of it: to train it, unless it has been evaluated before, and to evaluate it."""
        options, task = self.options, self.options.task
        if is_file(options.preset):
            options = flags.changed(options, preset=str(self.preset()))
        training = (*PROGRAM, "train", task, "--folder", str(self.folder), "--resume", *typed_flags(options))
        evaluation = [*PROGRAM, "evaluate", task, "--model", str(self.folder / AGENT_FILE)]
        evaluation += ["--seed", str(EVALUATION_SEED), "--n-envs", str(EVALUATION_ENVS), "--device", options.device]
        evaluation += ["--output", str(self.folder / EVALUATION)]
        evaluation += [] if options.episodes is None else ["--episodes", str(options.episodes)]
        own = class_in(options.settings)
        evaluation += [] if own is None else ["--agent-class", own]
        commands = [training, tuple(evaluation)]
        if (self.folder / EVALUATION).exists():  # in another number of episodes, after the training
            commands = commands[1:]
        return Job(self.label, tuple(commands), self.folder.with_name(f"{self.folder.name}.log"))


def add_flags(parser: argparse.ArgumentParser, usual_seeds: int) -> None:
    """Add the flags of runs that are many."""
    flags.add_seeds_flags(parser, usual_seeds)
    parser.add_argument("--jobs", type=flags.count, default=1, help="number of runs at a time (default: %(default)s)")
    parser.add_argument("--episodes", type=flags.count, help="episodes per evaluation (default: the papers' number)")
    tidy = "delete a run's checkpoints, which hold its replay, once it is evaluated"
    parser.add_argument("--delete-checkpoints", action="store_true", help=tidy)


def make_run(name: str, folder: Path, label: str, options: argparse.Namespace) -> Run:
    """The run by these options of `train`, with their seed, in a folder of its own."""
    return Run(name, options.seed, plan_of(options), folder, label, options)


def run_all(runs: Sequence[Run], at_once: int, done: Callable[[Run], None]) -> list[str]:
    """Train and evaluate these, ``at_once`` at a time; one that fails does not keep the others from running.

    :param done: called with each that came to its end. :return: the labels of those that failed.
    """
    for one in runs:
        if is_file(one.options.preset):
            write_text(one.preset(), Path(one.options.preset).read_text(encoding="utf-8"))
    board = _Board(runs, done)
    try:
        run_jobs(list(board.runs), at_once, board.ended, board.watch)
    finally:
        board.close()
    return board.failed


class _Board:
    """What a person sees of the runs."""

    def __init__(self, runs: Sequence[Run], done: Callable[[Run], None]) -> None:
        from tqdm.auto import tqdm

        self.failed: list[str] = []
        self.runs = {one.job(): one for one in runs}
        self._record = done
        self._done = {job: one.steps_done() for job, one in self.runs.items()}
        self._total = sum(one.plan.steps for one in runs)
        self._before = sum(self._done.values())
        self._ended, self._seen = 0, set[Job]()
        self._started = self._watched = time.monotonic()
        self._bar = tqdm(total=self._total, initial=self._before, unit=" steps", disable=not bar_is_seen())

    def watch(self, running: Sequence[Job]) -> None:
        """Tell of jobs that have begun, and move the bar now and then."""
        begun = [job for job in running if job not in self._seen]
        self._seen.update(begun)
        for job in begun:
            self._tell(f"begun  {job.name}, see {job.log}")
        if begun or time.monotonic() - self._watched > WATCH_SECONDS:
            self._watched = time.monotonic()
            self._done.update({job: self.runs[job].steps_done() for job in running})
            self._bar.set_postfix_str(", ".join(job.name for job in running), refresh=False)
            self._bar.update(sum(self._done.values()) - self._bar.n)

    def ended(self, job: Job, status: int) -> None:
        """Record a run that is done, or report that it failed."""
        self._ended += 1
        one = self.runs[job]
        try:
            text = f"done   {job.name}: {self._finish(one)}" if status == 0 else None
            why = f"exit status {status}: {last_line(job.log)} (all of it in {job.log})"
        except DamagedError as error:
            text, why = None, str(error)
        if text is None:
            self._total -= one.plan.steps - self._done[job]  # steps that nobody makes in this sitting
            self._bar.total = self._total
            self.failed.append(job.name)
            text = f"FAILED {job.name}: {why}"
        else:
            self._done[job] = one.plan.steps
        self._tell(f"{text}; {self._ended} of {len(self.runs)} ended{self._time_left(one)}")

    def _finish(self, one: Run) -> str:
        """Record a run that is done, and what is told of it."""
        self._record(one)
        played, minutes = one.evaluation() or {}, one.facts()["wall_seconds"] / 60
        return f"return {played['mean_return']:.2f} ± {played['std_return']:.2f}, {minutes:.1f} min of training"

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _tell(self, text: str) -> None:
        self._bar.write(text)
        sys.stdout.flush()

    def _time_left(self, one: Run) -> str:
        """How long the rest takes at the speed so far; nothing where less than half a run has been made to tell it."""
        made, seconds = sum(self._done.values()) - self._before, time.monotonic() - self._started
        if self._ended == len(self.runs) or 2 * made < one.plan.steps:
            return ""
        left = seconds * (self._total - self._before - made) / made
        return f", about {self._bar.format_interval(left)} left"
