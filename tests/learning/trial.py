"""One trial: learn a task from a seed, evaluate the last weights, keep the learning curve."""

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, LogEveryNTimesteps
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from hd_agents import HarmonyDreamAgent
from hd_agents.callbacks import LossGradients
from learning.tasks import SETTINGS, Env, Task

EPISODES = 20
CURVE_POINTS = 40

# The strongest of a few settings tried at these few steps; Stable-Baselines3's defaults do worse.
BASELINES: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "ppo": (PPO, {"n_steps": 128, "batch_size": 64, "learning_rate": 5e-4, "ent_coef": 0.01, "gamma": 0.97}),
    "dqn": (
        DQN,
        {
            "learning_rate": 5e-4,
            "buffer_size": 10_000,
            "learning_starts": 300,
            "train_freq": 1,
            "target_update_interval": 200,
            "exploration_fraction": 0.4,
            "gamma": 0.97,
        },
    ),
}


class Trial(NamedTuple):
    """What came out: returns of the evaluation episodes, minutes of learning, and one dict per point of the curve."""

    returns: list[float]
    minutes: float
    curve: list[dict[str, float]]

    @property
    def mean(self) -> float:
        """Mean return of the evaluation episodes."""
        return float(np.mean(self.returns))


class Curve(KVWriter):
    """Keeps every number that is logged, one dict per dump."""

    def __init__(self, show: bool) -> None:
        self.rows: list[dict[str, float]] = []
        self.show = show

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Add a row; print its heart if the curve is to be shown."""
        row = {key: float(value) for key, value in key_values.items() if isinstance(value, int | float | np.number)}
        self.rows.append({"step": float(step), **row})
        if self.show:
            shown = ("ep_rew_mean", "n_updates", "time_elapsed", "sigma")
            parts = [f"{name.partition('/')[2]} {row[name]:.4g}" for name in row if name.split("/")[1] in shown]
            print(f"{step:6d} " + "  ".join(parts), flush=True)

    def close(self) -> None:
        """There is nothing to close."""


def run_agent(
    name: str,
    task: Task,
    seed: int,
    settings: Mapping[str, Any] | None = None,
    difficulty: Mapping[str, Any] | None = None,
    show: bool = False,
) -> Trial:
    """Train the agent on a task of the table.

    Args:
        name: of the task, whose settings are used.
        task: the task itself, with other steps if wanted.
        seed: of everything.
        settings: constructor arguments that replace those of the table.
        difficulty: arguments of the environment.
        show: print the learning curve.
    """
    torch.set_num_threads(task.threads)
    arguments = {**SETTINGS[name], **(settings or {})}
    env = task.make(**(difficulty or {}))
    agent = HarmonyDreamAgent(arguments.pop("policy", task.policy), Monitor(env), seed=seed, **arguments)
    return _run(agent, task, seed, difficulty or {}, show)


def learn_from_records(name: str, task: Task, seed: int) -> list[float]:
    """Returns of an agent that has learned from recorded random play alone, with the task's settings.

    It is given as many env steps, and makes as many gradient steps, as one that plays for itself.
    """
    torch.set_num_threads(task.threads)
    arguments = SETTINGS[name]
    agent = HarmonyDreamAgent(task.policy, task.make(), seed=seed, **arguments)
    steps, env = 0, task.make()
    env.action_space.seed(seed)
    while steps < task.steps:
        observations, actions, rewards = [env.reset(seed=seed + steps)[0]], [], []
        terminated = truncated = False
        while not (terminated or truncated):
            actions.append(env.action_space.sample())
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(float(reward))
        agent.add_episode(observations, np.array(actions), np.array(rewards), terminated)
        steps += len(actions)
    earned = (task.steps - arguments["learning_starts"]) * arguments["train_ratio"]
    agent.train(earned // (agent.batch_size * agent.sequence_length))
    assert agent.num_timesteps == 0
    return evaluate(agent, task.make, seed)


def run_baseline(
    algorithm: str, task: Task, seed: int, difficulty: Mapping[str, Any] | None = None, show: bool = False
) -> Trial:
    """Train "ppo" or "dqn" of Stable-Baselines3 on the same task, for the same steps, on one thread."""
    torch.set_num_threads(1)
    kind, arguments = BASELINES[algorithm]
    env = task.make(**(difficulty or {}))
    agent = kind(task.policy, Monitor(env), seed=seed, device="cpu", **arguments)
    return _run(agent, task, seed, difficulty or {}, show)


def _run(agent: BaseAlgorithm, task: Task, seed: int, difficulty: Mapping[str, Any], show: bool) -> Trial:
    curve = Curve(show)
    agent.set_logger(Logger(folder=None, output_formats=[curve]))
    start = time.monotonic()
    every = max(1, task.steps // CURVE_POINTS)
    callbacks: list[BaseCallback] = [LogEveryNTimesteps(every)]
    if isinstance(agent, HarmonyDreamAgent):
        callbacks.append(LossGradients(every))
    agent.learn(task.steps, callback=callbacks, log_interval=None)
    minutes = (time.monotonic() - start) / 60.0
    return Trial(evaluate(agent, lambda: task.make(**difficulty), seed), minutes, curve.rows)


def evaluate(agent: BaseAlgorithm, make: Any, seed: int) -> list[float]:
    """Returns of fresh episodes with sampled actions."""

    def monitored() -> Env:
        return Monitor(make())

    envs = DummyVecEnv([monitored] * 4)
    envs.seed(10_000 + seed)
    returns, _ = evaluate_policy(agent, envs, EPISODES, deterministic=False, return_episode_rewards=True)
    envs.close()
    return list(returns)  # type: ignore[arg-type]  # a list, as asked for


def write_curve(curve: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write a curve as CSV, one column per name, in the order of first appearance."""
    names = list(dict.fromkeys(name for row in curve for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(curve)


def plot_harmony(on: Trial, off: Trial, path: Path, title: str) -> None:
    """Draw the return of both trials, the observation's share of their gradients, and the sigmas of the first; PNG."""
    figure = Figure(figsize=(13.0, 4.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, key in ((left, "rollout/ep_rew_mean"), (middle, "train/gradient_share/observation")):
        for trial, label in ((on, "harmony on"), (off, "harmony off")):
            rows = [row for row in trial.curve if key in row]
            axes.plot([row["step"] for row in rows], [row[key] for row in rows], label=label)
        axes.legend()
    left.set(title=title, xlabel="env steps", ylabel="mean return of the last 100 episodes")
    middle.set(title="the observation loss's share of the gradient", xlabel="env steps", ylim=(0.0, 1.0))
    rows = [row for row in on.curve if any("/sigma/" in name for name in row)]
    for name in sorted({name for row in rows for name in row if "/sigma/" in name}):
        right.plot([row["step"] for row in rows], [row[name] for row in rows], label=name.rpartition("/")[2])
    right.set(title="sigma, the divisor of each loss", xlabel="env steps", yscale="log")
    right.legend()
    figure.savefig(path, dpi=100)
