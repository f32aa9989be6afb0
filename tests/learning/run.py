"""Run one learning test by hand, with other settings.

``python tests/learning/run.py catch --seed 1 --set train_ratio=64`` prints the learning curve, then one line of JSON
with the evaluation.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[1:3])  # tests/, and the checkout itself

from hd_agents.cli.tasks import parse_setting
from learning.emulation import emulate_bfloat16
from learning.tasks import SETTINGS, TASKS
from learning.trial import BASELINES, run_agent, run_baseline, write_curve


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, train, evaluate, print."""
    parser = argparse.ArgumentParser(description="Train and evaluate on one task of the learning tests.")
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--algorithm", choices=["agent", *BASELINES], default="agent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="env steps instead of the table's")
    parser.add_argument("--set", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="agent settings")
    parser.add_argument("--env", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="the task's own")
    parser.add_argument("--csv", type=Path, help="file for the whole learning curve")
    parser.add_argument("--threads", type=int, help="of the agent, instead of the table's")
    parser.add_argument("--bfloat16", action="store_true", help="emulated where the CPU has none")
    chosen = parser.parse_args(words)
    if chosen.bfloat16:
        emulate_bfloat16()
        chosen.set.append("precision=bfloat16")
    task = TASKS[chosen.task]
    if chosen.steps is not None:
        task = task._replace(steps=chosen.steps)
    if chosen.threads is not None:
        task = task._replace(threads=chosen.threads)
    settings = dict(parse_setting(text) for text in chosen.set)
    difficulty = dict(parse_setting(text) for text in chosen.env)
    if chosen.algorithm == "agent":
        trial = run_agent(chosen.task, task, chosen.seed, settings, difficulty, show=True)
    else:
        trial = run_baseline(chosen.algorithm, task, chosen.seed, difficulty, show=True)
    if chosen.csv is not None:
        write_curve(trial.curve, chosen.csv)
    report = {
        "task": chosen.task,
        "algorithm": chosen.algorithm,
        "seed": chosen.seed,
        "steps": task.steps,
        "env": difficulty,
        "settings": {**SETTINGS[chosen.task], **settings} if chosen.algorithm == "agent" else {},
        "mean": round(trial.mean, 3),
        "std": round(float(np.std(trial.returns)), 3),
        "bar": task.bar,
        "passed": trial.mean >= task.bar,
        "minutes": round(trial.minutes, 2),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
