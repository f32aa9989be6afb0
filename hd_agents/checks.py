"""Checks of what a user passes in. An error says in one sentence what was given, and what is allowed.

Where a ``default`` is given, None stands for it.
"""

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces

FLOAT_MAX = float(np.finfo(np.float64).max)
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LinearRate:
    """A learning rate that falls from ``start`` to 0 over a run; written "lin_0.001", as rl-zoo3 does."""

    start: float

    def __call__(self, remaining: float) -> float:
        """The rate at the progress ``remaining``, from 1 down to 0."""
        return self.start * remaining

    def __str__(self) -> str:
        return f"lin_{self.start!r}"


Rate = float | Callable[[float], float]


def whole(name: str, value: Any, low: int, default: int | None = None, below: int = 1 << 63) -> int:
    """``value`` as an int of at least ``low``; a float without fraction, such as 1e6, counts as whole.

    :param below: a power of 2.
    """
    value = _given(value, default)
    if not _is_number(value) or not low <= value < below or value % 1 != 0:
        raise ValueError(
            f"{name}={value!r}: use a whole number of at least {low} (and below 2**{below.bit_length() - 1})."
        )
    return int(value)


def number(
    name: str, value: Any, low: float, high: float = float("inf"), *, default: float | None = None, above: bool = False
) -> float:
    """``value`` as a finite float in [low, high], or in (low, high] with ``above``."""
    value = _given(value, default)
    inside = _is_number(value) and (low < value if above else low <= value) and value <= min(high, FLOAT_MAX)
    if not inside:
        limits = f"{'above' if above else 'of at least'} {low:g}" + ("" if np.isinf(high) else f" and at most {high:g}")
        raise ValueError(f"{name}={value!r}: use a number {limits}.")
    return float(value)


def rate(name: str, value: Any, default: float) -> Rate:
    """A learning rate: a number of at least 0, "lin_" and such a number, or a function of the progress remaining."""
    if isinstance(value, str) and value.startswith("lin_"):
        try:
            return LinearRate(number(name, float(value.removeprefix("lin_")), 0.0))
        except ValueError:
            raise ValueError(f"{name}={value!r}: use 'lin_' and a number of at least 0, such as 'lin_0.001'.") from None
    if isinstance(value, str):
        raise ValueError(f"{name}={value!r}: use a number, 'lin_0.001' to fall from 0.001 to 0, or a function.")
    return value if callable(value) else number(name, value, 0.0, default=default)


def seed(value: Any) -> int | None:
    """A seed that all generators take; None for none."""
    return None if value is None else whole("seed", value, 0, below=1 << 32)


def choice(name: str, value: Any, allowed: Collection[Any]) -> Any:
    """``value`` if it is one of ``allowed``; True and 1 are different here, but NumPy's own are as good."""
    value = value.item() if isinstance(value, np.generic) else value
    if not any(type(value) is type(option) and value == option for option in allowed):
        raise ValueError(f"{name}={value!r}: use one of {list(allowed)}.")
    return value


def verbosity(value: Any) -> int:
    """0, 1 or 2; False and True are as good as the first two."""
    level = int(value) if isinstance(value, bool) else value
    return int(choice("verbose", whole("verbose", level, 0, 0), [0, 1, 2]))


def harmony(value: Any) -> bool | dict[str, bool | float]:
    """Which losses are harmonised; the names of a mapping are checked where the losses are known."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"harmony={value!r}: use True, False or a mapping from loss names to True, False or a weight.")


def mapping(name: str, value: Any, example: str = "{'units': 128}") -> dict[str, Any]:
    """A dict of ``value``, a mapping."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={value!r}: use a dict, such as {example}.")
    return dict(value)


def array(what: str, value: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """ValueError unless ``value`` is a NumPy array of exactly this type and shape; ``what`` names it."""
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{what} is a {type(value).__name__}: expected a NumPy array, {dtype} of shape {shape}.")
    if value.dtype != dtype or value.shape != shape:
        raise ValueError(f"{what} is {value.dtype} of shape {value.shape}: expected {dtype} of shape {shape}.")


def _given(value: Any, default: Any) -> Any:
    """The value as Python has it, or the default in place of None: NumPy's numbers compare in their own precision."""
    value = default if value is None else value
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def spaces(env: Any, observation_space: Any, action_space: Any) -> None:
    """Raise ValueError unless ``env``, wrapped as an agent wraps it, has the spaces that an agent was built for."""
    pairs = (("Observation", observation_space, env.observation_space), ("Action", action_space, env.action_space))
    for what, ours, theirs in pairs:
        if ours != theirs:
            name = f"{what.lower()}_space"
            fix = "Use an environment like the one it was trained in; its weights fit no other."
            if _form(ours) == _form(theirs):
                fix = f"Its weights fit: load(path, env=env, custom_objects={{{name!r}: env.{name}}}) takes the other."
                fix += " Between other bounds its actions mean others." if what == "Action" else ""
            raise ValueError(
                f"{what} spaces do not match: the agent's is {ours}, that of the environment is {theirs}. {fix}"
            )


def _form(space: Any) -> Any:
    """What of a space shapes the networks: a Box's shape, and whether it holds bytes or integers; of others all."""
    if isinstance(space, gym_spaces.Dict):
        return {key: _form(part) for key, part in space.items()}
    if isinstance(space, gym_spaces.Box):
        return space.shape, space.dtype == np.uint8, np.issubdtype(space.dtype, np.integer)
    return space


def device(value: torch.device | str) -> torch.device | str:
    """The device itself; a warning where Stable-Baselines3 would quietly take the CPU in its place.

    :raises ValueError: for anything else.
    """
    try:
        kind = "cpu" if value == "auto" else torch.device(value).type
        if kind not in ("cpu", "cuda"):
            torch.empty(1, device=value).item()  # "meta" holds nothing, and others may not be in this PyTorch
    except Exception as error:
        raise ValueError(f"device={value!r}: use 'auto', 'cpu', 'cuda', 'cuda:1' or another of PyTorch's.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        warnings.warn(f"device={value!r}: PyTorch finds no CUDA device here, the CPU is used instead.", stacklevel=3)
    return value
