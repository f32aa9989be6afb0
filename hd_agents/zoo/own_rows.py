"""Settings in a YAML file of one's own: rows as the zoo's files have them, each under the name of its task."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUFFIXES = (".yml", ".yaml")
FORM = "write it as in zoo/hyperparams: the name of a task, and below it, indented, a line `key: value` per setting"


def is_file(preset: str | Path) -> bool:
    """Whether a preset is a file of one's own: its name ends as those of YAML files do."""
    return Path(preset).suffix in SUFFIXES


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Task -> its settings, without the seed that the ``config.yml`` of a run has too. Needs PyYAML.

    :raises ValueError: for a file that cannot be read or holds something else.
    """
    found = read_yaml(path)
    if not isinstance(found, dict) or not all(isinstance(row, Mapping) and row for row in found.values()):
        raise ValueError(f"{path} holds no settings of tasks: {FORM}.")
    return {str(task): {str(key): row[key] for key in row if key != "seed"} for task, row in found.items()}


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, where 1e-3 is a number; for PyYAML it is text unless written as 1.0e-3.

    :raises ValueError: for a file that cannot be read or is none.
    """
    import yaml

    class _Loader(yaml.SafeLoader):
        """Of its own, as resolvers are added to a whole class."""

    _Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
