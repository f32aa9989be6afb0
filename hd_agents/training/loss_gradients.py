"""How hard each loss of the world model pulls at the weights that they share: what harmony is to balance."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from hd_agents import checks
from hd_agents.randomness import seeded
from hd_agents.training.callback_rules import check_place
from hd_agents.training.learner import Learner
from hd_agents.training.normalizing import normalize_batch
from hd_agents.world_model.batch import Batch

KEY = "train/gradient_share/"
SEQUENCES = 4  # of a batch: a gradient step of them takes little time and memory beside a usual one


class LossGradients(BaseCallback):
    """Logs whose gradient the world model follows, as ``learn`` goes on::

        agent.learn(100_000, callback=LossGradients(every=5_000))

    ``train/gradient_share/<loss>`` is the length of the gradient of this loss, weighted as it is now, over the sum of
    these lengths, on a few sequences from the replay; only of weights that more than one loss reaches, which are those
    of the encoder and of the recurrent model. A log table has the newest. Each takes about as long as a gradient
    step, draws none of the random numbers that training does, and so leaves the run as it is.

    :param every: env steps between two measurements; the first comes with the first gradient steps.
    :raises ValueError: for a number that is not allowed.
    """

    def __init__(self, every: int = 5_000) -> None:
        super().__init__()
        self.every = checks.whole("every", every, 1)
        self._measured: int | None = None  # the part of the run, counted in ``every``, that has its measurement

    def _on_training_start(self) -> None:
        check_place(self)
        if not self.model.num_timesteps:  # another run
            self._measured = None

    def _on_rollout_start(self) -> None:
        agent: Any = self.model
        part = agent.num_timesteps // self.every
        if part == self._measured or agent._n_updates == 0 or not agent.replay_buffer.can_sample(agent.sequence_length):
            return
        self._measured = part
        agent.policy.set_training_mode(False)  # parts that were put in since it learned are in training mode
        rng = np.random.default_rng(agent.num_timesteps)
        try:
            batch = agent.replay_buffer.sample(SEQUENCES, agent.sequence_length, rng, agent.device)
            with seeded(agent.num_timesteps, agent.device):
                lengths = gradient_lengths(agent.learner, normalize_batch(batch, agent._vec_normalize_env))
        except torch.OutOfMemoryError:  # no reason to end a training
            warnings.warn(f"LossGradients left out at env step {agent.num_timesteps:,}: no memory.", stacklevel=2)
            return
        for name, share in shares(lengths).items():
            self.logger.record(f"{KEY}{name}", share)

    def _on_step(self) -> bool:
        return True


def gradient_lengths(learner: Learner, batch: Batch) -> dict[str, float]:
    """Loss of the world model -> length of its weighted gradient, over the weights that more than one loss reaches.

    Gradients that the weights hold stay as they are.
    """
    weights = [weight for weight in learner.networks.world_model.parameters() if weight.requires_grad]
    draws = learner.draw(batch).posterior
    names, first = _lengths(0, learner, batch, draws, weights)
    found = [first, *(_lengths(index, learner, batch, draws, weights)[1] for index in range(1, len(names)))]
    shared = [sum(one is not None for one in reaching) > 1 for reaching in zip(*found, strict=True)]
    return {
        name: math.hypot(*(length or 0.0 for length, counts in zip(lengths, shared, strict=True) if counts))
        for name, lengths in zip(names, found, strict=True)
    }


def _lengths(
    index: int, learner: Learner, batch: Batch, draws: torch.Tensor, weights: Sequence[torch.Tensor]
) -> tuple[list[str], list[float | None]]:
    """The names of all losses, and lengths of what of the total's gradient comes through the one at ``index``.

    None for weights that it does not reach. With a graph of its own, which is gone before the next.
    """
    networks, through = learner.networks, None
    with torch.enable_grad():
        with learner._autocast():
            losses = networks.world_model.losses(batch, draws).losses
        total = networks.harmonizer(losses)[0]
    names = list(losses)
    loss = losses[names[index]]
    if weights and loss.requires_grad and total.requires_grad:
        (through,) = torch.autograd.grad(total, [loss], retain_graph=True, allow_unused=True)
    if through is None:
        return names, [None] * len(weights)
    gradients = torch.autograd.grad(loss, weights, through, allow_unused=True)
    return names, [None if one is None else float(one.float().norm()) for one in gradients]


def shares(lengths: Mapping[str, float]) -> dict[str, float]:
    """Each over their sum; nothing where that is 0 or not finite."""
    total = sum(lengths.values())
    return {name: length / total for name, length in lengths.items()} if 0.0 < total < float("inf") else {}
