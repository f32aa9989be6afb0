"""Mistakes in what was typed, and what is not installed."""

import importlib.util
from collections.abc import Callable
from typing import Any


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
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        them = "them" if len(missing) > 1 else "it"
        raise UsageError(f"not installed: {', '.join(missing)}. Install {them} with: pip install 'hd_agents[{extra}]'")
