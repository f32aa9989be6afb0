"""Mistakes in what was typed, and what is not installed."""

from collections.abc import Callable
from typing import Any

from hd_agents import host

FAILED = 1  # exit status of what was asked for rightly and came to nothing: a training, an environment, a verification


class UsageError(Exception):
    """Something typed that cannot be done; the message says what is possible instead."""


def checked(action: Callable[[], Any]) -> Any:
    """What ``action`` gives; its complaints about files and names become usage errors."""
    try:
        return action()
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(str(error)) from error


def require(extra: str, *names: str) -> None:
    """Raises UsageError where packages that ``extra`` brings are not installed, naming them and the extra."""
    checked(lambda: host.require("this command", extra, *names))
