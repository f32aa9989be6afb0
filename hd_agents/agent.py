"""HarmonyDreamAgent: a world-model agent with the interface of Stable-Baselines3's algorithms."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TensorDict
from stable_baselines3.common.vec_env import VecEnv

from hd_agents import checks, footprint, official
from hd_agents.arrivals import StepsOf, check_env, watch
from hd_agents.envs import register_suite
from hd_agents.graphs import capture_on_cuda
from hd_agents.imagine import Imagined, imagine
from hd_agents.nn.products import bfloat16_pays
from hd_agents.player import Player
from hd_agents.policies import CnnPolicy, DreamPolicy, MlpPolicy, MultiInputPolicy, NumpyState
from hd_agents.presets import DEFAULTS, SIZES
from hd_agents.replay import SequenceReplay
from hd_agents.restoring import NONFINITE, RUNNING, Archive, as_file, fit_optimizers, load
from hd_agents.saving.archive import read_archive, write_archive
from hd_agents.saving.storing import archive_data, running_state
from hd_agents.saving.vetting import blamed_on
from hd_agents.spaces import Observation
from hd_agents.training import live_settings
from hd_agents.training.collection import Collector, GraphedActing
from hd_agents.training.learner import Learner
from hd_agents.training.loop import LearningLoop
from hd_agents.training.metrics import Metrics

Self = TypeVar("Self", bound="HarmonyDreamAgent")
_POLICIES = 'use "CnnPolicy", "MlpPolicy", "MultiInputPolicy" or a subclass of hd_agents.policies.DreamPolicy.'


class HarmonyDreamAgent(LearningLoop):
    """An agent that learns a model of its environment and then its behaviour inside that model's dreams.

    Unless said otherwise a default of None is the backbone's own number (:data:`hd_agents.presets.DEFAULTS`); after
    construction the attribute of the same name holds the number in use (for ``buffer_size`` see the replay's
    ``capacity``). A "step" is one ``env.step`` of one environment; n environments take n steps at a time.

    :param policy: "CnnPolicy" (an image), "MlpPolicy" (a vector or integers), "MultiInputPolicy" (a Dict of them), or a
        subclass of :class:`hd_agents.policies.DreamPolicy`.
    :param env: a Gymnasium id, an environment or a vector environment; None only to load.
    :param backbone: "dreamerv3" (the 2023 release) or "dreamerv2" (the paper's code for robotics).
    :param size: width of the networks: "nano", "xsmall", "small", "medium", "large" or "xlarge".
    :param harmony: True balances observation, reward and dynamics losses by learned coefficients, the paper's method;
        False is the plain backbone. A mapping changes single losses: ``{"reward": False, "observation": 0.5}`` takes
        the backbone's fixed weight for one and a weight of its own for the other. Of a Dict "observation" is all keys,
        and "observation/camera" or "camera" one. ``{"continue": True}`` harmonises the loss of the episodes' ends too,
        which the paper does not.
    :param learning_rate: of the world model, per gradient step; a number, "lin_0.001" to fall from 0.001 to 0 over the
        run, or a function of the progress remaining (1 to 0). The same holds for the next two.
    :param actor_learning_rate: of the actor.
    :param critic_learning_rate: of the critic.
    :param harmony_learning_rate: of the harmoniser's coefficients; None for ``learning_rate``, as in the paper. Runs of
        a few thousand gradient steps want it higher, as each moves log sigma by about one rate.
    :param buffer_size: rows of replay, over all environments (one per step and one more per episode); None for
        1,000,000 or what half of the free memory (or disk) holds, whichever is less.
    :param replay_folder: keep the replay in files there, for a ``buffer_size`` beyond the memory; None for in memory.
    :param learning_starts: env steps before the first gradient step, with random actions if it has never made one.
    :param batch_size: sequences per gradient step.
    :param sequence_length: steps per sequence.
    :param train_ratio: replayed steps per env step: gradient steps per env step times ``batch_size * sequence_length``.
    :param pretrain_steps: gradient steps made at once when learning starts.
    :param horizon: imagined steps per dream.
    :param gamma: discount per step, in (0, 1].
    :param return_lambda: mix of n-step returns in the dream, 0 (one step) to 1 (the whole dream).
    :param entropy_coefficient: weight of the actor's entropy, in units of (normalised) return per nat.
    :param official_quirks: repeat the accidents of the official code that we left out, see docs/fidelity.md.
    :param action_repeat: frames per env step, for logging in frames only; repeating actions is the environment's work.
    :param policy_kwargs: network widths over the size's preset, see :func:`hd_agents.backbones.build`.
    :param precision: of the networks in training: "float32", "bfloat16", or "auto" for bfloat16 where it is faster: on
        GPUs (NVIDIA's from Ampere on), and on CPUs with instructions for it if the networks have a million parameters
        or more.
    :param compile: "auto" makes every update one CUDA graph on CUDA and does nothing on a CPU; True runs the world
        model's losses through ``torch.compile`` besides, which takes a minute or more at the first gradient step; False
        does neither. What fails to compile runs as it is, with one warning.
    :param stats_window_size: episodes that the logged means are taken over.
    :param tensorboard_log: folder for TensorBoard logs; None for none.
    :param verbose: 0 silent, 1 what was set up and the log table, 2 debug messages.
    :param seed: of Python, NumPy, torch, the action space and the environments; None leaves them alone.
    :param device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...
    :raises ValueError: for a value that is not allowed, saying what is, and for spaces without a network.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "CnnPolicy": CnnPolicy,
        "MlpPolicy": MlpPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: DreamPolicy
    policy_class: type[DreamPolicy]

    def __init__(
        self,
        policy: str | type[DreamPolicy],
        env: GymEnv | str | None,
        backbone: Literal["dreamerv3", "dreamerv2"] = "dreamerv3",
        size: str = "small",
        harmony: bool | Mapping[str, bool | float] = True,
        learning_rate: float | str | Schedule | None = None,
        actor_learning_rate: float | str | Schedule | None = None,
        critic_learning_rate: float | str | Schedule | None = None,
        harmony_learning_rate: float | None = None,
        buffer_size: int | None = None,
        replay_folder: str | Path | None = None,
        learning_starts: int = 1_000,
        batch_size: int | None = None,
        sequence_length: int | None = None,
        train_ratio: float | None = None,
        pretrain_steps: int = 0,
        horizon: int | None = None,
        gamma: float | None = None,
        return_lambda: float | None = None,
        entropy_coefficient: float | None = None,
        official_quirks: bool = False,
        action_repeat: int = 1,
        policy_kwargs: dict[str, Any] | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        compile: bool | Literal["auto"] = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | Path | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            _made(env, checks.verbosity(verbose)),
            learning_rate=0.0,  # checked and set below
            policy_kwargs=checks.mapping("policy_kwargs", policy_kwargs or {}),
            stats_window_size=checks.whole("stats_window_size", stats_window_size, 1),
            tensorboard_log=None if tensorboard_log is None else str(tensorboard_log),
            verbose=checks.verbosity(verbose),
            device=checks.device(device),
            support_multi_env=True,
            seed=checks.seed(seed),
        )
        if not (isinstance(self.policy_class, type) and issubclass(self.policy_class, DreamPolicy)):
            raise ValueError(f"policy={policy!r}: {_POLICIES}")
        # Networks.
        self.backbone = checks.choice("backbone", backbone, list(DEFAULTS))
        self.size = checks.choice("size", size, list(SIZES[self.backbone]))
        self.harmony = checks.harmony(harmony)
        self.precision = checks.choice("precision", precision, ["auto", "float32", "bfloat16"])
        self.compile = checks.choice("compile", compile, ["auto", True, False])
        # Replay.
        self.buffer_size = None if buffer_size is None else checks.whole("buffer_size", buffer_size, 1)
        self.replay_folder = None if replay_folder is None else str(replay_folder)
        if replay_folder is not None and Path(replay_folder).is_file():
            raise ValueError(f"replay_folder={self.replay_folder!r} is a file: give a folder, which may not exist yet.")
        # What may be set again later.
        live_settings.take(
            self,
            learning_rate=learning_rate,
            actor_learning_rate=actor_learning_rate,
            critic_learning_rate=critic_learning_rate,
            harmony_learning_rate=harmony_learning_rate,
            batch_size=batch_size,
            sequence_length=sequence_length,
            train_ratio=train_ratio,
            horizon=horizon,
            gamma=gamma,
            return_lambda=return_lambda,
            entropy_coefficient=entropy_coefficient,
            learning_starts=learning_starts,
            pretrain_steps=pretrain_steps,
            official_quirks=official_quirks,
        )
        self.action_repeat = checks.whole("action_repeat", action_repeat, 1)

        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        check_env(env)  # its errors name the fix, Stable-Baselines3's assertions do not
        return BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def set_env(self, env: GymEnv | str, force_reset: bool = True) -> None:
        """Go on in another environment with the same spaces, and as many of it; any number if there was none before.

        :param env: as for the constructor.
        :param force_reset: reset it before learning goes on; False takes it to be where the last one was.
        :raises ValueError: for other spaces, and for another number where the replay holds rows of the old one.
        :raises AssertionError: for another number than that of the present environments: ``load`` with ``env``.
        """
        wrapped = self._wrap_env(_made(env, self.verbose))
        checks.spaces(wrapped, self.observation_space, self.action_space)
        if self.env is None and wrapped.num_envs != self.n_envs:
            if self.replay_buffer is not None and len(self.replay_buffer):
                raise ValueError(
                    f"The replay holds rows of {self.n_envs} environments, and env has {wrapped.num_envs}: call "
                    "set_env(env) before load_replay_buffer or add_episode."
                )
            self._set_up_collecting(wrapped.num_envs)
            self._last_obs = None
        super().set_env(wrapped, force_reset)
        self._note_moves()
        if self._learning:  # a callback's wish: what is running now ends in the old environment
            watch(wrapped, StepsOf(self))
            self._moves = -1 if force_reset else self._moves  # -1 is no count: they are reset before the next step

    def _set_up_collecting(self, n_envs: int) -> SequenceReplay:
        """Replay (still unallocated, and given), acting and counts for so many environments."""
        replay = self.replay_buffer = self._make_replay(n_envs)  # first, as it may find buffer_size too small
        self.n_envs = n_envs
        self._collector = Collector(self.policy, n_envs, GraphedActing(self.policy) if self._graphs else None)
        self._ended = np.zeros(n_envs, np.int64)
        return replay

    @property
    def _graphs(self) -> bool:
        """Whether updates and acting are CUDA graphs."""
        return self.device.type == "cuda" and self.compile is not False

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            raise ValueError(f"policy={policy_name!r}: {_POLICIES}")
        return self.policy_aliases[policy_name]

    def _setup_model(self) -> None:
        """Build networks, learner and (still unallocated) replay for the spaces at hand."""
        if not hasattr(self, "observation_space"):
            raise ValueError("env=None: pass an environment or a Gymnasium id; only load() goes without.")
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self._make_policy().to(self.device)
        pays = bfloat16_pays(self.device, sum(weight.numel() for weight in self.policy.networks.parameters()))
        if self.precision == "bfloat16" and self.device.type == "cuda" and not pays:
            warnings.warn("precision='bfloat16': this GPU is very slow in it. Use 'auto' or 'float32'.", stacklevel=3)
        live_settings.note(self, live_settings.MADE_WITH)
        self._objectives = live_settings.objectives_of(self)
        self.learner = Learner(
            self.policy.networks,
            self._objectives,
            DEFAULTS[self.backbone],
            horizon=self.horizon,
            gamma=self.gamma,
            harmony_learning_rate=self.harmony_learning_rate,
            bfloat16=pays if self.precision == "auto" else self.precision == "bfloat16",
            compiled=self.compile is True,
            capture=capture_on_cuda if self._graphs else None,
            **self._rates(),
        )
        self.learner.updates = self._n_updates
        self.policy.set_training_mode(False)
        self._metrics = Metrics()
        replay = self._set_up_collecting(self.n_envs)
        self._note_moves()
        if self.verbose >= 1:
            print(footprint.describe(self.policy, replay, self.batch_size * self.sequence_length, self.train_ratio))

    def _make_policy(self) -> DreamPolicy:
        return self.policy_class(
            self.observation_space,
            self.action_space,
            backbone=self.backbone,
            size=self.size,
            harmony=self.harmony,
            gamma=self.gamma,
            overrides=dict(self.policy_kwargs),
        )

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed Python, NumPy, torch, the spaces, the environments and the replay's sampling; None changes nothing."""
        super().set_random_seed(checks.seed(seed))
        if seed is not None:
            self._rng = np.random.default_rng(int(seed))

    def predict(
        self,
        observation: Observation,
        state: NumpyState | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], NumpyState]:
        """Actions and the state to pass next time; see :meth:`hd_agents.policies.DreamPolicy.predict`."""
        return self.policy.predict(observation, state, episode_start, deterministic)

    def player(self, deterministic: bool = False) -> Player:
        """A small object that keeps the state itself: ``reset()`` at an episode's start, then ``act(obs)``."""
        return Player(self.policy, deterministic)

    def imagine(
        self,
        obs: Observation,
        actions: NDArray[Any] | None = None,
        horizon: int = 15,
        decode: bool = True,
        state: NumpyState | None = None,
        deterministic: bool = True,
        executed: NDArray[Any] | None = None,
    ) -> Imagined:
        """What the model believes will happen after ``obs``. Changes nothing, and no environment is involved.

        :param obs: one observation or a batch (N, ...), as for ``predict``.
        :param actions: (N, H, ...) in the environment's own form, or for one observation (H, ...), or (N, H, ...) for N
            plans to choose from; None for what the policy would do.
        :param horizon: H, steps to imagine where ``actions`` does not tell.
        :param decode: also predict the observations, which costs the most.
        :param state: what ``predict`` returned at the observation before; None if ``obs`` begins an episode.
        :param deterministic: follow the most likely course, the same each time; False samples one.
        :param executed: what was done since ``state``, where it is not what ``predict`` chose: a plan's action.
        :return: arrays laid out as a real episode, see :class:`hd_agents.imagine.Imagined`.
        """
        return imagine(self.policy, obs, actions, horizon, decode, state, deterministic, executed)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        self.learner.follow_networks()
        return ["policy", *(f"learner.{name}_optimizer" for name in self.learner.optimizers)], []

    def set_parameters(
        self,
        load_path_or_dict: Archive | TensorDict | dict[str, dict[Any, Any]],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Take over weights and optimisers from an archive or from what ``get_parameters`` gave, in place.

        :param exact_match: require all of them; False takes what there is.
        :param device: not needed: tensors go to where the networks are.
        """
        given = load_path_or_dict
        if not isinstance(given, dict):
            parts = read_archive(as_file(given))[1]
            with blamed_on("The archive"):
                return self.set_parameters(parts, exact_match, device)
        self.learner.follow_networks()
        found = {name: state for name, state in given.items() if name not in (RUNNING, NONFINITE)}
        super().set_parameters(fit_optimizers(found, self), exact_match, device)

    def save(self, path: Archive, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Write an archive of JSON and tensors: settings, counters, weights and optimisers, but no replay.

        A learning rate that is a function is stored as its present value, or as "lin_..." where it is that. A policy
        class of your own is stored by name and has to be passed again: ``load(path, custom_objects={"policy_class":
        MyPolicy})``.

        :param path: a path (".zip" is added if it has no suffix) or a binary file.
        :param exclude: names of stored attributes to leave out; loading takes the default there.
        :param include: names of further attributes to store, which must be JSON; they win over ``exclude``.
        """
        tensors = {**self.get_parameters(), RUNNING: running_state(self, self._collector.latent)}
        write_archive(as_file(path), archive_data(self, exclude or (), include or ()), tensors)

    @classmethod
    def load(
        cls: type[Self],
        path: Archive,
        env: GymEnv | str | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Build an agent from an archive. Nothing in the file is executed, and no replay is allocated.

        :param env: to learn on or evaluate in, with the spaces of the archive; not needed to predict.
        :param device: as for the constructor. :param custom_objects: values to use instead of stored ones, by name.
        :param print_system_info: print the present versions and those at the time of saving.
        :param force_reset: reset ``env`` before learning; False takes it to be where it was at the time of saving.
        :param kwargs: constructor arguments to change, other than those that shape the networks.
        :raises ValueError: for a file that is no intact archive, spaces that do not match, or changed networks.
        """
        return load(cls, path, env, device, custom_objects or {}, print_system_info, force_reset, kwargs)

    @classmethod
    def from_official(
        cls: type[Self],
        params: Mapping[str, Any] | str | Path,
        env: GymEnv | str,
        classes: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build an agent out of a model that the paper's own code has trained: to predict, evaluate and fine-tune.

        :param params: wmlib's ``variables.pt``, an ``.npz`` of the JAX agent's arrays, or the arrays by official name.
        :param env: with the observation and action spaces of the model.
        :param classes: of each latent; None for as many as there are latents, as in every official setting.
        :param kwargs: further constructor arguments, other than those that shape the networks.
        :raises ValueError: where model and spaces do not match, naming the tensor and both shapes.
        """
        return official.make_agent(cls, params, cls._wrap_env(_made(env)), classes, kwargs)


def _made(env: Any, verbose: int = 0) -> Any:
    """An environment by its id, also of a suite's own package; another one as it is."""
    if isinstance(env, str):
        register_suite(env)
    return maybe_make_env(env, verbose)
