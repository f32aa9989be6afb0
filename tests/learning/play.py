"""Scripted play, for the tests of the environments."""

from collections.abc import Callable
from typing import Any

import gymnasium

Env = gymnasium.Env[Any, Any]
Policy = Callable[[Any], Any]


def mean_return(env: Env, policy: Policy, episodes: int) -> float:
    """Play seeded episodes; the policy sees the observation."""
    total = 0.0
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            total += float(reward)
            over = terminated or truncated
    return total / episodes


def random_policy(env: Env) -> Policy:
    """Seeded uniform actions, whatever is observed."""
    env.action_space.seed(0)
    return lambda _: env.action_space.sample()
