"""Environments that belong to the package; every one of them is a registered Gymnasium id.

Nothing heavy is imported here: the entry points are strings, so the environment's own module is read by the first
``gymnasium.make``.
"""

import gymnasium

__all__ = ["register"]

_ENTRY_POINTS = {
    "hd_agents/Catch-v0": "hd_agents.envs.catch:Catch",
}


def register() -> None:
    """Add the package's ids to Gymnasium's registry; calling it again changes nothing."""
    for env_id, entry_point in _ENTRY_POINTS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=entry_point)
