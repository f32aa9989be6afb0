"""What users do by mistake: it is named, with the way out, and nothing is lost."""

import functools
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from hd_agents import HarmonyDreamAgent
from hd_agents.callbacks import RunCheckpoint
from hd_agents.envs.processes import RestartingSubprocVecEnv
from tests.agents import TINY, Clock, Scripted, tiny

TWO = spaces.Discrete(2)
VECTOR = spaces.Box(-1.0, 1.0, (3,))
HIGH, WIDE = spaces.Box(0, 255, (3, 16, 17), np.uint8), spaces.Box(0, 255, (16, 17, 3), np.uint8)
PAIR = spaces.Dict({"a": VECTOR, "b": spaces.Box(-1.0, 1.0, (2,))})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Text(5), "has the space Text"),
        (spaces.Graph(VECTOR, None), "has the space Graph"),
        (spaces.Sequence(VECTOR), "has the space Sequence"),
        (spaces.Dict({"a": VECTOR, "b": spaces.Text(5)}), "'b' has the space Text"),
        (spaces.Dict({"a": spaces.Dict({"x": VECTOR})}), "'a' has the space Dict"),
        (spaces.Dict({"a": spaces.Tuple((VECTOR,))}), "'a' has the space Tuple"),
        (spaces.Dict({1: VECTOR}), "the key 1: keys must be text"),  # type: ignore[dict-item]
        (spaces.Dict({"a": HIGH, "b": WIDE}), "one layout for all"),
        (spaces.Box(0, 255, (64, 64, 5), np.uint8), r"an image of shape \(64, 64, 5\)"),
    ],
    ids=str,
)
def test_observations_without_a_network(space: spaces.Space[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny("MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy", Scripted(space, TWO))


def test_actions_without_a_dimension() -> None:
    with pytest.raises(ValueError, match="no dimension to act in"):
        tiny(env=Scripted(VECTOR, spaces.Box(-1.0, 1.0, (0,))))
    with pytest.raises(ValueError, match="leave out ClipAction"):
        tiny(env=gym.wrappers.ClipAction(gym.make("Pendulum-v1")))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: gym.make("CartPole-v1"), "is a function or class: call it"),
        (Clock, "is a function or class: call it"),  # which has spaces
        ([1], "is a list; use a Gymnasium environment or its id"),
        (gym.make_vec("CartPole-v1", num_envs=2), "one of gymnasium.vector: use .*make_vec_env"),
    ],
)
def test_what_is_no_environment(env: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(env=env)


class Discrete:
    """A space of the package that Gymnasium comes from: called alike, but another class."""

    n = 2


@pytest.mark.parametrize(("spaces_of", "which"), [((VECTOR, Discrete()), "action"), ((Discrete(), TWO), "observation")])
def test_spaces_of_another_package_are_told_apart_from_those_of_gymnasium(spaces_of: Any, which: str) -> None:
    old = SimpleNamespace(observation_space=spaces_of[0], action_space=spaces_of[1])
    with pytest.raises(ValueError, match=rf"env\.{which}_space is a .*\.Discrete, none of gymnasium\.spaces.*shimmy"):
        tiny(env=old)


def test_normalisation_has_to_be_outermost() -> None:
    inner = VecNormalize(DummyVecEnv([lambda: Scripted(VECTOR, TWO)]))
    with pytest.raises(ValueError, match="put VecNormalize outermost"):
        tiny(env=VecFrameStack(inner, 3))
    stacked = VecFrameStack(DummyVecEnv([lambda: Scripted(VECTOR, TWO)]), 3)
    tiny(env=VecNormalize(stacked)).learn(40)
    agent = tiny(env=Scripted(VECTOR, TWO))
    with pytest.raises(ValueError, match="put VecNormalize outermost"):
        agent.set_env(VecFrameStack(VecNormalize(DummyVecEnv([lambda: Scripted(VECTOR, TWO)])), 3))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_observations_that_are_not_finite_get_no_action(value: float) -> None:
    agent = tiny(env=Scripted(VECTOR, TWO))
    broken = np.array([0.0, value, 0.0])
    player = agent.player()
    player.act(np.zeros(3))
    for call in (agent.predict, agent.imagine, player.act):
        with pytest.raises(ValueError, match=r"'observation' holds (nan|inf) at index 1: expected finite numbers"):
            call(broken)
    player.act(np.zeros(3))


@pytest.mark.parametrize(("a", "b"), [(9, 20), (9, 8), (20, 9)])
def test_keys_of_different_lengths_are_refused(a: int, b: int) -> None:
    agent = tiny("MultiInputPolicy", Scripted(PAIR, TWO))
    rows = {"a": np.zeros((a, 3)), "b": np.zeros((b, 2))}
    with pytest.raises(ValueError, match=f"one number of rows, 1 or more; they have {{'a': {a}, 'b': {b}}}"):
        agent.add_episode(rows, np.zeros(8, int), np.ones(8), terminated=True)
    assert len(agent.replay_buffer) == 0
    with pytest.raises(ValueError, match="one number of rows"):
        agent.predict(rows)
    with pytest.raises(ValueError, match=r"they have {'a': 0, 'b': 0}"):
        agent.predict({"a": np.zeros((0, 3)), "b": np.zeros((0, 2))})


def test_actions_of_the_wrong_kind_are_named() -> None:
    agent = tiny(env=Scripted(VECTOR, TWO))
    with pytest.raises(ValueError, match=r"The actions do not fit Discrete\(2\)\. .*float64"):
        agent.add_episode(np.zeros((4, 3)), np.zeros(3), np.zeros(3), terminated=True)


def test_an_evaluation_in_the_environment_of_the_training_begins_a_new_episode() -> None:
    """Rows from before and after it are of different episodes, whenever it comes."""
    env = Clock(30)
    agent = tiny(env=env, learning_starts=1_000).learn(10)
    evaluate_policy(agent, agent.get_env(), 1, warn=False)
    agent.learn(5, reset_num_timesteps=False)

    def evaluate(found: dict[str, Any], _: Any) -> bool:
        if agent.num_timesteps == 18:
            evaluate_policy(agent, agent.get_env(), 1, warn=False)
        return True

    agent.learn(6, reset_num_timesteps=False, callback=evaluate)
    rows = len(agent.replay_buffer)
    columns = agent.replay_buffer._columns
    seen = columns["observation.observation"][0, :rows, 1].tolist()
    first = columns["is_first"][0, :rows].astype(bool)
    assert np.flatnonzero(first).tolist() == [0, 11, 20]
    for begun, ended in ((0, 11), (11, 20), (20, rows)):
        assert np.diff(seen[begun:ended]).tolist() == [1.0] * (ended - begun - 1)


def numbers(agent: Any) -> list[list[list[float]]]:
    """Of each environment: for each episode in the replay, the observations' second number, a Clock's step."""
    found = []
    for env in range(agent.n_envs):
        rows = agent.replay_buffer._counts[env]
        columns = {name: column[env, :rows] for name, column in agent.replay_buffer._columns.items()}
        begins = np.flatnonzero(columns["is_first"])
        seen = columns["observation.observation"][:, 1]
        found.append([part.tolist() for part in np.split(seen, begins[1:])])
    return found


def evaluate_at(step: int) -> Any:
    def evaluate(found: dict[str, Any], _: Any) -> bool:
        agent = found["self"]
        if agent.num_timesteps == step:
            evaluate_policy(agent, agent.get_env(), 1, warn=False)
        return True

    return evaluate


@pytest.mark.parametrize("kind", ["dummy", "processes", "normalised"])
def test_episodes_are_not_joined_in_any_vector_environment(kind: str) -> None:
    make = [functools.partial(Clock, 30)] * 2
    env: Any = SubprocVecEnv(make) if kind == "processes" else DummyVecEnv(make)
    env = VecNormalize(env, norm_reward=True) if kind == "normalised" else env
    agent = tiny(env=env, learning_starts=1_000)
    agent.learn(40, callback=evaluate_at(20))
    agent.learn(20, reset_num_timesteps=False)
    env.close()
    assert numbers(agent) == [[list(range(11)), list(range(21))]] * 2


class Pool:
    """Environments that step at once, as EnvPool's: no vector environment of Stable-Baselines3."""

    num_envs, observation_space, action_space = 2, Clock.observation_space, Clock.action_space

    def __init__(self) -> None:
        self.clocks = [Clock(30), Clock(30)]

    def reset(self) -> np.ndarray:
        return np.stack([clock.reset()[0] for clock in self.clocks])

    def step(self, actions: np.ndarray) -> list[np.ndarray]:
        steps = [clock.step(action)[:3] for clock, action in zip(self.clocks, actions, strict=True)]
        return [np.stack(values) for values in zip(*steps, strict=True)]


class PoolEnv(VecEnvWrapper):
    """Adapts it, as EnvPool's example for Stable-Baselines3 does."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        return (*self.venv.step(self.actions), [{}, {}])


@pytest.mark.filterwarnings("ignore:The `render_mode` attribute is not defined")
def test_a_simulator_that_only_a_wrapper_makes_a_vector_environment() -> None:
    agent = tiny(env=VecMonitor(PoolEnv(Pool())), learning_starts=1_000)  # type: ignore[arg-type]
    agent.learn(40, callback=evaluate_at(20))
    agent.learn(20, reset_num_timesteps=False)
    assert numbers(agent) == [[list(range(11)), list(range(21))]] * 2


def test_others_that_learn_in_the_same_environment_are_seen(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: Clock(30)])
    one = tiny(env=env, learning_starts=1_000).learn(10)
    other = tiny(env=env, learning_starts=1_000).learn(7)
    one.learn(5, reset_num_timesteps=False)
    other.learn(4, reset_num_timesteps=False)
    assert numbers(one) == [[list(range(11)), list(range(6))]]
    assert numbers(other) == [[list(range(8)), list(range(5))]]
    other.save(tmp_path / "a")
    loaded = HarmonyDreamAgent.load(tmp_path / "a", env=env, force_reset=False)
    evaluate_policy(loaded, env, 1, warn=False)
    loaded.learn(3, reset_num_timesteps=False)
    assert numbers(loaded) == [[list(range(4))]]


def test_an_agent_that_was_saved_after_an_evaluation_begins_a_new_episode(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: Clock(30)])
    agent = tiny(env=env, learning_starts=1_000).learn(10)
    evaluate_policy(agent, env, 1, warn=False)
    agent.save(tmp_path / "a")
    loaded = HarmonyDreamAgent.load(tmp_path / "a", env=env, force_reset=False)
    loaded.learn(3, reset_num_timesteps=False)
    assert numbers(loaded) == [[list(range(4))]]


def test_a_run_with_an_evaluation_in_its_environment_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    def run(folder: Path, *stops: int) -> Any:
        checkpoint = RunCheckpoint(folder, every=20)
        agent = tiny(env=DummyVecEnv([lambda: gym.make("CartPole-v1")]), seed=0, device="cpu")
        for stop in stops:
            if agent is None:
                checkpoint = RunCheckpoint(folder, every=20)
                agent = checkpoint.resume(DummyVecEnv([lambda: gym.make("CartPole-v1")]), device="cpu")
            callbacks = [Every20(), checkpoint]
            agent.learn(stop - agent.num_timesteps, callback=callbacks, reset_num_timesteps=False)
            found, agent = agent, None
        return found

    whole, parts = run(tmp_path / "a", 70), run(tmp_path / "b", 40, 70)
    assert whole.replay_buffer.added == parts.replay_buffer.added
    rows = whole.replay_buffer._counts[0]
    for name, column in whole.replay_buffer._columns.items():
        np.testing.assert_array_equal(column[:, :rows], parts.replay_buffer._columns[name][:, :rows])
    for one, two in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        assert bool((one == two).all())


class Every20(BaseCallback):
    """Moves the environments of the training, as an evaluation there does."""

    def _on_step(self) -> bool:
        if self.num_timesteps % 20 == 0:
            self.training_env.reset()
            for _ in range(3):
                self.training_env.step(np.zeros(1, int))
        return True


def test_a_program_that_seeds_all_generators_is_repeated() -> None:
    sums = []
    for _ in range(2):
        set_random_seed(5)
        agent = tiny(env="Pendulum-v1", learning_starts=0, seed=None)
        agent.env.seed(3)
        sums.append(float(agent.learn(60).policy.parameters_to_vector().sum()))
    assert sums[0] == sums[1]


def test_spaces_that_hold_nothing_or_too_much() -> None:
    with pytest.raises(ValueError, match=r"The observation 'e' of shape .* is empty: leave the key out"):
        tiny("MultiInputPolicy", Scripted(spaces.Dict({"e": spaces.Box(0, 1, (0,)), "v": VECTOR}), TWO))
    limits = np.iinfo(np.int64)
    with pytest.raises(ValueError, match=r"spans 1\.84e\+19: use bounds less than 1e\+18 apart"):
        tiny(env=Scripted(VECTOR, spaces.Box(limits.min, limits.max, (2,), np.int64)))


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    for settings, message in (
        ({"verbose": -1}, "verbose=-1: use a whole number of at least 0"),
        ({"verbose": "a"}, "verbose='a': use a whole number"),
        ({"seed": "a"}, "seed='a': use a whole number"),
        ({"seed": 1 << 32}, r"seed=4294967296: use a whole number of at least 0 \(and below 2\*\*32\)"),
        ({"policy_kwargs": {"predict_continue": "no"}}, r"policy_kwargs\['predict_continue'\]='no': use one of"),
        ({"policy_kwargs": {"predict_continue": 2}}, r"policy_kwargs\['predict_continue'\]=2: use one of"),
        ({"policy_kwargs": {"bins": 1}}, r"policy_kwargs\['bins'\]=1: use a whole number of at least 2"),
        ({"policy_kwargs": {1: 1, "a": 2}}, r"unknown keys \['1', 'a'\]"),
        ({"policy_kwargs": {"net_arch": [64, 64]}}, r"\['net_arch'\].*'units' and 'layers' are.*docs/extending.md"),
        ({"harmony": {"reward": np.nan}}, r"harmony\['reward'\]=nan: use True, False or"),
        ({"verbose": 3}, "verbose=3: use one of"),
        ({"learning_rate": "cos"}, "learning_rate='cos': use a number, 'lin_0.001'.* or a function"),
        ({"replay_folder": __file__}, "is a file: give a folder"),
        ({"policy_kwargs": {"units": -1}}, r"policy_kwargs\['units'\]=-1"),
        ({"policy_kwargs": {"layers": 0}}, r"policy_kwargs\['layers'\]=0"),
        ({"policy_kwargs": {"vector_units": 0}}, r"policy_kwargs\['vector_units'\]=0"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(**settings)
    agent = tiny()
    with pytest.raises(ValueError, match="gradient_steps=-3"):
        agent.train(-3)
    with pytest.raises(ValueError, match="log_interval=0"):
        agent.learn(10, log_interval=0)
    agent.save(tmp_path / "a")
    with pytest.raises(ValueError, match="The archive with buffer_size as given cannot be used: buffer_size=4 holds"):
        HarmonyDreamAgent.load(tmp_path / "a", buffer_size=4)


def test_actions_at_narrow_bounds_are_inside() -> None:
    space = spaces.Box(np.float32([0.1, 1000.0]), np.float32([0.1, 1000.001]))
    agent = tiny(env=Scripted(VECTOR, space))
    agent.add_episode(np.zeros((3, 3)), np.array([[0.1, 1000.001], [0.1, 1000.0]]), np.zeros(2), terminated=True)


@pytest.mark.parametrize("no", [0, np.bool_(False), False])
def test_flags_of_any_kind(no: Any) -> None:
    kwargs = {**TINY["policy_kwargs"], "predict_continue": no}
    assert tiny(policy_kwargs=kwargs).policy.networks.world_model.continue_head is None


def test_numbers_of_numpy_and_paths_are_as_good(tmp_path: Path) -> None:
    kwargs = {**TINY["policy_kwargs"], "units": np.int64(16), "vector_units": np.int32(11), "vector_layers": 1}
    agent = tiny(
        learning_rate=np.float32(1e-3),
        size=np.str_("nano"),  # as of np.random.choice
        compile=np.bool_(False),
        harmony=np.bool_(True),
        batch_size=np.float16(2),
        verbose=np.int64(0),
        tensorboard_log=tmp_path / "logs",
        policy_kwargs=kwargs,
    )
    assert agent.policy.networks.world_model.encoder is not None
    agent.set_random_seed(np.int64(3))
    with pytest.raises(ValueError, match="seed=-1: use a whole number of at least 0"):
        agent.set_random_seed(-1)
    agent.learn(30).save(tmp_path / "a")
    loaded = HarmonyDreamAgent.load(tmp_path / "a")
    assert loaded.tensorboard_log == str(tmp_path / "logs")
    assert sum(p.numel() for p in loaded.policy.parameters()) == sum(p.numel() for p in agent.policy.parameters())
    assert agent.replay_buffer.size() == len(agent.replay_buffer) > 30


def absent() -> gym.Env[Any, Any]:
    raise OSError("the robot is switched off")


def test_a_process_whose_environment_cannot_be_made() -> None:
    with pytest.raises(RuntimeError, match=r"before its environment was made.*call the functions"):
        RestartingSubprocVecEnv([functools.partial(absent)])


def test_a_key_named_as_the_group_does_not_hide_the_others() -> None:
    space = spaces.Dict({"observation": VECTOR, "other": VECTOR})
    terms = tiny(
        "MultiInputPolicy", Scripted(space, TWO), harmony={"observation": False}
    ).policy.networks.harmonizer.terms
    assert {name: term.harmonized for name, term in terms.items() if name.startswith("observation")} == {
        "observation/observation": False,
        "observation/other": False,
    }


def test_the_end_of_episodes_can_be_harmonised_too() -> None:
    plain, asked = tiny(seed=0), tiny(seed=0, harmony={"continue": True})
    assert not plain.policy.networks.harmonizer.terms["continue"].harmonized
    assert asked.policy.networks.harmonizer.harmonized == [*plain.policy.networks.harmonizer.harmonized, "continue"]
    weighted = tiny(harmony={"continue": 5.0}).policy.networks.harmonizer.terms["continue"]
    assert (weighted.harmonized, weighted.scale) == (False, 5.0)
    asked.learn(60)
    assert asked.policy.networks.harmonizer.log_sigma.detach().abs().min() > 0


class Stops(BaseCallback):
    """Raises in the middle of the step that ends at ``at``."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.num_timesteps == self.at:
            raise KeyboardInterrupt
        return True


def test_a_learn_that_broke_off_within_a_step_glues_no_episodes() -> None:
    agent = tiny(env=Clock(30), learning_starts=1_000)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(20, callback=Stops(7))
    agent.learn(10, reset_num_timesteps=False)
    ((first, second),) = numbers(agent)
    assert first == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]  # the seventh is not known
    assert second[:3] == [0.0, 1.0, 2.0]


def test_a_callback_that_moves_the_environments_before_a_step() -> None:
    class Moves(BaseCallback):
        def _on_rollout_start(self) -> None:
            if self.num_timesteps == 5:
                self.training_env.reset()
                self.training_env.step(np.zeros(1, int))

        def _on_step(self) -> bool:
            return True

    agent = tiny(env=Clock(30), learning_starts=1_000).learn(10, callback=Moves())
    ((first, second),) = numbers(agent)
    assert first == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert second == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_replay_is_not_exchanged_within_learn(tmp_path: Path) -> None:
    agent = tiny(env=Clock(5)).learn(10)
    agent.save_replay_buffer(tmp_path / "rows")

    def load(found: dict[str, Any], _: Any) -> bool:
        agent.load_replay_buffer(tmp_path / "rows")
        return True

    with pytest.raises(ValueError, match="within learn"):
        agent.learn(10, callback=load)


def test_replay_that_is_dropped_where_it_is_needed() -> None:
    agent = tiny(env=Clock(5)).learn(10)

    def drop(found: dict[str, Any], _: Any) -> None:
        agent.replay_buffer = None

    with pytest.raises(ValueError, match="and needs it until it ends"):
        agent.learn(10, callback=drop)
    with pytest.raises(ValueError, match=r"replay_buffer is None: learn\(\) makes a new one"):
        agent.train(1)
    agent.learn(40)
    agent.train(1)


def test_training_by_rates_that_have_fallen_to_0_is_told() -> None:
    names = ("learning_rate", "actor_learning_rate", "critic_learning_rate")
    agent = tiny(env=Clock(5), **dict.fromkeys(names, "lin_0.001")).learn(60)
    with pytest.warns(UserWarning, match="learns nothing: all learning rates are 0"):
        agent.train(1)


@pytest.mark.parametrize("kind", [int, np.float32])
def test_ends_of_episodes_that_are_numbers(kind: Any, tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: Clock(5)])
    wait = env.step_wait
    env.step_wait = lambda: (*(found := wait())[:2], found[2].astype(kind), found[3])  # type: ignore[method-assign]
    agent = tiny(env=env).learn(40)
    agent.save(tmp_path / "a")
    HarmonyDreamAgent.load(tmp_path / "a", env=DummyVecEnv([lambda: Clock(5)]))
    env.step_wait = lambda: (*(found := wait())[:2], found[2][:, None], found[3])  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"ends of episodes of shape \(1, 1\)"):
        agent.learn(40)


@pytest.mark.parametrize("infos", [None, [], [{}] * 3, [{}, None], {"lives": [1, 1], "time": [0, 0]}])
def test_infos_that_are_not_one_for_each_environment(infos: Any) -> None:
    env = DummyVecEnv([lambda: Clock(5)] * 2)
    wait = env.step_wait
    env.step_wait = lambda: (*wait()[:3], infos)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"the infos .* after 0 env steps: expected a list of 2 dicts"):
        tiny(env=env).learn(40)


def test_success_may_be_an_array(tmp_path: Path) -> None:
    class Succeeds(Clock):
        def step(self, action: Any) -> Any:
            *rest, info = super().step(action)
            return *rest, {**info, "is_success": np.array([True])}

    tiny(env=Succeeds(5)).learn(20).save(tmp_path / "a")
    assert list(HarmonyDreamAgent.load(tmp_path / "a").ep_success_buffer) == [1.0] * 4


@pytest.mark.parametrize("device", ["gpu", "", 3.5, None, "meta", "xla", "mps:1"])
def test_what_is_no_device_is_told(device: Any) -> None:
    with pytest.raises(ValueError, match=rf"device={re.escape(repr(device))}: use 'auto', 'cpu', 'cuda'"):
        tiny(device=device)


def test_these_tests_are_for_a_cpu_also_where_there_is_a_gpu() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert tiny(device="auto").device == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:7", torch.device("cuda")])
def test_a_gpu_that_is_not_there_is_told(device: Any) -> None:
    with pytest.warns(UserWarning, match="PyTorch finds no CUDA device here, the CPU is used instead"):
        assert tiny(device=device).device == torch.device("cpu")


def test_a_normaliser_that_comes_in_mid_episode_begins_anew() -> None:
    env = DummyVecEnv([lambda: Clock(9)])
    agent = tiny(env=env)
    agent.learn(4)
    agent.set_env(VecNormalize(env), force_reset=False)
    agent.learn(4, reset_num_timesteps=False)
    assert agent.replay_buffer is not None
    assert agent.replay_buffer._columns["is_first"][0, :10].tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0]
