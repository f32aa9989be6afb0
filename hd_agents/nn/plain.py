"""Whether modules are as torch or we made them, so that operations alone may do what calling them would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import nn


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is of this very class, without hooks and without methods of its own."""
    return type(module) is kind and not has_methods(module) and not any(hooks_of([module]))


def has_methods(module: nn.Module) -> bool:
    """Whether the object has methods in the place of those of its class."""
    kind: Any = type(module)
    return not _methods(kind).isdisjoint(vars(module))


def hooks_of(modules: Iterable[nn.Module]) -> list[Mapping[int, Any]]:
    """The tables of hooks, those of the modules and the global ones; empty tables where there are none."""
    kinds = [f"_{way}{kind}" for way in ("forward", "backward") for kind in ("_pre_hooks", "_hooks")]
    of_all = [vars(nn.modules.module)[f"_global{kind}"] for kind in kinds]
    return [*of_all, *(vars(one)[kind] for one in modules for kind in kinds)]


@cache
def _methods(kind: Any) -> frozenset[str]:
    """The names of a class's methods, in whose place an object can have others."""
    return frozenset(name for name in dir(kind) if callable(getattr(kind, name, None)))
