"""What a person sees while an agent learns: the progress bar and the log table."""

import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import safe_mean

from hd_agents.extras import wanting

try:
    from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]
except ImportError:  # an optional dependency; only using the bar needs it
    tqdm = None

REFRESH_SECONDS = 0.5
FILE_SECONDS = 10.0  # between two lines of a bar that goes to a file, which keeps them all
WARM_UP = 2  # gradient steps that take longer than those to come
MEASURED_STEPS, MEASURED_SECONDS = 3, 3.0  # both at least, before a forecast
LONG = 7200.0  # seconds from which it is worth a warning
FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} env steps [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class ProgressBar(BaseCallback):
    """Env steps, gradient steps, both rates and the time left, in one line.

    It moves with every env step, and with gradient steps while the environments wait for them; where it goes to a file
    or a pipe, every ten seconds. ``TQDM_MININTERVAL`` (seconds, tqdm's own variable) says otherwise.

    :raises ImportError: where tqdm is not installed, naming what to install.
    """

    def __init__(self) -> None:
        super().__init__()
        _check_tqdm()
        self._bar: Any = None
        self._started = self._shown = 0.0
        self._updates_at_start = 0

    def _on_training_start(self) -> None:
        total = _steps_to_come(self.model.num_timesteps, self.locals["total_timesteps"], self.training_env.num_envs)
        # Mostly the current speed, looked at with every step: random steps are far faster than learning ones.
        looks = {"bar_format": FORMAT, "smoothing": 0.5, "miniters": 1, "dynamic_ncols": True}
        self._bar = tqdm(total=total, unit=" steps", **looks, **_pace())
        self._started = time.monotonic()
        self._updates_at_start = self.model._n_updates
        self.on_update()

    def _on_step(self) -> bool:
        if self._bar.update(self.training_env.num_envs):  # it has drawn itself
            self._shown = time.monotonic()
        self.on_update()
        return True

    def on_update(self, seconds: float = 0.0) -> None:
        """Called after every gradient step, because an env step may have to wait for many; how long does not matter."""
        if self._bar is None:
            return
        now = time.monotonic()
        # Always, as others draw the bar too: tqdm with an env step, and whoever writes a line above it.
        self._bar.set_postfix_str(self.describe(now - self._started), refresh=False)
        interval = getattr(self._bar, "mininterval", 0.0)  # which a bar that TQDM_DISABLE=1 hides does not have
        if now - self._shown >= max(REFRESH_SECONDS, interval):
            self._shown = now
            self._bar.refresh()

    def describe(self, seconds: float) -> str:
        """What stands behind the bar after ``seconds`` of training: the phase, or gradient steps and their rate."""
        updates = self.model._n_updates - self._updates_at_start
        if not updates:
            model: Any = self.model
            if model._too_early():
                return "not learning yet" if model._n_updates else "random actions first"
            if model.compile is True:
                return "compiling, which takes a minute or more"
            return f"{model._n_updates} gradient steps"
        return f"{self.model._n_updates} gradient steps, {updates / max(seconds, 1e-9):.1f}/s"

    def close(self) -> None:
        """Leave the line as it is, also when training was interrupted; there is none before it started."""
        if self._bar is None:
            return
        self._bar.set_postfix_str(self.describe(time.monotonic() - self._started), refresh=False)
        self._bar.refresh()
        self._bar.close()


class Forecast:
    """In the place of a bar: a warning, once and early, where a CPU will need hours and nothing else would say so.

    The default settings are the paper's, which want a GPU.

    :param agent: within ``learn``.
    """

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._times: list[float] = []
        self._at_once = 0 if agent._pretrained else agent.pretrain_steps
        self._done = agent.device.type != "cpu"

    def on_update(self, seconds: float) -> None:
        """Called after every gradient step, which took ``seconds``."""
        if self._done:
            return
        self._times.append(seconds)
        measured = self._times[WARM_UP:]
        if len(measured) < MEASURED_STEPS or sum(measured) < MEASURED_SECONDS:
            return
        self._done = True
        agent, each = self._agent, statistics.median(measured)
        earned = (agent._total_timesteps - agent.num_timesteps) * agent.train_ratio
        left = int(earned / (agent.batch_size * agent.sequence_length)) + max(0, self._at_once - len(self._times))
        if left * each >= LONG:
            smaller = "" if agent.size == "nano" else f", and a smaller size ({agent.size!r}; the smallest is 'nano')"
            warnings.warn(
                f"The {left:,} gradient steps that are left will take about {left * each / 3600:.0f} hours on this "
                f"CPU, {each:.2g} s each. Fewer and cheaper ones: a lower train_ratio (now {agent.train_ratio:g}), "
                f"batch_size ({agent.batch_size}) and sequence_length ({agent.sequence_length}){smaller}. With "
                "progress_bar=True you see how far it is.",
                UserWarning,
                stacklevel=6,
            )

    def close(self) -> None:
        """Nothing to do."""


def _steps_to_come(done: int, total: int, envs: int) -> int:
    """Env steps from ``done`` to ``total`` or just beyond, as every step is one of all environments."""
    return envs * math.ceil((total - done) / envs)


def tell_of_no_learning(agent: Any, total_timesteps: int, counts_anew: bool) -> None:
    """A line of ``verbose=1``, and a warning where somebody may have expected otherwise, if steps are too few to learn.

    :param agent: within a ``learn`` that ends at ``total_timesteps``. :param counts_anew: whether it began at 0 again.
    """
    more = _steps_to_come(agent.num_timesteps, total_timesteps, agent.n_envs)
    if more <= 0 or not agent._too_early(more):
        return
    starts, few = agent.learning_starts, agent._holds_few(more)
    ends, held, advice = agent.num_timesteps + more, len(agent.replay_buffer), None
    text = f"No learning: {ends:,} steps end before learning_starts={starts:,}."
    if few and (agent._n_updates or ends >= starts):  # it was loaded without its replay
        # No promise: an episode's beginning is stored as well, and how many there will be is not known.
        text = f"No learning before the replay has learning_starts={starts:,} steps: it has {held:,}, {more:,} come."
        advice = "Take more, bring stored ones back by load_replay_buffer(), or set a lower learning_starts."
    elif counts_anew and not few:  # as of learn(500) in a loop
        advice = "This learn() counts from 0 again: reset_num_timesteps=False goes on counting."
    if advice and agent.train_ratio:
        warnings.warn(f"{text} {advice}", stacklevel=3)
    elif agent.verbose >= 1:
        print(text)


def with_bar(callback: MaybeCallback, bar: ProgressBar) -> CallbackList:
    """The user's callback or callbacks, of any kind that ``learn`` takes, and after them the bar."""
    whole = CallbackList(callback) if isinstance(callback, list) else callback
    return CallbackList([whole if isinstance(whole, BaseCallback) else ConvertCallback(whole), bar])


def bar_is_seen() -> bool:
    """Whether a progress bar can be shown to someone."""
    return _live() and tqdm is not None


def _live() -> bool:
    """Whether errors go to a terminal; what a program puts in their place may know nothing of terminals."""
    return hasattr(sys.stderr, "isatty") and sys.stderr.isatty()


def _pace() -> dict[str, float]:
    """How seldom a bar is drawn, where that is neither tqdm's choice nor the user's."""
    live = _live() or "ipykernel" in sys.modules
    return {} if live or "TQDM_MININTERVAL" in os.environ else {"mininterval": FILE_SECONDS}


def episode_bar(total: int) -> Any:
    """A bar for ``total`` episodes, with ``update()`` and ``close()``.

    :raises ImportError: where tqdm is not installed, naming what to install.
    """
    _check_tqdm()
    return tqdm(total=total, unit=" episodes", dynamic_ncols=True, **_pace())


def _check_tqdm() -> None:
    if tqdm is None:
        raise ImportError(wanting("progress_bar=True", "logging", ["tqdm"]))


def is_told(info: Mapping[str, Any]) -> bool:
    """Whether a monitor tells of an episode in this info."""
    episode = info.get("episode")
    return isinstance(episode, Mapping) and {"r", "l"} <= episode.keys()


def record_logs(agent: Any, updates_before: int, training: Mapping[str, float]) -> None:
    """Hand the values of one log table to the agent's logger.

    :param updates_before: gradient steps that were done before this ``learn``.
    :param training: learning rates and means of metrics, shown under ``train/``.
    """
    record = agent.logger.record
    if agent.ep_info_buffer:
        record("rollout/ep_rew_mean", safe_mean([info["r"] for info in agent.ep_info_buffer]))
        record("rollout/ep_len_mean", safe_mean([info["l"] for info in agent.ep_info_buffer]))
    if agent.ep_success_buffer:
        record("rollout/success_rate", safe_mean(agent.ep_success_buffer))
    if agent.start_time:  # that of the last learn()
        seconds = max((time.time_ns() - agent.start_time) / 1e9, sys.float_info.epsilon)
        record("time/fps", int((agent.num_timesteps - agent._num_timesteps_at_start) / seconds))
        record("time/time_elapsed", int(seconds), exclude="tensorboard")
        if agent._n_updates:
            record("train/updates_per_second", (agent._n_updates - updates_before) / seconds)
    record("time/episodes", agent._episode_num, exclude="tensorboard")
    record("time/total_timesteps", agent.num_timesteps, exclude="tensorboard")
    record("time/agent_steps", agent.num_timesteps)
    record("time/frames", agent.num_timesteps * agent.action_repeat)
    if agent._n_updates:
        record("train/n_updates", agent._n_updates)
        for name, value in training.items():
            record(f"train/{name}", value)
    _widen_tables(agent.logger)


def _widen_tables(logger: Logger) -> None:
    """Give printed tables room for the longest key: names of sensors cut to the same text would stop the training."""
    longest = max(map(len, logger.name_to_value), default=0)
    for output in logger.output_formats:
        if isinstance(output, HumanOutputFormat):
            output.max_length = max(output.max_length, longest)
