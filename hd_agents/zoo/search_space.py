"""What may be tuned and how far: a YAML file of ranges and choices, and values out of it by Optuna."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hd_agents.zoo.catalogue import folder
from hd_agents.zoo.own_rows import read_yaml

DEFAULT = "tuning.yml"
FORMS = "write it as {low: 1, high: 9}, {low: 0.001, high: 0.1, log: true} or a list of choices"
FALLING = "lin_"  # begins rates that fall to zero

Space = Mapping[str, Mapping[str, Any] | list[Any]]


def read(path: Path | None = None) -> Space:
    """The search space of a file; None for the zoo's own, ``tuning.yml``. Needs PyYAML (the `tune` extra).

    :raises ValueError: for a file that is none, naming the key and what is allowed.
    """
    path = folder() / DEFAULT if path is None else path
    space = read_yaml(path)
    if not isinstance(space, dict) or not space:
        raise ValueError(f"{path} holds no search space: one line per argument; {FORMS}.")
    for key, values in space.items():
        _check(f"{path}: {key}", values)
    return space


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """One value for every key, by an ``optuna.Trial``; floats to three digits, which is what a person would type."""
    found: dict[str, Any] = {}
    for key, values in space.items():
        if isinstance(values, list):
            found[key] = trial.suggest_categorical(key, values)
            continue
        low, high, log = values["low"], values["high"], values.get("log", False)
        if isinstance(low, int) and isinstance(high, int):
            found[key] = trial.suggest_int(key, low, high, log=log)
        else:
            found[key] = min(max(float(f"{trial.suggest_float(key, low, high, log=log):.3g}"), low), high)
    return found


def within(arguments: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Those of an agent's arguments that the space has, as a trial would name them: where a search can begin."""
    found: dict[str, Any] = {}
    for key, values in space.items():
        value = arguments.get(key)
        if isinstance(value, str) and value.startswith(FALLING):
            value = float(value.removeprefix(FALLING))
        if isinstance(values, list):
            inside = value in values
        else:
            inside = isinstance(value, int | float) and values["low"] <= value <= values["high"]
        if inside:
            found[key] = value
    return found


def applied(arguments: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """An agent's arguments with the values found; rates that fell before fall from the new value."""
    falling = {key for key, value in arguments.items() if isinstance(value, str) and value.startswith(FALLING)}
    numbers = {key: value for key, value in found.items() if key in falling and not isinstance(value, str)}
    return {**arguments, **found, **{key: f"{FALLING}{value:g}" for key, value in numbers.items()}}


def _check(name: str, values: Any) -> None:
    if isinstance(values, list) and values and all(isinstance(one, str | int | float | None) for one in values):
        return
    if not (isinstance(values, dict) and {"low", "high"} <= values.keys() <= {"low", "high", "log"}):
        raise ValueError(f"{name}={values!r}: {FORMS}.")
    low, high, log = values["low"], values["high"], values.get("log", False)
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            raise ValueError(f"{name}: {end!r} is no number.")
    if not isinstance(log, bool) or not low <= high or (log and low <= 0):
        raise ValueError(
            f"{name}={values!r}: low must not be above high, and above 0 where log (true or false) is true."
        )
