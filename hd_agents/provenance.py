"""Where a result comes from: the code, the machine, and what was run on it."""

import subprocess
from pathlib import Path

import torch

from hd_agents.host import cores, cpu_name


def commit() -> str | None:
    """The commit of the checkout that the package runs from, with "+changes" if it was edited; None outside of one."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def machine(device: torch.device) -> str:
    """The processor, how many of its cores can be used, and the GPU if ``device`` is one."""
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{cpu_name()}, {cores()} cores, {torch.get_num_threads()} threads{gpu}"
