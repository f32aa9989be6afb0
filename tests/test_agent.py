"""The agent itself: arguments, how much is learned and when, learning rates, what it prints, and dreams on demand."""

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.imagine import imagine_from
from hd_agents.policies import MlpPolicy
from hd_agents.presets import DEFAULTS
from hd_agents.world_model.rssm import State
from tests.agents import TINY, Clock, Scripted, tiny


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"backbone": "dreamer4"}, "dreamerv3"),
        ({"size": "huge"}, "xlarge"),
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 2.5}, "whole number"),
        ({"sequence_length": 1}, "at least 2"),
        ({"train_ratio": -1.0}, "at least 0"),
        ({"train_ratio": float("nan")}, "number"),
        ({"gamma": 0.0}, "above 0 and at most 1"),
        ({"gamma": 1.5}, "above 0 and at most 1"),
        ({"return_lambda": -0.1}, "at most 1"),
        ({"horizon": 0}, "at least 2"),
        ({"learning_rate": -1e-3}, "at least 0"),
        ({"learning_rate": "1e-3"}, "number"),
        ({"actor_learning_rate": "lin_fast"}, "lin_0.001"),
        ({"actor_learning_rate": "lin_-1"}, "lin_0.001"),
        ({"learning_starts": -1}, "at least 0"),
        ({"buffer_size": 7}, "at least 8"),
        ({"precision": "float16"}, "bfloat16"),
        ({"compile": 1}, "auto"),
        ({"harmony": "yes"}, "True, False or a mapping"),
        ({"harmony": {"rewards": True}}, "reward"),
        ({"policy_kwargs": {"width": 3}}, "units"),
        ({"action_repeat": 0}, "at least 1"),
        ({"policy": "LstmPolicy"}, "MlpPolicy"),
        ({"policy": BaseAlgorithm}, "DreamPolicy"),
        ({"env": None}, "Gymnasium id"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(change: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ValueError, match=re.escape(allowed)) as caught:
        tiny(**change)
    ((name, value),) = change.items()
    assert name in str(caught.value)
    assert str(value).strip("{}").split(":")[0].strip("'") in str(caught.value)


def test_the_official_accident_is_an_option() -> None:
    for quirks, bonus in ((False, 0.0), (True, 0.25)):
        agent = tiny(env="Pendulum-v1", backbone="dreamerv2", entropy_coefficient=0.25, official_quirks=quirks)
        assert agent.learner.objectives.entropy_in_targets == bonus


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_defaults_come_from_the_backbone(backbone: Any) -> None:
    agent = HarmonyDreamAgent("MlpPolicy", "CartPole-v1", backbone=backbone, size="nano", device="cpu")
    for name in ("learning_rate", "batch_size", "sequence_length", "train_ratio", "gamma", "horizon"):
        assert getattr(agent, name) == getattr(DEFAULTS[backbone], name), name
    assert isinstance(agent, BaseAlgorithm)


@pytest.mark.parametrize(
    ("policy", "space", "right"),
    [
        ("MlpPolicy", spaces.Box(0, 255, (16, 16, 3), np.uint8), "CnnPolicy"),
        ("CnnPolicy", spaces.Box(-1, 1, (3,)), "MlpPolicy"),
        ("MultiInputPolicy", spaces.Box(-1, 1, (3,)), "MlpPolicy"),
        ("CnnPolicy", spaces.Dict({"a": spaces.Discrete(2)}), "MultiInputPolicy"),
    ],
)
def test_the_wrong_policy_names_the_right_one(policy: str, space: spaces.Space[Any], right: str) -> None:
    with pytest.raises(ValueError, match=right):
        tiny(policy, Scripted(space, spaces.Discrete(2)))


@pytest.mark.parametrize(
    ("ratio", "pretrain", "updates"), [(16.0, 0, 21), (4.0, 0, 5), (4.0, 3, 8), (40.0, 0, 52), (0.0, 0, 0)]
)
def test_gradient_steps_follow_the_train_ratio(ratio: float, pretrain: int, updates: int) -> None:
    """Batches replay 2 * 8 steps; learning begins at step 10, so 21 of 30 steps count."""
    agent = tiny(learning_starts=10, train_ratio=ratio, pretrain_steps=pretrain)
    agent.learn(30)
    assert agent._n_updates == updates


def test_gradient_steps_do_not_depend_on_how_learning_is_divided() -> None:
    agent = tiny(learning_starts=10, train_ratio=5.0)
    for steps in (12, 1, 3, 14):
        agent.learn(steps, reset_num_timesteps=False)
    assert agent._n_updates == 21 * 5 // 16


def test_a_buffer_of_one_sequence_for_each_environment_is_taken() -> None:
    agent = tiny(env=DummyVecEnv([lambda: Clock(9)] * 3), buffer_size=24)
    assert agent.learn(60)._n_updates


def test_learning_waits_for_a_whole_sequence() -> None:
    agent = tiny(learning_starts=0, sequence_length=12, batch_size=1, train_ratio=12.0)
    agent.learn(10)  # 11 rows, or more where an episode ended: CartPole lasts at least 8 steps
    assert agent._n_updates == max(0, len(agent.replay_buffer) - 11)


def test_random_actions_come_first() -> None:
    env = Scripted(spaces.Box(-1, 1, (3,)), spaces.Box(-2.0, 2.0, (1,)), length=50)
    agent = tiny(env=env, learning_starts=20, seed=0, train_ratio=0.0)
    agent.action_space.seed(7)
    agent.learn(21)
    again = spaces.Box(-2.0, 2.0, (1,))
    again.seed(7)
    expected = [again.sample() for _ in range(21)]
    assert np.allclose(env.actions[:20], expected[:20], atol=1e-6)
    assert not np.allclose(env.actions[20], expected[20], atol=1e-6)


def test_linear_rates_are_written_as_text_and_stored(tmp_path: Path) -> None:
    agent = tiny(learning_rate="lin_2e-3", critic_learning_rate=1e-3).learn(100)
    assert agent.learner.model_optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * (1.0 - 87 / 100))
    agent.save(tmp_path / "agent")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", env="CartPole-v1")
    assert (loaded.learning_rate, loaded.critic_learning_rate) == (agent.learning_rate, 1e-3)
    assert loaded.learning_rate(0.25) == 5e-4


def test_learning_rates_may_be_schedules() -> None:
    agent = tiny(learning_rate=LinearSchedule(1e-3, 0.0, 1.0), actor_learning_rate=lambda left: 2e-3 * left)
    agent.learn(100)
    learner = agent.learner
    assert agent._n_updates == 4  # steps from 24 on count, 16 for each: after steps 39, 55, 71 and 87
    left = 1.0 - 87 / 100
    assert learner.model_optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * left)
    assert learner.actor_optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * left)
    assert learner.critic_optimizer.param_groups[0]["lr"] == DEFAULTS["dreamerv3"].critic_learning_rate


def test_float_totals_are_whole_numbers() -> None:
    assert tiny().learn(2.5e1).num_timesteps == 25
    with pytest.raises(ValueError, match="total_timesteps"):
        tiny().learn(2.5)


def test_learning_too_little_to_begin_with_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    agent = tiny(verbose=1, learning_starts=40)
    agent.learn(39, log_interval=None)
    assert "39 steps end before learning_starts=40" in capsys.readouterr().out
    assert agent._n_updates == 0
    agent.learn(1, reset_num_timesteps=False, log_interval=None)
    assert "learning_starts" not in capsys.readouterr().out


def test_learning_that_begins_again_and_again_is_told() -> None:
    agent = tiny(learning_starts=40).learn(30)
    with pytest.warns(UserWarning, match="30 steps end before learning_starts=40.*reset_num_timesteps=False"):
        agent.learn(30)
    assert agent._n_updates == 0
    agent.learn(30, reset_num_timesteps=False)
    assert agent._n_updates > 0
    with pytest.warns(UserWarning, match="30 steps end before learning_starts=40.*reset_num_timesteps=False"):
        agent.learn(30)  # one that has learned may begin again as well


def test_what_is_said_of_learning_too_little_is_true(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Several environments end beyond the steps that were asked for, and a replay may lack what the count has."""
    agent = tiny(env=make_vec_env("CartPole-v1", 4), verbose=1, learning_starts=32, train_ratio=16)
    agent.learn(30, log_interval=None)
    assert agent._n_updates > 0
    assert "No learning" not in capsys.readouterr().out
    tiny(learning_starts=200).learn(100).save(tmp_path / "agent")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", env="CartPole-v1", learning_starts=110)
    with pytest.warns(UserWarning, match="before the replay has learning_starts=110 steps: it has 0, 20 come"):
        loaded.learn(20, reset_num_timesteps=False)
    assert loaded._n_updates == 0


def test_setup_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    space = spaces.Dict({"eye": spaces.Box(0, 255, (33, 16, 3), np.uint8), "arm": spaces.Box(-1, 1, (5,))})
    agent = tiny("MultiInputPolicy", Scripted(space, spaces.MultiDiscrete([2, 3])), verbose=1)
    out = capsys.readouterr().out
    assert "cpu device" in out
    assert "'eye' -> image network 33x16x3, resized to 32x16" in out
    assert "'arm' -> vector network 5\n" in out
    assert "choices of 2 x 3" in out
    assert "Gradient steps per env step: 0.0625" in out
    assert "memory when full" in out
    agent.predict({key: part.sample() for key, part in space.items()})
    assert "network" not in capsys.readouterr().out
    tiny(env=Scripted(spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (5,))), verbose=1)
    out = capsys.readouterr().out
    assert "vector network 5 (one-hot)" in out and "Actions: 5 continuous dimensions" in out


def test_silent_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    tiny().learn(30)
    assert capsys.readouterr().out == ""


def test_progress_bar_shows_both_kinds_of_steps(capfd: pytest.CaptureFixture[str]) -> None:
    agent = tiny(train_ratio=8.0)
    agent.learn(60, progress_bar=True)
    err = capfd.readouterr().err
    assert "random actions first" in err
    assert "60/60 env steps" in err
    assert re.search(rf"{agent._n_updates} gradient steps, [\d.]+/s", err)
    agent.learn(10, reset_num_timesteps=False, progress_bar=True)
    assert "10/10 env steps" in capfd.readouterr().err


def test_without_tqdm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hd_agents.progress.tqdm", None)
    with pytest.raises(ImportError, match=r"hd_agents\[logging\]"):
        tiny().learn(5, progress_bar=True)


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
@pytest.mark.parametrize("harmony", [True, False, {"reward": False, "observation": 0.5}])
def test_every_backbone_and_harmony_learns(backbone: Any, harmony: Any) -> None:
    agent = tiny(backbone=backbone, harmony=harmony, seed=1)
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    agent.learn(60)
    changed = {
        name.split(".")[1] for name, tensor in agent.policy.state_dict().items() if not tensor.equal(before[name])
    }
    assert {"world_model", "actor", "critic", "slow_critic"} <= changed
    assert ("harmonizer" in changed) == (harmony is not False)


@pytest.mark.parametrize("compiled", [True, False, "auto"])
def test_compiling_leaves_the_names_of_the_parameters(compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def fake(function: Any) -> Any:
        return lambda *args: calls.append(function.__name__) or function(*args)

    monkeypatch.setattr("torch.compile", fake)
    agent = tiny(compile=compiled).learn(60)
    assert calls == ["losses"] * (agent._n_updates if compiled is True else 0)
    assert agent.policy.state_dict().keys() == tiny().policy.state_dict().keys()


def test_no_environment_no_learning() -> None:
    agent = tiny()
    agent.env = None
    with pytest.raises(ValueError, match="set_env"):
        agent.learn(5)


def test_atari_ids_are_registered_on_demand() -> None:
    agent = tiny("CnnPolicy", "ALE/Pong-v5", learning_starts=9, sequence_length=4, train_ratio=8.0)
    agent.learn(10)
    assert agent._n_updates == 2
    assert agent.policy.observations.images["observation"].shape == (210, 160, 3)


class Pictures(gym.ObservationWrapper):
    """CartPole seen as an image of 17 x 19 pixels and a Discrete beside it."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        image = spaces.Box(0, 255, (17, 19, 3), np.uint8)
        self.observation_space = spaces.Dict({"eye": image, "mode": spaces.Discrete(5, start=3)})

    def observation(self, observation: np.ndarray) -> dict[str, Any]:
        return {"eye": np.full((17, 19, 3), 128, dtype=np.uint8), "mode": 3 + int(abs(observation[0]) * 50) % 5}


def test_imagining_lays_out_arrays_as_an_episode() -> None:
    agent = tiny("MultiInputPolicy", DummyVecEnv([Pictures, Pictures]))
    obs = agent.env.reset()
    dream = agent.imagine(obs, horizon=7)
    assert dream.observations["eye"].shape == (2, 8, 17, 19, 3)
    assert dream.observations["eye"].dtype == np.uint8
    assert dream.observations["mode"].shape == (2, 8)
    assert dream.observations["mode"].min() >= 3
    assert dream.actions.shape == (2, 7)
    assert dream.rewards.shape == dream.continues.shape == (2, 7)
    assert dream.values.shape == (2, 8)
    assert ((dream.continues > 0) & (dream.continues < 1)).all()

    one = agent.imagine({key: value[0] for key, value in obs.items()}, horizon=7)
    for key, frames in dream.observations.items():
        assert np.abs(one.observations[key].astype(int) - frames[0]).max() <= 1
    assert np.array_equal(one.actions, dream.actions[0])
    assert np.allclose(one.values, dream.values[0], atol=1e-5)
    assert agent.imagine(obs, decode=False).observations == {}


def test_imagined_actions_matter_and_chance_is_optional() -> None:
    env = Scripted(spaces.Box(-1, 1, (3,)), spaces.Box(-2.0, 4.0, (2,)))
    agent = tiny(env=env, seed=0)
    obs = env.observation_space.sample()
    left, right = np.full((5, 2), -2.0, np.float32), np.full((5, 2), 4.0, np.float32)
    one, two = agent.imagine(obs, left), agent.imagine(obs, right)
    assert np.allclose(one.actions, left)
    assert np.allclose(one.observations["observation"][0], two.observations["observation"][0])
    assert not np.allclose(one.observations["observation"][1:], two.observations["observation"][1:])
    assert np.array_equal(agent.imagine(obs, left).values, one.values)
    plans = agent.imagine(obs, np.stack([left, right, left]))  # each as if it were alone
    for name in ("actions", "rewards", "values"):
        found = getattr(plans, name)
        np.testing.assert_allclose(found[0], getattr(one, name), atol=1e-5)
        np.testing.assert_allclose(found[2], found[0], atol=1e-5)
        np.testing.assert_allclose(found[1], getattr(two, name), atol=1e-5)
    assert plans.observations["observation"].shape == (3, 6, 3)
    sampled = [agent.imagine(obs, left, deterministic=False).observations["observation"] for _ in range(4)]
    for steps in (slice(0, 1), slice(1, None)):  # the latent of the observation is drawn, and those of the dream
        assert any(not np.array_equal(sampled[0][steps], other[steps]) for other in sampled[1:])


def test_imagined_rewards_and_ends_are_those_of_the_state_that_is_reached() -> None:
    policy = tiny(seed=0).policy
    model = policy.networks.world_model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state, action = State(*policy.initial(3)[:2]), torch.eye(2)[[0, 1, 1]]
    found = imagine_from(policy, state, [action], decode=False, deterministic=True)
    with torch.no_grad():
        features = model.features(model.rssm.imagine_step(state, action, None))
        assert np.allclose(found.rewards[:, 0], model.reward(features), atol=1e-5)
        assert np.allclose(found.continues[:, 0], model.continues(features), atol=1e-5)


def test_imagining_can_start_in_mid_episode() -> None:
    agent = tiny(seed=0)
    obs, _ = gym.make("CartPole-v1").reset(seed=0)
    _, state = agent.predict(obs, deterministic=True)
    fresh, later = agent.imagine(obs), agent.imagine(obs, state=state)
    assert not np.allclose(fresh.observations["observation"], later.observations["observation"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"horizon": 0}, "horizon=0"),
        ({"actions": np.zeros((3, 2, 1), dtype=int)}, r"\(3, 2, 1\).*\(H,\) or \(plans, H\)"),
        ({"actions": np.zeros(0, dtype=int)}, "at least one step"),
        ({"actions": np.zeros((0, 4), dtype=int)}, r"\(0, 4\); expected \(H,\) or \(plans, H\), of at least one"),
        ({"state": (np.zeros((2, 16)), np.zeros((2, 12)), np.zeros((2, 2)))}, "shapes"),
    ],
)
def test_wrong_arguments_of_imagine_are_named(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        tiny().imagine(np.zeros(4, dtype=np.float32), **options)


def test_a_policy_class_of_ones_own() -> None:
    class Mine(MlpPolicy):
        pass

    assert type(tiny(Mine).policy) is Mine


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_a_fixed_discount_is_not_rounded(backbone: str) -> None:
    """In bfloat16 0.997 would be 0.996, a horizon of 256 steps instead of 333."""
    agent = tiny(backbone=backbone, policy_kwargs={**TINY["policy_kwargs"], "predict_continue": False})
    model = agent.policy.networks.world_model
    features = torch.zeros(2, model.rssm.features, dtype=torch.bfloat16)
    assert model.discount(features, 0.997).tolist() == pytest.approx([0.997] * 2)
    assert model.continues(features).dtype == torch.float32
