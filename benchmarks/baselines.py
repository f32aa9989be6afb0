"""Train Stable-Baselines3's SAC, TD3, PPO or DQN on a task of the zoo, for as many env steps as the zoo's agent.

``python benchmarks/baselines.py dmc_proprio/reacher-easy --algorithm sac`` prints one line of JSON: the returns of the
last weights, deterministic actions, on the episodes that the cards of trained models have (seeds from 10,000 on).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[:2])

from report import describe_machine, write_json

from hd_agents import zoo
from hd_agents.cli.curves import EVALUATION_ENVS, EVALUATION_SEED
from hd_agents.cli.tasks import parse_setting
from hd_agents.evaluation.episodes import seeded_envs, share_seeds

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"sac": SAC, "td3": TD3, "ppo": PPO, "dqn": DQN}


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a task of the zoo")
    parser.add_argument("--algorithm", choices=sorted(ALGORITHMS), default="sac")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="nano", help="whose env steps are taken (default: nano)")
    parser.add_argument("--steps", type=int, help="env steps instead")
    parser.add_argument("--episodes", type=int, default=100, help="that are scored (default: 100)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="other settings")
    parser.add_argument("--output", type=Path, help="file for the report")
    chosen = parser.parse_args(words)
    torch.set_num_threads(chosen.threads)
    row = zoo.hyperparameters(chosen.task, chosen.preset)
    steps = int(row["n_timesteps"]) if chosen.steps is None else chosen.steps
    settings = dict(parse_setting(text) for text in chosen.set)
    env = zoo.make_env(chosen.task)
    arguments = dict(settings)
    if chosen.algorithm == "td3":  # which has no other way to explore; 0.1 is usual
        size = env.action_space.shape
        arguments.setdefault("action_noise", NormalActionNoise(np.zeros(size), np.full(size, 0.1)))
    agent = ALGORITHMS[chosen.algorithm](row["policy"], env, seed=chosen.seed, device="cpu", **arguments)
    begun = time.monotonic()
    agent.learn(steps)
    minutes = (time.monotonic() - begun) / 60.0
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + chosen.episodes)
    shares = share_seeds(seeds, min(EVALUATION_ENVS, chosen.episodes))
    envs = seeded_envs(zoo.env_id(chosen.task), shares, {})
    returns, _ = evaluate_policy(agent, envs, chosen.episodes, deterministic=True, return_episode_rewards=True)
    envs.close()
    report = {
        "task": chosen.task,
        "algorithm": chosen.algorithm,
        "seed": chosen.seed,
        "steps": agent.num_timesteps,  # PPO ends with a whole rollout
        "settings": settings,
        "episodes": chosen.episodes,
        "mean": round(float(np.mean(returns)), 2),
        "std": round(float(np.std(returns)), 2),
        "minutes": round(minutes, 1),
        **describe_machine(chosen.threads),
    }
    write_json(chosen.output, {**report, "returns": returns})
    print(json.dumps(report))


if __name__ == "__main__":
    main()
