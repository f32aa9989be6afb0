"""Closing an environment, in such a way that nothing is lost if that fails."""

import warnings
from typing import Any


def close(env: Any) -> None:
    """Close an environment; what it raises becomes a warning."""
    try:
        env.close()
    except Exception as error:  # whatever an environment of anybody's does: a brake, a connection
        warnings.warn(f"{env} failed when it was closed: {error!r}", UserWarning, stacklevel=2)
