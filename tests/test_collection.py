"""Replay rows line up with what the environments did: actions, rewards, ends and resets, one row each."""

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnvWrapper, VecNormalize

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.evaluation import evaluate, player_for
from hd_agents.films.filming import play
from hd_agents.training.normalizing import normalize_batch
from hd_agents.world_model.batch import Batch
from tests.agents import Clock, Filtered, Scripted, tiny
from tests.test_env_state import Mute


def rows(agent: HarmonyDreamAgent, env: int = 0) -> list[tuple[Any, ...]]:
    """Rows of one environment, oldest first: observation, action number or None, reward, is_first, terminated."""
    columns = agent.replay_buffer._columns
    found = []
    for row in range(agent.replay_buffer._counts[env]):
        action = columns["action"][env, row]
        observation = columns["observation.observation"][env, row]
        number = int(action.argmax()) if action.any() else None
        flags = bool(columns["is_first"][env, row]), bool(columns["terminated"][env, row])
        found.append((tuple(observation.tolist()), number, float(columns["reward"][env, row]), *flags))
    return found


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("learning_starts", [0, 100])
def test_an_episode_of_n_steps_becomes_n_plus_one_rows(cut: bool, learning_starts: int) -> None:
    agent = tiny(env=Clock(3, cut), learning_starts=learning_starts)
    agent.learn(7)

    found = rows(agent)
    assert len(found) == 7 + 3  # three episodes were begun
    taken = [int(observation[2]) for observation, *_ in found]
    expected = [
        ((1.0, 0.0, -1.0), None, 0.0, True, False),
        ((1.0, 1.0, taken[1]), taken[1], 101.0, False, False),
        ((1.0, 2.0, taken[2]), taken[2], 102.0, False, False),
        ((1.0, 3.0, taken[3]), taken[3], 103.0, False, not cut),  # the terminal observation, not the next reset
        ((2.0, 0.0, -1.0), None, 0.0, True, False),
        ((2.0, 1.0, taken[5]), taken[5], 201.0, False, False),
        ((2.0, 2.0, taken[6]), taken[6], 202.0, False, False),
        ((2.0, 3.0, taken[7]), taken[7], 203.0, False, not cut),
        ((3.0, 0.0, -1.0), None, 0.0, True, False),
        ((3.0, 1.0, taken[9]), taken[9], 301.0, False, False),
    ]
    assert found == expected


@pytest.mark.parametrize("learning_starts", [0, 100])
def test_what_was_executed_is_what_is_learned(learning_starts: int) -> None:
    agent = tiny(env=DummyVecEnv([lambda: Filtered(Clock(3)), lambda: Clock(5)]), learning_starts=learning_starts)
    told: list[Any] = []
    agent.learn(28, callback=lambda found, _: told.append(found["actions"].copy()) or True)
    for env in range(2):
        assert all(number is None or observation[2] == number for observation, number, *_ in rows(agent, env))
    taken = [number for _, number, *_ in rows(agent) if number is not None]
    differ = np.flatnonzero(np.array(taken) != np.array(told)[:, 0])
    assert len(differ) == 5 and differ[-1] == 13  # the newest action is one of them
    assert (agent._collector.latent is None) == (learning_starts > 0)
    if agent._collector.latent is not None:
        last = agent._collector.latent.action.argmax(-1).tolist()
        assert last == [taken[-1], [number for _, number, *_ in rows(agent, 1) if number is not None][-1]]


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("how", ["sampled", "mode"])
def test_what_was_executed_is_remembered_in_evaluation(how: str, n_envs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tiny(env=Clock(5))
    monkeypatch.setattr("hd_agents.evaluation.rules.OTHER_PROTOCOL", (how, 4))
    seen = remembered(agent, monkeypatch)
    evaluate(agent, lambda: Filtered(Clock(5)), n_envs=n_envs)
    assert len(seen) == 20
    assert all(told == done for told, done in seen)
    play(agent, Filtered(Clock(5)), seed=0, player=player_for(agent, how))
    assert len(seen) == 25
    assert all(told == done for told, done in seen)


def remembered(agent: HarmonyDreamAgent, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What will be remembered of each action before an observation, and what the observation says was done; -1 none."""
    seen: list[tuple[int, int]] = []

    step = agent.policy.step

    def spied(encoded: Any, latent: Any, starts: Any, *how: bool) -> Any:
        for observation, action, start in zip(encoded["observation"], latent.action, starts, strict=True):
            seen.append((-1 if start else int(action.argmax()), int(observation[2])))
        return step(encoded, latent, starts, *how)

    monkeypatch.setattr(agent.policy, "step", spied)
    return seen


def test_a_film_has_the_actions_that_were_done() -> None:
    agent = tiny(env=Clock(5))
    episode = play(agent, Filtered(Clock(5)), seed=0)
    assert [int(observation[2]) for observation in episode.observations[1:]] == [int(a) for a in episode.actions]


@pytest.mark.parametrize("said", [7, np.nan, "up", [0], 0.5])
def test_what_cannot_have_been_executed_is_refused(said: Any) -> None:
    env = Filtered(Clock(3))
    env.said = said
    with pytest.raises(ValueError, match=r"Environment 0 said executed_action=.* Discrete\(5\)"):
        tiny(env=env).learn(5)


def test_executed_actions_keep_to_the_bounds() -> None:
    """A unit mistake is told, and what rounding or a sensor has moved over the edge is taken."""

    class Moved(gym.ActionWrapper):  # type: ignore[type-arg]
        said = np.array([2.0001])

        def step(self, action: Any) -> Any:
            *rest, info = self.env.step(action)
            return *rest, {**info, "executed_action": self.said}

    agent = tiny(env=Moved(gym.make("Pendulum-v1"))).learn(3)
    Moved.said = np.array([-2.39])  # a tenth of the range beyond, as measured values may be
    agent.learn(2, reset_num_timesteps=False)
    assert agent.replay_buffer._columns["action"][0, 1:6].tolist() == [[1.0]] * 3 + [[-1.0]] * 2
    Moved.said = np.array([114.6])
    with pytest.raises(ValueError, match=r"executed_action=array\(\[114.6\]\).* is \[114.6\]: expected"):
        agent.learn(3)


def test_environments_that_end_at_different_times_keep_their_own_rows() -> None:
    agent = tiny(env=DummyVecEnv([lambda: Clock(2), lambda: Clock(3)]))
    agent.learn(8)
    for env, length in enumerate((2, 3)):
        found = rows(agent, env)
        assert [row[0][1] for row in found] == [n % (length + 1) for n in range(len(found))]
        assert [row[3] for row in found] == [row[0][1] == 0 for row in found]
        assert [row[4] for row in found] == [row[0][1] == length for row in found]
        assert [row[2] for row in found] == [100 * row[0][0] + row[0][1] if row[0][1] else 0 for row in found]
        assert all(row[1] is None or row[0][2] == row[1] for row in found)
    assert len(rows(agent, 0)) == 4 + 2
    assert len(rows(agent, 1)) == 4 + 2


def test_learning_goes_on_in_mid_episode() -> None:
    whole = tiny(env=Clock(5), seed=3).learn(30)
    parts = tiny(env=Clock(5), seed=3).learn(13)
    parts.learn(17, reset_num_timesteps=False)
    assert parts.num_timesteps == 30
    assert rows(parts) == rows(whole)
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(parts.policy.state_dict()[name], tensor), name


def test_a_new_count_resets_the_environments() -> None:
    agent = tiny(env=Clock(5))
    agent.learn(2)
    agent.learn(2)
    assert [row[0][0] for row in rows(agent)] == [1, 1, 1, 2, 2, 2]
    assert [row[3] for row in rows(agent)] == [True, False, False] * 2


def test_acting_in_training_equals_predict_on_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latents that training acts with are those of predict, and of the world model on the replayed rows."""
    agent = tiny(env=Clock(4), learning_starts=0, train_ratio=0.0)
    step = agent.policy.step
    seen: list[Any] = []

    def without_chance(encoded: Any, latent: Any, is_first: Any, deterministic: bool) -> Any:
        seen.append(step(encoded, latent, is_first, True))
        return seen[-1]

    monkeypatch.setattr(agent.policy, "step", without_chance)
    agent.learn(9)
    monkeypatch.undo()

    columns, count = agent.replay_buffer._columns, len(agent.replay_buffer)
    state, starts = None, []
    acted = iter(seen)
    for row in range(count):
        starts.append(bool(columns["is_first"][0, row]))
        observation = columns["observation.observation"][0, row : row + 1]
        action, state = agent.predict(observation, state, np.array(starts[-1:]), deterministic=True)
        ended = row + 1 == count or columns["is_first"][0, row + 1]
        if ended:
            continue  # nobody acts on the last observation of an episode
        latent = next(acted)
        assert np.array_equal(state[0], latent.deter.numpy())
        assert np.array_equal(state[1], latent.stoch.numpy())
        assert int(action[0]) == int(columns["action"][0, row + 1].argmax())
    assert next(acted, None) is None

    model = agent.policy.networks.world_model
    embed = model.encode({"observation": torch.tensor(columns["observation.observation"][:, :count])})
    actions, first = torch.tensor(columns["action"][:, :count]), torch.tensor([starts])
    with torch.no_grad():
        posterior, _ = model.rssm.observe(embed, actions, first, None)
    assert torch.allclose(posterior.deter[0, -1], torch.tensor(state[0][0]), atol=1e-5)
    assert torch.equal(posterior.stoch[0, -1], torch.tensor(state[1][0]))


def test_filtering_begins_with_the_first_chosen_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever acted at random before has no memory of it: the model's initial state, not zeros, comes first."""
    agent = tiny(env=DummyVecEnv([lambda: Clock(9)] * 2), learning_starts=6, train_ratio=0.0)
    step = agent.policy.step
    starts: list[list[bool]] = []

    def spy(encoded: Any, latent: Any, is_first: Any, deterministic: bool) -> Any:
        starts.append(is_first.tolist())
        assert not deterministic
        return step(encoded, latent, is_first, deterministic)

    monkeypatch.setattr(agent.policy, "step", spy)
    for _ in range(2):  # counting anew, it acts at random again
        agent.learn(12)
    assert starts == [[True, True], [False, False], [False, False]] * 2


def test_normalised_environments_are_stored_as_they_came_and_learnt_as_they_are_seen() -> None:
    normalizer = VecNormalize(DummyVecEnv([lambda: Clock(3)]), clip_obs=50.0)
    agent = tiny(env=normalizer, learning_starts=4)
    agent.learn(40)
    found = rows(agent)
    for observation, action, reward, is_first, _ in found:
        assert is_first == (round(observation[1]) == 0)
        assert observation[2] == pytest.approx(-1 if action is None else action, abs=1e-3)
        assert reward == pytest.approx(0.0 if is_first else 100 * round(observation[0]) + round(observation[1]))

    batch = agent.replay_buffer.sample(2, 5, np.random.default_rng(0))
    normal = normalize_batch(batch, normalizer)
    wanted = normalizer.normalize_obs(batch.observation["observation"].numpy())
    assert np.allclose(normal.observation["observation"].numpy(), wanted, atol=1e-5)
    assert np.allclose(normal.reward.numpy(), normalizer.normalize_reward(batch.reward.numpy()), atol=1e-5)
    assert not np.allclose(normal.reward.numpy(), batch.reward.numpy())
    assert torch.equal(normal.action, batch.action)


def test_taking_the_normalisation_away_leaves_nothing_of_it() -> None:
    agent = tiny(env=VecNormalize(DummyVecEnv([lambda: Clock(3)]))).learn(2)
    agent.set_env(Clock(3))
    agent.learn(1, reset_num_timesteps=False)
    assert [row[0][:2] for row in rows(agent)[3:]] == [(1.0, 0.0), (1.0, 1.0)]


def test_normalisation_of_a_dict_leaves_the_other_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    space = spaces.Dict({"a": spaces.Box(0.0, 9.0, (2, 3)), "b": spaces.Box(0.0, 9.0, (5,))})
    env = DummyVecEnv([lambda: Scripted(space, spaces.Discrete(2))])
    normalizer = VecNormalize(env, norm_obs_keys=["a"], norm_reward=False)
    agent = tiny("MultiInputPolicy", normalizer)
    seen: list[Batch] = []
    train_step = agent.learner.train_step
    monkeypatch.setattr(agent.learner, "train_step", lambda batch: seen.append(batch) or train_step(batch))
    agent.learn(40)
    assert seen[-1].observation["b"].min() >= 0
    assert seen[-1].observation["b"].max() > 5
    assert seen[-1].observation["a"].min() < -0.5
    assert seen[-1].observation["a"].abs().max() < 3


def test_replay_is_not_allocated_before_the_first_step() -> None:
    agent = tiny(buffer_size=10**9)
    assert not agent.replay_buffer._columns
    agent.predict(np.zeros(4, dtype=np.float32))
    assert not agent.replay_buffer._columns


def test_batches_are_cut_where_the_normaliser_cuts() -> None:
    normalizer = VecNormalize(DummyVecEnv([lambda: Clock(3)]), clip_obs=0.5, clip_reward=0.75)
    agent = tiny(env=normalizer).learn(20)
    normal = normalize_batch(agent.replay_buffer.sample(8, 8, np.random.default_rng(0)), normalizer)
    assert normal.observation["observation"].abs().max() == 0.5
    assert normal.reward.max() == 0.75


@pytest.mark.parametrize("left_out", ["norm_obs", "norm_reward"])
def test_what_is_not_to_be_normalised_is_not(left_out: str) -> None:
    normalizer = VecNormalize(DummyVecEnv([lambda: Clock(3)]), **{left_out: False})
    agent = tiny(env=normalizer).learn(20)
    batch = agent.replay_buffer.sample(2, 5, np.random.default_rng(0))
    normal = normalize_batch(batch, normalizer)
    same = torch.equal(normal.observation["observation"], batch.observation["observation"])
    assert (same, torch.equal(normal.reward, batch.reward)) == (left_out == "norm_obs", left_out == "norm_reward")


class Lost(VecEnvWrapper):
    """Tells no last observations, and changes its arrays in place, as vector environments of some simulators do."""

    def reset(self) -> Any:
        self.buffer = self.venv.reset()
        return self.buffer

    def step_wait(self) -> Any:
        self.buffer[:], rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            info.pop("terminal_observation", None)
        return self.buffer, rewards, dones, infos


@pytest.mark.parametrize("normalized", [False, True])
def test_a_lost_last_observation_is_not_that_of_the_next_episode(normalized: bool) -> None:
    env: Any = Lost(DummyVecEnv([lambda: Clock(3)]))
    env = VecNormalize(env) if normalized else env
    agent = tiny(env=env)
    with pytest.warns(UserWarning, match="Environment 0 ended an episode without") as caught:
        agent.learn(9)
    assert len([one for one in caught if "terminal_observation" in str(one.message)]) == 1
    found = [(observation[:2], reward, first, last) for observation, _, reward, first, last in rows(agent)]
    assert found[:6] == [
        ((1.0, 0.0), 0.0, True, False),
        ((1.0, 1.0), 101.0, False, False),
        ((1.0, 2.0), 102.0, False, False),
        ((1.0, 2.0), 103.0, False, True),
        ((2.0, 0.0), 0.0, True, False),
        ((2.0, 1.0), 201.0, False, False),
    ]


@pytest.mark.parametrize("event", ["step", "rollout_end"])
def test_a_callback_may_change_the_environment(event: str) -> None:
    """As a curriculum does."""
    other = Clock(5)
    other.episode = 40

    class Curriculum(BaseCallback):
        def _on_step(self) -> bool:
            if event == "step" and self.num_timesteps == 4:
                self.model.set_env(other)
            return True

        def _on_rollout_end(self) -> None:
            if event == "rollout_end" and self.num_timesteps == 4:
                self.model.set_env(other)

    agent = tiny(env=Clock(7))
    agent.learn(8, callback=Curriculum())
    seen = [(*observation[:2], first) for observation, _, _, first, _ in rows(agent)]
    assert seen[:7] == [
        (1, 0, True),
        (1, 1, False),
        (1, 2, False),
        (1, 3, False),
        (1, 4, False),
        (41, 0, True),
        (41, 1, False),
    ]
    assert len(seen) == 8 + 2


def test_an_environment_does_not_keep_its_agent() -> None:
    env = DummyVecEnv([lambda: Clock(3)])
    agent = weakref.ref(tiny(env=env).learn(30))
    gc.collect()
    assert agent() is None
    tiny(env=env).learn(30)


def test_agents_and_environments_can_be_copied_after_learning() -> None:
    """As where an environment plays against the agent."""
    agent = tiny(env=gym.make("CartPole-v1")).learn(30)
    for copied in (
        copy.deepcopy(agent),
        pickle.loads(pickle.dumps(agent)),
        cloudpickle.loads(cloudpickle.dumps(agent)),
    ):
        again = pickle.loads(pickle.dumps(copied))
        assert again.learn(30).num_timesteps == 30
    env = pickle.loads(pickle.dumps(agent.get_env()))
    assert tiny(env=env).learn(30).num_timesteps == 30


@pytest.mark.parametrize("how", ["taken over", "shared"])
def test_episodes_of_two_agents_are_not_joined_in_one_replay(how: str) -> None:
    agent, other = tiny(env=Clock(9)).learn(5), tiny(env=Clock(9))
    if how == "taken over":
        other.learn(3)
        agent.replay_buffer = other.replay_buffer
    else:
        other.replay_buffer = agent.replay_buffer
        other.learn(3)
    agent.learn(2, reset_num_timesteps=False)
    assert [(row[0][1], row[3]) for row in rows(agent)[-7:]] == [
        *((0, True), (1, False), (2, False), (3, False)),
        *((0, True), (1, False), (2, False)),
    ]


def test_a_copy_whose_normaliser_has_lost_its_environments_asks_for_others() -> None:
    """Copies of Stable-Baselines3's VecNormalize leave the environments out."""
    agent = tiny(env=VecNormalize(DummyVecEnv([lambda: Clock(3)]))).learn(30)
    copied = copy.deepcopy(agent)
    with pytest.raises(ValueError, match="no environment to learn in: call set_env"):
        copied.learn(5)
    normalizer = copied.get_vec_normalize_env()
    np.testing.assert_array_equal(normalizer.obs_rms.mean, agent.get_vec_normalize_env().obs_rms.mean)
    normalizer.set_venv(DummyVecEnv([lambda: Clock(3)]))
    copied.set_env(normalizer)
    assert copied.learn(5, reset_num_timesteps=False).num_timesteps == 35
    assert agent.learn(5, reset_num_timesteps=False).num_timesteps == 35


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_a_copy_of_an_agent_that_sees_images_asks_for_an_environment(kind: Any) -> None:
    """Its images come channels first, by a wrapper that cannot be copied."""
    agent = tiny("CnnPolicy", make_vec_env("hd_agents:hd_agents/Catch-v0", vec_env_cls=kind))
    copied = copy.deepcopy(agent.learn(5))
    agent.env.close()
    with pytest.raises(ValueError, match="no environment to learn in: call set_env"):
        copied.learn(5)
    copied.set_env(make_vec_env("hd_agents/Catch-v0"))
    assert copied.learn(5, reset_num_timesteps=False).num_timesteps == 10


def test_a_copy_has_a_vector_environment_of_ones_own_that_can_be_copied() -> None:
    agent = tiny(env=Mute(lambda: Clock(9))).learn(5)
    copied = copy.deepcopy(agent)
    assert copied.env is not agent.env
    assert copied.learn(2, reset_num_timesteps=False).num_timesteps == 7


@pytest.mark.parametrize("kind", ["screen", "tensorboard", "own"])
def test_an_agent_that_logs_can_be_copied(kind: str, tmp_path: Path) -> None:
    """Its copy logs for itself, as screens and open files cannot be copied."""
    agent = tiny(verbose=int(kind == "screen"), tensorboard_log=tmp_path if kind == "tensorboard" else None)
    if kind == "own":
        agent.set_logger(configure(str(tmp_path), ["csv"]))
    logger = agent.learn(30).logger
    for copied in (copy.deepcopy(agent), pickle.loads(pickle.dumps(agent))):
        copied.dump_logs()
        assert copied.learn(30, reset_num_timesteps=False).num_timesteps == 60
    assert agent.logger is logger
    logger.close()


@pytest.mark.parametrize("bar", [False, True])
def test_an_agent_can_be_copied_by_a_callback(bar: bool) -> None:
    copies: list[HarmonyDreamAgent] = []

    def keep(found: dict[str, Any], _: Any) -> bool:
        if found["self"].num_timesteps == 10:
            copies.append(copy.deepcopy(found["self"]))
        return True

    tiny(env=Clock(30)).learn(20, callback=keep, progress_bar=bar)
    copied = copies[0].learn(5, reset_num_timesteps=False)
    assert [row[0][1] for row in rows(copied)] == [*range(10), *range(6)]


def test_last_observations_are_those_before_a_callback_moved_the_statistics() -> None:
    """As an evaluation in the environments that it learns in does."""
    normalizer = VecNormalize(DummyVecEnv([lambda: Clock(3)]), clip_obs=1e6)
    agent = tiny(env=normalizer)

    def shift(*_: Any) -> bool:
        normalizer.obs_rms.mean = normalizer.obs_rms.mean + 5.0
        return True

    agent.learn(12, callback=shift)
    rows = agent.replay_buffer._columns["observation.observation"][0, : len(agent.replay_buffer)]
    assert rows[:, 1].tolist() == pytest.approx([0, 1, 2, 3] * 4, abs=1e-3)
