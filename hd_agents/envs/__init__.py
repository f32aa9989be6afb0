"""Environments; every one of them is a registered Gymnasium id.

Nothing heavy is imported here: the entry points are strings, so an environment's module and the suite behind it are
read by the first ``gymnasium.make``.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import gymnasium

from hd_agents.envs.tasks import ATARI_100K, ATARI_OTHERS, CONTROL, META_WORLD, game_name
from hd_agents.extras import needing

__all__ = ["make", "namespace", "register", "register_suite"]

# Whose ids are a suite's own: namespace -> extra, and what has to be imported.
PACKAGES = {
    "ALE": ("atari", "ale_py"),
    "dm_control": ("dmc", "dm_control", "shimmy"),
    "Meta-World": ("metaworld", "metaworld"),
}


def register() -> None:
    """Add the package's ids to Gymnasium's registry; calling it again changes nothing."""
    _add("hd_agents/Catch-v0", "catch:Catch")
    for rom in ATARI_100K + ATARI_OTHERS:
        _add(f"atari100k/{game_name(rom)}-v0", "atari:Atari", game=rom)
    for task in CONTROL:
        domain, name = task.split("-", 1)
        _add(f"dmc_vision/{task}-v0", "dmc:Control", domain=domain, task=name)
        _add(f"dmc_proprio/{task}-v0", "dmc:Control", domain=domain, task=name, observation="state")
        _add(f"dmc_natural/{task}-v0", "natural:NaturalControl", domain=domain, task=name)
    for task in META_WORLD:
        _add(f"metaworld/{task}-v0", "metaworld:MetaWorld", task=task)


def _add(env_id: str, entry_point: str, **arguments: Any) -> None:
    if env_id not in gymnasium.registry:
        gymnasium.register(id=env_id, entry_point=f"hd_agents.envs.{entry_point}", kwargs=arguments)


def make(env_id: str, env_kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """``gymnasium.make`` for any id, of the suites' packages too.

    :raises ValueError: for arguments that the environment does not take. Failures of a simulator or
        of the system (RuntimeError, OSError) are passed on.
    :raises ImportError: for an id of a suite that is not installed, saying how to install it.
    """
    register_suite(env_id)
    if not env_kwargs:
        return gymnasium.make(env_id)
    try:
        return gymnasium.make(env_id, **env_kwargs)
    except (gymnasium.error.Error, ImportError, OSError, RuntimeError):
        raise
    except Exception as error:  # whatever an environment makes of arguments that it does not expect
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"{env_id} cannot be made with {dict(env_kwargs)}: {told}") from error


def register_suite(env_id: str) -> None:
    """Make Gymnasium know the ids of a suite's own package, which it does only when that is imported.

    :raises ImportError: for such an id without the package, saying how to install it.
    """
    if namespace(env_id) not in PACKAGES:
        return
    extra, *modules = PACKAGES[namespace(env_id)]
    if extra != "atari":
        from hd_agents.envs.rendering import choose_backend

        choose_backend()
    with needing(env_id, extra):
        for module in modules:
            gymnasium.register_envs(import_module(module))


def namespace(env_id: str) -> str:
    """The suite of an id: ``namespace("ale_py:ALE/Pong-v5") == "ALE"``."""
    return env_id.partition("/")[0].rpartition(":")[2]
