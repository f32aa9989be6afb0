"""What environments deliver, checked where it arrives: an error names the environment, the key and the step.

Most surprises show in the arrays of a vector environment (:func:`encode`). Stable-Baselines3's ``DummyVecEnv`` however
copies every observation into an array of the space's own type first, where a float image becomes zeros and a short
vector is repeated; so there the single observations are checked before it does (:func:`watch`).
"""

import traceback
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from hd_agents.checks import FLOAT32_MAX
from hd_agents.spaces import SINGLE_KEY, ActionCodec, Observation, ObservationCodec


def check_env(env: Any) -> None:
    """ValueError for what is no environment, or one that an agent cannot learn in, before anybody wraps it."""
    if isinstance(env, gym.vector.VectorEnv):
        raise ValueError(
            "env is one of gymnasium.vector: use a vector environment of Stable-Baselines3, such as "
            "stable_baselines3.common.env_util.make_vec_env makes."
        )
    if isinstance(env, type) or not (hasattr(env, "observation_space") and hasattr(env, "action_space")):
        kind = "a function or class: call it" if callable(env) else f"a {type(env).__name__}"
        raise ValueError(
            f"env={env!r} is {kind}; use a Gymnasium environment or its id, or a vector environment of "
            "Stable-Baselines3."
        )
    for name in ("action_space", "observation_space"):
        found = type(getattr(env, name))
        if not issubclass(found, spaces.Space):  # those of OpenAI Gym have the same names and print alike
            raise ValueError(
                f"env.{name} is a {found.__module__}.{found.__qualname__}, none of gymnasium.spaces: take those. "
                "An environment of OpenAI Gym has to be converted: shimmy.GymV26CompatibilityV0(env=env), or if its "
                "reset() takes no seed, shimmy.GymV21CompatibilityV0(env=env)."
            )
    ActionCodec(env.action_space)
    codec = ObservationCodec(env.observation_space)
    if len({spec.channels_first for spec in codec.images.values()}) > 1:
        raise ValueError(
            f"The observation space {env.observation_space} has images with channels first and others with channels "
            "last, which Stable-Baselines3 does not take: use one layout for all."
        )
    normalizer = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None
    if normalizer is not None:
        inner = ObservationCodec(normalizer.observation_space).shapes
        if inner != codec.shapes:
            raise ValueError(
                f"A wrapper around VecNormalize makes observations of the shapes {codec.shapes} out of {inner}: put "
                "VecNormalize outermost, as replay keeps what it has not normalised."
            )


def encode(
    codec: ObservationCodec, observations: Observation, steps: int, what: str = "", only: int | None = None
) -> dict[str, NDArray[Any]]:
    """``codec.read`` of N environments' observations; its errors say whose, and when.

    :param steps: env steps done before these arrived. :param what: of which kind they are, such as "last ".
    :param only: the environment that a single observation is of.
    :raises ValueError: naming environment, key and step.
    """
    try:
        return codec.read(observations)[0]
    except ValueError as error:
        env, reason = (only, error) if only is not None else _culprit(codec, observations, error)
        name = "An environment" if env is None else f"Environment {env}"
        raise ValueError(f"{name} returned a wrong {what}observation after {steps:,} env steps: {reason}") from error


def step_all(env: VecEnv, actions: NDArray[Any], steps: int) -> VecEnvStepReturn:
    """``env.step``, with a ValueError for infos that are not one for each environment, and for a reward that is no
    number, of which a ``Monitor`` does not say what it is.

    :param steps: env steps done before it.
    """
    try:
        step = env.step(actions)
    except TypeError as error:
        variables = {frame.f_code: frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)}
        reward = variables.get(Monitor.step.__code__, {}).get("reward", 0.0)
        try:
            float(reward)
        except TypeError:
            which = variables.get(DummyVecEnv.step_wait.__code__, {}).get("env_idx")
            name = "An environment" if which is None else f"Environment {which}"
            raise ValueError(
                f"{name} returned the reward {reward!r} after {steps:,} env steps: expected one number "
                "(of an array that holds one: `reward.item()`; of several rewards, their weighted sum)."
            ) from error
        raise
    infos: Any = step[3]
    if infos is None or len(infos) != env.num_envs or not all(isinstance(info, Mapping) for info in infos):
        raise ValueError(
            f"The environments returned the infos {infos!r:.100} after {steps:,} env steps: expected a list of "
            f"{env.num_envs} dicts, one for each."
        )
    return step


def check_rewards(rewards: NDArray[Any], steps: int) -> None:
    """ValueError naming the environment and the step unless all rewards (N,) are finite in float32."""
    values = np.asarray(rewards)
    if values.dtype.kind not in "biuf" or values.ndim != 1:
        raise ValueError(
            f"The environments returned rewards of type {values.dtype} and shape {values.shape} after {steps:,} env "
            "steps: expected one number for each."
        )
    wrong = ~(np.abs(values.astype(np.float64)) <= FLOAT32_MAX)
    if wrong.any():
        env = int(wrong.argmax())
        raise ValueError(
            f"Environment {env} returned the reward {values[env]} after {steps:,} env steps: expected a finite number "
            "that fits into float32."
        )


def as_flags(dones: NDArray[Any], n_envs: int, steps: int) -> NDArray[np.bool_]:
    """The ends of episodes (N,) as truth values, which some environments give as numbers. ValueError for a shape."""
    flags = np.asarray(dones)
    if flags.shape != (n_envs,):
        raise ValueError(
            f"The environments returned ends of episodes of shape {flags.shape} after {steps:,} env steps: expected "
            "one for each."
        )
    return flags.astype(bool)


def watch(env: VecEnv, steps: Callable[[], int]) -> None:
    """Check every observation that a ``DummyVecEnv`` inside ``env`` takes in from now on; other kinds stay as they are.

    :param steps: tells how many env steps are done.
    """
    while isinstance(env, VecEnvWrapper):  # not env.unwrapped, which to some simulators is no vector environment
        env = env.venv
    if isinstance(env, DummyVecEnv):
        before = env._save_obs
        take_in = before.take_in if isinstance(before, _Watch) else before
        env._save_obs = _Watch(take_in, env, steps)  # type: ignore[method-assign]


class StepsOf:
    """How many env steps an agent has done, as long as it lives; environments that hold this do not keep it alive."""

    def __init__(self, agent: Any = None) -> None:
        self._agent = (lambda: None) if agent is None else weakref.ref(agent)

    def __call__(self) -> int:
        """0 once the agent is gone."""
        return getattr(self._agent(), "num_timesteps", 0)

    def __reduce__(self) -> tuple[type["StepsOf"], tuple[()]]:
        return StepsOf, ()  # a copy of the environments is nobody's until somebody learns in it


class _Watch:
    def __init__(self, take_in: Callable[[int, Any], None], env: DummyVecEnv, steps: Callable[[], int]) -> None:
        self.take_in, self.env, self.steps = take_in, env, steps
        self.before: dict[int, Any] = {}  # what each environment returned last, in its own arrays

    def __call__(self, env_idx: int, obs: Any) -> None:
        if reason := misfit(obs, self.env.observation_space):
            done = self.steps()
            raise ValueError(f"Environment {env_idx} returned a wrong observation after {done:,} env steps: {reason}.")
        if self.env.buf_dones[env_idx] and self._is_lost(env_idx, obs):
            warnings.warn(
                f"Environment {env_idx} returns one array again and again, and changes it: the last observation of an "
                "episode is lost, and the first of the next stands in its place. Return observation.copy().",
                stacklevel=2,
            )
        self.take_in(env_idx, obs)
        self.before[env_idx] = obs

    def _is_lost(self, env: int, obs: Any) -> bool:
        """Whether an episode's last observation was in an array that ``obs``, the next one's first, is written into."""
        told = self.before.get(env), self.env.buf_infos[env].get("terminal_observation"), obs
        for key, rows in self.env.buf_obs.items():
            before, last, first = (one.get(key) if isinstance(one, Mapping) else one for one in told)
            arrays = isinstance(last, np.ndarray) and isinstance(first, np.ndarray)
            shared = arrays and np.may_share_memory(last, first)
            if shared and before is not None and not np.array_equal(np.asarray(before, rows.dtype), rows[env]):
                return True
        return False


def misfit(observation: Any, space: spaces.Space[Any]) -> str | None:
    """What is wrong with a single observation for its space, if anything is."""
    if not isinstance(space, spaces.Dict):
        return _misfit(SINGLE_KEY, observation, space)
    if not isinstance(observation, Mapping) or not space.spaces.keys() <= observation.keys():
        return f"it is {_kind(observation)}, expected a dict with the keys {sorted(space.spaces)}"
    reasons = (_misfit(key, observation[key], part) for key, part in space.spaces.items())
    return next((text for text in reasons if text), None)


def _misfit(key: str, value: Any, space: spaces.Space[Any]) -> str | None:
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        return f"the key {key!r} is no array ({error})"
    wanted = np.dtype(space.dtype)
    if array.shape != space.shape:
        return f"the key {key!r} has shape {array.shape}, expected {space.shape}"
    if np.can_cast(array.dtype, wanted, "same_kind"):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"the key {key!r} holds {array[~np.isfinite(array)][0]}, expected finite numbers"
        return None
    if array.dtype.kind in "iu" and wanted.kind in "iu" and (array == array.astype(wanted)).all():
        return None
    return f"the key {key!r} is {array.dtype}, which {wanted} cannot hold"


def _culprit(codec: ObservationCodec, observations: Any, error: ValueError) -> tuple[int | None, ValueError]:
    """Which environment's part fails by itself, and why; None if that cannot be told."""
    parts = observations if isinstance(observations, Mapping) else {SINGLE_KEY: observations}
    try:
        count = min(len(value) for value in parts.values())
    except (TypeError, ValueError):
        count = 0
    for env in range(count):
        alone = {key: value[env : env + 1] for key, value in parts.items()}
        try:
            codec.read(alone if isinstance(observations, Mapping) else alone[SINGLE_KEY])
        except ValueError as reason:
            return env, reason
    return None, error


def _kind(value: Any) -> str:
    return f"a dict with the keys {sorted(value)}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
