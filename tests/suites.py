"""What the tests of the suites share: skipping where a suite or a renderer is missing, and trajectories to compare."""

from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import pytest

from hd_agents.envs import rendering

# One task of each family, drawn small and without shadows: without a GPU these cost most of the time.
FAMILIES: dict[str, dict[str, Any]] = {
    "atari100k/Pong-v0": {"size": 16},
    "dmc_vision/walker-walk-v0": {"size": 16, "shadows": False},
    "dmc_proprio/lqr-lqr_2_1-v0": {},  # the only one with springs drawn at random when it is made
    "dmc_natural/cheetah-run-v0": {"size": 16, "shadows": False, "videos": "generated"},
    "metaworld/lever-pull-v0": {"size": 16, "shadows": False},
}
NEEDS = {"atari100k": ("ale_py", "cv2"), "metaworld": ("metaworld",)}
NEEDS |= dict.fromkeys(("dmc_vision", "dmc_proprio", "dmc_natural"), ("dm_control", "shimmy"))


def require(env_id: str, drawing: bool = True) -> None:
    """Skip the test if the suite of an id isn't installed, or nothing draws here although ``drawing`` is needed."""
    family = env_id.split("/")[0].removeprefix("hd_agents:")
    for module in NEEDS[family]:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    if drawing and family not in ("atari100k", "dmc_proprio"):
        rendering.choose_backend()
        if rendering.find_backend() is None:
            pytest.skip("no OpenGL to draw with")


def make(env_id: str, **changes: Any) -> gymnasium.Env[Any, Any]:
    """A task of FAMILIES, or another with all arguments given; skips like ``require``."""
    arguments = {**FAMILIES.get(env_id, {}), **changes}
    require(env_id, drawing=arguments.get("observation") != "state")
    return gymnasium.make(env_id, **arguments)


def trajectory(env: gymnasium.Env[Any, Any], seed: int | None, steps: int = 6) -> np.ndarray:
    """All numbers of a few steps with seeded actions, one row per observation."""
    env.action_space.seed(0)
    observation, _ = env.reset(seed=seed)
    rows = [np.append(observation.ravel().astype(np.float64), 0.0)]
    for _ in range(steps):
        observation, reward, *_ = env.step(env.action_space.sample())
        rows.append(np.append(observation.ravel().astype(np.float64), float(reward)))
    return np.stack(rows)
