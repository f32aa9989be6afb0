"""What `benchmark` and `compare` start, without what takes long."""

import sys
from pathlib import Path

import pytest

from hd_agents.cli import runs

# Takes the place of `python -m hd_agents`: writes what train and evaluate would, without torch.
STAND_IN = """
import json, pathlib, sys
command, task, *flags = sys.argv[1:]
value = dict(zip(flags, flags[1:]))
seed = int(value["--seed"])
if command == "train":
    folder = pathlib.Path(value["--folder"])
    folder.mkdir(exist_ok=True)
    with (folder / "sittings.txt").open("a") as file:
        file.write(" ".join(flags) + "\\n")
    if (folder.parent / f"fail-{folder.name}").exists():
        sys.exit("no more luck")
    facts = {"wall_seconds": 90.0, "machine": "a desk", "commit": "abc", "trained": "2026-11-24"}
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "0.monitor.csv").write_text("#{}\\nr,l,t\\n1.0,30,1.0\\n")
else:
    folder = pathlib.Path(value["--model"]).parent
    if (folder.parent / f"fail-evaluation-{folder.name}").exists():
        sys.exit("no motor driver")
    episodes = int(value.get("--episodes", 20))
    first = 10.0 + int(folder.name[-1]) + 2.0 * folder.name.startswith("on_")
    returns = [first, *[20.0] * (episodes - 1)]
    mean = (returns[0] + 20.0) / 2
    played = {"returns": returns, "episodes": episodes, "mean_return": mean, "std_return": 5.0, "rule": "paper"}
    played |= {"acting": "sampled", "env_steps": 60, "gradient_steps": 7}
    pathlib.Path(value["--output"]).write_text(json.dumps(played))
    (folder / "evaluated.txt").write_text(" ".join(flags))
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs made by the stand-in, whose program is written to ``folder``."""
    path = folder / "stand_in.py"
    path.write_text(STAND_IN)
    monkeypatch.setattr(runs, "PROGRAM", (sys.executable, str(path)))
    monkeypatch.setattr("hd_agents.cli.running.POLL_SECONDS", 0.01)


def sittings(folder: Path) -> dict[str, int]:
    """How often each run of a folder was trained."""
    return {path.parent.name: len(path.read_text().splitlines()) for path in folder.glob("*/sittings.txt")}
