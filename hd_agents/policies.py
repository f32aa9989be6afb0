"""The networks as a Stable-Baselines3 policy: acting, with the latent state filtered through time. NumPy in and out.

Acting is one function, :meth:`DreamPolicy.step_on_device`. Training, ``predict`` and the player all end in it, so their
latents cannot differ; who calls it keeps the latent, so they cannot disturb each other either.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device
from torch import Tensor

from hd_agents.acting import Acting, make_acting
from hd_agents.backbones import Networks, build
from hd_agents.saving.archive import read_archive, write_archive
from hd_agents.saving.vetting import blamed_on, check_weights
from hd_agents.spaces import ActionCodec, Observation, ObservationCodec, looks_like_images, to_pixels
from hd_agents.world_model.rssm import State

Self = TypeVar("Self", bound="DreamPolicy")
NumpyState = tuple[NDArray[Any], ...]


class Latent(NamedTuple):
    """What acting carries from one step to the next, env axis first.

    :param deter: (N, D) memory. :param stoch: (N, S * K) sampled classes, one-hot.
    :param action: (N, A) action vector chosen in this state, which leads to the next observation.
    """

    deter: Tensor
    stoch: Tensor
    action: Tensor


class DreamPolicy(BasePolicy):
    """World model, actor and critic for one pair of spaces; the base of the three named policies.

    :param observation_space: what ``predict`` takes; each key is routed to an image or a vector network.
    :param action_space: what ``predict`` returns.
    :param backbone: "dreamerv3" or "dreamerv2". :param size: a preset's name, "nano" to "xlarge".
    :param harmony: which losses are harmonised, see :class:`hd_agents.agent.HarmonyDreamAgent`.
    :param gamma: discount per agent step, which DreamerV2's continue head is trained on; None for the backbone's.
    :param overrides: network widths over the preset.
    :raises ValueError: for spaces without a network, or that another policy is meant for.
    """

    observations_wanted: ClassVar[str] = "any"

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        backbone: str = "dreamerv3",
        size: str = "small",
        harmony: bool | Mapping[str, bool | float] = True,
        gamma: float | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        overrides = dict(overrides or {})
        harmony = dict(harmony) if isinstance(harmony, Mapping) else harmony
        self.settings = {"backbone": backbone, "size": size, "harmony": harmony, "gamma": gamma, "overrides": overrides}
        self.observations = ObservationCodec(observation_space)
        self.actions = ActionCodec(action_space)
        self._check_pairing()
        self.networks: Networks = build(
            backbone,
            images={key: spec.shape for key, spec in self.observations.images.items()},
            vectors={key: spec.size for key, spec in self.observations.vectors.items()},
            action_size=self.actions.size,
            action_groups=self.actions.groups,
            size=size,
            harmony=harmony,
            gamma=gamma,
            overrides=overrides,
        )
        self._acting: Acting | None = None  # made when it is first needed
        self._memoryless_calls = 0

    def _check_pairing(self) -> None:
        """Refuse a space that a differently named policy stands for, and name that policy."""
        right = self.observations.policy
        if self.observations_wanted not in ("any", right):
            hint = f"{to_pixels(self.observation_space, '')} Else " if looks_like_images(self.observation_space) else ""
            raise ValueError(
                f"{self.observations_wanted} does not take the observation space {self.observation_space}; "
                f'{hint}use policy="{right}". CnnPolicy takes one image, MlpPolicy one vector or integers, '
                "MultiInputPolicy a Dict of both."
            )
        for key in self.observations.flattened_images():
            numbers, advice = self.observations.vectors[key].size, to_pixels(self.observation_space, key)
            warnings.warn(f"The observation {key!r} is learned as a vector of {numbers:,}. {advice}", stacklevel=3)

    @property
    def device(self) -> torch.device:
        """Where the networks are. Stable-Baselines3's own walks through all modules, at every step many times."""
        return next(self.networks.world_model.rssm.parameters()).device

    def initial(self, n_envs: int) -> Latent:
        """Zeros for ``n_envs`` environments; a step with ``is_first`` replaces them by the model's initial state."""
        device = self.device
        return Latent(*(torch.zeros(shape, device=device) for shape in self._latent_shapes(n_envs)))

    def _latent_shapes(self, n_envs: int) -> list[tuple[int, int]]:
        rssm = self.networks.world_model.rssm
        return [(n_envs, rssm.deter), (n_envs, rssm.stoch_size), (n_envs, self.actions.size)]

    @torch.inference_mode()
    def step(
        self,
        encoded: Mapping[str, NDArray[Any]],
        latent: Latent,
        is_first: NDArray[np.bool_],
        deterministic: bool,
        mode: bool = False,
    ) -> Latent:
        """Take in one observation and choose an action.

        :param encoded: arrays of :meth:`ObservationCodec.encode`. :param latent: of the step before.
        :param is_first: (N,), where an episode begins: the latent and its action are forgotten there.
        :param deterministic: mode of the latent and of the action, else samples from torch's global generator.
        :param mode: mode of the action in a sampled latent, as the paper's robotics code evaluates.
        """
        n = len(is_first)
        first = torch.as_tensor(is_first, device=self.device) if is_first.any() else None
        draws = (None, None) if deterministic else (self.latent_draw(n), None) if mode else self.draw(n)
        return self.step_on_device(self.to_device(encoded), latent, first, draws)

    def step_on_device(
        self, observation: Mapping[str, Tensor], latent: Latent, first: Tensor | None, draws: tuple[Tensor | None, ...]
    ) -> Latent:
        """The part of :meth:`step` that runs on the device alone.

        :param first: (N,) or None for nowhere. :param draws: what :meth:`draw` gives, or None twice for modes.
        """
        acting, (of_latent, of_action) = self.acting_now(), draws
        state = acting.filter(observation, State(latent.deter, latent.stoch), latent.action, first, of_latent)
        return Latent(state.deter, state.stoch, self._sample(acting.choose(state), of_action))

    @torch.inference_mode()
    def choose(self, state: State, deterministic: bool) -> Tensor:
        """The actor's action vectors (N, A) in ``state``; continuous ones are cut to [-1, 1], as the env will see."""
        draw = None if deterministic else self.networks.actor.draw(len(state.deter), device=self.device)
        return self._sample(self.acting_now().choose(state), draw)

    def to_device(self, encoded: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """Encoded observations as tensors where the networks are."""
        device = self.device
        return {key: torch.as_tensor(_writable(value), device=device) for key, value in encoded.items()}

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Random numbers for one step of ``n`` environments: latents (n, S), and what the actor wants for actions."""
        latents = self.latent_draw(n)
        return latents, self.networks.actor.draw(n, device=latents.device)

    def latent_draw(self, n: int) -> Tensor:
        """Random numbers (n, S) for one sample of the latent, from torch's global generator."""
        return torch.rand(n, self.networks.world_model.rssm.stoch, device=self.device)

    def acting_now(self) -> Acting:
        """What acts for the networks; made anew where more of them has changed than the numbers in their weights."""
        model, actor = self.networks.world_model, self.networks.actor
        if self._acting is None or not self._acting.fits(model, actor):
            self._acting = make_acting(model, actor)
        if type(self._acting) is Acting and any(part.training for part in self.modules()):  # dropout would drop
            self.set_training_mode(False)
        return self._acting

    def _sample(self, parameters: Tensor, draw: Tensor | None) -> Tensor:
        distribution = self.networks.actor.distribution(parameters)
        action = distribution.mode() if draw is None else distribution.sample(draw)
        return action if self.actions.groups else action.clamp(-1.0, 1.0)

    def predict(
        self,
        observation: Observation,
        state: NumpyState | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
        mode: bool = False,
    ) -> tuple[NDArray[Any], NumpyState]:
        """Choose actions for one observation or for a batch of any size, and return the state to pass next time.

        :param observation: as the environment or the vector environment delivers it.
        :param state: what the call before returned: NumPy arrays (deter, stoch, action), env axis first; None at a
            start. Without it the agent has no memory: each observation is taken for the first of an episode.
        :param episode_start: (N,) True where the observation is the first of an episode: the state is reset there.
        :param deterministic: mode of the latent and of the action, which repeats exactly; else both are sampled.
        :param mode: mode of the action in a sampled latent, as the paper's robotics code evaluates.
        :return: actions in the action space, without env axis if the observation had none, and the new state.
        :raises ValueError: for an observation or state whose shape does not fit, or that is not finite.
        """
        encoded, batched = self.observations.read(observation)
        n = len(next(iter(encoded.values())))
        starts = _as_starts(episode_start, n)
        self._count_memoryless(state is None and not (episode_start is not None and starts.all()))
        if state is None:
            starts, latent = np.ones(n, dtype=bool), self.initial(n)
        else:
            latent = self.read_state(state, n, starts)
        latent = self.step(encoded, latent, starts, deterministic, mode)
        actions = self.actions.decode(latent.action.cpu().numpy())
        return actions if batched else actions.squeeze(axis=0), tuple(part.cpu().numpy() for part in latent)

    def read_state(self, state: NumpyState, n: int, starts: NDArray[np.bool_] | None = None) -> Latent:
        """The tensors of a NumPy state for ``n`` environments.

        :param starts: (n,) where it will be forgotten, and may be anything.
        :raises ValueError: where a shape does not fit, or a number is not finite.
        """
        if not isinstance(state, (tuple, list)):
            raise ValueError(
                f"state={state!r}: pass what predict() returned, or None at the start. It is the second argument; name "
                "the fourth: predict(obs, deterministic=True)."
            )
        parts = [np.asarray(part) if isinstance(part, list) else part for part in state]  # lists out of JSON
        wanted, found, device = self._latent_shapes(n), [np.shape(part) for part in parts], self.device
        if found != wanted:
            raise ValueError(
                f"The state has arrays of shapes {found}, but {n} observations of this agent need {wanted}. Pass what "
                "predict() returned for these environments, or None at the start."
            )
        if not all(math.isfinite(part.sum()) for part in parts):  # seldom, and quickly found
            finite = np.all([np.isfinite(np.asarray(part)).all(1) for part in parts], axis=0)
            if not (finite if starts is None else finite | starts).all():
                raise ValueError("The state holds numbers that are not finite: pass what predict() returned, or None.")
        return Latent(*(torch.as_tensor(part, dtype=torch.float32, device=device) for part in parts))

    def _count_memoryless(self, memoryless: bool) -> None:
        """Warn at the second call in a row without a state, once: it is easily forgotten and costs much."""
        if self._memoryless_calls < 0:
            return
        self._memoryless_calls = self._memoryless_calls + 1 if memoryless else 0
        if self._memoryless_calls == 2:
            self._memoryless_calls = -1
            warnings.warn(
                "predict() was called twice in a row without `state`: the agent forgets everything before the present "
                "observation. Pass the state it returned, `action, state = agent.predict(obs, state, episode_start)`, "
                "or use `player = agent.player()` and `player.act(obs)`.",
                UserWarning,
                stacklevel=4,
            )

    def save(self, path: str) -> None:
        """Write an archive of JSON and tensors that :meth:`load` of the same class reads."""
        write_archive(path, self._get_constructor_parameters(), {"policy": self.state_dict()})

    @classmethod
    def load(cls: type[Self], path: str, device: torch.device | str = "auto") -> Self:
        """Build a policy from a file of :meth:`save`; nothing in it is executed.

        :raises ValueError: for a file that is no intact archive, or one of a whole agent.
        """
        data, tensors = read_archive(path)
        if "settings" not in data:
            raise ValueError(f"{path} holds a whole agent, not a policy: use HarmonyDreamAgent.load(path).policy.")
        with blamed_on(f"The policy in {path}"):

            def make() -> Self:
                return cls(data["observation_space"], data["action_space"], **data["settings"])

            check_weights(make, tensors.get("policy"), data["settings"].get("overrides") or {})
            policy = make()
            policy.load_state_dict(tensors["policy"])
        policy.set_training_mode(False)
        return policy.to(get_device(device))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "settings": self.settings,
        }

    def forward(self, observation: Any, deterministic: bool = False) -> Tensor:
        """As Stable-Baselines3's policies: see :meth:`_predict`."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """Stable-Baselines3's tensor interface: actions for the first observations of episodes, without memory.

        :raises RuntimeError: within ``torch.jit.trace``, ``torch.export`` and ``torch.onnx.export``.
        """
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise RuntimeError(
                "A traced policy would give one action, whatever it is given: use agent.player(deterministic=True)"
                ".export('policy.onnx'), or 'policy.pt2', a program that takes the memory, and gives the next one, too."
            )
        isdict = isinstance(observation, Mapping)
        arrays = {k: v.cpu().numpy() for k, v in observation.items()} if isdict else observation.cpu().numpy()
        encoded = self.observations.encode(arrays)
        n = len(next(iter(encoded.values())))
        latent = self.step(encoded, self.initial(n), np.ones(n, dtype=bool), deterministic)
        return torch.as_tensor(self.actions.decode(latent.action.cpu().numpy()), device=self.device)


class CnnPolicy(DreamPolicy):
    """For one image: a uint8 Box of HxWxC or CxHxW."""

    observations_wanted = "CnnPolicy"


class MlpPolicy(DreamPolicy):
    """For one vector: a Box that is no image, Discrete, MultiDiscrete or MultiBinary."""

    observations_wanted = "MlpPolicy"


class MultiInputPolicy(DreamPolicy):
    """For a Dict of images and vectors."""

    observations_wanted = "MultiInputPolicy"


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """An array that torch can take: views that are flipped, and arrays that are read-only, are copied."""
    return array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy()


def _as_starts(episode_start: NDArray[Any] | None, n: int) -> NDArray[np.bool_]:
    """``episode_start`` as (n,) bool; False where it was not given."""
    if episode_start is None:
        return np.zeros(n, dtype=bool)
    starts = np.asarray(episode_start, dtype=bool).reshape(-1)
    if len(starts) not in (1, n):
        raise ValueError(f"episode_start has {len(starts)} entries for {n} observations; pass one per environment.")
    return np.broadcast_to(starts, (n,)).copy()
