"""Mistakes in what was typed, and what is not installed."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym

from hd_agents import extras
from hd_agents.saving.jsonable import DamagedError

FAILED = 1  # exit status where nothing was wrong with the command but what it ran failed: a training, a verification
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # of an OSError: no room on the disk, or in what a user may have of it
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)  # of an OSError: a file or folder that one may not read or write


class UsageError(Exception):
    """Something typed that cannot be done; the message says what is possible instead."""


def checked(action: Callable[[], Any]) -> Any:
    """What ``action`` gives; its complaints about files and names become usage errors, but for a full disk
    and a run's damaged file.
    """
    try:
        return action()
    except (OSError, ValueError, ImportError, gym.error.Error) as error:
        if isinstance(error, DamagedError) or (isinstance(error, OSError) and error.errno in DISK_FULL):
            raise
        raise UsageError(str(error)) from error


def make_folder(folder: Path) -> Path:
    """Make and return a folder that can be written. Raises UsageError, before any work is done, where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write into the folder {folder}: give another one, or change its permissions.")
    return folder


def require(extra: str, *names: str) -> None:
    """Raises UsageError where packages that ``extra`` brings are not installed, naming them and the extra."""
    checked(lambda: extras.require("this command", extra, *names))
