"""The data that ships with the package: tested hyper-parameters per task."""

from pathlib import Path
from typing import Any


def folder() -> Path:
    """Where the zoo's files are: inside an installed package, else beside the package in a checkout."""
    installed = Path(__file__).parent / "_zoo"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "zoo"


def hyperparameters(task: str) -> dict[str, Any]:
    """What is known to work for a Gymnasium id, with rl-zoo3's keys: `n_timesteps` (env steps), `n_envs`, `policy`, and
    the arguments of HarmonyDreamAgent. `default` is what suits an unknown task on a small machine. Empty for a name
    without an entry. Needs PyYAML (the `train` extra).
    """
    import yaml  # a plain install has no PyYAML

    for path in sorted((folder() / "hyperparams").glob("*.yml")):
        tasks: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
        if task in tasks:
            return tasks[task]
    return {}
