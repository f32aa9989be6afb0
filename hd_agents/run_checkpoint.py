"""``RunCheckpoint``: a callback that stores the whole run while it learns, and goes on with it later."""

import os
import signal
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv

from hd_agents import checks
from hd_agents.agent import HarmonyDreamAgent
from hd_agents.run_state import restore_run, run_state
from hd_agents.saving.archive import read_archive, write_archive
from hd_agents.saving.checkpoint import (
    CheckpointError,
    Manifest,
    all_in,
    claim,
    commit,
    file_name,
    is_whole,
    newest_intact,
    prune,
    release,
    steps_in,
    still_in_ring,
)
from hd_agents.signals import ONE_STOP, SIGNALS, Handlers
from hd_agents.training.callback_rules import check_place

Agent = TypeVar("Agent", bound=HarmonyDreamAgent)


class RunCheckpoint(BaseCallback):
    """Stores the whole run every so often, and when it ends or is asked to end; :meth:`resume` goes on with it::

        checkpoint = RunCheckpoint("runs/catch", every=10_000)
        agent = checkpoint.resume(env) or HarmonyDreamAgent("CnnPolicy", env)
        agent.learn(max(0, total - agent.num_timesteps), callback=checkpoint, reset_num_timesteps=False)

    While learning, Ctrl-C (SIGINT), SIGTERM and SIGHUP (a terminal that closes; not where ``nohup`` ignores it) finish
    the present step, store the run and end ``learn``, which returns the agent as usual; a second one acts at once (but
    for a SIGTERM or SIGHUP within three seconds). ``stopped_by`` then holds the signal's name.

    :param folder: of this run's checkpoints and of nothing else; made if it does not exist.
    :param every: env steps between two checkpoints.
    :param keep: newest checkpoints to keep; older ones go when the next one is safe on the disk.
    :param verbose: 1 prints a line for every checkpoint.
    """

    def __init__(self, folder: str | Path, every: int = 10_000, keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.folder = Path(folder).absolute()
        self.every = checks.whole("every", every, 1)
        self.keep = checks.whole("keep", keep, 1)
        self.stopped_by: str | None = None
        self._kept: list[Manifest] = []  # oldest first; the last one is where the run stands on the disk
        self._history: object | None = None  # of the replay whose rows the last checkpoint holds
        self._added: list[int] = []  # rows of each environment up to the last checkpoint
        self._updates = 0  # gradient steps up to it
        self._there: list[tuple[int, int]] = []  # checkpoints in the folder after the last one
        self.stop_before_step = self._learning = False
        self._handlers, self._stopped_at = Handlers({}), 0.0  # of signals; the second at which the first came

    def resume(
        self,
        env: GymEnv | str,
        agent_class: type[Agent] = HarmonyDreamAgent,  # type: ignore[assignment]  # bound to it, says the variable
        device: torch.device | str = "auto",
        **changes: Any,
    ) -> Agent | None:
        """The agent of the newest intact checkpoint, its environments and random generators where they were then.

        Nothing in the folder is executed. Random numbers drawn between this and ``learn`` change the run.

        :param env: as the run had it. Where its state could not be stored (see :mod:`hd_agents.envs.state`), the
            running episodes end as truncated ones and new ones begin.
        :param agent_class: the run's own, where it is a subclass. :param device: as for the constructor.
        :param changes: constructor arguments to change, as for ``load``; a rate that is a function has to be given
            again.
        :return: None if the folder holds no checkpoint.
        :raises CheckpointError: if no checkpoint there is intact; damaged ones are skipped with a warning.
        :raises ValueError: if ``env`` does not fit.
        """
        manifest = newest_intact(self.folder)
        if manifest is None:
            return None
        if env is None:
            raise ValueError(
                f"env=None: {self.folder} holds a run, which goes on in its environment: pass one like it."
            )
        path = self.folder / manifest.name("agent")
        agent = agent_class.load(path, env=env, device=device, force_reset=False, **changes)
        assert agent.replay_buffer is not None
        for name in manifest.replay:
            agent.replay_buffer.append(self.folder / name)
        if not restore_run(agent, *read_archive(self.folder / manifest.name("state"))):
            warnings.warn(
                "Where the environments stood could not be stored: their running episodes end here as truncated ones, "
                "and the run takes another course than an uninterrupted one. docs/checkpoints.md says what can be.",
                stacklevel=2,
            )
        agent._note_moves()
        self._remember(manifest, agent)
        return agent

    def _on_training_start(self) -> None:
        check_place(self)
        self._handlers.give_back()  # an exception may have ended the last learn()
        self.stopped_by, self.stop_before_step = None, False
        self._claim()
        self._learning = True
        in_folder, known = steps_in(self.folder), self._kept[-1].step if self._kept else -1
        others = set(all_in(self.folder)) - set(self._there)
        if in_folder and (others or not 0 <= known <= self.model.num_timesteps):
            raise CheckpointError(
                f"{self.folder} holds checkpoints of a run up to step {in_folder[0]}, and this one begins at step "
                f"{self.model.num_timesteps}. Go on with that one by resume(env) and learn(..., "
                "reset_num_timesteps=False), or give an empty folder."
            )
        if not self._kept:
            self.save()  # better now than after hours: a folder that cannot be written
        self._handlers = Handlers(dict.fromkeys(SIGNALS.values(), self._on_signal))

    def _on_rollout_start(self) -> None:
        # Here, and only here, the agent is between two steps: the last one is stored and has been learnt from.
        due = self.model.num_timesteps // self.every > self._kept[-1].step // self.every
        if due or self.stopped_by:
            self.save()
        if self.stopped_by:
            self.stop_before_step = True
            with suppress(OSError):
                print(
                    f"{self.stopped_by}: stored step {self._kept[-1].step} in {self.folder}; learning ends.", flush=True
                )

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if not self.stop_before_step:
            self.save()
        self._end()

    def on_training_failure(self) -> None:
        """``learn`` ends by an exception. What was stored last is intact."""
        self._end()

    def _end(self) -> None:
        """Give folder and signals back."""
        self._learning = False
        self._handlers.give_back()
        release(self.folder)

    def _claim(self) -> None:
        try:
            claim(self.folder)
        except OSError as error:
            raise CheckpointError(f"Cannot write to {self.folder}: {error}. Give another folder.") from error

    def save(self) -> None:
        """Store the run as it is now, between two ``learn``, or between two steps, where a second call does nothing.

        :raises CheckpointError: if the disk is full or the folder cannot be written; the last checkpoint is intact. And
            between two ``learn`` if another process learns in the folder, or has gone on with the run.
        """
        if not hasattr(self, "model"):
            raise ValueError("save() before learn(): there is no run yet. Pass this to learn() as its callback.")
        if self._learning:
            self._save()
            return
        self._claim()
        try:
            if all_in(self.folder) != self._there:
                raise CheckpointError(
                    f"{self.folder} holds other checkpoints than this run has left there: another process has gone on "
                    "with it. Go on with that one by resume(env), or give an empty folder."
                )
            self._save(anyway=True)  # weights and settings may have been changed
        finally:
            release(self.folder)

    def _save(self, *, anyway: bool = False) -> None:
        step = self.model.num_timesteps
        last = self._kept[-1] if self._kept else None
        repeat = last.repeat + 1 if last is not None and last.step == step else 0
        if repeat and not anyway and self._is_stored(self.model):
            return
        try:
            self._remember(self._write(step, repeat, last), self.model)
            prune(self.folder, self._kept)
            self._there = all_in(self.folder)
        except OSError as error:
            with suppress(OSError):  # parts of it would be in the way when the disk is full
                prune(self.folder, self._kept)
            there = "No checkpoint was written before." if last is None else f"That of step {last.step} is intact."
            raise CheckpointError(
                f"Cannot write the checkpoint of step {step} to {self.folder}: {error}. {there} Make room or give "
                "another folder, and resume."
            ) from error
        if self.verbose >= 1:
            print(f"Stored step {step} in {self.folder}", flush=True)

    def _is_stored(self, agent: Any) -> bool:
        replay = agent.replay_buffer
        return (agent._n_updates, replay.added) == (self._updates, self._added) and replay.history is self._history

    def _write(self, step: int, repeat: int, last: Manifest | None) -> Manifest:
        agent: Any = self.model
        replay = agent.replay_buffer
        if last is None or replay.history is not self._history or not is_whole(self.folder, last):
            files, since = {}, [0] * replay.n_envs
        else:
            files, since = dict(last.replay), self._added
        new = [min(added - old, replay.rows_per_env) for added, old in zip(replay.added, since, strict=True)]
        if any(new):
            name = file_name("replay", step, repeat)
            replay.save(self.folder / name, since)
            files[name] = new
        agent.save(self.folder / file_name("agent", step, repeat))
        write_archive(self.folder / file_name("state", step, repeat), *run_state(agent))
        return commit(self.folder, step, repeat, still_in_ring(files, replay.rows_per_env), last)

    def _remember(self, manifest: Manifest, agent: Any) -> None:
        self._kept = [*self._kept, manifest][-self.keep :]
        self._history, self._added = agent.replay_buffer.history, list(agent.replay_buffer.added)
        self._updates, self._there = agent._n_updates, all_in(self.folder)
        self.model = agent

    def _on_signal(self, number: int, frame: Any) -> None:
        while frame is not None and frame.f_code is not HarmonyDreamAgent.learn.__code__:
            frame = frame.f_back
        if self.stopped_by and number != signal.SIGINT and time.monotonic() - self._stopped_at < ONE_STOP:
            return
        if self.stopped_by is not None or frame is None:  # the second one; or an exception has ended learn()
            self._handlers.give_back()
            signal.raise_signal(number)
            return
        self.stopped_by, self._stopped_at = signal.Signals(number).name, time.monotonic()
        # print() must not be used in a handler: the signal may have come in the middle of another one.
        again = "Once more does not wait for it, and stores nothing of the run."
        with suppress(OSError):  # of a terminal that has closed
            os.write(2, f"\n{self.stopped_by}: ending after this step. {again}\n".encode())
