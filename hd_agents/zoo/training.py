"""From a task's name to an agent that has learnt it: what a training run consists of, and the run."""

import difflib
import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import MaybeCallback

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.envs.restarting import RestartingEnv
from hd_agents.spaces import ObservationCodec
from hd_agents.zoo.catalogue import env_id, hyperparameters, make_env

# Constructor arguments that a run fills in itself.
RESERVED = frozenset({"env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"})
# What is no setting, but an argument of its own.
ARGUMENTS = {"steps": "steps", "n_timesteps": "steps", "total_timesteps": "steps"}
ARGUMENTS |= {name: name for name in ("seed", "device", "preset")}
MAX_BUFFER = 1_000_000  # rows of replay
MIN_BUFFER = 10_000


class Plan(NamedTuple):
    """One training run: ``steps`` env steps of ``task`` in ``n_envs`` environments, by an agent made of ``arguments``.

    :param task: its Gymnasium id.
    """

    task: str
    steps: int
    n_envs: int
    arguments: dict[str, Any]

    def settings(self, seed: int) -> dict[str, Any]:
        """All of it in one dict, under the zoo's names."""
        return {"seed": seed, "n_timesteps": self.steps, "n_envs": self.n_envs, **self.arguments}


def train(
    name: str,
    seed: int = 0,
    preset: str = "paper",
    steps: float | None = None,
    device: torch.device | str = "auto",
    callback: MaybeCallback = None,
    progress_bar: bool = False,
    verbose: int = 0,
    **settings: Any,
) -> HarmonyDreamAgent:
    """Train a new agent on a task, with the zoo's hyper-parameters: what ``hd-agents train`` does, without its files.

    :param name: of the zoo, or a Gymnasium id; a task that the zoo does not have gets what fits its spaces.
    :param preset: "paper" or "nano", as for :func:`hyperparameters`. :param steps: env steps; None for the task's own.
    :param callback: and ``progress_bar``: as for ``learn``. :param verbose: as for the constructor.
    :param settings: in place of the zoo's: ``n_envs``, and arguments of :class:`HarmonyDreamAgent`.
    :return: the agent after its last step, with its environments still open.
    :raises ValueError: for a name, preset or setting that does not exist, and values that are not allowed.
    :raises gymnasium.error.Error: for an id that Gymnasium does not have.
    :raises ImportError: where the task's suite is not installed, naming the extra.
    """
    run = plan(name, steps, preset, str(device), settings)
    env = make_vec_env(partial(RestartingEnv, partial(make_env, run.task)), run.n_envs, seed=seed)
    try:
        agent = HarmonyDreamAgent(env=env, seed=seed, device=device, verbose=verbose, **run.arguments)
        return agent.learn(run.steps, callback=callback, progress_bar=progress_bar)
    except BaseException:
        env.close()
        raise


def plan(
    name: str,
    steps: float | None = None,
    preset: str = "paper",
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """The zoo's entry for the task, else what fits its spaces and this machine; on top of it ``settings``.

    Replay is as large as the run can fill it. Arguments and errors are those of :func:`train`.
    """
    task = env_id(name)
    values = {"n_envs": 1, **(hyperparameters(task, preset) or _fitting(task, device))}
    allowed = settable()
    for key, value in (settings or {}).items():
        if key in ARGUMENTS:
            own = ARGUMENTS[key]
            raise ValueError(f"{key}={value!r}: no such setting. Use the argument {own}; on the command line --{own}.")
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=3) or sorted(allowed)
            raise ValueError(f"{key}={value!r}: no such setting. Did you mean {', '.join(near)}?")
        values[key] = value
    if steps is not None:
        values["n_timesteps"] = steps
    total, n_envs = values.pop("n_timesteps"), values.pop("n_envs")
    for what, number in (("steps", total), ("n_envs", n_envs)):
        if not isinstance(number, int | float) or not 1 <= number < math.inf:
            raise ValueError(f"{what} must be a number from 1 up, not {number!r}.")
    # One row per step and one more per episode.
    values.setdefault("buffer_size", min(MAX_BUFFER, max(MIN_BUFFER, 2 * int(total))))
    return Plan(task, int(total), int(n_envs), values)


def settable() -> list[str]:
    """What can be set: the number of environments, and the constructor's arguments that a run leaves open."""
    return ["n_envs", *(name for name in inspect.signature(HarmonyDreamAgent).parameters if name not in RESERVED)]


def _fitting(task: str, device: str) -> dict[str, Any]:
    """Policy, size and rates for a task without an entry in the zoo."""
    env = make_env(task)
    try:
        codec = ObservationCodec(env.observation_space)
    except ValueError as error:
        raise ValueError(f"{task}: {error}") from error
    finally:
        env.close()
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if isinstance(env.observation_space, gym.spaces.Dict):
        policy = "MultiInputPolicy"
    else:
        policy = "CnnPolicy" if codec.images else "MlpPolicy"
    small = hyperparameters("classic/default")
    chosen = {"n_timesteps": small["n_timesteps"], "size": "small"} if on_gpu else small
    return {**chosen, "policy": policy}
