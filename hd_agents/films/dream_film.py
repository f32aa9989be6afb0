"""The dream while it is being learned: a film strip in TensorBoard every so many steps."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure

from hd_agents import checks
from hd_agents.agent import HarmonyDreamAgent
from hd_agents.extras import require
from hd_agents.files import write_figure
from hd_agents.films.strip import CONTEXT, CURVE_HORIZON, HORIZON, Truth, draw
from hd_agents.imagine import Imagined, first_of, imagine_from
from hd_agents.training.callback_rules import check_place
from hd_agents.training.normalizing import normalize_batch
from hd_agents.world_model.rssm import State

KEY = "dream/truth_dream_error"
WINDOWS = 16  # that are drawn from the replay, to take the one whose episode goes on longest
EXCLUDED = ("stdout", "log", "json", "csv")  # outputs without pictures


class Piece(NamedTuple):
    """A piece of the replay and the dream of it; the arguments of :func:`hd_agents.films.strip.draw`."""

    truth: Truth
    rewards: NDArray[np.float32]
    dream: Imagined
    start: int


class DreamFilm(BaseCallback):
    """Shows what the world model dreams beside what happened, as ``learn`` goes on::

        agent = HarmonyDreamAgent("CnnPolicy", env, tensorboard_log="logs")
        agent.learn(100_000, callback=DreamFilm(every=5_000))

    A piece of the replay is drawn, and below it the model's dream, which saw the steps before the piece and then the
    actions alone. TensorBoard has it under Images from the next log table on, of several in between the newest. Needs
    matplotlib, takes a quarter to half of a second, draws none of the random numbers that training does, and so leaves
    the run as it is.

    :param every: env steps between two film strips; the first comes with the first gradient steps.
    :param folder: also write each as ``dream_<env steps>.png`` there; made if it does not exist.
    :raises ValueError: for a number that is not allowed.
    :raises ImportError: when learning starts, without matplotlib; OSError if ``folder`` cannot be made.
    """

    def __init__(self, every: int = 5_000, folder: str | Path | None = None) -> None:
        super().__init__()
        self.every = checks.whole("every", every, 1)
        self.folder = None if folder is None else Path(folder)
        self._drawn: int | None = None  # the part of the run, counted in ``every``, that has its film strip

    def _on_training_start(self) -> None:
        check_place(self)
        if not self.model.num_timesteps:  # another run
            self._drawn = None
        # Better now than after the first steps.
        require("DreamFilm", "train", "matplotlib")
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def _on_rollout_start(self) -> None:
        agent: Any = self.model
        part = agent.num_timesteps // self.every
        if part == self._drawn or agent._n_updates == 0:
            return
        try:
            found = dream_of_replay(agent, np.random.default_rng(agent.num_timesteps))
        except torch.OutOfMemoryError:  # no reason to end a training
            self._drawn = part
            warnings.warn(f"DreamFilm left out at env step {agent.num_timesteps:,}: no memory.", stacklevel=2)
            return
        if found is None:
            return
        self._drawn = part
        figure = draw(*found, f"After {agent.num_timesteps:,} env steps, {agent._n_updates:,} gradient steps")
        self.logger.record(KEY, Figure(figure, close=False), exclude=EXCLUDED)
        if self.folder is not None:
            write_figure(self.folder / f"dream_{agent.num_timesteps}.png", figure)

    def _on_step(self) -> bool:
        return True


@torch.no_grad()
def dream_of_replay(agent: HarmonyDreamAgent, rng: np.random.Generator) -> Piece | None:
    """A piece of an episode in the agent's replay, and what the agent dreams for it.

    :param rng: chooses the piece. :return: None where the replay does not hold one yet.
    """
    policy, replay = agent.policy, agent.replay_buffer
    horizon = HORIZON if policy.observations.images else CURVE_HORIZON
    length = CONTEXT + 1 + horizon
    if replay is None or not replay.can_sample(length):
        return None
    batch = normalize_batch(replay.sample(WINDOWS, length, rng, agent.device), agent._vec_normalize_env)
    firsts = batch.is_first.cpu().numpy()
    lengths = np.where(firsts[:, CONTEXT + 1 :].any(1), firsts[:, CONTEXT + 1 :].argmax(1), horizon)
    window = int(lengths.argmax())
    if lengths[window] == 0:
        return None
    begins = int(np.flatnonzero(firsts[window, : CONTEXT + 1])[-1])  # the episode, or the window
    ends = CONTEXT + 1 + int(lengths[window])
    observation = {key: rows[window, begins:ends] for key, rows in batch.observation.items()}
    action, is_first = batch.action[window : window + 1, begins:ends], batch.is_first[window : window + 1, begins:ends]
    seen = CONTEXT + 1 - begins
    model = policy.networks.world_model
    embed = model.encode({key: rows[None, :seen] for key, rows in observation.items()})
    states, _ = model.rssm.observe(embed, action[:, :seen], is_first[:, :seen], None)
    start = State(states.deter[:, -1], states.stoch[:, -1])
    dream = first_of(imagine_from(policy, start, action[:, seen:].unbind(1), decode=True, deterministic=True))
    truth = policy.observations.restore({key: rows.cpu().numpy() for key, rows in observation.items()})
    return Piece(truth, batch.reward[window, begins + 1 : ends].cpu().numpy(), dream, seen - 1)
