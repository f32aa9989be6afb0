"""Small runs in processes of their own, and what tells two of them apart."""

import hashlib
import io
import multiprocessing
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.callbacks import RunCheckpoint
from hd_agents.envs.state import Restorable
from tests.agents import tiny

PROCESSES = multiprocessing.get_context("forkserver")  # its processes are new, but need not import all this again
PROCESSES.set_forkserver_preload(["torch._dynamo", "tests.runs"])  # torch imports the former at the first Adam step


def make(task: str, **arguments: Any) -> gym.Env[Any, Any]:
    return Restorable(Monitor(gym.make(task, **arguments)))


def catch() -> list[Callable[[], gym.Env[Any, Any]]]:
    return [partial(make, "hd_agents/Catch-v0", balls=balls) for balls in (1, 2)]


def cartpole() -> list[Callable[[], gym.Env[Any, Any]]]:
    return [partial(make, "CartPole-v1", max_episode_steps=9)] * 3


def pendulum() -> list[Callable[[], gym.Env[Any, Any]]]:
    return [partial(make, "Pendulum-v1", max_episode_steps=30)]


def atari() -> list[Callable[[], gym.Env[Any, Any]]]:
    return [partial(make, "atari100k/Breakout-v0", size=16, max_frames=100)] * 2


def control() -> list[Callable[[], gym.Env[Any, Any]]]:
    return [partial(make, "dmc_proprio/reacher-easy-v0", max_frames=60)] * 2


def metaworld() -> list[Callable[[], gym.Env[Any, Any]]]:
    return [partial(make, "metaworld/reach-v0", size=16, shadows=False)]


def make_vec(functions: list[Callable[[], gym.Env[Any, Any]]], subproc: bool) -> VecEnv:
    env: VecEnv = SubprocVecEnv(functions, start_method="fork") if subproc else DummyVecEnv(functions)
    return VecNormalize(env) if len(functions) == 3 else env  # CartPole's


def new_agent(env: VecEnv, backbone: str, **changes: Any) -> HarmonyDreamAgent:
    policy = "CnnPolicy" if len(env.observation_space.shape or ()) == 3 else "MlpPolicy"
    sizes = {"train_ratio": 2.3, "buffer_size": 20 * env.num_envs}  # a remainder after each step; rings that wrap
    agent = tiny(policy, env, backbone=backbone, **{"seed": 7, **sizes, **changes})
    _draw()  # so that these generators do not stand where a seed puts them
    return agent


def fingerprint(agent: HarmonyDreamAgent) -> dict[str, Any]:
    """Everything that tells two runs apart: where it is equal, they go on alike."""
    rows = io.BytesIO()
    agent.replay_buffer.save(rows)
    return {
        "weights": hashlib.sha256(repr(sorted(_leaves(agent.get_parameters()))).encode()).hexdigest(),
        "replay": hashlib.sha256(rows.getvalue()).hexdigest(),
        "rows": len(agent.replay_buffer),
        "updates": (agent._n_updates, agent.learner.updates, agent._replay_credit),
        "steps": (agent.num_timesteps, agent._episode_num, agent._current_progress_remaining),
        "rates": agent._rates(),
        "episodes": [(info["r"], info["l"]) for info in agent.ep_info_buffer],
        "next": agent.predict(agent._last_obs)[0].tolist(),
        "random": (_draw(), float(torch.rand(())), agent._rng.random()),
        "actions": [agent.action_space.sample().tolist() for _ in range(20)],
    }


def _draw() -> tuple[float, float]:
    """From the generators that we do not use, but that an environment may."""
    return random.random(), np.random.rand()  # noqa: NPY002


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, f"{name}/{key}")
    else:
        yield name, value.cpu().numpy().tobytes() if isinstance(value, torch.Tensor) else value


def run(
    functions: Callable[[], list[Callable[[], gym.Env[Any, Any]]]],
    backbone: str,
    subproc: bool,
    steps: int,
    folder: Path | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Learn up to ``steps``, from where the run in ``folder`` stands, if it does."""
    env = make_vec(functions(), subproc)
    try:
        checkpoint = None if folder is None else RunCheckpoint(folder, every=25)
        agent = checkpoint and checkpoint.resume(env, device="cpu", **changes)
        agent = agent or new_agent(env, backbone, **changes)
        agent.learn(steps - agent.num_timesteps, callback=checkpoint, reset_num_timesteps=False)
        return fingerprint(agent)
    finally:
        env.close()


def _answer(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    pipe.send(function(*arguments, **options))


def in_new_process(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What the function returns there; EOFError if it fails, with the traceback among the test's output."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_answer, args=(theirs, function, arguments, options))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()
