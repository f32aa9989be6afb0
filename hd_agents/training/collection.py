"""From environment steps to replay rows: acting while training, and where episodes begin and end.

One step of one environment becomes one row; an episode of n steps becomes n + 1 rows::

    reset --> row (first observation, no action, reward 0, is_first)
    step  --> row (the observation it led to, the action, its reward)
    last  --> row (the terminal observation, the action, its reward, terminated unless a time limit cut it off)

Rows hold what came before any normalisation, see :mod:`hd_agents.training.normalizing`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hd_agents.arrivals import check_rewards, encode
from hd_agents.graphs import Capture, Graphed, capture_on_cuda
from hd_agents.policies import DreamPolicy, Latent
from hd_agents.replay import SequenceReplay
from hd_agents.spaces import Observation
from hd_agents.spaces.executed import EXECUTED, encode_executed


def make_replay(
    policy: DreamPolicy, capacity: int | None, n_envs: int, sequence_length: int, folder: str | None = None
) -> SequenceReplay:
    """A still unallocated replay for the spaces of ``policy``.

    :param capacity: rows, over all environments; None for what fits.
    :param sequence_length: steps that have to fit for each environment. :param folder: of the rows; None for memory.
    :raises ValueError: if they do not.
    """
    images = {key: spec.shape for key, spec in policy.observations.images.items()}
    vectors = {key: spec.size for key, spec in policy.observations.vectors.items()}
    if capacity is None or capacity >= n_envs:
        actions = policy.actions
        replay = SequenceReplay(capacity, n_envs, images, vectors, actions.size, folder, actions.describe())
        if replay.rows_per_env >= sequence_length:
            return replay
    needed = f"no sequence of {sequence_length} steps for each of {n_envs} environments"
    if capacity is None:
        where = "memory" if folder is None else f"disk space of {folder}"
        advice = "replay_folder" if folder is None else "another replay_folder"
        raise ValueError(
            f"Half of the free {where} holds {needed} (no more than {replay.capacity:,} rows): make room, or give "
            f"{advice} on a disk that has it."
        )
    raise ValueError(f"buffer_size={capacity} holds {needed}: use at least {n_envs * sequence_length}.")


class VecStep(NamedTuple):
    """What one step of a vector environment delivered: N rewards, ends and infos, and the observations after resets.

    All of it is as it was before any normalisation.

    :param lasts: the last observations of episodes that ended, by environment, where they were delivered.
    :param steps: env steps done before it.
    """

    observations: Any
    rewards: NDArray[Any]
    dones: NDArray[np.bool_]
    infos: list[dict[str, Any]]
    lasts: Mapping[int, Any]
    steps: int


class GraphedActing:
    """``policy.step`` with sampled actions as a graph: the same latents and actions, from the same random numbers.

    :param policy: on a CUDA device. :param capture: records a function; another one in tests without a GPU.
    """

    def __init__(self, policy: DreamPolicy, capture: Capture = capture_on_cuda) -> None:
        self._policy = policy
        self._step = Graphed(policy.step_on_device, self._bound_to, "acting", capture)

    @torch.no_grad()
    def __call__(self, encoded: Mapping[str, NDArray[Any]], latent: Latent, is_first: NDArray[np.bool_]) -> Latent:
        """The next latent, good until the next call; arguments as for :meth:`DreamPolicy.step`."""
        policy = self._policy
        first = torch.as_tensor(is_first, device=policy.device)
        return self._step(policy.to_device(encoded), latent, first, policy.draw(len(is_first)))

    def _bound_to(self) -> list[Any]:
        """What acts: another object once more than numbers has changed, or one whose parts tell of that."""
        acting = self._policy.acting_now()
        return [acting, *acting.parts(), next(self._policy.networks.actor.parameters())]


class Collector:
    """Acts with the latents of training, which nobody else touches, and writes replay rows.

    :param policy: acts, and knows the spaces. :param n_envs: N.
    :param step: acts in place of ``policy.step``, always sampling: a graph of it.
    """

    def __init__(self, policy: DreamPolicy, n_envs: int, step: Callable[..., Latent] | None = None) -> None:
        self.policy = policy
        self._step = step
        self.latent: Latent | None = None  # None while actions are random: filtering begins with the first chosen one
        self._actions = np.zeros((n_envs, policy.actions.size), dtype=np.float32)
        self._warned = False

    def begin(self, replay: SequenceReplay, originals: Observation, starts: NDArray[np.bool_], steps: int = 0) -> None:
        """Write the first row of each environment's episode where ``starts`` (N,) is True.

        :param originals: observations before any normalisation. :param steps: env steps done before they arrived.
        :raises ValueError: for one that does not fit its space or is not finite.
        """
        if not starts.any():
            return
        rows = encode(self.policy.observations, originals, steps, "first ")
        nothing = np.zeros(self.policy.actions.size, dtype=np.float32)
        for env in np.flatnonzero(starts):
            replay.add(int(env), _row(rows, env), nothing, 0.0, True, False)

    def act(self, observations: Observation, starts: NDArray[np.bool_], random: bool) -> NDArray[Any]:
        """Actions for the environments: uniform random ones, or the actor's, sampled.

        :param observations: as the policy sees them (normalised). :param starts: (N,) first of an episode.
        """
        if random:
            self.latent = None
            self._actions = self.policy.actions.sample(len(starts))
        else:
            if self.latent is None:
                self.latent, starts = self.policy.initial(len(starts)), np.ones_like(starts)
            encoded = self.policy.observations.encode(observations)
            if self._step is None:
                self.latent = self.policy.step(encoded, self.latent, starts, deterministic=False)
            else:
                self.latent = self._step(encoded, self.latent, starts)
            self._actions = self.latent.action.cpu().numpy()
        return self.policy.actions.decode(self._actions)

    def store(self, replay: SequenceReplay, step: VecStep) -> None:
        """Write one row for each environment: what the last actions led to.

        :raises ValueError: for an observation or reward that is not finite or does not fit, naming the environment.
        """
        check_rewards(step.rewards, step.steps)
        self._correct(step.infos, step.steps)
        rows = encode(self.policy.observations, step.observations, step.steps)
        for env, done in enumerate(step.dones):
            row, info = _row(rows, env), step.infos[env]
            if env in step.lasts:
                row = _row(encode(self.policy.observations, step.lasts[env], step.steps, "last ", env), 0)
            elif done:  # the row at hand is the first of the next episode
                self._warn_of_lost_ends(env)
                row = replay.newest(env)
            terminated = bool(done) and not info.get("TimeLimit.truncated", False)
            replay.add(env, row, self._actions[env], float(step.rewards[env]), False, terminated)

    def _warn_of_lost_ends(self, env: int) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"Environment {env} ended an episode without info['terminal_observation']: the last observation is "
                "lost, and the one before it stands in its place. Have the vector environment deliver it there, as "
                "those of Stable-Baselines3 do.",
                UserWarning,
                stacklevel=2,
            )

    def _correct(self, infos: Sequence[Mapping[str, Any]], steps: int) -> None:
        """Put what environments did in the place of what they were told to do, for the replay and for filtering on."""
        when = f" after {steps:,} env steps"
        done = {
            env: encode_executed(self.policy.actions, info, env, when)
            for env, info in enumerate(infos)
            if EXECUTED in info
        }
        if not done:
            return
        self._actions = self._actions.copy()
        for env, action in done.items():
            self._actions[env] = action
        if self.latent is not None:
            self.latent = self.latent._replace(action=torch.as_tensor(self._actions, device=self.policy.device))


def _row(rows: Mapping[str, NDArray[Any]], env: int | np.integer) -> dict[str, NDArray[Any]]:
    return {key: value[env] for key, value in rows.items()}
