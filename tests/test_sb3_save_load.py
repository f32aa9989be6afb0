"""Stable-Baselines3's contract: archives of agents, parameters, and replay."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.policies import MlpPolicy, MultiInputPolicy
from hd_agents.saving.jsonable import ArchiveError
from tests.agents import TINY, Clock, Scripted, tiny

IMAGE = spaces.Box(0, 255, (16, 17, 3), np.uint8)
MIXED = spaces.Dict({"eye": IMAGE, "arm": spaces.Box(-1, 1, (5,)), "mode": spaces.Discrete(3)})


def same(one: Any, two: Any) -> bool:
    """Whether two trees of dicts, lists, tensors, arrays and numbers are equal."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
@pytest.mark.parametrize(
    ("policy", "observation", "action"),
    [
        ("MlpPolicy", spaces.Box(-1, 1, (3,)), spaces.Box(-2.0, 2.0, (2,))),
        ("CnnPolicy", IMAGE, spaces.MultiDiscrete([2, 3])),
        ("MultiInputPolicy", MIXED, spaces.Discrete(4, start=-1)),
    ],
)
def test_a_loaded_agent_is_the_saved_one(
    policy: str, observation: Any, action: Any, backbone: Any, tmp_path: Path
) -> None:
    agent = tiny(policy, Scripted(observation, action), seed=0, backbone=backbone).learn(60)
    assert agent._n_updates > 0
    obs = np.stack([observation.sample() for _ in range(5)]) if policy != "MultiInputPolicy" else observation.sample()
    expected = agent.predict(obs, deterministic=True)
    agent.save(tmp_path / "agent")

    loaded = HarmonyDreamAgent.load(tmp_path / "agent.zip", device="cpu")
    assert same(loaded.get_parameters(), agent.get_parameters())
    assert same(loaded.predict(obs, deterministic=True), expected)
    for name in ("num_timesteps", "_n_updates", "_episode_num", "_replay_credit", "gamma", "size", "policy_kwargs"):
        assert getattr(loaded, name) == getattr(agent, name), name
    assert loaded.learner.updates == agent._n_updates
    assert loaded.observation_space == agent.observation_space
    assert loaded.action_space == agent.action_space
    assert loaded.env is None
    assert not loaded.replay_buffer._columns


def test_a_loaded_agent_learns_on(tmp_path: Path) -> None:
    agent = tiny(seed=0).learn(60)
    agent.save(tmp_path / "agent")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", env="CartPole-v1")
    assert [info["r"] for info in loaded.ep_info_buffer] == [info["r"] for info in agent.ep_info_buffer]
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.num_timesteps == 100
    assert loaded._n_updates > agent._n_updates
    steps = [state["step"].item() for state in loaded.learner.model_optimizer.state.values()]
    assert set(steps) == {loaded._n_updates}


def test_an_agent_without_its_replay_fills_one_before_it_learns_on(tmp_path: Path) -> None:
    agent = tiny(seed=0).learn(60)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "rows")
    bare, whole = (HarmonyDreamAgent.load(tmp_path / "agent", env="CartPole-v1") for _ in range(2))
    whole.load_replay_buffer(tmp_path / "rows")
    whole.learn(20, reset_num_timesteps=False)
    with pytest.warns(UserWarning, match="replay has learning_starts=24 steps: it has 0, 20 come.*load_replay"):
        bare.learn(20, reset_num_timesteps=False)
    assert len(bare.replay_buffer) < bare.learning_starts
    assert bare._n_updates == agent._n_updates < whole._n_updates
    bare.learn(40, reset_num_timesteps=False)
    assert bare._n_updates > agent._n_updates


@pytest.mark.parametrize("kind", ["text", "path", "memory", "file"])
def test_paths_and_files(kind: str, tmp_path: Path) -> None:
    agent = tiny(verbose=0)
    path = tmp_path / "new folder" / "agent"
    if kind == "memory":
        memory = io.BytesIO()
        agent.save(memory)
        loaded = HarmonyDreamAgent.load(memory)
    elif kind == "file":
        with (tmp_path / "file").open("wb") as target:
            agent.save(target)
        with (tmp_path / "file").open("rb") as source:
            loaded = HarmonyDreamAgent.load(source)
    else:
        given = str(path) if kind == "text" else path
        agent.save(given)
        assert path.with_suffix(".zip").is_file()
        loaded = HarmonyDreamAgent.load(given)
    assert same(loaded.get_parameters(), agent.get_parameters())


def test_a_folder_for_logs_that_was_set_as_a_path_is_stored(tmp_path: Path) -> None:
    agent = tiny()
    agent.tensorboard_log = tmp_path / "logs"  # type: ignore[assignment]
    agent.learn(5).save(tmp_path / "agent")
    assert HarmonyDreamAgent.load(tmp_path / "agent").tensorboard_log == str(tmp_path / "logs")


def test_include_wins_over_exclude(tmp_path: Path) -> None:
    agent = tiny(verbose=2).learn(30)
    path = tmp_path / "agent"
    agent.save(path, exclude=["verbose", "_n_updates", "gamma"])
    loaded = HarmonyDreamAgent.load(path)
    assert (loaded.verbose, loaded._n_updates, loaded.gamma) == (0, 0, 1 - 1 / 333)
    agent.mood = {"calm": 0.5}
    agent.save(path, exclude=["verbose", "mood"], include=["verbose", "mood"])
    loaded = HarmonyDreamAgent.load(path)
    assert loaded.verbose == 2
    assert loaded.mood == {"calm": 0.5}
    with pytest.raises(ValueError, match="moods"):
        agent.save(path, include=["moods"])
    with pytest.raises(ValueError, match="env"):
        agent.save(path, include=["env"])
    with pytest.raises(ValueError, match="replay_folder"):
        agent.save(path, include=["replay_folder"])
    agent.save(path, exclude=["observation_space"])
    with pytest.raises(ValueError, match="observation_space"):
        HarmonyDreamAgent.load(path)


def test_load_takes_changes_that_leave_the_networks_alone(tmp_path: Path) -> None:
    agent = tiny()
    agent.save(tmp_path / "agent")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", learning_rate=0.5, seed=3, tensorboard_log="logs")
    assert (loaded.learning_rate, loaded.seed, loaded.tensorboard_log) == (0.5, 3, "logs")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", custom_objects={"gamma": 0.5, "clip_range": 0.1})
    assert loaded.gamma == loaded.learner.gamma == 0.5
    assert HarmonyDreamAgent.load(tmp_path / "agent", policy_kwargs=agent.policy_kwargs).size == "nano"
    with pytest.raises(ValueError, match="policy_kwargs"):
        HarmonyDreamAgent.load(tmp_path / "agent", policy_kwargs={"units": 5})
    with pytest.raises(ValueError, match="dreamerv2"):
        HarmonyDreamAgent.load(tmp_path / "agent", backbone="dreamerv2")
    with pytest.raises(TypeError, match="learning_rates"):
        HarmonyDreamAgent.load(tmp_path / "agent", learning_rates=1)


def test_environments_are_checked_and_may_be_more(tmp_path: Path) -> None:
    agent = tiny().learn(20)
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"^Observation spaces do not match: the agent's is Box") as raised:
        HarmonyDreamAgent.load(tmp_path / "agent", env="Pendulum-v1")
    assert not isinstance(raised.value, ArchiveError)  # the file is not to blame
    three = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3)
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", env=three)
    assert loaded.n_envs == loaded.replay_buffer.n_envs == 3
    assert loaded.learn(30).num_timesteps == 30

    with pytest.raises(AssertionError, match="number of environments"):
        agent.set_env(three)
    with pytest.raises(ValueError, match="spaces do not match"):
        agent.set_env(gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match=r"Action spaces do not match: the agent's is Discrete\(2\)"):
        agent.set_env(Scripted(agent.observation_space, spaces.Discrete(3)))
    wide = Scripted(spaces.Box(-9.0, 9.0, (4,)), agent.action_space)
    with pytest.raises(ValueError, match=r"Its weights fit: load\(path, env=env, custom_objects={'observation_space'"):
        agent.set_env(wide)
    moved = {"observation_space": wide.observation_space}
    assert HarmonyDreamAgent.load(tmp_path / "agent", env=wide, custom_objects=moved).learn(5).num_timesteps == 5
    agent.set_env("CartPole-v1")
    agent.learn(10, reset_num_timesteps=False)
    bare = HarmonyDreamAgent.load(tmp_path / "agent")
    assert bare.get_env() is None
    bare.set_env(gym.make("CartPole-v1"))
    assert bare.learn(30, reset_num_timesteps=False).num_timesteps == 50


def test_other_bounds_beside_an_image_are_taken_over_as_the_error_says(tmp_path: Path) -> None:
    """In the environment its channels come last, and in the agent first."""
    narrow, wide = (
        Scripted(
            spaces.Dict({"camera": spaces.Box(0, 255, (16, 16, 3), np.uint8), "joints": spaces.Box(-high, high, (2,))}),
            spaces.Discrete(2),
        )
        for high in (1.0, 2.0)
    )
    tiny("MultiInputPolicy", narrow).save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"custom_objects={'observation_space': env.observation_space}"):
        HarmonyDreamAgent.load(tmp_path / "agent", env=wide)
    moved = {"observation_space": wide.observation_space}
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", env=wide, custom_objects=moved)
    assert loaded.observation_space["joints"] == wide.observation_space["joints"]
    assert loaded.learn(5).num_timesteps == 5


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (2, 5)])
def test_an_agent_without_environments_takes_any_number_of_them(before: int, after: int, tmp_path: Path) -> None:
    def envs(count: int) -> DummyVecEnv:
        return DummyVecEnv([lambda: gym.make("CartPole-v1")] * count)

    tiny(env=envs(before)).learn(40).save(tmp_path / "agent")
    for force_reset in (True, False):
        bare = HarmonyDreamAgent.load(tmp_path / "agent")
        bare.set_env(envs(after), force_reset)
        assert bare.n_envs == bare.replay_buffer.n_envs == len(bare._ended) == after
        updates = bare._n_updates
        bare.learn(60, reset_num_timesteps=False)
        assert bare._n_updates > updates
        assert len(bare.replay_buffer) >= 60
        with pytest.raises(AssertionError, match="number of environments"):
            bare.set_env(envs(after + 1))


def test_what_a_replay_holds_is_not_lost_to_another_number_of_environments(tmp_path: Path) -> None:
    agent = tiny().learn(20)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "rows")
    bare = HarmonyDreamAgent.load(tmp_path / "agent", buffer_size=20)
    three = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3)
    with pytest.raises(ValueError, match="buffer_size=20 holds no sequence"):
        bare.set_env(three)
    assert bare.n_envs == bare.replay_buffer.n_envs == 1
    bare = HarmonyDreamAgent.load(tmp_path / "agent")
    bare.load_replay_buffer(tmp_path / "rows")
    with pytest.raises(ValueError, match=r"rows of 1 environments, and env has 3: call set_env\(env\) before"):
        bare.set_env(three)
    bare.set_env("CartPole-v1")
    assert len(bare.learn(10, reset_num_timesteps=False).replay_buffer) > 30


def test_values_that_were_passed_are_blamed_and_not_the_archive_alone(tmp_path: Path) -> None:
    tiny().save(tmp_path / "agent")
    with pytest.raises(ValueError, match="archive with buffer_size as given cannot be used: buffer_size=1 holds no"):
        HarmonyDreamAgent.load(tmp_path / "agent", custom_objects={"buffer_size": 1})


@pytest.mark.parametrize("force_reset", [True, False])
def test_a_new_environment_is_reset_unless_asked_not_to(force_reset: bool) -> None:
    agent = tiny(env=Clock(9)).learn(3)
    other = Clock(9)
    venv = DummyVecEnv([lambda: other])
    venv.reset()
    agent.set_env(venv, force_reset=force_reset)
    agent.learn(2, reset_num_timesteps=False)
    assert other.episode == 1 + int(force_reset)


@pytest.mark.parametrize("force_reset", [True, False])
def test_a_loaded_agent_can_go_on_in_mid_episode(force_reset: bool, tmp_path: Path) -> None:
    agent = tiny(env=Clock(9), learning_starts=0).learn(3)
    agent.save(tmp_path / "agent")
    env = agent.get_env()
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", env=env, force_reset=force_reset)
    assert (loaded._last_obs is None) == force_reset
    if not force_reset:
        assert np.array_equal(loaded._last_obs, agent._last_obs)
        assert same(list(loaded._collector.latent), list(agent._collector.latent))
    loaded.learn(1, reset_num_timesteps=False)
    stored = loaded.replay_buffer._columns["observation.observation"][0, 0]
    assert stored[:2].tolist() == ([2.0, 0.0] if force_reset else [1.0, 4.0])


def test_parameters_can_be_taken_and_given() -> None:
    agent = tiny(seed=0).learn(60)
    original = agent.get_parameters()
    assert set(original) == {"policy", *(f"learner.{name}_optimizer" for name in ("model", "actor", "critic"))}
    original = torch.load(_bytes(original), weights_only=True)

    random = {name: torch.rand_like(tensor) for name, tensor in original["policy"].items()}
    agent.set_parameters({**original, "policy": random})
    assert same(dict(agent.policy.state_dict()), random)
    agent.set_parameters(original)
    assert same(agent.get_parameters(), original)

    first = next(iter(random))
    part = {"policy": {first: random[first]}}
    agent.set_parameters(part, exact_match=False)
    assert torch.equal(agent.policy.state_dict()[first], random[first])
    with pytest.raises(RuntimeError, match="Missing key"):
        agent.set_parameters(part, exact_match=True)
    with pytest.raises(ValueError, match="do not match"):
        agent.set_parameters({"policy": random})
    with pytest.raises(ValueError, match="invalid object name"):
        agent.set_parameters({"polity": random}, exact_match=False)
    wider = tiny(policy_kwargs={**TINY["policy_kwargs"], "units": 17})
    told = r"^learner\.model_optimizer has .* it is of other networks"  # and not an archive's: there is none
    with pytest.raises(ValueError, match=told):
        wider.set_parameters(original)


def test_parameters_of_an_archive(tmp_path: Path) -> None:
    one, two = tiny(seed=0).learn(60), tiny(seed=1)
    one.save(tmp_path / "agent")
    two.set_parameters(str(tmp_path / "agent"))
    assert same(two.get_parameters(), one.get_parameters())


def test_a_policy_class_is_passed_again(tmp_path: Path) -> None:
    class Mine(MlpPolicy):
        pass

    tiny(Mine).save(tmp_path / "agent")
    with pytest.raises(ValueError, match="custom_objects"):
        HarmonyDreamAgent.load(tmp_path / "agent")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", custom_objects={"policy_class": Mine})
    assert type(loaded.policy) is Mine


def test_a_policy_class_may_have_options_of_its_own(tmp_path: Path) -> None:
    class Mine(MlpPolicy):
        def __init__(self, *args: Any, overrides: Any = None, **kwargs: Any) -> None:
            members = overrides.pop("members", 1)
            overrides.pop("mask", None)
            super().__init__(*args, overrides=overrides, **kwargs)
            self.networks.members = torch.nn.Linear(members, 1)

    options = {**TINY["policy_kwargs"], "members": 3}
    tiny(Mine, policy_kwargs={**options, "mask": np.zeros(2)}).learn(60)  # of any type, where it is not to be saved
    agent = tiny(Mine, policy_kwargs=options).learn(60)
    agent.save(tmp_path / "agent")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", "CartPole-v1", custom_objects={"policy_class": Mine}).learn(60)
    assert loaded.policy.networks.members.in_features == 3
    loaded.policy_kwargs["members"] = 5
    with pytest.raises(ValueError, match=r"agent.policy_kwargs was set to .* made with .*: that cannot change"):
        loaded.learn(60)


def test_a_subclass_is_stored_with_its_own_arguments(tmp_path: Path) -> None:
    class Careful(HarmonyDreamAgent):
        def __init__(self, *args: Any, patience: int = 3, keep: bool = True, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if keep:
                self.patience = patience
            self.keep = keep

    Careful("MlpPolicy", "CartPole-v1", patience=5, **TINY).save(tmp_path / "agent")
    loaded = Careful.load(tmp_path / "agent")
    assert (loaded.patience, loaded.batch_size) == (5, TINY["batch_size"])
    with pytest.raises(ValueError, match="patience"):
        Careful("MlpPolicy", "CartPole-v1", keep=False, **TINY).save(tmp_path / "agent")


def test_rates_end_at_zero_where_the_last_vector_step_goes_beyond_the_end(tmp_path: Path) -> None:
    """Below it they would undo what was learned, and no archive may hold such."""
    agent = tiny(env=DummyVecEnv([lambda: Clock(5)] * 3), learning_rate="lin_0.001", train_ratio=16.0).learn(100)
    assert agent.num_timesteps == 102
    assert agent.learner.model_optimizer.param_groups[0]["lr"] == 0
    agent.save(tmp_path / "agent")
    assert HarmonyDreamAgent.load(tmp_path / "agent", device="cpu")._current_progress_remaining == 0


def test_a_schedule_is_stored_as_its_present_value(tmp_path: Path) -> None:
    agent = tiny(learning_rate=LinearSchedule(1e-3, 0.0, 1.0), actor_learning_rate=ConstantSchedule(3e-4)).learn(30)
    agent._update_current_progress_remaining(1, 4)
    agent.save(tmp_path / "agent")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", env="CartPole-v1")
    assert str(loaded.learning_rate) == "lin_0.001"  # which can be written
    assert loaded.actor_learning_rate == 3e-4
    loaded.learn(30)
    agent.critic_learning_rate = lambda left: 0.5e-3 * (1.0 - np.cos(np.pi * left))  # half of it half way, too
    agent.save(tmp_path / "agent")
    assert HarmonyDreamAgent.load(tmp_path / "agent").critic_learning_rate == pytest.approx(1e-3 * 0.85355, rel=1e-4)
    agent.critic_learning_rate = lambda left: 1e-3 * left**2
    agent._update_current_progress_remaining(1, 4)
    agent.save(tmp_path / "agent")
    for learns, steps in ((HarmonyDreamAgent.learn, 30), (HarmonyDreamAgent.train, 1)):
        loaded = HarmonyDreamAgent.load(tmp_path / "agent", env="CartPole-v1")
        loaded.add_episode(np.zeros((9, 4)), np.zeros(8, int), np.zeros(8), terminated=True)
        assert loaded.critic_learning_rate == pytest.approx(0.5625e-3)
        with pytest.warns(UserWarning, match=r"critic_learning_rate: .*load\(path, learning_rate") as caught:
            learns(loaded, steps)
        assert "actor" not in str(caught[0].message)
        loaded.learn(30)  # told once
    for changes in ({"learning_rate": lambda left: 1e-3 * left}, {"custom_objects": {"learning_rate": 1e-3}}):
        changes |= {"critic_learning_rate": 1e-3}
        HarmonyDreamAgent.load(tmp_path / "agent", env="CartPole-v1", **changes).learn(30)


def test_what_is_stored_anyway_is_not_stored_twice(tmp_path: Path) -> None:
    agent = tiny().learn(30)
    agent.save(tmp_path / "agent", include=["_last_obs"])
    HarmonyDreamAgent.load(tmp_path / "agent", env="CartPole-v1").learn(30, reset_num_timesteps=False)
    assert all(type(info["l"]) is int for info in HarmonyDreamAgent.load(tmp_path / "agent").ep_info_buffer)


class Untimed(VecMonitor):
    """Tells returns and lengths of episodes alone, as vector environments of some simulators do."""

    def step_wait(self) -> Any:
        *result, infos = super().step_wait()
        for info in infos:
            info.get("episode", {}).pop("t", None)
        return *result, infos


def test_episodes_without_a_time_are_stored(tmp_path: Path) -> None:
    agent = tiny(env=Untimed(DummyVecEnv([lambda: gym.make("CartPole-v1")]))).learn(200)
    agent.save(tmp_path / "agent")
    found = HarmonyDreamAgent.load(tmp_path / "agent").ep_info_buffer
    assert [(info["r"], info["l"]) for info in found] == [(info["r"], info["l"]) for info in agent.ep_info_buffer]
    assert found


def test_an_archive_holds_json_and_tensors(tmp_path: Path) -> None:
    tiny().learn(30).save(tmp_path / "agent")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        data = json.loads(archive.read("data"))
        names = archive.namelist()
        for name in (name for name in names if name.endswith(".pth")):
            assert isinstance(torch.load(io.BytesIO(archive.read(name)), weights_only=True), dict)
    assert data["policy_class"] == "MlpPolicy"
    assert ":serialized:" not in json.dumps(data)
    assert not any("replay" in name for name in names)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64, np.int8, np.float64])
def test_observations_of_any_type_come_back(dtype: Any) -> None:
    agent = tiny(env=Scripted(spaces.Box(0, 100, (3,), dtype), spaces.Discrete(2))).learn(30)
    file = io.BytesIO()
    agent.save(file)
    file.seek(0)
    loaded = HarmonyDreamAgent.load(file, env=agent.get_env(), force_reset=False, device="cpu")
    assert loaded._last_obs.dtype == agent._last_obs.dtype == dtype
    assert np.array_equal(loaded._last_obs, agent._last_obs)


def test_a_number_of_ones_own_may_have_become_whole_or_not(tmp_path: Path) -> None:
    agent = tiny().learn(30)
    agent.start_time = 1
    agent.save(tmp_path / "agent", include=["start_time"])
    assert HarmonyDreamAgent.load(tmp_path / "agent").start_time == 1
    agent.start_time = "today"
    agent.save(tmp_path / "agent", include=["start_time"])
    with pytest.raises(ValueError, match="'start_time', which is not of that kind"):
        HarmonyDreamAgent.load(tmp_path / "agent")


@pytest.mark.parametrize("path", [5, None, b"agent.zip"])
def test_what_is_no_path_is_named(path: Any) -> None:
    for use in (HarmonyDreamAgent.load, tiny().save):
        with pytest.raises(TypeError, match=f"path is a {type(path).__name__}: pass a str, a pathlib.Path or a binary"):
            use(path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    A2C("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "foreign.zip")
    with pytest.raises(ValueError, match="not of an hd_agents agent"):
        HarmonyDreamAgent.load(tmp_path / "foreign.zip")
    agent = tiny()
    agent.save(tmp_path / "agent.zip")
    agent.policy.save(tmp_path / "policy.zip")
    with pytest.raises(ValueError, match="holds a policy, not a whole agent: use load"):
        HarmonyDreamAgent.load(tmp_path / "policy.zip")
    with pytest.raises(ValueError, match="holds a whole agent, not a policy: use HarmonyDreamAgent"):
        type(agent.policy).load(tmp_path / "agent.zip")
    whole = (tmp_path / "agent.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated or damaged"):
        HarmonyDreamAgent.load(tmp_path / "half.zip")
    with pytest.raises(FileNotFoundError, match="nothing"):
        HarmonyDreamAgent.load(tmp_path / "nothing")


def test_system_info_is_printed_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny().save(tmp_path / "agent")
    HarmonyDreamAgent.load(tmp_path / "agent", print_system_info=True)
    assert capsys.readouterr().out.count("PyTorch") == 2


def _bytes(tree: Any) -> io.BytesIO:
    """A copy of a tree of tensors, as a file."""
    target = io.BytesIO()
    torch.save(tree, target)
    target.seek(0)
    return target


@pytest.mark.parametrize("sizes", [(3, 3), (2, 5)])
def test_keys_keep_the_order_of_the_environment(sizes: tuple[int, int], tmp_path: Path) -> None:
    """Gymnasium sorts a dict's keys but not pairs; networks, replay and files follow the order of the space."""
    pairs = [("joints", spaces.Box(-1, 1, sizes[:1])), ("goal", spaces.Box(-1, 1, sizes[1:]))]
    env = Scripted(spaces.Dict(pairs), spaces.Box(-1, 1, (2,)))
    agent = tiny("MultiInputPolicy", env).learn(60)
    agent.save(tmp_path / "agent")
    agent.policy.save(str(tmp_path / "policy"))
    agent.save_replay_buffer(tmp_path / "rows")
    observation = env.observation_space.sample()
    expected, _ = agent.predict(observation, deterministic=True)
    for found in (HarmonyDreamAgent.load(tmp_path / "agent"), HarmonyDreamAgent.load(tmp_path / "agent", env=env)):
        assert list(found.observation_space.spaces) == ["joints", "goal"]
        np.testing.assert_array_equal(found.predict(observation, deterministic=True)[0], expected)
    found.load_replay_buffer(tmp_path / "rows")
    policy = MultiInputPolicy.load(str(tmp_path / "policy"))
    np.testing.assert_array_equal(policy.predict(observation, deterministic=True)[0], expected)


def test_the_first_gradient_steps_are_made_once(tmp_path: Path) -> None:
    agent = tiny(pretrain_steps=7).learn(40)
    before = agent._n_updates
    assert before >= 7
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "agent")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent", env=agent.get_env())
    loaded.load_replay_buffer(tmp_path / "agent")
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded._n_updates == before + 1
