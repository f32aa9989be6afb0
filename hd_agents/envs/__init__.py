"""Environments that belong to the package; every one of them is a registered Gymnasium id.

Nothing heavy is imported here: the entry points are strings, so the environment's own module is read by the first
``gymnasium.make``.
"""

import gymnasium

__all__ = ["register", "register_suite"]

_ENTRY_POINTS = {
    "hd_agents/Catch-v0": "hd_agents.envs.catch:Catch",
}


def register() -> None:
    """Add the package's ids to Gymnasium's registry; calling it again changes nothing."""
    for env_id, entry_point in _ENTRY_POINTS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=entry_point)


def register_suite(env_id: str) -> None:
    """Make Gymnasium know the Arcade Learning Environment, whose package does so only when imported.

    :raises ImportError: for an ``ALE/`` id without ale-py, saying how to install it.
    """
    if not env_id.startswith("ALE/"):
        return
    try:
        import ale_py
    except ImportError as error:
        raise ImportError(f'{env_id} needs ale-py: install it with `pip install "hd_agents[atari]"`.') from error
    gymnasium.register_envs(ale_py)
