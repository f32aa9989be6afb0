"""An agent for those who only want actions."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hd_agents.export import Ports, export
from hd_agents.policies import DreamPolicy, NumpyState
from hd_agents.spaces import Observation
from hd_agents.spaces.executed import with_executed


class Player:
    """A policy and the state it needs, for those who only want actions::

        player = agent.player()
        obs, info = env.reset()
        player.reset()
        action = player.act(obs)

    An agent that was trained in a ``VecNormalize`` wants observations as that makes them (``normalize_obs``).

    :param deterministic: as for :meth:`DreamPolicy.predict`.
    """

    def __init__(self, policy: DreamPolicy, deterministic: bool = False) -> None:
        self.policy = policy
        self.deterministic = deterministic
        self.state: NumpyState | None = None  # for the next observation, also in `imagine`; None before the first

    def reset(self) -> None:
        """Forget everything: the next observation is the first of an episode, in every environment."""
        self.state = None

    def act(
        self, observation: Observation, episode_start: NDArray[Any] | None = None, executed: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The action for the next observation, single or batched (then with as many environments as before).

        :param episode_start: (N,) True where an environment of the batch began a new episode.
        :param executed: what was done instead of the last action, in the same form, where the two differ.
        :raises ValueError: for what does not fit its space or is not finite.
        """
        state = self.state if self.state is None else with_executed(self.policy.actions, self.state, executed)
        if state is None:
            episode_start = np.ones(1, dtype=bool)  # in every environment
        action, self.state = self.policy.predict(observation, state, episode_start, self.deterministic)
        return action

    def export(self, path: str | Path, n_envs: int = 1) -> Ports:
        """Write one step of acting as a program for machines without this package.

        Latent state and random numbers are inputs and outputs of it. Its numbers are those of :meth:`act`, in ONNX
        within float error.

        :param path: ``.onnx`` for ONNX, or ``.pt2`` for ``torch.export.load``.
        :param n_envs: how many environments it acts for at once.
        :return: names, shapes, types and meanings of inputs and outputs, in their order; they stand in the file too,
            as JSON under ``"hd_agents"``: ONNX's metadata, or an extra file of ``torch.export.load``.
        :raises ValueError: for another suffix, and for ONNX of sampled continuous actions of DreamerV2.
        :raises ImportError: for ONNX without the extra ``export``. :raises OSError: where it cannot be written.
        """
        policy = self.policy
        return export(policy.networks, policy.observations, policy.actions, path, self.deterministic, n_envs)
