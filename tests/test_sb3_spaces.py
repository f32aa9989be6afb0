"""Stable-Baselines3's contract: every supported pair of spaces trains and predicts, images in all layouts."""

import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.envs import (
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from hd_agents.agent import HarmonyDreamAgent
from tests.agents import Scripted, tiny

VECTOR = spaces.Box(-1, 1, (3,))
CAMERA = spaces.Box(0, 255, (16, 17, 3), np.uint8)
MIXED = spaces.Dict(
    {
        "eye": CAMERA,
        "ear": spaces.Box(0, 255, (23, 16, 1), np.uint8),
        "arm": spaces.Box(-1, 1, (2, 3), np.float64),
        "mode": spaces.Discrete(4, start=1),
        "dials": spaces.MultiDiscrete([2, 3]),
        "bits": spaces.MultiBinary(3),
    }
)


def check_learns(agent: HarmonyDreamAgent) -> None:
    """Both phases, the random and the learned one, reach the environment (which checks the actions)."""
    agent.learn(60)
    assert agent._n_updates > 0
    obs = agent.get_env().reset()
    action, _ = agent.predict(obs, episode_start=np.ones(agent.n_envs), deterministic=True)
    assert agent.action_space.contains(action[0] if action[0].shape else int(action[0]))


@pytest.mark.parametrize("identity", [IdentityEnv, IdentityEnvBox, IdentityEnvMultiDiscrete, IdentityEnvMultiBinary])
def test_identity_environments(identity: type[Any]) -> None:
    check_learns(tiny(env=identity()))


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
@pytest.mark.parametrize(
    "action",
    [
        spaces.Box(-2.0, 5.0, (2, 3), np.float64),
        spaces.Box(0, 9, (2,), np.int64),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 5]),
        spaces.MultiDiscrete([[2, 3], [5, 2]]),
        spaces.MultiBinary(3),
        spaces.MultiBinary((2, 3)),
    ],
)
def test_action_spaces(action: spaces.Space[Any], backbone: Any) -> None:
    check_learns(tiny(env=Scripted(VECTOR, action), backbone=backbone))


@pytest.mark.parametrize(
    "observation",
    [
        spaces.Discrete(5, start=2),
        spaces.MultiDiscrete([4, 3]),
        spaces.MultiBinary(4),
        spaces.Box(-np.inf, np.inf, (3,), np.float64),
        spaces.Box(0, 255, (5,), np.uint8),
        spaces.Box(0.0, 1.0, (4, 5, 3)),
    ],
)
def test_vector_observation_spaces(observation: spaces.Space[Any]) -> None:
    check_learns(tiny(env=Scripted(observation, spaces.Discrete(3))))


@pytest.mark.parametrize("action", [spaces.Box(-1.0, 1.0, (2,)), spaces.MultiDiscrete([2, 3])])
def test_dict_observations(action: spaces.Space[Any]) -> None:
    check_learns(tiny("MultiInputPolicy", Scripted(MIXED, action)))


def test_dict_observations_in_several_processes() -> None:
    # Read by another process, a Dict comes back with the keys in an order of its own.
    venv = SubprocVecEnv([lambda: Scripted(MIXED, spaces.Discrete(2), length=5)] * 2)
    check_learns(tiny("MultiInputPolicy", venv))
    venv.close()


def test_normalised_dict_observations(tmp_path: Path) -> None:
    space = spaces.Dict({"arm": spaces.Box(-1, 1, (3,)), "eye": CAMERA})
    venv = VecNormalize(DummyVecEnv([lambda: Scripted(space, spaces.Discrete(2))]), norm_obs_keys=["arm"])
    agent = tiny("MultiInputPolicy", venv)
    check_learns(agent)
    agent.save(tmp_path / "agent")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", env=venv)
    assert isinstance(loaded.get_env(), VecTransposeImage)
    check_learns(loaded)


def test_dicts_need_the_policy_for_dicts() -> None:
    for policy in ("MlpPolicy", "CnnPolicy"):
        with pytest.raises(ValueError, match="MultiInputPolicy"):
            tiny(policy, Scripted(MIXED, spaces.Discrete(2)))
    nested = spaces.Dict({"inner": spaces.Dict({"x": VECTOR})})
    with pytest.raises(ValueError, match="'inner' has the space Dict"):
        tiny("MultiInputPolicy", Scripted(nested, spaces.Discrete(2)))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple((VECTOR, VECTOR)),
        spaces.Box(0, 255, (8, 8, 3), np.uint8),
        spaces.Box(0, 255, (20, 20, 7), np.uint8),
    ],
)
def test_other_observations_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises((ValueError, AssertionError, NotImplementedError), match=r"supported|Tuple"):
        tiny("CnnPolicy", Scripted(space, spaces.Discrete(2)))


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
@pytest.mark.parametrize("shape", [(16, 16, 1), (30, 45, 3), (21, 30, 3), (3, 33, 16), (2, 16, 40), (64, 64, 4)])
def test_images(shape: tuple[int, ...], backbone: Any, tmp_path: Path) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    agent = tiny("CnnPolicy", Scripted(space, spaces.Discrete(3)), backbone=backbone)
    check_learns(agent)
    agent.save(tmp_path / "agent")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent")
    obs = np.stack([space.sample(), space.sample()])
    states = [one.predict(obs, deterministic=True)[1] for one in (agent, loaded)]
    assert all(np.array_equal(one, two) for one, two in zip(*states, strict=True))


def test_both_layouts_of_an_image_are_the_same_image() -> None:
    channels_last = tiny("CnnPolicy", Scripted(CAMERA, spaces.Discrete(3)), seed=0)
    first = spaces.Box(0, 255, (3, 16, 17), np.uint8)
    channels_first = tiny("CnnPolicy", Scripted(first, spaces.Discrete(3)), seed=0)
    image = CAMERA.sample()
    states = [
        agent.predict(given, episode_start=np.array([True]), deterministic=True)[1][0]
        for agent in (channels_last, channels_first)
        for given in (image, image.transpose(2, 0, 1))
    ]
    assert all(np.allclose(states[0], state, atol=1e-6) for state in states[1:])


def test_stacked_grey_frames() -> None:
    grey = spaces.Box(0, 255, (18, 16, 1), np.uint8)
    venv = VecFrameStack(DummyVecEnv([lambda: Scripted(grey, spaces.Discrete(2))]), n_stack=4)
    agent = tiny("CnnPolicy", venv)
    assert agent.policy.observations.images["observation"].shape == (18, 16, 4)
    check_learns(agent)


def test_an_image_of_floats_is_a_vector() -> None:
    space = spaces.Box(0.0, 1.0, (16, 16, 3))
    with pytest.raises(ValueError, match=r"uint8, 0 to 255.*MlpPolicy"):
        tiny("CnnPolicy", Scripted(space, spaces.Discrete(2)))
    with pytest.warns(UserWarning, match=r"a vector of 768\..*uint8, 0 to 255"):
        agent = tiny("MlpPolicy", Scripted(space, spaces.Discrete(2)))
    check_learns(agent)


def test_an_image_of_floats_in_a_dict_becomes_one_by_the_advice() -> None:
    floats = spaces.Dict(camera=spaces.Box(0.0, 1.0, (16, 17, 3)), joints=spaces.Box(-1.0, 1.0, (2,)))
    env = Scripted(floats, spaces.Discrete(2))
    with pytest.warns(UserWarning, match="'camera' is learned as a vector of 816") as warned:
        tiny("MultiInputPolicy", env)
    advice = re.search(r"0 to 255: (.*) for floats", str(warned[0].message))
    assert advice is not None
    changed = eval(advice[1], {"gymnasium": gymnasium, "np": np, "env": env})
    agent = tiny("MultiInputPolicy", changed)
    assert agent.policy.observations.images.keys() == {"camera"}
    check_learns(agent)


def test_an_image_of_floats_to_255_keeps_its_numbers_by_the_advice() -> None:
    env = Scripted(spaces.Box(0.0, 255.0, (16, 17, 3)), spaces.Discrete(2))
    with pytest.raises(ValueError, match="CnnPolicy does not take") as refused:
        tiny("CnnPolicy", env)
    advice = re.search(r"0 to 255: (.*), with an axis of", str(refused.value))
    assert advice is not None
    changed = eval(advice[1], {"gymnasium": gymnasium, "np": np, "env": env})
    env.reset(seed=1)
    seen = env.observation_space.sample()
    assert np.abs(changed.observation(seen) - seen).max() <= 0.5
    check_learns(tiny("CnnPolicy", changed))


def test_frames_in_a_row_are_not_told_to_become_what_they_are() -> None:
    with pytest.raises(ValueError, match=r"CnnPolicy does not take.*leave out what stacks them") as refused:
        tiny("CnnPolicy", Scripted(spaces.Box(0, 255, (4, 16, 17, 3), np.uint8), spaces.Discrete(2)))
    assert "TransformObservation" not in str(refused.value)


def test_unbounded_actions_are_refused_with_the_fix() -> None:
    actions = spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(ValueError, match=r"unbounded.*TransformAction"):
        tiny(env=Scripted(VECTOR, actions))
    agent = tiny(env=Scripted(VECTOR, spaces.Box(-1.0, 1.0, (2,))))
    with pytest.raises(ValueError, match=r"unbounded.*TransformAction"):
        agent.set_env(Scripted(VECTOR, actions))
