"""Settings that may be set on an agent at any time, as Stable-Baselines3's users do: what learns follows them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from hd_agents import checks
from hd_agents.backbones import Objectives, objectives
from hd_agents.presets import DEFAULTS
from hd_agents.styles import STYLES

FIXED = {"backbone": "backbone", "size": "size", "harmony": "harmony", "policy_kwargs": "overrides"}  # of networks
RULES: dict[str, Callable[..., Any]] = {
    "batch_size": partial(checks.whole, low=1),
    "sequence_length": partial(checks.whole, low=2),
    "train_ratio": partial(checks.number, low=0.0),
    "horizon": partial(checks.whole, low=2),
    "gamma": partial(checks.number, low=0.0, high=1.0, above=True),
    "return_lambda": partial(checks.number, low=0.0, high=1.0),
    "entropy_coefficient": partial(checks.number, low=0.0),
}


def take(agent: Any, harmony_learning_rate: float | None, **values: Any) -> None:
    """Set values of :data:`RULES` on an agent; None stands for the backbone's own.

    :raises ValueError: for one that is not allowed.
    """
    for name, value in values.items():
        setattr(agent, name, RULES[name](name, value, default=getattr(DEFAULTS[agent.backbone], name)))
    own = harmony_learning_rate
    agent.harmony_learning_rate = None if own is None else checks.number("harmony_learning_rate", own, 0.0)


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
    """Let the learner have what was set since it was made; objectives of somebody's own stay, unless these were.

    :raises ValueError: for what is not allowed, and for what cannot change any more.
    """
    learner, policy = agent.learner, agent.policy
    take(agent, agent.harmony_learning_rate, **{name: getattr(agent, name) for name in RULES})
    for name, setting in FIXED.items():
        now, made = getattr(agent, name), policy.settings[setting]
        if now != made:
            raise ValueError(
                f"agent.{name} was set to {now!r}, but its networks were made with {made!r}: that cannot change. Make "
                "another agent."
            )
    learner.horizon, learner.harmony_learning_rate = agent.horizon, agent.harmony_learning_rate
    if (wanted := objectives_of(agent)) != agent._objectives:
        agent._objectives = learner.objectives = wanted
    if agent.gamma != learner.gamma:
        learner.gamma = policy.settings["gamma"] = agent.gamma
        head = policy.networks.world_model.continue_head
        if head is not None and STYLES[agent.backbone].discounted_continue:
            head.target_scale = agent.gamma
