"""Environments that are put back where another stood do what that one would have done."""

from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from hd_agents.callbacks import RunCheckpoint
from hd_agents.envs.state import Restorable, get_state, get_vec_state, set_state, set_vec_state
from hd_agents.saving.jsonable import ArchiveError, from_json, to_json
from tests.agents import Clock, Scripted, tiny


def scripted(*parts: spaces.Space[Any]) -> gym.Env[Any, Any]:
    """Observes a vector "a" and, in a tuple "b", the given parts if there are any."""
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), **({"b": spaces.Tuple(parts)} if parts else {})})
    return Scripted(space, spaces.Discrete(2), length=5)


CLASSIC = ["hd_agents/Catch-v0", "CartPole-v1", "Pendulum-v1", "MountainCar-v0", "Acrobot-v1"]
ATARI = ["atari100k/Breakout-v0", "atari100k/MsPacman-v0"]
CONTROL = ["dmc_proprio/reacher-easy-v0", "dmc_proprio/ball_in_cup-catch-v0", "dmc_proprio/quadruped-escape-v0"]
METAWORLD = ["metaworld/lever-pull-v0", "metaworld/assembly-v0"]
LIBRARIES = {"atari100k": "ale_py", "dmc_proprio": "dm_control", "dmc_natural": "dm_control", "metaworld": "metaworld"}
ARGUMENTS = {"dmc_natural": {"videos": "generated", "shadows": False}, "metaworld": {"observation": "state"}}


@pytest.mark.parametrize("task", [*CLASSIC, *ATARI, *CONTROL, "dmc_natural/finger-spin-v0", *METAWORLD])
def test_future_is_the_same(task: str) -> None:
    suite = task.partition("/")[0]
    pytest.importorskip(LIBRARIES.get(suite, "gymnasium"))
    arguments: dict[str, Any] = ARGUMENTS.get(suite, {})
    one, other = (Monitor(gym.make(task, max_episode_steps=40, **arguments)) for _ in range(2))
    one.action_space.seed(0)
    one.reset(seed=5)
    ended = 0
    for _ in range(23):
        _, _, terminated, truncated, _ = one.step(one.action_space.sample())
        if terminated or truncated:
            one.reset()
    other.reset(seed=6)
    set_state(other, from_json(to_json(get_state(one))))
    for _ in range(100):  # over the ends of episodes, and what follows them
        action = one.action_space.sample()
        assert action == pytest.approx(other.action_space.sample())
        (seen, *result), (expected, *results) = one.step(action), other.step(action)
        np.testing.assert_array_equal(seen, expected, strict=True)
        if "episode" in result[-1]:
            ended += 1
            lengths = [info["episode"].pop("l") for info in (result[-1], results[-1])]
            assert lengths[0] == lengths[1]
            assert result[-1]["episode"].pop("t") == pytest.approx(results[-1]["episode"].pop("t"), abs=0.5)
            np.testing.assert_array_equal(one.reset()[0], other.reset()[0])
        assert result == results
    assert ended


@pytest.mark.parametrize(
    "wrap",
    [
        wrappers.RecordEpisodeStatistics,
        wrappers.NormalizeObservation,
        wrappers.NormalizeReward,
        wrappers.TimeAwareObservation,
        lambda env: wrappers.FrameStackObservation(env, 3),
        lambda env: wrappers.DelayObservation(env, 2),
    ],
)
def test_wrappers_of_gymnasium_go_on(wrap: Any) -> None:
    one, other = (wrap(gym.make("Pendulum-v1", max_episode_steps=20)) for _ in range(2))
    one.reset(seed=5)
    actions = np.linspace(-2, 2, 60, dtype=np.float32)[:, None]
    for action in actions[:30]:
        if one.step(action)[3]:
            one.reset()
    other.reset(seed=6)
    set_state(other, from_json(to_json(get_state(one))))
    for action in actions[30:]:
        (seen, *result), (expected, *results) = one.step(action), other.step(action)
        np.testing.assert_array_equal(seen, expected, strict=True)
        for info in (result[-1], results[-1]):
            info.get("episode", {}).pop("t", None)
        assert result == results
        if result[2]:
            np.testing.assert_array_equal(one.reset()[0], other.reset()[0])


def test_deques_stay_deques() -> None:
    one, other = scripted(), scripted()
    for env in (one, other):
        env.seen = deque([np.float32(0.1)], maxlen=2)  # type: ignore[attr-defined]
    one.seen.extend([(1, "a"), deque([3])])  # type: ignore[attr-defined]
    set_state(other, from_json(to_json(get_state(one))))
    assert other.seen == deque([(1, "a"), deque([3])])  # type: ignore[attr-defined]
    assert (other.seen.maxlen, other.seen[1].maxlen) == (2, None)  # type: ignore[attr-defined]
    one.also = one.seen  # type: ignore[attr-defined]
    assert get_state(one) is None


def test_storing_a_game_does_not_disturb_it() -> None:
    pytest.importorskip("ale_py")
    stored, plain, other = (gym.make("atari100k/Pong-v0", render_mode="rgb_array") for _ in range(3))
    for env, seed in ((stored, 5), (plain, 5), (other, 6)):
        env.reset(seed=seed)
    for step in range(300):
        if step == 100:
            set_state(other, from_json(to_json(get_state(stored))))
        expected, *told = plain.step(2 + step // 7 % 2)
        for env in (stored, other) if step >= 100 else (stored,):
            found, *said = env.step(2 + step // 7 % 2)
            np.testing.assert_array_equal(found, expected)
            assert said == told
            np.testing.assert_array_equal(env.render(), plain.render())


def test_games_that_cannot_be_stored_or_restored() -> None:
    pytest.importorskip("ale_py")
    sticky, game = (gym.make("atari100k/Pong-v0", repeat_action_probability=p) for p in (0.25, 0.0))
    for env in (sticky, game):
        env.reset(seed=0)
    assert get_state(sticky) is None
    damaged = get_state(game)
    assert damaged is not None
    damaged[-1]["own"]["emulator"] = damaged[-1]["own"]["emulator"][:100]
    with pytest.raises(ArchiveError, match="state of pong: it is damaged"):
        set_state(game, damaged)


def test_a_simulator_that_has_not_begun_cannot_be_stored() -> None:
    pytest.importorskip("dm_control")
    env = gym.make("dmc_proprio/reacher-easy-v0")
    assert get_state(env) is None
    env.reset(seed=0)
    assert get_state(env) is not None  # without a step


def test_spaces_that_are_drawn_from_go_on() -> None:
    one, other = scripted(spaces.Discrete(5)), scripted(spaces.Discrete(5))
    for env in (one, other):
        env.reset(seed=1)
    one.step(0)
    set_state(other, get_state(one))
    assert repr(one.step(1)) == repr(other.step(1))
    assert other.actions == [0, 1]


def test_stored_state_is_a_copy() -> None:
    env = scripted()
    env.reset(seed=1)
    state = get_state(env)
    env.step(0)
    assert state[0]["values"]["actions"] == []


class Exact(gym.Env[Any, Any]):
    """Holds a number of NumPy's, which Python's would round differently."""

    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)

    def __init__(self) -> None:
        self.number, self.nested = np.float32(0.1), (np.int8(3), [np.float32(0.2)])


class Counted(gym.Env[Any, Any]):
    """Counts in place, in arrays without axes."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def __init__(self) -> None:
        self.clock = np.zeros((), np.int64)
        self.parts = {"a": [np.zeros((), np.float32)], "b": np.float16(0.5)}


def test_arrays_without_axes_stay_arrays() -> None:
    env, other = Counted(), Counted()
    env.clock[...] += 7
    env.parts["a"][0][...] += 1
    set_state(other, from_json(to_json(get_state(env))))
    other.clock[...] += 1
    assert (other.clock, other.clock.dtype, other.clock.shape) == (8, np.int64, ())
    assert (other.parts["a"][0], other.parts["a"][0].dtype) == (1.0, np.float32)
    assert type(other.parts["b"]) is np.float16


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_statistics_keep_their_type(shape: tuple[int, ...]) -> None:
    space = spaces.Box(-1, 1, shape, np.float32)
    one, other = (VecNormalize(DummyVecEnv([lambda: Scripted(space, spaces.Discrete(2))])) for _ in range(2))
    one.reset()
    for _ in range(5):
        one.step(np.array([0]))
    set_vec_state(other, from_json(to_json(get_vec_state(one))))
    for mine, found in ((one.obs_rms, other.obs_rms), (one.ret_rms, other.ret_rms)):
        for name in ("mean", "var", "count"):
            assert type(getattr(found, name)) is type(getattr(mine, name))
            assert np.array_equal(getattr(found, name), getattr(mine, name))


def test_types_come_back() -> None:
    one, other = Exact(), Exact()
    one.number += np.float32(1)
    set_state(other, from_json(to_json(get_state(one))))
    assert type(other.number) is np.float32
    assert other.number == one.number
    assert other.nested == one.nested
    assert [type(other.nested[0]), type(other.nested[1][0])] == [np.int8, np.float32]


class Shared(gym.Env[Any, Any]):
    """Its generator has two names; with ``twice``, a part of its world too."""

    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)

    def __init__(self, twice: str = "") -> None:
        self.twice = twice

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.rng = self.np_random
        self.grid, self.log = np.zeros((4, 4)), [0]
        self.inner = {"view": self.grid[1:3, 1:3], "list": (self.log,)}.get(self.twice, self.grid[1:3].copy())
        if self.twice == "within itself":
            self.log.append(self.log)  # type: ignore[arg-type]
        return np.zeros(1, np.float32), {}


def test_a_generator_of_two_names_stays_one() -> None:
    one, other = Shared(), Shared()
    for seed, env in enumerate((one, other)):
        env.reset(seed=seed)
    one.rng.random()
    set_state(other, from_json(to_json(get_state(one))))
    assert [other.rng.random(), other.np_random.random()] == [one.rng.random(), one.np_random.random()]


@pytest.mark.parametrize("twice", ["view", "list", "within itself"])
def test_what_changes_in_two_places_at_once_cannot_be_stored(twice: str) -> None:
    """It would come back as two things, of which one no longer follows the other."""
    env = Shared(twice)
    env.reset(seed=0)
    assert get_state(env) is None


def test_a_generator_of_two_layers_cannot_be_stored() -> None:
    env = gym.Wrapper(Shared())
    env.reset(seed=0)
    assert get_state(env) is not None
    env.rng = env.unwrapped.np_random  # type: ignore[attr-defined]
    assert get_state(env) is None


def test_what_is_no_plain_value_cannot_be_stored() -> None:
    env = scripted()
    env.engine = object()
    assert get_state(env) is None
    assert get_vec_state(DummyVecEnv([lambda: env]))["envs"] is None


def test_functions_are_stored_but_not_what_other_objects_do() -> None:
    env = scripted()
    env.largest, env.made, env.own = max, dict.fromkeys, env.step  # type: ignore[attr-defined]
    wrapper = gym.Wrapper(env)
    wrapper.inner = env.step  # type: ignore[attr-defined]
    assert get_state(wrapper) is not None
    env.controller = Exact().step  # type: ignore[attr-defined]
    assert get_state(env) is None


def test_an_environment_says_that_it_cannot_be_stored() -> None:
    """Its attributes are plain, but its world is elsewhere: a robot, or a simulator behind a number."""

    class Robot(Scripted):
        def get_state(self) -> None:
            return None

        def set_state(self, state: Any) -> None:
            raise AssertionError

    env = Robot(spaces.Discrete(2), spaces.Discrete(2))
    env.client = 0  # type: ignore[attr-defined]
    assert get_state(env) is None
    assert get_vec_state(DummyVecEnv([lambda: env]))["envs"] is None


def test_methods_of_these_names_that_are_called_otherwise() -> None:
    """MuJoCo's set_state(qpos, qvel), for one: such an environment is stored by its attributes, or not at all."""

    class Simulator(Scripted):
        def get_state(self, name: str) -> str:
            return name

        def set_state(self, qpos: Any, qvel: Any) -> None:
            raise AssertionError

    one, other = (Simulator(spaces.Discrete(2), spaces.Discrete(2)) for _ in range(2))
    one.reset(seed=0)
    one.step(one.action_space.sample())
    other.reset(seed=1)
    set_state(other, from_json(to_json(get_state(one))))
    assert other._step == one._step == 1
    other.engine = object()  # type: ignore[attr-defined]
    assert get_state(other) is None


def test_environments_must_be_wrapped_alike() -> None:
    state = get_state(Monitor(scripted()))
    with pytest.raises(ArchiveError, match=r"made of .*Scripted.* but the stored one was of .*Monitor"):
        set_state(scripted(), state)
    normalised = VecNormalize(DummyVecEnv([scripted]))
    with pytest.raises(ArchiveError, match=r"has the wrappers \[\], but the stored one had 1"):
        set_vec_state(DummyVecEnv([scripted]), get_vec_state(normalised))
    with pytest.raises(ArchiveError, match=r"has the wrappers \['VecNormalize'\], but the stored one had 0"):
        set_vec_state(normalised, get_vec_state(DummyVecEnv([scripted])))


def test_statistics_of_normalisation_are_kept_even_if_episodes_are_not() -> None:
    def engine() -> gym.Env[Any, Any]:
        env = scripted()
        env.engine = object()
        return env

    one, other = (VecNormalize(DummyVecEnv([engine])) for _ in range(2))
    one.reset()
    for _ in range(9):
        one.step(np.array([0]))
    assert not set_vec_state(other, from_json(to_json(get_vec_state(one))))
    np.testing.assert_array_equal(one.obs_rms["a"].mean, other.obs_rms["a"].mean)
    np.testing.assert_array_equal(one.obs_rms["a"].var, other.obs_rms["a"].var)
    assert one.obs_rms["a"].count == other.obs_rms["a"].count
    assert (one.ret_rms.mean, one.ret_rms.var) == (other.ret_rms.mean, other.ret_rms.var)


def wrapped() -> gym.Env[Any, Any]:
    return Restorable(Monitor(scripted()))


def inside_out() -> gym.Env[Any, Any]:
    return Monitor(Restorable(scripted()))


class Mute(VecEnv):
    """As Isaac Lab's: cannot tell what is around its environments, and below it is no vector environment."""

    def __init__(self, make: Any) -> None:
        self.inner = inner = DummyVecEnv([make])
        self.reset, self.step_async, self.step_wait = inner.reset, inner.step_async, inner.step_wait
        super().__init__(1, inner.observation_space, inner.action_space)

    reset = step_async = step_wait = close = set_attr = env_method = None  # type: ignore[assignment]

    @property
    def unwrapped(self) -> Any:
        return self.inner.envs[0].unwrapped

    def get_attr(self, attr_name: str, indices: Any = None) -> Any:
        return self.inner.get_attr(attr_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Any:
        raise NotImplementedError


def test_vector_environments_that_do_not_tell_are_learned_in(tmp_path: Path) -> None:
    assert get_vec_state(Mute(scripted))["envs"] is None
    agent = tiny(env=VecNormalize(Mute(lambda: Clock(5))))
    agent.learn(30, callback=RunCheckpoint(tmp_path, every=10))
    assert agent.num_timesteps == 30


def test_other_processes_need_the_wrapper_outermost() -> None:
    for make, stored in ((wrapped, True), (inside_out, False), (scripted, False)):
        env: VecEnv = SubprocVecEnv([make], start_method="fork")
        try:
            assert (get_vec_state(env)["envs"] is not None) == stored
        finally:
            env.close()
