"""What ``learn`` and callbacks agree on beyond Stable-Baselines3: failures, stops, and a callback's place."""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, EventCallback


def tell_failure(callback: Any) -> None:
    """Let callbacks that have an ``on_training_failure`` know that ``learn`` ends by an exception."""
    if hasattr(callback, "on_training_failure"):
        callback.on_training_failure()
    for one in getattr(callback, "callbacks", ()):
        tell_failure(one)


def asks_to_stop(callback: Any) -> bool:
    """Whether a callback wants ``learn`` to end before the next step: its attribute ``stop_before_step`` says so."""
    return bool(getattr(callback, "stop_before_step", False)) or any(
        map(asks_to_stop, getattr(callback, "callbacks", ()))
    )


def check_place(callback: BaseCallback) -> None:
    """ValueError for a callback within another that passes on steps alone, and neither their start nor the end."""
    if isinstance(callback.parent, EventCallback):
        raise ValueError(
            f"{type(callback).__name__} within {type(callback.parent).__name__}: pass it to learn() itself, beside the "
            "others; it has an argument `every`."
        )
