"""`hd-agents benchmark`: every task of a suite from several seeds, one row of a table per run."""

import argparse
import inspect
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hd_agents import HarmonyDreamAgent, checks, zoo
from hd_agents.cli import flags, tracking, train
from hd_agents.cli.curves import EVALUATION_ENVS, EVALUATION_SEED, read_episodes, read_evaluation
from hd_agents.cli.errors import FAILED, UsageError, checked, make_folder, require
from hd_agents.cli.resuming import changed_settings, repeat_command, typed
from hd_agents.cli.running import Job, last_line, locked, run_jobs
from hd_agents.cli.tasks import make_env, plan_of, task_id
from hd_agents.envs.closing import close
from hd_agents.evaluation import protocol
from hd_agents.jsonable import DamagedError
from hd_agents.progress import bar_is_seen
from hd_agents.scores import expected_range
from hd_agents.zoo.catalogue import preset_of, suites
from hd_agents.zoo.models import AGENT_FILE, CHECKPOINTS, RUN, training_facts
from hd_agents.zoo.results import EVALUATED, SAME_RUN, append_row, read_rows
from hd_agents.zoo.training import Plan

EVALUATION = "evaluation.json"  # in a run's folder once the run is done
TABLE = "results.csv"
WATCH_SECONDS = 5.0
PROGRAM = (sys.executable, "-m", "hd_agents")


class Run(NamedTuple):
    """One training run: its task by the zoo's name, and the command that would repeat it."""

    name: str
    seed: int
    plan: Plan
    folder: Path
    command: str
    job: Job

    def steps_done(self) -> int:
        """Env steps up to the end of the last episode."""
        steps, _ = read_episodes(self.folder)
        return int(steps[-1]) if len(steps) else 0


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `benchmark` and its flags to the command line."""
    parser = commands.add_parser(
        "benchmark",
        help="train every task of a suite from several seeds; one row of results.csv per run",
        description="Train every task of a suite from every seed, in processes of their own, evaluate the last weights "
        "by the papers' rule, and add a row per run to a table. The same command again goes on where it was stopped: "
        "runs that have their row are skipped, unfinished ones go on from their last checkpoint. Exit status 1 if a "
        "run failed.",
    )
    parser.add_argument("suite", help="the first part of the names that `hd-agents list` shows, such as classic")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these of its tasks (default: all)")
    flags.add_seeds_flags(parser, 5)
    parser.add_argument("--jobs", type=flags.count, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--episodes", type=flags.count, help="of each evaluation (default: the papers' number)")
    folder_help = "where the runs go, and to go on with (default: runs/benchmark_SUITE)"
    parser.add_argument("--folder", type=Path, help=folder_help)
    parser.add_argument("--results", type=Path, metavar="CSV", help="the table (default: results.csv in the folder)")
    parser.add_argument("--checkpoint-every", type=flags.steps, metavar="STEPS", help="default: a twentieth of the run")
    tidy = "delete a run's checkpoints, which hold its replay, once it has its row"
    parser.add_argument("--delete-checkpoints", action="store_true", help=tidy)
    flags.add_setting_flags(parser)
    flags.add_eval_flags(parser)
    tracking.add_flags(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run what has no row yet and return the exit status: 0, or FAILED where a run failed."""
    require("train", *train.NEEDED)
    folder = options.folder or Path("runs") / f"benchmark_{options.suite}"
    results = options.results or folder / TABLE
    runs = [_run(name, seed, folder, options) for name in _tasks(options) for seed in flags.seeds(options)]
    close(make_env(runs[0].plan.task, env_kwargs=runs[0].plan.env_kwargs))  # says which extra is missing
    for one in runs:
        if changed := changed_settings(one.folder, one.plan, one.seed):
            raise UsageError(f"{one.folder} was begun with other settings ({changed}): give another --folder.")
    make_folder(results.parent)
    with locked(folder):
        rows = checked(lambda: read_rows(results))
        _check_episodes(runs, rows, options.episodes)
        left = [one for one in runs if recorded(one, rows) is None]
        for one in left:
            if (one.folder / EVALUATION).exists():
                append_row(results, row(one))
        if options.delete_checkpoints:
            for one in runs:
                if (one.folder / EVALUATION).exists():
                    _delete_checkpoints(one)
        left = [one for one in left if not (one.folder / EVALUATION).exists()]
        print(
            f"{options.suite}: {len(runs)} runs, {len(runs) - len(left)} of them done; results in {results}", flush=True
        )
        board = _Board(left, results, options.delete_checkpoints)
        run_jobs([one.job for one in left], options.jobs, board.ended, board.watch)
        board.close()
    print(summary(runs, read_rows(results)))
    if board.failed:
        print(f"{len(board.failed)} of {len(runs)} runs FAILED: {', '.join(board.failed)}")
    return FAILED if board.failed else 0


def _check_episodes(runs: Sequence[Run], rows: Sequence[dict[str, Any]], asked: int | None) -> None:
    """Raises UsageError where a run was judged by another number of episodes than are to be played now, if any are."""
    done = [recorded(one, rows) is not None or (one.folder / EVALUATION).exists() for one in runs]
    for one in runs if asked is not None or not all(done) else ():
        wanted = protocol(one.plan.task)[1] if asked is None else asked
        found = recorded(one, rows) or (read_evaluation(played) if (played := one.folder / EVALUATION).exists() else {})
        if (told := found.get("episodes", wanted)) != wanted:
            raise UsageError(
                f"{one.name}, seed {one.seed}, was evaluated in {told} episodes, and {wanted} are to be played now: "
                f"give --episodes {told}, or another --folder."
            )


def row(one: Run) -> dict[str, Any]:
    """The row of a run that is done, from the files in its folder."""
    played, facts = read_evaluation(one.folder / EVALUATION), _facts(one)
    usual = {key: value.default for key, value in inspect.signature(HarmonyDreamAgent).parameters.items()}
    arguments = {**usual, **one.plan.arguments}
    return {
        **{"name": one.name, "task": one.plan.task, "seed": one.seed, "command": one.command, "model": None},
        **{key: played.get(key) for key in (*EVALUATED, "env_steps", "gradient_steps")},
        **{"interval": list(expected_range(played["returns"], played["episodes"]))},
        **{key: facts[key] for key in ("wall_seconds", "machine", "commit")},
        **{key: arguments[key] for key in ("backbone", "harmony", "size")},
        **{"preset": preset_of(one.command), "date": facts["trained"]},
    }


def _facts(one: Run) -> dict[str, Any]:
    """How a run that is done was trained. Raises DamagedError where its folder does not say."""
    facts = training_facts(one.folder) or {}
    if missing := {"wall_seconds", "machine", "commit", "trained"} - facts.keys():
        raise DamagedError(f"{one.folder / RUN} is damaged: it lacks {', '.join(sorted(missing))}.")
    return facts


def recorded(one: Run, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """A run's row, if it has one: by its command, or, where that says the same in other words, by its folder."""
    told = {"name": one.name, "seed": one.seed, "command": one.command}
    facts = _facts(one) if (one.folder / EVALUATION).exists() else {}
    for known in (told, {key: {**facts, **told}[key] for key in SAME_RUN if facts}):
        for found in rows:
            if known and known.items() <= found.items():
                return found
    return None


def summary(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> str:
    """A line per task: the mean of its seeds' scores, and their deviation."""
    scores: dict[str, list[float]] = {one.name: [] for one in runs}
    for one in runs:
        if found := recorded(one, rows):
            scores[one.name].append(found["mean_return"])
    width = max(map(len, scores))
    lines = [
        f"{name:<{width}}  "
        + (
            f"{np.mean(x):.2f}" + (f" ± {np.std(x):.2f}" if len(x) > 1 else "") + f" (seeds: {len(x)})"
            if x
            else "not run"
        )
        for name, x in scores.items()
    ]
    commits = {str(found["commit"]) for one in runs if (found := recorded(one, rows))}
    if len(commits) > 1:
        lines.append(f"These runs are of several commits: {', '.join(sorted(commits))}")
    return "\n".join(lines)


def _tasks(options: argparse.Namespace) -> list[str]:
    """The names of the tasks that are asked for."""
    try:
        checked(lambda: checks.choice("suite", options.suite, suites()))
    except UsageError as error:
        if not isinstance(error.__cause__, ValueError):
            raise
        raise UsageError(
            f"{error} A single task from several seeds: hd-agents compare {options.suite} --harmony on --seeds 5."
        ) from error
    names = zoo.list(f"{options.suite}/")
    if options.tasks is None:
        return names
    ids = {zoo.env_id(name): name for name in names}
    wanted = [task_id(task if "/" in task or task in ids else f"{options.suite}/{task}") for task in options.tasks]
    if foreign := [task for task, found in zip(options.tasks, wanted, strict=True) if found not in ids]:
        raise UsageError(
            f"--tasks {' '.join(foreign)}: not in {options.suite}; `hd-agents list {options.suite}` shows it."
        )
    return [name for found, name in ids.items() if found in wanted]


def _run(name: str, seed: int, folder: Path, options: argparse.Namespace) -> Run:
    own = folder / f"{name.partition('/')[2]}_{seed}"
    chosen = flags.changed(options, task=name, seed=seed)
    training = [*PROGRAM, "train", name, "--folder", str(own), "--resume", *typed(chosen)]
    evaluation = [*PROGRAM, "evaluate", name, "--model", str(own / AGENT_FILE), "--seed", str(EVALUATION_SEED)]
    evaluation += ["--n-envs", str(EVALUATION_ENVS), "--device", options.device, "--output", str(own / EVALUATION)]
    evaluation += [] if options.episodes is None else ["--episodes", str(options.episodes)]
    job = Job(f"{name} seed {seed}", (tuple(training), tuple(evaluation)), own.with_name(f"{own.name}.log"))
    return Run(name, seed, plan_of(chosen), own, repeat_command(name, chosen), job)


def _delete_checkpoints(one: Run) -> None:
    """Of a run that has its row."""
    shutil.rmtree(one.folder / CHECKPOINTS, ignore_errors=True)


class _Board:
    """What a person sees of the runs, and their rows in the table as they end."""

    def __init__(self, runs: Sequence[Run], results: Path, tidy: bool = False) -> None:
        from tqdm.auto import tqdm

        self._tidy = tidy
        self.failed: list[str] = []
        self._runs = {one.job: one for one in runs}
        self._results = results
        self._done = {one.job: one.steps_done() for one in runs}
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
            self._done.update({job: self._runs[job].steps_done() for job in running})
            self._bar.set_postfix_str(", ".join(job.name for job in running), refresh=False)
            self._bar.update(sum(self._done.values()) - self._bar.n)

    def ended(self, job: Job, status: int) -> None:
        """Put a job's row into the table, or report that it failed."""
        self._ended += 1
        one = self._runs[job]
        self._done[job] = one.plan.steps
        if status == 0:
            found = row(one)
            append_row(self._results, found)
            if self._tidy:
                _delete_checkpoints(one)
            score = f"return {found['mean_return']:.2f} ± {found['std_return']:.2f}"
            text = f"done   {job.name}: {score}, {found['wall_seconds'] / 60:.1f} min of training"
        else:
            self.failed.append(job.name)
            text = f"FAILED {job.name}: exit status {status}: {last_line(job.log)} (all of it in {job.log})"
        self._tell(f"{text}; {self._ended} of {len(self._runs)} ended{self._time_left()}")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _tell(self, text: str) -> None:
        self._bar.write(text)
        sys.stdout.flush()

    def _time_left(self) -> str:
        """How long the rest takes at the speed so far."""
        now, seconds = sum(self._done.values()), time.monotonic() - self._started
        if self._ended == len(self._runs) or now <= self._before:
            return ""
        left = seconds * (self._total - now) / (now - self._before)
        return f", about {self._bar.format_interval(left)} left"
