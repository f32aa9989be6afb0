"""Learning from a replay: gradient steps, episodes that come from elsewhere, and the replay's files."""

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import configure_logger

from hd_agents import checks
from hd_agents.backbones import Objectives
from hd_agents.host import keep_freed_memory
from hd_agents.policies import DreamPolicy
from hd_agents.progress import Forecast, ProgressBar, record_logs
from hd_agents.replay import SequenceReplay
from hd_agents.restoring import Archive, as_file, warn_of_frozen_schedules
from hd_agents.spaces import Observation
from hd_agents.training import live_settings, recorder
from hd_agents.training.collection import make_replay
from hd_agents.training.learner import Learner
from hd_agents.training.metrics import Metrics
from hd_agents.training.nonfinite import PATIENCE
from hd_agents.training.normalizing import normalize_batch, warn_of_idle_training
from hd_agents.training.recorded import add_episode

LOG_NAME = "HarmonyDream"  # of a run in ``tensorboard_log``


class ReplayLearning(BaseAlgorithm):
    """``train`` as Stable-Baselines3's off-policy algorithms have it, on a replay of sequences.

    Attributes that are only declared here are set by the agent.
    """

    buffer_size: int | None
    replay_folder: str | None
    batch_size: int
    sequence_length: int
    train_ratio: float
    horizon: int
    gamma: float
    return_lambda: float
    entropy_coefficient: float
    harmony_learning_rate: float | None
    policy: DreamPolicy
    learner: Learner
    replay_buffer: SequenceReplay | None
    _objectives: Objectives  # that its settings ask for
    _metrics: Metrics

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # From the global generator, which a program may have seeded instead of the agent.
        self._rng = np.random.default_rng(torch.randint(1 << 31, (4,)).tolist())
        self._learning = False  # within learn()
        self._updates_at_start = 0  # gradient steps before the present learn()
        self._progress: ProgressBar | Forecast | None = None  # while learn() runs
        self._frozen_schedules: dict[str, str] = {}  # rates that were functions until they were stored, see storing
        self._made_with: dict[str, Any] = {}  # settings that cannot change any more

    def _make_replay(self, n_envs: int) -> SequenceReplay:
        """An empty replay for so many environments."""
        live_settings.note(self, live_settings.REPLAY_MADE_WITH)
        return make_replay(self.policy, self.buffer_size, n_envs, self.sequence_length, self.replay_folder)

    def _stored(self) -> SequenceReplay:
        """The replay; ValueError where somebody has dropped it."""
        if self.replay_buffer is None:
            raise ValueError(
                "replay_buffer is None: learn() makes a new one when it begins, and needs it until it ends."
            )
        return self.replay_buffer

    def train(self, gradient_steps: int) -> None:
        """Make ``gradient_steps`` updates on batches from replay, which has to hold a sequence. ``learn`` calls it.

        :raises ValueError: for settings that were changed on the agent and cannot be.
        :raises hd_agents.training.recorder.NonFiniteError: when updates in a row were not finite
            (docs/robustness.md).
        """
        replay = self._stored()
        gradient_steps = checks.whole("gradient_steps", gradient_steps, 0)
        if not gradient_steps:
            return
        live_settings.follow(self)
        if self.device.type == "cpu":
            keep_freed_memory()
        warn_of_frozen_schedules(self._frozen_schedules)
        self.learner.follow_networks()
        rates = self._rates().values()
        self.learner.set_learning_rates(*rates)
        if not self._learning:
            warn_of_idle_training(self._vec_normalize_env, rates)
        self.policy.set_training_mode(True)
        try:
            with torch.enable_grad():  # which a program may have turned off, or a Ctrl-C at the end of a no_grad()
                self._make_updates(replay, gradient_steps)
        finally:
            self.policy.set_training_mode(False)  # for whoever acts

    def _make_updates(self, replay: SequenceReplay, gradient_steps: int) -> None:
        for _ in range(gradient_steps):
            begun = time.perf_counter()
            metrics = self._update_if_it_fits(replay)
            if metrics is None:  # only here, as the error has held the activations of the update that failed
                torch.cuda.empty_cache()
                metrics = self._update(replay)
            self._metrics.add(metrics)
            self._n_updates += 1
            if self._n_updates % PATIENCE == 0:
                recorder.check(self)
            if self._progress is not None:
                self._progress.on_update(time.perf_counter() - begun)

    def _update_if_it_fits(self, replay: SequenceReplay) -> Mapping[str, torch.Tensor] | None:
        """:meth:`_update`; None where the GPU's memory is too short for it and the replay has left it for that."""
        try:
            return self._update(replay)
        except torch.OutOfMemoryError:
            if not replay.leave_device():
                raise
            warnings.warn("The GPU's memory is short: the replay stays in the host's from now on.", stacklevel=4)
            return None

    def _update(self, replay: SequenceReplay) -> Mapping[str, torch.Tensor]:
        """One gradient step of everything; its metrics."""
        batch = replay.sample(self.batch_size, self.sequence_length, self._rng, self.device)
        return self.learner.train_step(normalize_batch(batch, self._vec_normalize_env))

    def _rates(self) -> dict[str, float]:
        """Learning rates of world model, actor and critic at the present progress."""
        return live_settings.rates(self, self._current_progress_remaining)

    def dump_logs(self) -> None:
        """Write one log table: episodes, speed, and the means of the training metrics since the last one."""
        if not hasattr(self, "_logger"):  # no learn() before train()
            self._logger = configure_logger(self.verbose, self.tensorboard_log, LOG_NAME, reset_num_timesteps=True)
        means = {**self._metrics.flush(), **self.learner.guard.report()}
        record_logs(self, self._updates_at_start, {**self._rates(), **means})
        self.logger.dump(step=self.num_timesteps)

    def add_episode(
        self,
        observations: Observation | Sequence[Observation],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        terminated: bool,
    ) -> None:
        """Put an episode of T steps that was recorded elsewhere into the replay: a demonstration, a robot's log.

        It is learned from as the agent's own are, by ``learn`` or, without any environment stepping, by ``train``. The
        environments are reset before ``learn`` goes on. The statistics of a ``VecNormalize`` do not see it.

        :param observations: T + 1 in the environment's own form (before any ``VecNormalize``), from that of ``reset``
            to the last; a list, or arrays with the steps in front.
        :param actions: (T, ...). The first followed ``reset``. :param rewards: (T,).
        :param terminated: whether the task ended it; False if it was cut off.
        :raises ValueError: for what does not fit together or does not fit the spaces, then nothing is stored; and in a
            callback: while ``learn`` runs, an episode of its own is going on.
        """
        if self._learning:
            raise ValueError("add_episode() within learn(): call it before or after, when no episode is going on.")
        if self.replay_buffer is None:
            self.replay_buffer = self._make_replay(self.n_envs)
        add_episode(self.policy, self.replay_buffer, observations, actions, rewards, terminated)
        self._last_obs = None

    def save_replay_buffer(self, path: Archive) -> None:
        """Write the replay to ``path`` (".replay" is added if it has no suffix); nothing in it is executable."""
        if self.replay_buffer is None:
            raise ValueError("There is no replay to save: replay_buffer is None.")
        self.replay_buffer.save(as_file(path, ".replay"))

    def load_replay_buffer(self, path: Archive, truncate_last_traj: bool = True) -> None:
        """Replace the replay by a file of ``save_replay_buffer``. The environments are reset before learning goes on.

        :param truncate_last_traj: changes nothing, as the last episode always ends where the file does; rl-zoo3 passes
            it to all algorithms.
        :raises ValueError: for another kind of file, or one of other spaces or another number of environments.
        """
        if self._learning:
            raise ValueError("load_replay_buffer() within learn(): call it before or after.")
        if self.replay_buffer is None:
            self.replay_buffer = self._make_replay(self.n_envs)
        self.replay_buffer.load(as_file(path, ".replay"))
        self._last_obs = None
