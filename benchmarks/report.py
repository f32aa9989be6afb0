"""What the benchmarks write: their numbers, and the machine that these come from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hd_agents.host import cpu_name


def describe_machine(threads: int) -> dict[str, Any]:
    """What a figure depends on besides the code."""
    return {"cpu": cpu_name(), "threads": threads, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write a report, if a file for it was given."""
    if path is not None:
        path.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
