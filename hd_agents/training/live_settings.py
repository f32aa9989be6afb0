"""Settings that may be set on an agent at any time, as Stable-Baselines3's users do: what learns follows them."""

import warnings
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import nn

from hd_agents import checks
from hd_agents.backbones import Objectives, objectives
from hd_agents.presets import DEFAULTS
from hd_agents.replay import SequenceReplay
from hd_agents.restoring import SHAPES_NETWORKS
from hd_agents.saving.storing import RATES
from hd_agents.styles import STYLES

MADE_WITH = (*SHAPES_NETWORKS, "device", "precision", "compile")  # networks and learner
REPLAY_MADE_WITH = ("buffer_size", "replay_folder")
RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(RATES, checks.rate),
    "batch_size": partial(checks.whole, low=1),
    "sequence_length": partial(checks.whole, low=2),
    "train_ratio": partial(checks.number, low=0.0),
    "horizon": partial(checks.whole, low=2),
    "gamma": partial(checks.number, low=0.0, high=1.0, above=True),
    "return_lambda": partial(checks.number, low=0.0, high=1.0),
    "entropy_coefficient": partial(checks.number, low=0.0),
    "learning_starts": partial(checks.whole, low=0),
    "pretrain_steps": partial(checks.whole, low=0),
    "official_quirks": lambda name, value, default: checks.choice(name, value, [False, True]),
    "harmony_learning_rate": lambda name, value, default: None if value is None else checks.number(name, value, 0.0),
}
PACE = ("batch_size", "sequence_length", "train_ratio", "learning_starts", "pretrain_steps")  # of gradient steps
PROGRESS = (1.0, 0.9, 0.75, 0.5, 0.25, 0.1, 0.0)  # where rates are looked at before a run begins


def take(agent: Any, **values: Any) -> None:
    """Set values of :data:`RULES` on an agent; None stands for the backbone's own.

    :raises ValueError: for one that is not allowed.
    """
    for name, value in values.items():
        usual = getattr(DEFAULTS[agent.backbone], name, None)
        setattr(agent, name, RULES[name](name, value, default=usual))


def check(agent: Any) -> None:
    """Check what was set on an agent, as its constructor does.

    :raises ValueError: for what is not allowed, and for what cannot change any more.
    """
    _check_fixed(agent)
    _check_parts(agent)
    take(agent, **{name: getattr(agent, name) for name in RULES})
    replay = agent.replay_buffer
    if replay is not None and agent.sequence_length > replay.rows_per_env:
        raise ValueError(
            f"sequence_length={agent.sequence_length}: the replay keeps {replay.rows_per_env} steps of an environment. "
            "Use at most as many, or make an agent with a larger buffer_size."
        )


def _check_fixed(agent: Any) -> None:
    for name, made in agent._made_with.items():
        if (now := getattr(agent, name)) == made:
            continue
        if name in SHAPES_NETWORKS:
            raise ValueError(
                f"agent.{name} was set to {now!r}, but its networks were made with {made!r}: that cannot change. Make "
                "another agent."
            )
        raise ValueError(
            f"agent.{name} was set to {now!r}, but the agent was made with {made!r}: that cannot change. Make "
            f"another agent, or save this one and call load(path, {name}={now!r})."
        )


def _check_parts(agent: Any) -> None:
    """Refuse what was put in the place of a part that others hold on to: they would go on with the one before."""
    if agent.policy.networks is not agent.learner.networks:
        raise ValueError(
            "agent.policy or its networks were replaced, and what learns has the ones before. Put them back, and take "
            "over the weights: agent.policy.load_state_dict(other.policy.state_dict())."
        )
    critic, slow = agent.policy.networks.critic, agent.policy.networks.slow_critic
    if _shapes(critic) != _shapes(slow):
        raise ValueError(
            "networks.critic and networks.slow_critic have weights of other shapes, and the one follows the other: "
            "replace both, as by networks.slow_critic = copy.deepcopy(networks.critic)."
        )
    env, replay = agent.env, agent.replay_buffer
    if env is not None:
        same_number = isinstance(env, VecEnv) and env.num_envs == agent.n_envs
        if not same_number or unwrap_vec_normalize(env) is not agent._vec_normalize_env:
            raise ValueError(
                f"agent.env was set to {env!r}, which the agent, of {agent.n_envs} environments, has not been told of: "
                "call set_env(env), or load(path, env=env) for another number of them."
            )
    if replay is not None and not (isinstance(replay, SequenceReplay) and replay.n_envs == agent.n_envs):
        raise ValueError(
            f"agent.replay_buffer was set to {replay!r}: use a SequenceReplay of {agent.n_envs} environments, as "
            "another such agent has, or None for a new one."
        )


def _shapes(module: nn.Module) -> list[tuple[int, ...]]:
    """Of all weights and buffers."""
    return [tensor.shape for tensor in (*module.parameters(), *module.buffers())]


def note(agent: Any, names: tuple[str, ...]) -> None:
    """Remember what these settings are while something is made with them; :func:`check` refuses other values later."""
    agent._made_with |= {name: copy(getattr(agent, name)) for name in names}  # dicts may change


def rates(agent: Any, remaining: float) -> dict[str, float]:
    """Learning rates of world model, actor and critic at a progress, from 1 down to 0.

    :raises ValueError: for what is no rate, and for functions that give none.
    """
    found = {}
    for name in RATES:
        rate = FloatSchedule(checks.rate(name, getattr(agent, name), getattr(DEFAULTS[agent.backbone], name)))
        told = (
            f"{name} is a function that gives {{}} where {remaining:g} of the run remains: use numbers of at least 0."
        )
        try:
            found[name] = value = rate(remaining)
        except Exception as error:  # of whoever wrote it
            raise ValueError(told.format(repr(error))) from error
        if not 0.0 <= value < float("inf"):
            raise ValueError(told.format(value))
    return found


def objectives_of(agent: Any) -> Objectives:
    """How actor and critic learn with the agent's settings."""
    return objectives(
        agent.backbone,
        discrete=bool(agent.policy.actions.groups),
        return_lambda=agent.return_lambda,
        entropy_coefficient=agent.entropy_coefficient,
        official_quirks=agent.official_quirks,
    )


def follow(agent: Any) -> None:
    """Pass what was set on the agent on to the learner.

    Objectives that somebody has put into the learner stay, unless one of their settings has changed.

    :raises ValueError: for what is not allowed, and for what cannot change any more.
    """
    learner, policy = agent.learner, agent.policy
    check(agent)
    learner.horizon, learner.harmony_learning_rate = agent.horizon, agent.harmony_learning_rate
    if (wanted := objectives_of(agent)) != agent._objectives:
        if learner.objectives != agent._objectives:
            warnings.warn("learner.objectives was replaced, and gives way to what was set on the agent.", stacklevel=3)
        agent._objectives = learner.objectives = wanted
    if agent.gamma != learner.gamma:
        learner.gamma = policy.settings["gamma"] = agent.gamma
        head = policy.networks.world_model.continue_head
        if head is not None and STYLES[agent.backbone].discounted_continue:
            head.target_scale = agent.gamma
