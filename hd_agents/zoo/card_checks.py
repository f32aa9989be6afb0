"""What a card has to say, and what it may say of environments, before anything of it is believed."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hd_agents.saving.jsonable import ArchiveError

MOST_TEXT = 1_000  # characters of JSON
MOST_ENVS = 1_000  # that an evaluation is played in
WORD = re.compile(r"\w[\w-]*(\.[\w-]+)*", re.ASCII)


def check_stated(card: Mapping[str, Any], path: Path) -> None:
    """See whether a card says what is read of every card: the model's task, its score, and what it was played for.

    :raises ArchiveError: naming what is missing or of another kind.
    """
    played = card.get("evaluation")
    played = played if isinstance(played, dict) else {}
    wanted: dict[str, Any] = {"name": str, "task": str, "interval": list, "evaluation": dict}
    found = {key: (card.get(key), kind) for key, kind in wanted.items()}
    of_evaluation = {"task": str, "rule": str, "episodes": int, "n_envs": int, "returns": list, "seeds": list}
    found |= {f"evaluation.{key}": (played.get(key), kind) for key, kind in of_evaluation.items()}
    found["evaluation.mean_return"] = played.get("mean_return"), (int, float)
    wrong = [key for key, (value, kind) in found.items() if not isinstance(value, kind) or isinstance(value, bool)]
    numbers = {"interval": card.get("interval"), "evaluation.returns": played.get("returns")}
    numbers["evaluation.seeds"] = played.get("seeds")
    numbers["evaluation.mean_return"] = [played.get("mean_return")]
    wrong += [key for key, value in numbers.items() if key not in wrong and not _are_numbers(value)]
    if "interval" not in wrong and len(card["interval"]) != 2:
        wrong.append("interval")
    if not wrong:
        alike = played["episodes"] == len(played["returns"]) == len(played["seeds"])
        wrong = [] if alike and 1 <= played["n_envs"] <= MOST_ENVS else ["evaluation.episodes", "evaluation.n_envs"]
    if wrong:
        raise ArchiveError(f"{path} does not state {', '.join(wrong)} as every card does.")


def _are_numbers(value: Any) -> bool:
    """Whether they are numbers that a float can be: JSON in Python has NaN, and whole numbers without an end."""
    return bool(value) and all(type(item) in (int, float) and abs(item) <= sys.float_info.max for item in value)


def check_env_kwargs(env_kwargs: Any, source: str) -> dict[str, Any]:
    """Arguments of an environment that a package may hold, given back: a few numbers and words, and no place.

    :raises ArchiveError: for others. What opens files by them would open those of whoever plays the model.
    """
    if not isinstance(env_kwargs, dict) or len(json.dumps(env_kwargs)) > MOST_TEXT:
        raise ArchiveError(f"{source} has env_kwargs that are no short JSON object: {str(env_kwargs)[:80]}.")
    for key, value in env_kwargs.items():
        if not isinstance(value, int | float | str | None) or (isinstance(value, str) and not WORD.fullmatch(value)):
            raise ArchiveError(
                f"{source} has env_kwargs with {key}={value!r}: a package may hold numbers, true, false, null, and "
                "words of letters, digits, '_', '-' and '.', but no places of files."
            )
    return env_kwargs
