"""HarmonyDream in rl-zoo3, the zoo of Stable-Baselines3.

rl-zoo3 has no plugins, but its tables of algorithms are dicts, which :func:`register_rl_zoo3` adds to. This module is
also what its flag ``-conf`` takes: with ``-conf hd_agents.zoo.rl_zoo3`` it finds the hyper-parameters of every task of
our zoo in ``hyperparams``, by Gymnasium id.
"""

from typing import Any

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.extras import needing
from hd_agents.zoo import search_space
from hd_agents.zoo.catalogue import env_id, names
from hd_agents.zoo.catalogue import hyperparameters as row

ALGO = "harmony"


def register_rl_zoo3() -> None:
    """Make ``rl_zoo3.train`` and ``rl_zoo3.enjoy`` accept ``--algo harmony``; call it before they parse their flags.

    Runs go to ``<log folder>/harmony/<environment>_<number>/``, as those of rl-zoo3's own algorithms do, and its
    ``-optimize`` searches the default space of ``hd-agents tune``. Needs rl_zoo3 (the extra of that name), whose import
    replaces Gymnasium's ``TimeLimit`` for the whole process.

    :raises ImportError: where it is not installed.
    """
    with needing("Registering", "rl_zoo3"):
        import rl_zoo3
        from rl_zoo3 import hyperparams_opt
    rl_zoo3.ALGOS[ALGO] = HarmonyDreamAgent
    hyperparams_opt.HYPERPARAMS_SAMPLER[ALGO] = _sample
    # A trial's parameters have the names of arguments.
    hyperparams_opt.HYPERPARAMS_CONVERTER[ALGO] = lambda sampled_params: sampled_params


def _sample(trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """What ``hd-agents tune`` would try; the arguments are rl-zoo3's."""
    return search_space.suggest(trial, search_space.read())


def __getattr__(name: str) -> Any:
    if name == "hyperparams":  # a copy each time: rl-zoo3 changes what it reads
        return {env_id(task): row(task) for task in names()}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
