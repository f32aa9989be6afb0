"""``torch.compile`` where it works, and the plain function where it does not."""

import warnings
from collections.abc import Callable
from typing import Any

import torch


def compiled_or_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` compiled at its first call; if that call fails, one warning, and from then on ``function`` itself.

    Compilers are missing or fail in many ways (no C++ compiler, an unknown processor, a full disk), which raise as many
    exceptions. One that is the function's own fault is raised again by the plain call.
    """
    state: dict[str, Callable[..., Any]] = {}

    def call(*values: Any, **named: Any) -> Any:
        if "chosen" in state:
            return state["chosen"](*values, **named)
        compiled = torch.compile(function)
        try:
            result = compiled(*values, **named)
            state["chosen"] = compiled
        except Exception as error:  # see above
            result = function(*values, **named)
            state["chosen"] = function
            what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            warnings.warn(f"torch.compile failed, the plain code is used instead. {what}", stacklevel=2)
        return result

    return call
