"""Agents of your own: subclasses of `HarmonyDreamAgent` that the zoo and the command line train by their names."""

import functools
import importlib
from typing import Any

from hd_agents.agent import HarmonyDreamAgent

EXAMPLE = "agent_class=my_module:MyAgent"


def find_class(told: Any) -> type[HarmonyDreamAgent]:
    """The class that is meant: itself, or ``"module:Class"``, whose module is imported, as Gymnasium's ids have it.

    :raises ValueError: where there is no such class, or it is no :class:`HarmonyDreamAgent`.
    """
    found = _imported(told) if isinstance(told, str) else told
    if not (isinstance(found, type) and issubclass(found, HarmonyDreamAgent)):
        raise ValueError(f"agent_class={told!r} is no subclass of HarmonyDreamAgent; {EXAMPLE} names one.")
    return found


def class_name(agent_class: type[HarmonyDreamAgent]) -> str:
    """What :func:`find_class` finds it by."""
    return f"{agent_class.__module__}:{agent_class.__qualname__}"


def _imported(told: str) -> Any:
    name, _, attribute = told.partition(":")
    if not attribute or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"agent_class={told!r}: write the module and its class, such as {EXAMPLE}.")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # its own import of another module
        raise ValueError(f"agent_class={told!r}: there is no module {error.name} here.") from error
    try:
        return functools.reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        place = getattr(module, "__file__", None) or f"the module {name}"
        raise ValueError(f"agent_class={told!r}: {place} has no {attribute}.") from error
