"""The study of `hd-agents tune`: Optuna's file of trials in a folder, and the best of them as a row of the zoo."""

import argparse
import errno
import json
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import get_device

from hd_agents.cli.errors import UsageError
from hd_agents.files import write_text
from hd_agents.provenance import commit, machine
from hd_agents.zoo.search_space import Space
from hd_agents.zoo.training import Plan, without_usual_rows

STUDY = "study.db"
ORIGIN = "origin"  # of a trial: when, by which code and on which machine it was made


@contextmanager
def open_storage(folder: Path) -> Iterator[Any]:
    """The study's file, closed at the end."""
    import optuna
    from sqlalchemy.engine import URL

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # we tell ourselves
    # Written by URL: names of folders may hold any character.
    storage = optuna.storages.RDBStorage(URL.create("sqlite", database=str(folder / STUDY)).render_as_string())
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def full_disk_as_oserror(folder: Path) -> Iterator[None]:
    """Inside, a full disk raises an OSError, as for any other file: SQLite, SQLAlchemy and Optuna have others."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, sqlite3.OperationalError) and "disk is full" in str(cause):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / STUDY)) from error
            cause = cause.__cause__ or cause.__context__
        raise


def open_study(storage: Any, folder: Path, plan: Plan, space: Space, options: argparse.Namespace) -> Any:
    """The folder's study, or a new one. Raises UsageError if it is another's."""
    import optuna

    if others := [name for name in optuna.get_all_study_names(storage) if name != plan.task]:
        raise UsageError(f"{folder} holds a study of {', '.join(others)}: give another --folder.")
    study = optuna.create_study(
        storage=storage,
        study_name=plan.task,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(),
    )
    # Seeded anew each time: with one seed every continuation would begin with the same values.
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(study.trials))
    asked = {**plan.settings(options.seed), "evaluations": options.evaluations, "episodes": options.episodes}
    asked = json.loads(json.dumps({**asked, "space": space}, default=str))  # as it is stored
    then = study.user_attrs.get("asked")
    if then is None:
        study.set_user_attr("asked", asked)
        return study
    then = without_usual_rows(then)
    if changed := [key for key in {**then, **asked} if then.get(key) != asked.get(key)]:
        raise UsageError(
            f"{folder} holds a study with other values of {', '.join(changed)}: repeat its command to go on with it, "
            "or give another --folder."
        )
    return study


def origin(device: str) -> str:
    """Date, commit and machine of the trials of this sitting, asked for before the first: code changes meanwhile."""
    today = datetime.now(timezone.utc).date().isoformat()
    return f"{today}, commit {commit()}, {machine(get_device(device))}"


def finished(study: Any) -> int:
    """Trials that came to their end or were stopped early; those that were interrupted or failed do not count."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials)


def write_best(study: Any, plan: Plan, path: Path, options: argparse.Namespace) -> None:
    """The best trial so far as a row of the zoo, if any has come to its end."""
    if any(other.state.name == "COMPLETE" for other in study.trials):
        write_text(path, _row(study, plan, options))


def _row(study: Any, plan: Plan, options: argparse.Namespace) -> str:
    """The best trial as a row of the zoo, with what there is to know about it in comments."""
    import yaml

    best = study.best_trial
    pruned = sum(trial.state.name == "PRUNED" for trial in study.trials)
    lines = [
        shlex.join(["hd-agents", *sys.argv[1:]]),
        f"Best of {finished(study)} trials, {pruned} of them stopped early: trial {best.number}, seed "
        f"{options.seed + best.number}, mean return {best.value:.2f} over {options.episodes} episodes at the end.",
        "Each trial is one run, and the luckiest was chosen: expect less, and train with other seeds to know.",
        *([best.user_attrs[ORIGIN]] if ORIGIN in best.user_attrs else []),  # studies of before have none
    ]
    row = yaml.safe_dump({plan.task: best.user_attrs["row"]}, sort_keys=False)
    return "".join(f"# {line}\n" for line in lines) + row
