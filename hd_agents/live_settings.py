"""Settings that may be set on an agent at any time, as Stable-Baselines3's users do: what learns follows them."""

from typing import Any

from hd_agents.backbones import Objectives, objectives
from hd_agents.styles import STYLES

FIXED = ("backbone", "size", "harmony")  # which the networks are made by


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

    :raises ValueError: for what cannot change any more.
    """
    learner, policy = agent.learner, agent.policy
    for name in FIXED:
        now, made = getattr(agent, name), policy.settings[name]
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
