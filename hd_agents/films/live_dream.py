"""A dream that goes on beside an episode, one action at a time."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.films.strip import to_rgb
from hd_agents.policies import NumpyState
from hd_agents.spaces.executed import encode_actions
from hd_agents.world_model.rssm import State


class Dreamt(NamedTuple):
    """A moment of a dream.

    :param picture: (H, W, 3) uint8, of the observation's first image.
    :param reward: expected for the action that led here; 0 where it begins.
    :param goes_on: the probability that the episode does.
    """

    picture: NDArray[np.uint8]
    reward: float
    goes_on: float


class LiveDream:
    """What an agent's model believes happens, from a moment on of which it knew all that was seen::

        dream = LiveDream(agent)
        action, state = agent.predict(observation, state, start)
        dream.begin(state)
        dream.step(action)  # what it expects of it, where the environment shows what happens

    Takes the most likely course. It needs an observation with an image, of which it shows the first.

    :ivar steps: how long it has gone on. :ivar key: of the image in the encoded observation.
    :raises ValueError: where no image is observed.
    """

    def __init__(self, agent: HarmonyDreamAgent) -> None:
        self.policy = agent.policy
        if not self.policy.observations.images:
            raise ValueError("the model dreams of numbers, and not of images.")
        self.key = next(iter(self.policy.observations.images))
        self.steps = 0

    def begin(self, state: NumpyState) -> Dreamt:
        """Begin anew where ``state``, of one environment, was returned by ``predict``."""
        latent = self.policy.read_state(state, 1)
        self._state, self.steps = State(latent.deter, latent.stoch), 0
        return self._look()._replace(reward=0.0)

    @torch.no_grad()
    def step(self, action: Any) -> Dreamt:
        """Go on by an action of the environment's space. ValueError for what is none."""
        vector = encode_actions(self.policy.actions, np.asarray(action)[None])
        rssm = self.policy.networks.world_model.rssm
        self._state = rssm.imagine_step(self._state, torch.as_tensor(vector, device=self.policy.device), None)
        self.steps += 1
        return self._look()

    @torch.no_grad()
    def _look(self) -> Dreamt:
        model = self.policy.networks.world_model
        features = model.features(self._state)
        image = {self.key: model.decode(features)[self.key].float().cpu().numpy()}
        picture = to_rgb(self.policy.observations.decode(image)[self.key][0])
        return Dreamt(picture, float(model.reward(features)), float(model.continues(features)))
