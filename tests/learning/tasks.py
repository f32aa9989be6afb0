"""The table of learning tests: task, steps, score to reach, and every hyper-parameter that is not a default."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
from gymnasium.wrappers import TransformReward

from hd_agents.envs.catch import Catch
from learning.envs import CartPoleNoVelocity, Locks, PreviousActionReward, Rendezvous
from learning.static import Static

Env = gymnasium.Env[Any, Any]


class Task(NamedTuple):
    """What is asked of an agent.

    make: builds the environment; keyword arguments change its difficulty.
    policy: the agent's first argument.
    steps: env steps to learn in.
    bar: lowest mean return of the evaluation episodes that passes.
    best: the highest possible mean return.
    chance: the mean return of uniformly random actions.
    threads: of torch; the last bits of a run depend on their number. Only pixels gain from a second one.
    """

    make: Callable[..., Env]
    policy: str
    steps: int
    bar: float
    best: float
    chance: float
    threads: int = 1


def _cartpole() -> Env:
    return gymnasium.make("CartPole-v1")


def _no_velocity() -> Env:
    return CartPoleNoVelocity(gymnasium.make("CartPole-v1"))


def _pendulum(reward_scale: float = 1.0) -> Env:
    return TransformReward(gymnasium.make("Pendulum-v1"), lambda reward: reward_scale * float(reward))


TASKS = {
    # environment, policy, steps, bar, best, chance, threads
    "cartpole": Task(_cartpole, "MlpPolicy", 10_000, 300.0, 500.0, 22.0),
    "no_velocity": Task(_no_velocity, "MlpPolicy", 10_000, 250.0, 500.0, 22.0),  # memory
    "pendulum": Task(_pendulum, "MlpPolicy", 4_000, -250.0, -145.0, -1225.0),  # continuous actions
    "catch": Task(Catch, "CnnPolicy", 3_000, 6.4, 8.0, -3.8, threads=2),  # pixels
    "rendezvous": Task(Rendezvous, "MultiInputPolicy", 3_000, 1.0, 2.8, -6.1),  # Dict observations
    "locks": Task(Locks, "MlpPolicy", 2_000, 8.5, 10.0, 3.6),  # MultiDiscrete actions
    "previous_action": Task(PreviousActionReward, "MlpPolicy", 2_500, 0.85, 1.0, 0.33),  # alignment
    "static": Task(Static, "MlpPolicy", 4_000, 7.5, 9.4, 2.4),  # harmony; 4.2 without looking
}

# Small batches and many of them: on two cores they buy the most learning per second.
_NANO: dict[str, Any] = {
    "size": "nano",
    "learning_rate": 1e-3,
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "harmony_learning_rate": 1e-3,
    "batch_size": 8,
    "sequence_length": 16,
    "learning_starts": 500,
    "buffer_size": 20_000,
    "device": "cpu",
}
# The rates fall to zero, as the best policy is easily lost again; dreams end with the predicted probability, since the
# track's edge is narrower than what the model can tell apart.
_CARTPOLE: dict[str, Any] = {
    **_NANO,
    "sequence_length": 32,
    "train_ratio": 160,
    "gamma": 0.99,
    "learning_rate": "lin_0.001",
    "actor_learning_rate": "lin_0.001",
    "critic_learning_rate": "lin_0.001",
    "policy_kwargs": {"hard_continue": False},
}

# With DreamerV2: the KL of small observations wants free nats (a fast harmony weighs it down to nothing), and its
# critic, a Gaussian, returns of some tens. Settings, arguments of the environment, steps, and the bar.
_FREE: dict[str, Any] = {"policy_kwargs": {"free_nats": 1.0}, "harmony_learning_rate": 1e-3}
DREAMERV2: dict[str, tuple[dict[str, Any], dict[str, Any], int, float]] = {
    "catch": ({}, {}, 3_000, 6.0),
    "cartpole": (_FREE, {}, 10_000, 300.0),
    "pendulum": (_FREE, {"reward_scale": 1 / 16}, 6_000, -250 / 16),
    "locks": (_FREE, {}, 2_000, 8.5),
}

# Gradient steps per env step are train_ratio / (batch_size * sequence_length).
SETTINGS: dict[str, dict[str, Any]] = {
    "cartpole": _CARTPOLE,
    # With less entropy the policy leans to one side, drifts off the track, and no longer tries the other side.
    "no_velocity": {**_CARTPOLE, "entropy_coefficient": 0.01, "harmony_learning_rate": 3e-4},
    "pendulum": {**_NANO, "train_ratio": 128},
    # Larger latents foresee more (foresight.py) at the cost of plain nano's; a faster actor makes up its mind before
    # there is anything to foresee.
    "catch": {
        **_NANO,
        "learning_starts": 300,
        "batch_size": 4,
        "train_ratio": 88,
        "horizon": 10,
        "gamma": 0.93,
        "entropy_coefficient": 0.003,
        "learning_rate": 2e-3,
        "actor_learning_rate": 3e-4,
        "policy_kwargs": {"stoch": 16, "classes": 16},
    },
    "rendezvous": {**_NANO, "train_ratio": 128, "harmony_learning_rate": 3e-3},
    "locks": {**_NANO, "batch_size": 16, "train_ratio": 256, "gamma": 0.9, "harmony_learning_rate": 1e-2},
    "previous_action": {**_NANO, "batch_size": 16, "train_ratio": 256, "gamma": 0.9, "harmony_learning_rate": 1e-2},
    # Divisors that have to arrive within the run: the paper's rate would take 50,000 gradient steps.
    "static": {**_NANO, "learning_rate": 2e-3, "train_ratio": 128, "gamma": 0.9, "harmony_learning_rate": 0.2},
}
