"""Which settings a training run has, and what to say of those that it does not have."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.saving.storing import arguments_of
from hd_agents.zoo.classes import class_name

# Constructor arguments that a run fills in itself.
RESERVED = frozenset({"env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"})
# What is no setting, but an argument of its own.
ARGUMENTS = {"steps": "steps", "n_timesteps": "steps", "total_timesteps": "steps"}
ARGUMENTS |= {name: name for name in ("seed", "device", "preset", "trained_agent")}
# What others call a setting.
OTHERS_NAMES = {"lr": "learning_rate", "ent_coef": "entropy_coefficient", "gae_lambda": "return_lambda"}
OTHERS_NAMES |= {"train_freq": "train_ratio", "gradient_steps": "train_ratio", "utd_ratio": "train_ratio"}
OTHERS_NAMES |= {"net_arch": "policy_kwargs.units"}
# What others have, and nothing stands for here.
OTHERS_ALONE = frozenset({"n_steps", "n_epochs", "clip_range", "tau", "action_noise"})
OTHERS_ALONE |= {"target_update_interval", "use_sde", "replay_buffer_class", "optimize_memory_usage"}
OF_RUN = ("n_envs", "vec_env", "env_kwargs", "agent_class")  # settings that are no arguments of the agent


def settable(agent_class: type[HarmonyDreamAgent]) -> list[str]:
    """What can be set: what concerns the run, and the constructor's arguments that a run leaves open."""
    arguments = ("policy", *arguments_of(agent_class))
    return [*OF_RUN, *(name for name in arguments if name not in RESERVED)]


def check_setting(key: str, value: Any, allowed: Collection[str]) -> None:
    """Raises ValueError for what is not ``allowed``, naming what it may have meant."""
    if key in allowed:
        return
    if key in ARGUMENTS:
        own, flag = ARGUMENTS[key], ARGUMENTS[key].replace("_", "-")
        raise ValueError(f"{key}={value!r}: no such setting. Use the argument {own}; on the command line --{flag}.")
    if key in OTHERS_ALONE:
        raise ValueError(
            f"{key}={value!r}: no such setting, and none stands for it here. Which stand for others of "
            "Stable-Baselines3: docs/own_environment.md."
        )
    found = difflib.get_close_matches(key, [*allowed, *ARGUMENTS, *OTHERS_NAMES], n=3)
    near = ", ".join(dict.fromkeys(OTHERS_NAMES.get(name, name) for name in found))
    advice = f"Did you mean {near}?" if near else f"There are {', '.join(sorted(allowed))}."
    raise ValueError(f"{key}={value!r}: no such setting. {advice}")


def check_own_row(row: Mapping[str, Any], path: str | Path, agent_class: type[HarmonyDreamAgent]) -> None:
    """Raises ValueError for what a row in a file of one's own cannot set. It chooses no code: a class is given too."""
    own = row.get("agent_class", class_name(agent_class))
    if own != class_name(agent_class):
        raise ValueError(f"{path} is for agents of {own}: set agent_class={own} beside it.")
    try:
        for key, value in row.items():
            if ARGUMENTS.get(key) == "steps" and key != "n_timesteps":
                raise ValueError(f"{key}={value!r}: no such setting. Did you mean n_timesteps?")
            check_setting(key, value, [*settable(agent_class), "n_timesteps"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
