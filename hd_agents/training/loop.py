"""The loop of an algorithm that moves and learns by turns: env steps into replay, gradient steps out of it."""

from operator import is_
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper

from hd_agents import checks
from hd_agents.arrivals import StepsOf, as_flags, step_all, watch
from hd_agents.envs.restarting import what_to_return
from hd_agents.envs.settling import settle
from hd_agents.progress import Forecast, ProgressBar, is_told, tell_of_no_learning, with_bar
from hd_agents.restoring import warn_of_frozen_schedules
from hd_agents.training import live_settings
from hd_agents.training.callback_rules import asks_to_stop, tell_failure
from hd_agents.training.collection import Collector
from hd_agents.training.moves import moves
from hd_agents.training.normalizing import original_step
from hd_agents.training.replay_learning import LOG_NAME, ReplayLearning

Self = TypeVar("Self", bound="LearningLoop")
COUNTS = ("num_timesteps", "_episode_num", "ep_info_buffer", "ep_success_buffer")  # that another run begins anew


class LearningLoop(ReplayLearning):
    """``learn`` as Stable-Baselines3's off-policy algorithms have it, for a replay of sequences.

    Attributes that are only declared here are set by the agent.
    """

    learning_starts: int
    pretrain_steps: int
    _collector: Collector
    _ended: NDArray[np.int64]  # episodes of each environment that its monitor has told of

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._replay_credit = 0.0  # replayed steps that env steps have earned and gradient steps have not yet used
        self._pretrained = False  # whether its pretrain_steps have been earned
        self._interrupted = False  # by an exception: processes may owe answers
        self._rows: object = None  # what the replay was given when the last learn() ended
        self._pace: list[Any] = []  # settings that were checked last
        self._moves: int | None = None  # of the environments, as far as this loop knows of them

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, which is not within ``learn`` and makes its own logger: files and screens cannot be copied."""
        fresh: dict[str, Any] = {"_custom_logger": False, "_learning": False, "_progress": None}
        if self._learning:  # by a callback, between a step and its row: a new episode begins
            fresh["_last_obs"] = None
        if isinstance(self.env, SubprocVecEnv | VecEnvWrapper):  # which cannot be copied
            fresh["env"] = None
        return {name: value for name, value in vars(self).items() if name != "_logger"} | fresh

    def learn(
        self: Self,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = LOG_NAME,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Interact and learn.

        :param total_timesteps: env steps to take, over all environments; floats such as 1e5 are fine. With n
            environments the last vector step may go up to n - 1 beyond.
        :param callback: called as Stable-Baselines3's off-policy algorithms do; learning stops when it returns False.
        :param log_interval: episodes between two log tables; None for no tables.
        :param tb_log_name: name of the run in ``tensorboard_log``.
        :param reset_num_timesteps: start counting at 0, towards ``learning_starts`` too, and reset the environments.
            False goes on where the last ``learn`` ended, in the middle of an episode if that is where it was.
        :param progress_bar: show one; needs tqdm.
        """
        if self._learning:
            raise ValueError("learn() within learn(): call it before or after; a callback that returns False ends it.")
        total_timesteps = checks.whole("total_timesteps", total_timesteps, 0)
        if log_interval is not None:
            log_interval = checks.whole("log_interval", log_interval, 1)
        if self.env is None:
            raise ValueError("This agent has no environment to learn in: call set_env(env), or load(path, env=env).")
        if self.replay_buffer is None:
            self.replay_buffer = self._make_replay(self.n_envs)
        warn_of_frozen_schedules(self._frozen_schedules)
        live_settings.check(self)
        for remaining in live_settings.PROGRESS:
            live_settings.rates(self, remaining)  # better now than after hours
        self._go_to_env(self.env)
        self._learning = True
        before = {name: getattr(self, name) for name in COUNTS}
        try:
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
            self._note_moves()
            self._updates_at_start = self._n_updates
            tell_of_no_learning(self, total_timesteps, reset_num_timesteps and before["num_timesteps"] > 0)
            callback.on_training_start(locals(), globals())
            before, going = {}, True
            while going and self.num_timesteps < total_timesteps:
                callback.on_rollout_start()
                if asks_to_stop(callback):
                    break
                going = self._collect_step(callback, log_interval)
                self._learn_what_is_due()  # also of the step at which a callback stops: another run may go on
            self._begin_anew_where_moved()
            self._end_learning()
            callback.on_training_end()
        except BaseException as error:
            vars(self).update(before)  # a run that a callback has refused leaves the one before as it was
            self._fail(error, callback)
            raise
        return self

    def _fail(self, error: BaseException, callback: MaybeCallback) -> None:
        """``learn`` ends by an error; ValueError in place of one that would not say what the environment did wrong."""
        self._interrupted = True
        self._end_learning()
        tell_failure(callback)
        if told := what_to_return(error):
            raise ValueError(told) from error

    def _holds_few(self, more: int = 0) -> bool:
        """Whether the replay holds too little to learn from, also after so many ``more`` env steps."""
        replay = self._stored()
        return len(replay) + more < min(self.learning_starts, replay.capacity)  # as after load() without it

    def _too_early(self, more: int = 0) -> bool:
        """Whether no gradient step can be made yet, nor after so many ``more`` env steps."""
        return self.num_timesteps + more < self.learning_starts or self._holds_few(more)

    def _go_to_env(self, env: VecEnv) -> None:
        """See where the environments are: a new episode will begin where the last one cannot go on."""
        watch(env, StepsOf(self))
        if self._interrupted:
            settle(env)
            self._interrupted = False
        unseen = self._vec_normalize_env is not None and self._last_original_obs is None  # new since the last step
        others = self.replay_buffer is not None and self._rows not in (None, self.replay_buffer.given())
        if unseen or others or self._moved_elsewhere():
            self._last_obs = None

    def _end_learning(self) -> None:
        self._learning = False
        self._rows = None if self.replay_buffer is None else self.replay_buffer.given()
        if self._progress is not None:
            self._progress.close()
        self._progress = None

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        """Stable-Baselines3's, with a progress bar that knows gradient steps."""
        if isinstance(callback, BaseCallback):
            callback.parent = None  # whose it was in another learn()
        self._progress = bar = ProgressBar() if progress_bar else Forecast(self)
        return super()._init_callback(with_bar(callback, bar) if isinstance(bar, ProgressBar) else callback)

    def _collect_step(self, callback: BaseCallback, log_interval: int | None) -> bool:
        """One step of every environment into replay; False when the callback asks to stop."""
        self._begin_anew_where_moved()  # callbacks may have moved them, this one and those before it
        env, normalizer, replay_buffer = self.env, self._vec_normalize_env, self._stored()
        assert env is not None
        assert self._last_obs is not None
        assert self._last_episode_starts is not None
        steps, starts, seen = self.num_timesteps, self._last_episode_starts, self._last_obs
        originals = seen if normalizer is None else self._last_original_obs
        assert originals is not None
        self._collector.begin(replay_buffer, originals, starts, steps)
        random = steps < self.learning_starts and not self._n_updates
        actions = self._collector.act(seen, starts, random)
        new_obs, rewards, dones, infos = step_all(env, actions, steps)
        dones = as_flags(dones, env.num_envs, steps)
        self.num_timesteps += env.num_envs
        self._note_moves()
        try:
            step = original_step(normalizer, new_obs, rewards, dones, infos, steps)
            callback.update_locals(locals())
            go_on = callback.on_step()
            self._collector.store(replay_buffer, step)
        except BaseException:
            self._last_obs = None  # the step is not in the replay: a new episode begins
            raise
        self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
        if normalizer is not None:
            self._last_original_obs = step.observations
        if dones.any():  # elsewhere an info may still hold what a monitor has left in it at an end
            told = [bool(done and is_told(info)) for done, info in zip(dones, infos, strict=True)]
            # An environment may mean something else by "episode".
            rest = [info if here else {**info, "episode": None} for here, info in zip(told, infos, strict=True)]
            self._update_info_buffer(rest, dones)
            self._ended += told
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        for _ in range(int(dones.sum())):
            self._episode_num += 1
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        if go_on:
            callback.on_rollout_end()
        return bool(go_on)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """As in Stable-Baselines3, but not below 0, and rates with it: the last vector step may go beyond the end."""
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        self._current_progress_remaining = max(0.0, self._current_progress_remaining)

    def _note_moves(self) -> None:
        """Take the environments to be where this loop left them."""
        self._moves = None if self.env is None else moves(self.env)

    def _moved_elsewhere(self) -> bool:
        """Whether somebody else has reset or stepped the environments, such as an evaluation."""
        return self._moves is not None and self.env is not None and moves(self.env) != self._moves

    def _begin_anew_where_moved(self) -> None:
        """Begin new episodes if the running ones are no longer where they were."""
        if not self._moved_elsewhere():
            return
        env, normalizer = self.env, self._vec_normalize_env
        assert env is not None
        self._last_obs = env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        self._last_original_obs = None if normalizer is None else normalizer.get_original_obs()
        self._note_moves()

    def _learn_what_is_due(self) -> None:
        """Make the gradient steps that are due. Those that an exception keeps from being made stay due."""
        due, made = self._earn_updates(), self._n_updates
        try:
            self.train(due)
        finally:
            self._replay_credit -= (self._n_updates - made) * self.batch_size * self.sequence_length

    def _earn_updates(self) -> int:
        """Add what the last env steps have earned; the gradient steps that are due."""
        replay = self._stored()
        pace = [getattr(self, name) for name in live_settings.PACE]
        if len(self._pace) != len(pace) or not all(map(is_, pace, self._pace)):  # a callback has set something
            live_settings.check(self)
            self._pace = [getattr(self, name) for name in live_settings.PACE]
        if self._too_early() or not replay.can_sample(self.sequence_length):
            return 0
        self._replay_credit += self.n_envs * self.train_ratio
        cost = self.batch_size * self.sequence_length
        if not self._pretrained:
            self._pretrained = True
            self._replay_credit += self.pretrain_steps * cost
        return int(self._replay_credit // cost)
