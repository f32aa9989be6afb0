"""From a task's name to an agent that has learnt it: what a training run consists of, and the run."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from hd_agents import checks
from hd_agents.agent import HarmonyDreamAgent
from hd_agents.envs.closing import close
from hd_agents.envs.processes import RestartingSubprocVecEnv
from hd_agents.envs.restarting import MAX_RESTARTS, RestartingEnv
from hd_agents.envs.state import Restorable
from hd_agents.replay.memory import MOST_ROWS
from hd_agents.spaces import ObservationCodec
from hd_agents.zoo.catalogue import env_id, hyperparameters, make_with
from hd_agents.zoo.classes import class_name, find_class
from hd_agents.zoo.own_rows import is_file
from hd_agents.zoo.setting_names import check_own_row, check_setting, settable
from hd_agents.zoo.transfer import network_settings, take_over, whole_agent

# Settings that are mappings: of `--set policy_kwargs.units=64` only the entry changes.
MAPPINGS = ("env_kwargs", "policy_kwargs", "harmony")
# Where the environments of a run live: in its process, one after the other, or in one process each. As in rl-zoo3.
VEC_ENVS: dict[str, dict[str, Any]] = {
    "dummy": {},
    "subproc": {"vec_env_cls": RestartingSubprocVecEnv, "wrapper_class": Restorable},
}
MIN_BUFFER, MIN_BUFFER_PER_ENV = 10_000, 128  # rows of replay; a sequence has 64 steps by default


class Plan(NamedTuple):
    """One training run: ``steps`` env steps of ``task`` in ``n_envs`` environments, by an agent made of ``arguments``.

    :param task: its Gymnasium id. :param env_kwargs: what its environments are made with.
    :param trained_agent: whose weights it begins with; None for random ones. :param vec_env: one of ``VEC_ENVS``.
    :param agent_class: what is made of the arguments.
    """

    task: str
    steps: int
    n_envs: int
    arguments: dict[str, Any]
    env_kwargs: dict[str, Any]
    trained_agent: HarmonyDreamAgent | None = None
    vec_env: str = "dummy"
    agent_class: type[HarmonyDreamAgent] = HarmonyDreamAgent

    def make_env(self, drawn: bool = False) -> gym.Env[Any, Any]:
        """One of its environments; ``drawn`` as for :func:`hd_agents.zoo.make_env`."""
        return make_with(self.task, self.env_kwargs, drawn)

    def make_envs(
        self, seed: int, folder: Path | None = None, resumed: bool = False, max_restarts: int | None = MAX_RESTARTS
    ) -> VecEnv:
        """All of its environments; a simulator that fails in the night costs an episode, not the run.

        :param folder: for a file of each one's episodes; None for none. :param resumed: whether these files go on.
        :param max_restarts: of each environment; None for environments whose exceptions are the caller's.
        """
        if folder is not None and not resumed:  # begun here: a process that is replaced goes on with its file
            for left in folder.glob("[0-9]*.monitor.csv"):  # of a run that ended before it began, in other environments
                left.unlink()
            for env in range(self.n_envs):
                ResultsWriter(str(folder / str(env)), {"t_start": time.time(), "env_id": self.task}).close()
        make: Any = partial(make_with, self.task, self.env_kwargs)  # not self.make_env, which holds the trained agent
        make = make if max_restarts is None else partial(RestartingEnv, make, max_restarts)
        files: dict[str, Any] = {"monitor_kwargs": {"override_existing": False}, "monitor_dir": str(folder)}
        files, kind = files if folder else {}, VEC_ENVS[self.vec_env]
        return make_vec_env(make, self.n_envs, seed=seed, **files, **kind)

    def make_agent(self, env: VecEnv, seed: int, device: torch.device | str, verbose: int) -> HarmonyDreamAgent:
        """The agent that is to be trained, in its environments."""
        if self.trained_agent is not None:
            env = HarmonyDreamAgent._wrap_env(env)  # images come channels first
            checks.spaces(env, self.trained_agent.observation_space, self.trained_agent.action_space)
        agent = self.agent_class(env=env, seed=seed, device=device, verbose=verbose, **self.arguments)
        if self.trained_agent is not None:
            take_over(agent, self.trained_agent)
        return agent

    def settings(self, seed: int) -> dict[str, Any]:
        """All of it in one dict, under the zoo's names."""
        return {"seed": seed, **self.row()}

    def row(self) -> dict[str, Any]:
        """All but the seed, as the zoo's files have it: without the replay's size where it follows from the steps."""
        of_env: dict[str, Any] = {"n_envs": self.n_envs}
        of_env |= {} if self.vec_env == "dummy" else {"vec_env": self.vec_env}
        of_env |= {"env_kwargs": self.env_kwargs} if self.env_kwargs else {}
        own = {} if self.agent_class is HarmonyDreamAgent else {"agent_class": class_name(self.agent_class)}
        return without_usual_rows({"n_timesteps": self.steps, **of_env, **own, **self.arguments})


def train(
    name: str,
    seed: int = 0,
    preset: str | Path = "paper",
    steps: float | None = None,
    device: torch.device | str = "auto",
    callback: MaybeCallback = None,
    progress_bar: bool = False,
    verbose: int = 0,
    trained_agent: HarmonyDreamAgent | str | Path | None = None,
    **settings: Any,
) -> HarmonyDreamAgent:
    """Train a new agent on a task, with the zoo's hyper-parameters: what ``hd-agents train`` does, without its files.

    :param name: of the zoo, or a Gymnasium id; a task that the zoo does not have gets what fits its spaces.
    :param preset: "paper", "nano" or a YAML file of your own, as for :func:`hyperparameters`. What such a row leaves
        out is the agent's default. :param steps: env steps; None for the task's own.
    :param callback: and ``progress_bar``: as for ``learn``.
    :param verbose: and ``seed`` and ``device``: as for the constructor.
    :param trained_agent: to begin with its weights instead of random ones: an agent, a file of ``save``, or what
        :func:`hd_agents.zoo.load` takes. Its networks are kept, whatever the zoo has for the task; it plays by itself
        from the first step on, and learns with new optimisers once ``learning_starts`` steps are in the replay.
    :param settings: in place of the zoo's: ``n_envs``, ``vec_env`` ("dummy": all of them in this process; "subproc":
        each in one of its own), ``env_kwargs`` (a dict of arguments of the environment, as in ``gymnasium.make``),
        ``agent_class`` (a subclass of :class:`HarmonyDreamAgent`, or ``"module:Class"``), and arguments of the agent.
    :return: the agent after its last step, with its environments still open.
    :raises ValueError: for a name, preset or setting that does not exist, values that are not allowed, and a trained
        agent of other spaces, or packed for acting only.
    :raises gymnasium.error.Error: for an id that Gymnasium does not have.
    :raises ImportError: where the task's suite is not installed, naming the extra.
    """
    run = plan(name, steps, preset, str(device), settings, trained_agent)
    env = run.make_envs(seed)
    try:
        agent = run.make_agent(env, seed, device, verbose)
        return agent.learn(run.steps, callback=callback, progress_bar=progress_bar)
    except BaseException:
        close(env)
        raise


def plan(
    name: str,
    steps: float | None = None,
    preset: str | Path = "paper",
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    trained_agent: HarmonyDreamAgent | str | Path | None = None,
) -> Plan:
    """The zoo's entry for the task, else what fits its spaces and this machine; on top of it ``settings``.

    Replay is as large as the run can fill it. Arguments and errors are those of :func:`train`.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"name={name!r}: pass a name of the zoo or a Gymnasium id; an environment goes to HarmonyDreamAgent."
        )
    task = env_id(name)
    known = hyperparameters(task, preset)
    values: dict[str, Any] = {"n_envs": 1, "vec_env": "dummy", "env_kwargs": {}, **known}
    agent_class = find_class((settings or {}).get("agent_class", HarmonyDreamAgent))
    allowed = settable(agent_class)
    if is_file(preset):
        check_own_row(values, preset, agent_class)
    for key, value in (settings or {}).items():
        mapping, _, entry = key.partition(".")
        if entry and mapping in MAPPINGS:
            values[mapping] = {**_entries(key, value, values.get(mapping)), entry: value}
            continue
        check_setting(key, value, allowed)
        values[key] = value
    if steps is not None:
        values["n_timesteps"] = steps
    env_kwargs = values.pop("env_kwargs")
    env_kwargs = {} if env_kwargs is None else checks.mapping("env_kwargs", env_kwargs, "{'size': 96}")
    if "action_repeat" in allowed and "action_repeat" not in (settings or {}):
        values |= _frames_per_step(env_kwargs, known)
    if not known:
        values = {**_fitting(device), **values}
    if "policy" not in values:
        values["policy"] = _policy(task, env_kwargs)
    if "n_timesteps" not in values:
        raise ValueError(f"{preset} has no n_timesteps for {task}: add it, or give steps (--steps).")
    trained = None if trained_agent is None else whole_agent(trained_agent)
    if trained is not None:
        values |= network_settings(trained, settings or {})
    total, n_envs = values.pop("n_timesteps"), values.pop("n_envs")
    total, n_envs = checks.whole("steps", total, 1), checks.whole("n_envs", n_envs, 1)
    values.setdefault("buffer_size", _usual_rows(total, n_envs))
    vec_env = checks.choice("vec_env", values.pop("vec_env"), list(VEC_ENVS))
    values.pop("agent_class", None)
    return Plan(task, total, n_envs, values, env_kwargs, trained, vec_env, agent_class)


def without_usual_rows(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the replay's size where it follows from the steps; files of earlier versions state it."""
    steps, n_envs = row.get("n_timesteps"), row.get("n_envs", 1)
    usual = _usual_rows(steps, n_envs) if type(steps) is type(n_envs) is int else None
    return {key: value for key, value in row.items() if key != "buffer_size" or value != usual}


def _usual_rows(steps: int, n_envs: int) -> int:
    """Rows of replay that the run can fill: one per step and one more per episode."""
    return min(MOST_ROWS, max(2 * steps, MIN_BUFFER, MIN_BUFFER_PER_ENV * n_envs))


def _frames_per_step(env_kwargs: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, int]:
    """``action_repeat``, which logs count frames by, as the environments are told it; not where the row has both."""
    told = env_kwargs.get("action_repeat")
    is_known = "action_repeat" in row and told == (row.get("env_kwargs") or {}).get("action_repeat")
    # An environment of one's own may mean something else by 0, or by False.
    return {"action_repeat": told} if type(told) is int and told >= 1 and not is_known else {}


def _entries(key: str, value: Any, before: Any) -> Mapping[str, Any]:
    """The mapping that one entry of is to be changed; ``harmony=True`` is all of them."""
    if before is None or before is True:
        return {}
    if not isinstance(before, Mapping):
        name = key.partition(".")[0]
        raise ValueError(f"{key}={value!r}: {name}={before!r} has no entries to change one of; set {name} as a whole.")
    return before


def _policy(task: str, env_kwargs: Mapping[str, Any]) -> str:
    """The name of the policy that fits the task's observations."""
    env = make_with(task, env_kwargs)
    try:
        return ObservationCodec(env.observation_space).policy
    except ValueError as error:
        raise ValueError(f"{task}: {error}") from error
    finally:
        close(env)


def _fitting(device: str) -> dict[str, Any]:
    """Steps, size and rates for a task without an entry in the zoo."""
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    small = hyperparameters("classic/default")
    return {"n_timesteps": small["n_timesteps"], "size": "small"} if on_gpu else small
