"""The world model as a vector environment, for whatever learns or is scored in one of Stable-Baselines3."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn
from torch import Tensor

from hd_agents import checks
from hd_agents.agent import HarmonyDreamAgent
from hd_agents.policies import DreamPolicy
from hd_agents.spaces import SINGLE_KEY, Observation
from hd_agents.spaces.executed import encode_actions
from hd_agents.training.normalizing import normalize_batch
from hd_agents.world_model.rssm import State
from hd_agents.world_model.world_model import WorldModel

POOL = 512  # states at least that episodes begin in, before others are taken from the replay


class DreamVecEnv(VecEnv):
    """Episodes that the agent's world model dreams, one step per action: no environment is involved::

        dream = DreamVecEnv(agent, n_envs=16)
        PPO("MlpPolicy", VecMonitor(dream)).learn(100_000)

    Rewards are the expected ones, in the unit that the agent was trained on. An episode is terminated with the
    probability that the model gives, and truncated after ``max_steps``. The model may be trained on meanwhile.

    :param agent: whose model it is; one that is packed for acting has none.
    :param n_envs: episodes side by side.
    :param max_steps: of an episode. Dreams go astray: the longer, the less they are worth.
    :param starts: observations (N, ...) that episodes begin with, such as those of ``reset``; None for states anywhere
        in the agent's replay.
    :param decode: observe what the model believes would be seen, in the agent's own observation space (images height x
        width x channels), so that what learns here can act there; False for the latent state (D,), much faster.
    :param deterministic: the most likely course instead of a sampled one; episodes are terminated where that is likely.
    :param seed: of starts and courses; None for a random one.
    :raises ValueError: for an agent that is packed for acting only, for ``starts`` that do not fit, and without them
        for an agent whose replay does not hold a sequence.
    """

    def __init__(
        self,
        agent: HarmonyDreamAgent,
        n_envs: int = 16,
        max_steps: int = 64,
        starts: Observation | None = None,
        decode: bool = True,
        deterministic: bool = False,
        seed: int | None = None,
    ) -> None:
        self.agent, self.max_steps = agent, checks.whole("max_steps", max_steps, 1)
        self.decode, self.deterministic = decode, deterministic
        self.render_mode = None
        self._starts = None
        if starts is not None:
            self._starts, batched = self._policy.observations.read(starts)
            if not batched:
                raise ValueError("starts is one observation: pass a batch, with an axis of 1 or more in front.")
        space = self._space() if decode else spaces.Box(-np.inf, np.inf, (self._model.rssm.features,))
        super().__init__(checks.whole("n_envs", n_envs, 1), space, agent.action_space)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._pool: State | None = None
        self._filtered_by: list[Any] = []  # what the model was when it filtered the pool
        self.seed(seed)
        self._state, self._vectors = self._begin(self.num_envs), torch.zeros(0)
        if not self._model.reward(self._model.features(self._state)).isfinite().all():
            raise ValueError("The agent predicts rewards that are not finite; one that is packed for acting has none.")
        self.seed(seed)  # anew: seeing that has drawn from it

    @property
    def _policy(self) -> DreamPolicy:
        return self.agent.policy

    @property
    def _model(self) -> WorldModel:
        return self.agent.policy.networks.world_model

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed all episodes from the next reset on."""
        seeds = super().seed(checks.seed(seed))
        self._pool = None
        self._rng = np.random.default_rng(seeds[0])
        self._generator = torch.Generator().manual_seed(int(self._rng.integers(2**63)))
        return seeds

    @torch.no_grad()
    def reset(self) -> VecEnvObs:
        """Begin all episodes; observations (N, ...)."""
        self._state, self._steps[:] = self._begin(self.num_envs), 0
        return self._observe(self._state)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take actions (N, ...) of the action space. ValueError for others."""
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} episodes: pass one for each.")
        if isinstance(self.action_space, spaces.MultiBinary) and np.isin(actions, (0, 1)).all():
            actions = np.asarray(actions).astype(np.int8)  # Stable-Baselines3's algorithms choose floats there
        self._vectors = torch.as_tensor(encode_actions(self._policy.actions, actions), device=self._policy.device)

    @torch.no_grad()
    def step_wait(self) -> VecEnvStepReturn:
        """What the model believes that they led to."""
        draw = None if self.deterministic else self._draw(self.num_envs, self._model.rssm.stoch)
        self._state = self._model.rssm.imagine_step(self._state, self._vectors, draw)
        features = self._model.features(self._state)
        rewards = self._model.reward(features).float().cpu().numpy()
        goes_on = self._model.continues(features).float().cpu().numpy()
        terminated = goes_on < (0.5 if self.deterministic else self._rng.random(self.num_envs))
        self._steps += 1
        dones = terminated | (self._steps == self.max_steps)
        observations = self._observe(self._state)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            begun = self._begin(int(dones.sum()))
            first = self._observe(begun)
            for number, env in enumerate(map(int, np.flatnonzero(dones))):
                last, cut = _row(observations, env), bool(not terminated[env])
                infos[env] = {"terminal_observation": copy.deepcopy(last), "TimeLimit.truncated": cut}
                _put(observations, env, _row(first, number))
            where = torch.as_tensor(dones, device=self._policy.device)[:, None]
            pairs = zip(self._state, begun, strict=True)
            self._state = State(*(running.masked_scatter(where, new) for running, new in pairs))
            self._steps[dones] = 0
        return observations, rewards, dones, infos

    def _begin(self, count: int) -> State:
        """So many states for episodes to begin in, each taken from the pool once."""
        self._policy.set_training_mode(False)  # parts that were put in since are in training mode: dropout would drop
        now = [self.agent.learner.updates, *((id(weight), weight._version) for weight in self._model.parameters())]
        pool = self._states() if self._pool is None or now != self._filtered_by else self._pool
        self._filtered_by = now
        while len(pool.deter) < count:
            pool = State(*(torch.cat(parts) for parts in zip(pool, self._states(), strict=True)))
        self._pool = State(*(part[count:] for part in pool))
        return State(*(part[:count] for part in pool))

    @torch.no_grad()
    def _states(self) -> State:
        """States that were filtered anew, in random order: of ``starts``, or of about POOL steps of the replay."""
        policy, agent = self._policy, self.agent
        if self._starts is not None:
            n = len(next(iter(self._starts.values())))
            draws = (None if self.deterministic else self._draw(n, self._model.rssm.stoch), None)
            first = torch.ones(n, dtype=torch.bool, device=policy.device)
            found = policy.step_on_device(policy.to_device(self._starts), policy.initial(n), first, draws)
            state, usable = State(found.deter, found.stoch), first
        else:
            length, replay = agent.sequence_length, agent.replay_buffer
            if replay is None or not replay.can_sample(length):
                raise ValueError("The agent's replay does not hold a sequence to begin in: pass starts=..., or learn.")
            batch = replay.sample(max(1, POOL // length), length, self._rng, agent.device)
            batch = normalize_batch(batch, agent._vec_normalize_env)
            draw = None if self.deterministic else self._draw(*batch.reward.shape, self._model.rssm.stoch)
            embed = self._model.encode(batch.observation)
            states, _ = self._model.rssm.observe(embed, batch.action, batch.is_first, draw)
            state, usable = State(*(part.flatten(0, 1) for part in states)), ~batch.terminated.flatten().bool()
        order = torch.as_tensor(self._rng.permutation(len(usable)), device=policy.device)
        order = order[usable[order]]
        return State(*(part[order].float() for part in state))

    def _draw(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator).to(self._policy.device)

    def _observe(self, state: State) -> VecEnvObs:
        """The observations (N, ...) that stand for latent states."""
        features = self._model.features(state)
        if not self.decode:
            return features.float().cpu().numpy()
        means = {key: mean.float().cpu().numpy() for key, mean in self._model.decode(features).items()}
        found = {key: _inside(part, self._spaces[key]) for key, part in self._policy.observations.decode(means).items()}
        return found if self._policy.observations.is_dict else found[SINGLE_KEY]

    def _space(self) -> spaces.Space[Any]:
        codec = self._policy.observations
        images = {key: spaces.Box(0, 255, spec.shape, np.uint8) for key, spec in codec.images.items()}
        self._spaces = codec.spaces | images
        normalizer = self.agent.get_vec_normalize_env()
        if normalizer is not None and normalizer.norm_obs:  # the model knows normalised observations alone
            known = normalizer.norm_obs_keys if codec.is_dict else [SINGLE_KEY]
            limit = normalizer.clip_obs
            self._spaces |= {key: spaces.Box(-limit, limit, codec.spaces[key].shape, np.float32) for key in known or ()}
        return spaces.Dict(self._spaces) if codec.is_dict else self._spaces[SINGLE_KEY]

    def close(self) -> None:
        """There is nothing to close."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of this object, once for each episode."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of this object."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Refused: there are no environments."""
        raise AttributeError(f"A dream has no environments, and so no {method_name}().")

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """False, once for each episode."""
        return [False] * len(list(self._get_indices(indices)))


def _inside(value: NDArray[Any], space: spaces.Space[Any]) -> NDArray[Any]:
    """In the type and the bounds of a space."""
    if isinstance(space, spaces.Box) and value.dtype != np.uint8:
        value = np.clip(np.rint(value) if space.dtype.kind in "iu" else value, space.low, space.high)
    return value.astype(space.dtype)


def _row(observations: Any, env: int) -> Any:
    """The observation of one episode."""
    if isinstance(observations, dict):
        return {key: part[env] for key, part in observations.items()}
    return observations[env]


def _put(observations: Any, env: int, row: Any) -> None:
    """Set the observation of one episode."""
    if isinstance(row, dict):
        for key, value in row.items():
            observations[key][env] = value
    else:
        observations[env] = row
