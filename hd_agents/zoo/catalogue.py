"""The tasks of the zoo: their names, their Gymnasium ids, and the hyper-parameters that they are trained with."""

import difflib
import re
import shlex
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym

from hd_agents import checks
from hd_agents.envs import PACKAGES, make, namespace
from hd_agents.envs.closing import close
from hd_agents.extras import needing
from hd_agents.zoo import own_rows

PRESETS = ("paper", "nano")
NO_TASKS = ("default", "nano")  # rows of a suite that are no task's


def folder() -> Path:
    """Where the zoo's files are: inside an installed package, else beside the package in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_zoo"
    return installed if installed.is_dir() else package.parent / "zoo"


def names(*words: str) -> list[str]:
    """The names of all tasks, or of those that hold all of these words. Needs PyYAML (the `train` extra).

    :param words: such as a suite ("atari100k", "dmc_vision", "dmc_proprio", "dmc_natural", "metaworld" or "classic") or
        a part of a task's name, in any case.
    :raises ValueError: where there is none.
    """
    found = [name for name in _ids() if all(word.lower() in name.lower() for word in words)]
    if not found:
        raise ValueError(f"no task has {' and '.join(words)} in its name; the suites are {', '.join(_suites())}.")
    return found


def env_id(name: str) -> str:
    """The Gymnasium id of a name: ``env_id("atari100k/pong") == "atari100k/Pong-v0"``.

    Case, dashes and underscores do not matter, and an id stands for itself, also one that the zoo does not have. Of
    our own ids "hd_agents:" in front, which other processes may need, is left out.

    :raises ValueError: for a name that is neither of the zoo nor an id, with names that are near.
    """
    ids = _ids()
    if (own := name.removeprefix("hd_agents:")) in ids.values():
        return own
    by_key = {key_of(known): known for known in ids}
    if key_of(name) in by_key:
        return ids[by_key[key_of(name)]]
    if name in gym.registry or re.search(r"-v\d+$|^[\w.]+:[^/]", name) or namespace(name) in PACKAGES:
        return name  # those of a module may have no version, and are known once it is imported
    near = difflib.get_close_matches(key_of(name), by_key, n=3)
    hint = ", ".join(by_key[key] for key in near) or "what `hd-agents list` shows"
    raise ValueError(f"{name!r} is no task of the zoo and no Gymnasium id. Did you mean {hint}?")


def name_of(task: str) -> str:
    """The zoo's name of a Gymnasium id; the id itself where the zoo does not have it."""
    return next((name for name, found in _ids().items() if found == task), task)


def suites() -> list[str]:
    """The names of all suites."""
    return list(_suites())


def key_of(name: str) -> str:
    """A name without what does not matter in it: case, dashes and underscores."""
    return re.sub(r"[-_]", "", name).lower()


def hyperparameters(name: str, preset: str | Path = "paper") -> dict[str, Any]:
    """What a task is trained with: ``n_timesteps`` (env steps), ``n_envs``, ``policy``, and arguments of
    :class:`HarmonyDreamAgent`, with rl-zoo3's keys. Needs PyYAML (the `train` extra).

    :param name: of a task, or its Gymnasium id; ``classic/default`` is what suits an unknown task on a small machine.
    :param preset: "paper" for the paper's values, "nano" for something that two CPU cores can run. The tasks of
        ``classic`` have one set of values, made for small machines. Or a YAML file of your own, such as "my.yml": the
        row that it has for the task, else its row ``default``; a run's ``config.yml`` is such a file.
    :return: for the other ids of a suite, such as ``atari100k/Tetris-v0``, the suite's values; empty for a Gymnasium id
        that the zoo does not have.
    :raises ValueError: for an unknown name or preset, and for a file without a row for the task.
    """
    if own_rows.is_file(preset):
        return _own_row(Path(preset), env_id(name))
    checks.choice("preset", preset, PRESETS)
    suite, _, task = name.partition("/")
    if task in NO_TASKS and suite in _suites():
        return deepcopy(_suites()[suite].get(task, {}))
    found = env_id(name)
    rows = next((rows for rows in _suites().values() if found in rows), _suites().get(namespace(found), {}))
    row = "nano" if preset == "nano" and "nano" in rows else found if found in rows else "default"
    return deepcopy(rows.get(row, {}))


def _own_row(path: Path, task: str) -> dict[str, Any]:
    """The row of a file of one's own for a Gymnasium id."""
    rows = own_rows.read_rows(path)
    try:
        ids = {name if name in NO_TASKS else env_id(name): name for name in rows}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if twice := rows.keys() - ids.values():
        raise ValueError(f"{path} has two rows for a task: remove {', '.join(sorted(twice))}, or the other one.")
    for name in (task, "default"):
        if name in ids:
            return rows[ids[name]]
    raise ValueError(f"{path} has no row for {task}, only for {', '.join(rows)}: add one, or one called default.")


def preset_of(command: str) -> str:
    """The preset in a command of ``hd-agents train``."""
    for word, following in pairwise([*words_of(command), ""]):
        if word == "--preset" or word.startswith("--preset="):
            return word.partition("=")[2] or following
    return "paper"


def words_of(command: str) -> list[str]:
    """The words of a command as a shell reads it; a card's or a row's may be anybody's, with an apostrophe."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def make_env(name: str, /, drawn: bool = False, **arguments: Any) -> gym.Env[Any, Any]:
    """The task's environment, made by ``gymnasium.make`` with ``arguments``.

    :param drawn: with ``render_mode="rgb_array"``, if it has that.
    :raises ValueError: for a name that is neither of the zoo nor an id, and for arguments that it does not take.
    :raises ImportError: where its suite is not installed, naming the extra.
    """
    return make_with(name, arguments, drawn)


def make_with(name: str, env_kwargs: Mapping[str, Any], drawn: bool = False) -> gym.Env[Any, Any]:
    """:func:`make_env` with the arguments as a mapping."""
    found = env_id(name)
    env = make(found, env_kwargs)
    if drawn and "rgb_array" in env.metadata.get("render_modes", ()):
        close(env)
        env = make(found, {**env_kwargs, "render_mode": "rgb_array"})
    return env


@cache
def _suites() -> Mapping[str, Mapping[str, dict[str, Any]]]:
    """Suite -> rows of its file, by Gymnasium id. Whoever hands a row out copies it."""
    with needing("The zoo", "train"):
        import yaml  # a plain install has no PyYAML
    files = sorted((folder() / "hyperparams").glob("*.yml"))
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}


@cache
def _ids() -> Mapping[str, str]:
    """Name -> Gymnasium id, in the order of the files."""
    return {_name(suite, row): row for suite, rows in _suites().items() for row in rows if row not in NO_TASKS}


def _name(suite: str, found: str) -> str:
    """The name of an id: without its version, in its file's suite; games of Atari in ALE's own spelling of files."""
    task = re.sub(r"-v\d+$", "", found.rpartition("/")[2])
    if suite == "atari100k":
        task = re.sub(r"(?<=.)([A-Z])", r"_\1", task).lower()
    return f"{suite}/{task}"
