"""How good an agent is: episodes with stated seeds, played by a stated rule, as a record that can be repeated.

A Dreamer has two places for chance when it acts: the latent state that it infers, and the action. The rules differ in
them:

===============  ==================  =================  ========================================
acting           latent              action             is
===============  ==================  =================  ========================================
"sampled"        sampled             sampled            ``predict(deterministic=False)``
"mode"           sampled             the actor's mode   what the paper's robotics code does
"deterministic"  the mode            the actor's mode   ``predict(deterministic=True)``
===============  ==================  =================  ========================================
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage, is_vecenv_wrapped

import hd_agents
from hd_agents import checks
from hd_agents.agent import HarmonyDreamAgent
from hd_agents.envs import namespace
from hd_agents.evaluation.episodes import EnvMaker, EpisodeError, seeded_envs, share_seeds
from hd_agents.evaluation.scores import human_normalized
from hd_agents.policies import DreamPolicy, NumpyState
from hd_agents.progress import episode_bar
from hd_agents.randomness import global_state, seeded, set_global_state
from hd_agents.saving.storing import system_info
from hd_agents.spaces import Observation
from hd_agents.spaces.executed import EXECUTED, encode_executed

RULES = ("paper", "deterministic")
# What the papers do, by the namespace of the task's id: how they act in evaluation, and for how many episodes.
PROTOCOLS = {
    "atari100k": ("sampled", 100),
    "ALE": ("sampled", 100),
    "dmc_vision": ("mode", 10),
    "dmc_proprio": ("mode", 10),
    "dmc_natural": ("mode", 10),
    "dm_control": ("mode", 10),
    "metaworld": ("mode", 10),
    "Meta-World": ("mode", 10),
}
OTHER_PROTOCOL = ("sampled", 20)  # tasks that the papers do not have


class Evaluation(NamedTuple):
    """E episodes of a task.

    :param task: the Gymnasium id, or the name of the function that made the environments.
    :param rule: as asked for. :param acting: "sampled", "mode" or "deterministic", see the module's table.
    :param n_envs: that were played side by side.
    :param seeds: E; what each episode's ``reset`` was given. :param returns: E undiscounted sums of rewards.
    :param lengths: E env steps. :param successes: E, the last ``info["is_success"]``; None where the task has none.
    :param env_kwargs: what the environments were made with.
    """

    task: str
    rule: str
    acting: str
    n_envs: int
    seeds: list[int]
    returns: list[float]
    lengths: list[int]
    successes: list[bool] | None
    env_kwargs: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The episodes, their means, and the versions they were played with, as plain JSON."""
        mean = float(np.mean(self.returns))
        found: dict[str, Any] = {**self._asdict(), "episodes": len(self.returns), "mean_return": mean}
        if not self.env_kwargs:
            del found["env_kwargs"]
        found["std_return"] = float(np.std(self.returns))
        if self.successes is not None:
            found["success_rate"] = float(np.mean(self.successes))
        if (normalized := human_normalized(self.task, mean)) is not None:
            found["human_normalized_score"] = normalized
        found["versions"] = {"hd_agents": hd_agents.__version__, **system_info()}
        return found


def evaluate(
    agent: HarmonyDreamAgent,
    task: str | EnvMaker,
    episodes: int | None = None,
    rule: str = "paper",
    seed: int = 0,
    n_envs: int = 1,
    progress_bar: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Play ``episodes`` whole episodes of ``task`` and keep what each of them gave.

    The same call gives the same numbers again, and leaves torch's random numbers as they were.

    :param agent: plays; learns nothing. :param task: a Gymnasium id, or a function that makes the environment.
    :param episodes: None for the papers' number: 100 for Atari, 10 for DeepMind Control and Meta-World, 20 elsewhere.
    :param rule: "paper" acts as the papers do in this task's suite (Atari: sampled; DeepMind Control and Meta-World:
        the actor's mode in a sampled latent; elsewhere sampled), "deterministic" takes the mode everywhere.
    :param seed: of the first episode; the others' seeds follow it, one by one, whatever ``n_envs`` is.
    :param n_envs: environments that are played side by side. They share the random numbers of latents and actions, so
        only the deterministic rule gives the same episodes with another number of them, but for rounding.
    :param progress_bar: show one, on stderr; needs tqdm.
    :param env_kwargs: arguments of ``gymnasium.make``, where ``task`` is an id.
    :raises ValueError: for a number, rule or arguments that are not allowed, and for a task with other spaces than the
        agent's, or than those that its ``VecNormalize`` wraps.
    :raises EpisodeError: where the environment raises an exception in an episode, naming it, the episode's seed, and
        how many episodes were played.
    """
    check_task(task, env_kwargs)
    env_kwargs = dict(env_kwargs or {})
    name = task if isinstance(task, str) else getattr(task, "__name__", type(task).__name__)
    how, usual = acting(name, rule), protocol(name)[1]
    episodes = checks.whole("episodes", episodes, 1, usual)
    n_envs = min(checks.whole("n_envs", n_envs, 1), episodes)
    seed = checks.whole("seed", seed, 0)
    seeds = list(range(seed, seed + episodes))
    shares = share_seeds(seeds, n_envs)
    bar = episode_bar(episodes) if progress_bar else None
    try:
        envs = seeded_envs(task, shares, env_kwargs)
        with seeded(seed, agent.device):
            played = _play(agent, envs, shares, how, bar)
    finally:
        if bar is not None:
            bar.close()
    returns, lengths, successes = zip(*(played[seed] for seed in seeds), strict=True)
    told = None if None in successes else [bool(success) for success in successes]
    return Evaluation(name, rule, how, n_envs, seeds, list(returns), list(lengths), told, env_kwargs)


def check_task(task: Any, env_kwargs: Mapping[str, Any] | None) -> None:
    """ValueError for what is no task as :func:`evaluate` takes it."""
    if not isinstance(task, str) and not callable(task):
        raise ValueError(f"task={task!r}: pass a Gymnasium id, or a function that makes the environment, lambda: env.")
    if env_kwargs and not isinstance(task, str):
        raise ValueError(f"{env_kwargs=} goes with a Gymnasium id: let your function pass it to the environment.")


def check_fit(agent: HarmonyDreamAgent, task: str | EnvMaker, env_kwargs: Mapping[str, Any] | None) -> None:
    """What :func:`evaluate` raises before it plays: the environment is made, and closed again.

    Random numbers that this takes from the process's own generators are drawn again by others afterwards.
    """
    state = global_state()
    try:
        envs = seeded_envs(task, [[]], dict(env_kwargs or {}))
        try:
            _as_in_training(agent, envs)
        finally:
            envs.close()
    finally:
        set_global_state(*state)


def _as_in_training(agent: HarmonyDreamAgent, envs: VecEnv) -> VecEnv:
    """``envs`` as the agent's own are wrapped, such as channels first; ValueError for other spaces than its."""
    env = agent._wrap_env(normalized(envs, agent.get_vec_normalize_env()))
    checks.spaces(env, agent.observation_space, agent.action_space)
    return env


def _play(
    agent: HarmonyDreamAgent, envs: VecEnv, shares: Sequence[Sequence[int]], how: str, bar: Any | None
) -> dict[int, tuple[float, int, bool | None]]:
    """Return, length and success of the episode of each seed; closes ``envs``."""
    played: dict[int, tuple[float, int, bool | None]] = {}

    def keep(local: dict[str, Any], _: dict[str, Any]) -> None:
        """Called by evaluate_policy at every step of every environment that still has episodes to play."""
        info, env = local["info"], local["i"]
        if EXECUTED in info:  # what the agent remembers is what was done
            local["states"][2][env] = encode_executed(agent.policy.actions, info, env)
        if local["done"] and "episode" in info:
            seed, episode = shares[env][local["episode_counts"][env]], info["episode"]
            played[seed] = float(episode["r"]), int(episode["l"]), info.get("is_success")
            if bar is not None:
                bar.update()

    try:
        env = _as_in_training(agent, envs)
        deterministic, episodes = how == "deterministic", sum(map(len, shares))
        evaluate_policy(player_for(agent, how), env, episodes, deterministic=deterministic, callback=keep)
    except EpisodeError as error:
        gave = f", with the returns {', '.join(f'{one[0]:g}' for one in played.values())}" if played else ""
        told = f"{len(played)} of {sum(map(len, shares))} episodes were played to their end{gave}"
        raise EpisodeError(f"{error}; {told}.") from error.__cause__
    finally:
        envs.close()
    return played


def protocol(task: str) -> tuple[str, int]:
    """How the papers act when they evaluate in the task's suite, and for how many episodes."""
    return PROTOCOLS.get(namespace(task), OTHER_PROTOCOL)


def acting(task: str, rule: str) -> str:
    """What a rule means for a task: "sampled", "mode" or "deterministic"."""
    return "deterministic" if checks.choice("rule", rule, RULES) == "deterministic" else protocol(task)[0]


def player_for(agent: HarmonyDreamAgent, how: str) -> "HarmonyDreamAgent | ActorsMode":
    """What acts in one of the ways of :func:`acting`, where its ``predict`` is told ``deterministic`` as well."""
    return ActorsMode(agent.policy) if how == "mode" else agent


class ActorsMode:
    """Acts by the actor's mode in a sampled latent, as the paper's robotics code does in evaluation."""

    def __init__(self, policy: DreamPolicy) -> None:
        self.policy = policy

    def predict(
        self,
        observation: Observation,
        state: NumpyState | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], NumpyState]:
        """As :meth:`DreamPolicy.predict`; ``deterministic`` changes nothing."""
        return self.policy.predict(observation, state, episode_start, deterministic=False, mode=True)


def normalized(envs: VecEnv, normalizer: VecNormalize | None) -> VecEnv:
    """``envs`` with observations as ``normalizer`` gives them now, whose statistics stay as they are."""
    if normalizer is None:
        return envs
    inner = normalizer.venv
    if is_vecenv_wrapped(inner, VecTransposeImage):
        envs = VecTransposeImage(envs)
    checks.spaces(envs, inner.observation_space, inner.action_space)
    same = copy(normalizer)  # without the environments that it wraps
    same.set_venv(envs)
    same.training = same.norm_reward = False
    return same
