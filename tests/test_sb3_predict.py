"""Stable-Baselines3's contract: wrapping, predict on single and vector environments, repeatability, evaluation."""

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize, VecTransposeImage

from hd_agents.agent import HarmonyDreamAgent
from tests.agents import Clock, Scripted, tiny

IMAGE = spaces.Box(0, 255, (16, 17, 3), np.uint8)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_environments_are_wrapped(env: str) -> None:
    for given in (env, gym.make(env)):
        agent = tiny(env=given)
        assert isinstance(agent.get_env(), DummyVecEnv)
        assert agent.get_env().env_is_wrapped(Monitor) == [True]
        assert agent.n_envs == 1
    image = tiny("CnnPolicy", Scripted(IMAGE, spaces.Discrete(2)))
    assert isinstance(image.get_env(), VecTransposeImage)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_actions_fit_single_and_vector_environments(env_id: str) -> None:
    agent = tiny(env=env_id)
    env = gym.make(env_id)
    obs, _ = env.reset(seed=0)
    for deterministic in (True, False):
        action, _ = agent.predict(obs, episode_start=np.array([True]), deterministic=deterministic)
        assert isinstance(action, np.ndarray)
        assert action.shape == env.action_space.shape
        assert env.action_space.contains(action)
    venv = DummyVecEnv([lambda: gym.make(env_id)] * 3)
    actions, state = agent.predict(venv.reset(), deterministic=True)
    assert actions.shape == (3, *(env.action_space.shape or ()))
    assert all(len(part) == 3 for part in state)
    venv.step(actions)


def test_images_that_are_flipped_or_for_reading_alone() -> None:
    agent = tiny("CnnPolicy", Scripted(IMAGE, spaces.Discrete(2)))
    image = IMAGE.sample()
    locked = image[::-1].copy()
    locked.flags.writeable = False
    states = []
    for given in (image[::-1].copy(), image[::-1], locked):
        player = agent.player()
        torch.manual_seed(0)
        player.act(given)
        states.append(player.state)
    for state in states[1:]:
        assert all(np.array_equal(left, right) for left, right in zip(state, states[0], strict=True))


def test_the_observation_of_either_api_is_explained() -> None:
    agent = tiny()
    with pytest.raises(ValueError, match=r"obs, info = env\.reset\(\)"):
        agent.predict(gym.make("CartPole-v1").reset())
    obs = agent.get_env().reset()
    assert agent.predict(obs)[0].shape == (1,)


def test_a_flag_in_the_place_of_the_state_is_told() -> None:
    with pytest.raises(ValueError, match=r"state=True: .*predict\(obs, deterministic=True\)"):
        tiny().predict(np.zeros(4), True)


def test_a_subclassed_space_is_a_space() -> None:
    class Narrow(spaces.Box):
        pass

    class Two(spaces.Discrete):
        pass

    env = Scripted(Narrow(-1, 1, (3,)), Two(2))
    agent = tiny(env=env).learn(40)
    assert agent.action_space.contains(int(agent.predict(env.observation_space.sample())[0]))


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_the_same_seed_gives_the_same_run(env: str) -> None:
    def run(seed: int) -> tuple[list[Any], dict[str, torch.Tensor]]:
        venv = DummyVecEnv([lambda: gym.make(env)])
        agent = tiny(env=venv, seed=seed, train_ratio=4.0)
        rewards: list[Any] = []
        agent.learn(60, callback=lambda local, _: rewards.append(local["new_obs"].copy()) is None)
        assert agent._n_updates > 5
        return rewards, agent.policy.state_dict()

    one, two, other = run(0), run(0), run(1)
    assert np.array_equal(one[0], two[0])
    assert not np.array_equal(one[0], other[0])
    for name, tensor in one[1].items():
        assert torch.equal(tensor, two[1][name]), name


def test_evaluation_on_other_numbers_of_environments() -> None:
    agent = tiny(env=Clock(4))
    for n_envs in (1, 2, 3):
        venv = DummyVecEnv([lambda: Monitor(Clock(4))] * n_envs)
        rewards, lengths = evaluate_policy(agent, venv, n_eval_episodes=5, return_episode_rewards=True)
        assert lengths == [4] * 5
        assert len(rewards) == 5
    mean, _ = evaluate_policy(agent, Monitor(Clock(3)), n_eval_episodes=1, deterministic=False)
    assert mean == 100 * 3 + 1 + 2 + 3


def test_evaluation_passes_the_memory_on() -> None:
    """A memory that is really carried: the same agent without it sees other latents."""
    agent = tiny(env=Clock(6), seed=0)
    venv = DummyVecEnv([lambda: Monitor(Clock(6))])
    seen: list[Any] = []

    class Spy:
        def predict(self, *args: Any, **options: Any) -> Any:
            result = agent.predict(*args, **options)
            seen.append((options["state"], options["episode_start"].copy(), result[1]))
            return result

    evaluate_policy(Spy(), venv, n_eval_episodes=2)  # type: ignore[arg-type]
    assert [bool(start[0]) for _, start, _ in seen] == [True, *[False] * 5, True, *[False] * 5]
    for before, after in itertools.pairwise(seen):
        assert all(np.array_equal(a, b) for a, b in zip(before[2], after[0], strict=True))


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_several_environments(kind: type[VecEnv]) -> None:
    venv = kind([lambda: gym.make("CartPole-v1")] * 2)  # type: ignore[call-arg]
    agent = tiny(env=venv, seed=0).learn(81)
    assert agent.num_timesteps == 82
    assert agent._n_updates == (82 - 22) // 16
    assert len(agent.replay_buffer) >= 82 + 2
    venv.close()


def test_normalised_environments_learn_and_evaluate() -> None:
    def make() -> DummyVecEnv:
        return DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))])

    env = VecNormalize(make(), clip_obs=5.0)
    agent = tiny(env=env).learn(60)
    assert agent.get_vec_normalize_env() is env
    assert agent._n_updates > 0
    assert set(agent.replay_buffer._columns["reward"][0, : len(agent.replay_buffer)]) == {0.0, 1.0}
    test_env = VecNormalize(make(), training=False, norm_reward=False)
    test_env.obs_rms = env.obs_rms
    mean, _ = evaluate_policy(agent, test_env, n_eval_episodes=2)
    assert mean >= 8
    agent.set_env(gym.make("CartPole-v1"))
    assert agent.get_vec_normalize_env() is None
    agent.learn(20, reset_num_timesteps=False)


def test_the_seed_reaches_replay_and_actions() -> None:
    agent: HarmonyDreamAgent = tiny()
    drawn = []
    for seed in (4, 4, None, 5):
        agent.set_random_seed(seed)
        drawn.append((agent._rng.integers(0, 10**9, 5).tolist(), torch.rand(3).tolist()))
    assert drawn[0] == drawn[1]
    assert drawn[1][0] != drawn[2][0]
    assert drawn[1] != drawn[3]


def test_without_a_seed_replay_follows_the_programs_own() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(4)
        drawn.append(tiny()._rng.integers(0, 10**9, 5).tolist())
    assert drawn[0] == drawn[1]
