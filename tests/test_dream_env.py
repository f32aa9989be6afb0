"""The world model as a vector environment."""

import copy
import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.dream_env import DreamVecEnv
from tests.agents import Clock, Scripted, tiny

MIXED = spaces.Dict(
    eye=spaces.Box(0, 255, (40, 36, 3), np.uint8),
    arm=spaces.Box(-1.0, 1.0, (2, 2)),
    grip=spaces.Discrete(3),
)
SPACES = [
    ("MlpPolicy", spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)),
    ("MultiInputPolicy", MIXED, spaces.Box(-2.0, 1.0, (2,))),
    ("CnnPolicy", spaces.Box(0, 255, (36, 36, 1), np.uint8), spaces.MultiDiscrete([2, 3])),
]


def awake(agent: HarmonyDreamAgent) -> HarmonyDreamAgent:
    """With heads that say something: they begin with zeros."""
    torch.manual_seed(0)
    for name, weight in agent.policy.networks.world_model.named_parameters():
        if "head" in name and weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return agent


def batch_of(space: spaces.Space[Any], count: int) -> Any:
    space.seed(0)
    rows = [space.sample() for _ in range(count)]
    return (
        {key: np.stack([row[key] for row in rows]) for key in rows[0]} if isinstance(rows[0], dict) else np.stack(rows)
    )


def test_multibinary_actions_may_be_the_floats_that_stable_baselines3_chooses() -> None:
    agent = awake(tiny(env=Scripted(spaces.Box(-1.0, 1.0, (3,)), spaces.MultiBinary(4))))
    starts = np.zeros((1, 3), np.float32)
    dreams = [DreamVecEnv(agent, n_envs=2, starts=starts, seed=0) for _ in range(2)]
    PPO("MlpPolicy", VecMonitor(dreams[0]), n_steps=8, batch_size=8, device="cpu").learn(16)
    actions = np.array([[0, 1, 1, 0], [1, 0, 0, 0]])
    found = []
    for dream, kind in zip(dreams, (np.float32, np.int8), strict=True):
        dream.seed(5)
        dream.reset()
        found.append(dream.step(actions.astype(kind))[0])
    assert np.array_equal(*found)
    with pytest.raises(ValueError, match="The actions do not fit MultiBinary"):
        dreams[0].step(actions + 0.5)


def test_dreams_begin_in_states_of_the_model_as_it_is_now() -> None:
    """Also where its weights were loaded, or a part was replaced, without a gradient step."""
    agent, other = (tiny(env=Clock(7), seed=seed).learn(60) for seed in (0, 1))
    dream = DreamVecEnv(agent, n_envs=2, decode=False, deterministic=True, starts=np.ones((64, 3)))
    begun = [dream.reset()]
    agent.set_parameters(other.get_parameters())
    begun.append(dream.reset())
    rssm = tiny(env=Clock(7), seed=2).policy.networks.world_model.rssm
    agent.policy.networks.world_model.rssm = rssm
    begun.append(dream.reset())
    for states in begun:
        assert np.array_equal(states[0], states[1])
    assert not any(np.array_equal(one, two) for one, two in itertools.pairwise(begun))


@pytest.mark.parametrize(("policy", "observations", "actions"), SPACES)
def test_a_dream_is_what_the_agent_imagines(policy: str, observations: Any, actions: Any) -> None:
    agent = awake(tiny(policy, Scripted(observations, actions)))
    agent.policy.networks.world_model.continue_head = None  # nothing ends it
    starts = batch_of(observations, 1)
    dream = DreamVecEnv(agent, n_envs=3, max_steps=5, starts=starts, deterministic=True, seed=0)
    actions.seed(0)
    plans = np.stack([[actions.sample() for _ in range(4)] for _ in range(3)])
    start = {key: rows[0] for key, rows in starts.items()} if isinstance(starts, dict) else starts[0]
    imagined = agent.imagine(start, plans)
    steps = [(dream.reset(), None)] + [dream.step(plans[:, step])[:2] for step in range(4)]
    for number, (observation, rewards) in enumerate(steps):
        if rewards is not None:
            assert np.allclose(rewards, imagined.rewards[:, number - 1], atol=1e-5)
        for key, rows in (observation if isinstance(observation, dict) else {"observation": observation}).items():
            expected, space = imagined.observations[key][:, number], dream._spaces[key]
            if isinstance(space, spaces.Box):
                expected = np.clip(expected, space.low, space.high)
            assert np.allclose(rows, expected, atol=1 if rows.dtype == np.uint8 else 1e-5)
    assert imagined.rewards.std() > 0


def test_whole_numbers_are_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    space = spaces.Box(0, 100, (4,), np.int32)
    agent = tiny(env=Scripted(space, spaces.Discrete(2)))
    dream = DreamVecEnv(agent, n_envs=1, starts=batch_of(space, 1))
    means = torch.tensor([[0.98, 99.4, 100.7, -0.6]])
    monkeypatch.setattr(agent.policy.networks.world_model, "decode", lambda features: {"observation": means})
    assert dream.reset().tolist() == [[1, 99, 100, 0]]


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize(("policy", "observations", "actions"), SPACES)
def test_others_learn_in_it(policy: str, observations: Any, actions: Any, decode: bool) -> None:
    agent = awake(tiny(policy, Scripted(observations, actions), train_ratio=0)).learn(40)
    dream = DreamVecEnv(agent, n_envs=4, max_steps=6, decode=decode, seed=0)
    seen = dream.reset()
    rows = seen if isinstance(seen, dict) else {"": seen}
    first = {key: part[0] for key, part in rows.items()} if isinstance(seen, dict) else seen[0]
    assert dream.observation_space.contains(first)
    if not decode:
        assert first.shape == (16 + 3 * 4,)
    learner = PPO(policy if decode else "MlpPolicy", VecMonitor(dream), n_steps=8, batch_size=8, n_epochs=1)
    learner.learn(64)
    assert len(learner.ep_info_buffer) >= 8
    assert max(info["l"] for info in learner.ep_info_buffer) <= 6


def test_ends_are_told_as_stable_baselines3_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = awake(tiny(env=Clock(7)))
    starts = np.array([[float(n), 0.0, -1.0] for n in range(8)])
    dream = DreamVecEnv(agent, n_envs=3, max_steps=4, starts=starts, seed=0)
    model = agent.policy.networks.world_model
    goes_on = [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    told = iter(goes_on)
    monkeypatch.setattr(model, "continues", lambda features: torch.tensor(next(told)))
    dream.reset()
    ended, begun = [], []
    for _ in goes_on:
        before = dream._state
        observations, _, dones, infos = dream.step(np.zeros(3, int))
        ended.append(dones.tolist())
        for env in np.flatnonzero(dones):
            begun.append((int(env), infos[env]["TimeLimit.truncated"]))
            assert infos[env]["terminal_observation"].shape == (3,)
            assert not np.allclose(infos[env]["terminal_observation"], observations[env])
            assert not torch.equal(before.deter[env], dream._state.deter[env])
        assert all(not infos[env] for env in np.flatnonzero(~dones))
    none, middle, ends = [False] * 3, [False, True, False], [True, False, True]
    assert ended == [none, middle, none, ends, none]
    assert begun == [(1, False), (0, True), (2, False)]  # what both ends and is out of time has ended
    assert dream._steps.tolist() == [1, 3, 1]


def test_a_seed_repeats_it() -> None:
    agent = awake(tiny(env=Clock(7))).learn(60)

    def played(seed: int) -> list[Any]:
        dream = DreamVecEnv(agent, n_envs=2, max_steps=3, seed=seed)
        steps = [dream.step(np.array([step % 5, 1])) for step in range(10)]
        return [
            dream.reset().tolist(),
            *[(observations.tolist(), rewards.tolist()) for observations, rewards, *_ in steps],
        ]

    assert played(3) == played(3) != played(4)
    seen = []
    for _ in range(2):
        dream = DreamVecEnv(agent, n_envs=2)
        dream.seed(5)
        seen.append(dream.reset().tolist())
    assert seen[0] == seen[1] == DreamVecEnv(agent, n_envs=2, seed=5).reset().tolist()


def test_the_model_of_now_dreams() -> None:
    agent = awake(tiny(env=Clock(7))).learn(60)
    dream = DreamVecEnv(agent, n_envs=2, seed=0)
    agent.policy.networks.world_model = copy.deepcopy(agent.policy.networks.world_model)
    for weight in agent.policy.networks.world_model.reward_head.parameters():
        torch.nn.init.zeros_(weight)
    assert np.allclose(dream.step(np.zeros(2, int))[1], 0.0, atol=1e-6)
    with pytest.raises(ValueError, match="3 actions for 2 episodes: pass one for each"):
        dream.step(np.zeros(3, int))


def test_episodes_begin_in_states_of_the_model_of_now() -> None:
    agent = awake(tiny(env=Clock(7), learning_rate=0.01)).learn(60)
    start = batch_of(agent.observation_space, 1)
    dream = DreamVecEnv(agent, n_envs=2, starts=np.repeat(start, 8, 0), deterministic=True, decode=False)
    before = dream.reset()
    assert np.array_equal(before, dream.reset())
    agent.train(2)
    after = dream.reset()
    assert not np.allclose(after, before)
    assert np.allclose(after, DreamVecEnv(agent, n_envs=2, starts=start, deterministic=True, decode=False).reset())


def test_normalised_observations_are_not_cut_to_the_bounds_of_others() -> None:
    raw = spaces.Box(5.0, 10.0, (3,))
    env = VecNormalize(DummyVecEnv([lambda: Scripted(raw, spaces.Discrete(2))]))
    dream = DreamVecEnv(awake(tiny(env=env)).learn(60), n_envs=4, seed=0)
    assert isinstance(dream.observation_space, spaces.Box)
    assert (dream.observation_space.low.min(), dream.observation_space.high.max()) == (-10.0, 10.0)
    assert dream.reset().max() < 5.0


def test_episodes_begin_where_the_agent_has_been(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing begins behind an end, and the states are those that filtering gives."""
    agent = awake(tiny(env=Clock(7))).learn(60)
    dream = DreamVecEnv(agent, n_envs=2, deterministic=True, seed=0)
    model, taken = agent.policy.networks.world_model, []
    sample = agent.replay_buffer.sample

    def watched(*arguments: Any) -> Any:
        taken.append(sample(*arguments))
        return taken[-1]

    monkeypatch.setattr(agent.replay_buffer, "sample", watched)
    found = dream._states()
    batch = taken[0]
    states, _ = model.rssm.observe(model.encode(batch.observation), batch.action, batch.is_first, None)
    usable = ~batch.terminated.bool().flatten()
    assert 0 < usable.sum() < len(usable)
    expected = states.deter.flatten(0, 1)[usable]
    assert len(found.deter) == len(expected)
    assert torch.allclose(found.deter.sum(1).sort().values, expected.sum(1).sort().values, atol=1e-5)


def test_what_cannot_dream_is_told() -> None:
    agent = tiny(env=Clock(7))
    with pytest.raises(ValueError, match=r"does not hold a sequence to begin in: pass starts=\.\.\., or learn"):
        DreamVecEnv(agent)
    with pytest.raises(ValueError, match="starts is one observation: pass a batch"):
        DreamVecEnv(agent, starts=np.zeros(3))
    for weight in agent.policy.networks.world_model.reward_head.parameters():
        torch.nn.init.constant_(weight, float("nan"))
    with pytest.raises(ValueError, match="one that is packed for acting has none"):
        DreamVecEnv(agent, starts=np.zeros((1, 3)))
    with pytest.raises(ValueError, match="max_steps=0"):
        DreamVecEnv(agent, starts=np.zeros((1, 3)), max_steps=0)
    with pytest.raises(ValueError, match=r"seed=-1: use a whole number of at least 0"):
        DreamVecEnv(tiny(env=Clock(7)), starts=np.zeros((1, 3)), seed=-1)


@pytest.mark.slow
def test_what_learned_in_a_dream_alone_acts_in_the_environment() -> None:
    """PPO without a step of CartPole, in the dream of the model that ships; see docs/own_environment.md."""
    env = gym.make("CartPole-v1")
    starts = np.stack([env.reset(seed=seed)[0] for seed in range(256)])
    dream = DreamVecEnv(zoo.load("classic/CartPole"), max_steps=200, starts=starts, seed=0)
    learner = PPO("MlpPolicy", VecMonitor(dream), n_steps=256, seed=0, device="cpu").learn(100_000)
    mean, _ = evaluate_policy(learner, make_vec_env("CartPole-v1", n_envs=5, seed=100), 20)
    assert mean >= 450
