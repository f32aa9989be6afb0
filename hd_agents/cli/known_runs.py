"""Training runs that something is known of: rows of results, and the folders of runs."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli.curves import read_evaluation
from hd_agents.cli.errors import UsageError, checked
from hd_agents.cli.resuming import settings_in
from hd_agents.cli.runs import EVALUATION
from hd_agents.evaluation.scores import prediction_interval
from hd_agents.saving.jsonable import DamagedError
from hd_agents.zoo.catalogue import name_of, suites
from hd_agents.zoo.models import CONFIG, training_facts
from hd_agents.zoo.results import SAME_RUN, read_rows, settings_of

OURS = "hd_agents"
TOLD = ("backbone", "harmony", "size", "preset", "env_steps")  # of a row of results


class KnownRun(NamedTuple):
    """A training run that something is known of.

    :param name: of the task. :param settings: what tells it apart from runs by other settings.
    :param row: its score, None where it was not evaluated. :param folder: of its logs, None where there is only a row.
    """

    name: str
    seed: int
    settings: Mapping[str, Any]
    row: Mapping[str, Any] | None
    folder: Path | None


def read(what: str) -> Iterable[KnownRun]:
    """The runs of a suite's results, of a table, or of a folder."""
    if what in suites():
        return map(_of_row, checked(lambda: zoo.results(what)))
    path = Path(what)
    if path.suffix == ".csv" and path.is_file():
        return map(_of_row, checked(lambda: read_rows(path)))
    if not path.is_dir():
        raise UsageError(f"{what} is not a folder, a table of results (.csv) or a suite ({', '.join(suites())}).")
    logs = sorted(path.rglob("0.monitor.csv"))
    runs = [_of_folder(log.parent) for log in logs if (log.parent / CONFIG).is_file()]
    if not runs:
        raise UsageError(f"{what} holds no run of `hd-agents train`, `compare` or `benchmark`.")
    return runs


def once(runs: Iterable[KnownRun]) -> list[KnownRun]:
    """Without what is there twice: in two tables, or in a folder, which tells more, and in its table."""

    def told(one: KnownRun, *more: str) -> tuple[Any, ...]:
        row = one.row or {}
        is_known = row.get("wall_seconds") is not None  # else it was written by hand, and says too little
        return tuple(row.get(key) for key in (*SAME_RUN, *more)) if is_known else (id(one),)

    # Runs of two folders are two, also where they took as many seconds.
    alone = {told(one, "command") if one.folder is None else one.folder.resolve(): one for one in runs}
    logged = {told(one) for one in alone.values() if one.folder is not None}
    return [one for one in alone.values() if one.folder is not None or told(one) not in logged]


def label(runs: Sequence[KnownRun]) -> list[str]:
    """What each run is called: the settings in which it differs from others of its task, or OURS if all are alike."""
    settings = [one.settings for one in runs]
    varying: list[str] = []
    for name in dict.fromkeys(one.name for one in runs):
        known: dict[str, set[str]] = {}
        for logged in (True, False):  # a row of results tells less than a folder: what it leaves out may be alike
            alike = [index for index, one in enumerate(runs) if (one.name, one.folder is not None) == (name, logged)]
            for key in dict.fromkeys(key for index in alike for key in settings[index]):
                if logged and any(key not in settings[index] for index in alike):
                    for index in alike:  # a default that is told is no other setting than one that is left out
                        settings[index] = {k: v for k, v in settings[index].items() if k != key or v != _default(key)}
                known.setdefault(key, set()).update(str(settings[index].get(key, "default")) for index in alike)
        varying += [key for key, values in known.items() if len(values) > 1 and key not in varying]
    return [", ".join(f"{key} {told[key]}" for key in varying if key in told) or OURS for told in settings]


def _default(setting: str) -> Any:
    """What the agent takes where a run's settings do not have it."""
    parameter = inspect.signature(HarmonyDreamAgent).parameters.get(setting)
    return inspect.Parameter.empty if parameter is None else parameter.default


def _of_row(row: Mapping[str, Any]) -> KnownRun:
    settings = {key: row[key] for key in TOLD} | settings_of(row["command"])
    return KnownRun(row["name"], row["seed"], settings, row, None)


def _of_folder(folder: Path) -> KnownRun:
    found = settings_in(folder)
    if len(found) != 1 or "seed" not in (settings := next(iter(found.values()))):
        raise DamagedError(f"{folder / CONFIG} is damaged: it should hold one task with its settings and seed.")
    name, row = name_of(next(iter(found))), None
    if (folder / EVALUATION).is_file():
        played, facts = read_evaluation(folder / EVALUATION), training_facts(folder) or {}
        row = {"success_rate": None, "human_normalized_score": None, **played, "name": name, "seed": settings["seed"]}
        row |= {key: facts.get(key) for key in ("commit", "wall_seconds")}
        row["interval"] = prediction_interval(played["returns"], played["episodes"])
    return KnownRun(name, settings.pop("seed"), settings, row, folder)
