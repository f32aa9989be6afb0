"""One gradient step of everything: the paper's algorithm box. Knows batches and networks, no environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hd_agents.backbones import Networks, Objectives
from hd_agents.behavior.actor_critic import update_slow
from hd_agents.behavior.imagination import Dream, imagine
from hd_agents.behavior.returns import Targets, add_entropy
from hd_agents.graphs import Capture, Graphed, Parts
from hd_agents.presets import BEHAVIOR_CLIP, Defaults
from hd_agents.training.compilation import compiled_or_plain
from hd_agents.training.nonfinite import Guard
from hd_agents.training.optimizers import Optimizers, weights_of
from hd_agents.world_model.batch import Batch
from hd_agents.world_model.rssm import State
from hd_agents.world_model.world_model import ModelOutput


class Draws(NamedTuple):
    """The random numbers of one gradient step, so that a step can be repeated; int64 entries replay recorded classes.

    :param posterior: (B, T, S). :param prior: (H, B * T, S). :param action: (H, B * T, ...), see :meth:`Actor.draw`.
    """

    posterior: Tensor
    prior: Tensor
    action: Tensor


class Learner:
    """Trains :class:`Networks`.

    :param networks: on the device they stay on.
    :param objectives: how actor and critic learn.
    :param defaults: the backbone's numbers; of these the learner reads those without a constructor argument.
    :param horizon: H, imagined steps. :param gamma: discount per agent step.
    :param learning_rate: of the world model; likewise ``actor_learning_rate`` and ``critic_learning_rate``.
    :param harmony_learning_rate: of the log-sigmas; None for the world model's, as in the paper.
    :param bfloat16: run the networks in bfloat16; the harmoniser, losses, returns and moments stay in float32.
    :param compiled: run the world model's losses through ``torch.compile``; minutes of compilation at the first step.
    :param capture: run each update as one graph that it records, see :class:`hd_agents.graphs.Graphed`; None for none.
    """

    def __init__(
        self,
        networks: Networks,
        objectives: Objectives,
        defaults: Defaults,
        *,
        horizon: int,
        gamma: float,
        learning_rate: float,
        actor_learning_rate: float,
        critic_learning_rate: float,
        harmony_learning_rate: float | None = None,
        bfloat16: bool = False,
        compiled: bool = False,
        capture: Capture | None = None,
    ) -> None:
        self.networks, self.objectives, self.defaults = networks, objectives, defaults
        self.horizon, self.gamma = horizon, gamma
        self.harmony_learning_rate = harmony_learning_rate
        self.updates = 0
        self.device = next(networks.parameters()).device
        self.bfloat16 = bfloat16  # may be set at any time
        self._compiled = compiled
        self._compiled_losses: tuple[Any, Callable[..., ModelOutput]] | None = None  # and what they were made of
        self._adam = Optimizers(networks, defaults)
        self.graphed = capture is not None
        self._parts: Parts | None = None
        self._changed = ""  # of the networks, last
        self._run: Callable[..., dict[str, Tensor]] = self.gradient_step
        if capture is not None:
            self._run = Graphed(self.gradient_step, self._bound_to, "the update", capture, self._last_change)
            networks.world_model.rssm.fused = self.device.type == "cuda"
        self.guard = Guard(self.device)
        self.newest: tuple[Batch, Draws] | None = None  # what the newest step saw, for the record of a failure
        self.set_learning_rates(learning_rate, actor_learning_rate, critic_learning_rate)

    @property
    def optimizers(self) -> dict[str, torch.optim.Adam]:
        """By what they train: "model" (the harmoniser with it), "actor", "critic"."""
        return self._adam.by_name

    @property
    def model_optimizer(self) -> torch.optim.Adam:
        """Of the world model, and in its second group of the harmoniser."""
        return self._adam.model

    @property
    def actor_optimizer(self) -> torch.optim.Adam:
        """Of the actor."""
        return self._adam.actor

    @property
    def critic_optimizer(self) -> torch.optim.Adam:
        """Of the critic."""
        return self._adam.critic

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For a copy, which has other parts to watch, and losses of its own to compile."""
        self.__dict__.update(state, _parts=None, _compiled_losses=None)

    def set_learning_rates(self, model: float, actor: float, critic: float) -> None:
        """Rates from the next step on."""
        own = self.harmony_learning_rate
        self._adam.set_rates(model, actor, critic, model if own is None else own)

    def follow_networks(self) -> None:
        """Train what the networks are made of now, where parts were replaced. Weights that stay keep their moments."""
        self._adam.follow(self.networks)

    def draw(self, batch: Batch) -> Draws:
        """Fresh random numbers for a step on ``batch``, from torch's global generator."""
        size, stoch = batch.reward.shape, self.networks.world_model.rssm.stoch
        dream = (self.horizon, size.numel())
        return Draws(
            torch.rand(*size, stoch, device=self.device),
            torch.rand(*dream, stoch, device=self.device),
            self.networks.actor.draw(*dream, device=self.device),
        )

    def train_step(self, batch: Batch, draws: Draws | None = None, state: State | None = None) -> dict[str, Tensor]:
        """Update the world model on ``batch``, then actor and critic on dreams that start there.

        What comes after a loss or gradient that is not finite is skipped: :class:`hd_agents.training.nonfinite.Guard`.

        :param draws: random numbers to use; default fresh ones.
        :param state: latent at which sequences start that do not begin with ``is_first``; default the initial state.
        :return: metrics, 0-d tensors on the device, detached, and good until the next update.
        """
        draws = self.draw(batch) if draws is None else draws
        self.newest = batch, draws
        metrics = self._run(batch, draws, *(() if state is None else (state,)))
        if self.updates % self.defaults.slow_every == 0:  # the first update copies, as in both official codes
            fraction = self.defaults.slow_fraction if self.updates else 1.0
            update_slow(self.networks.slow_critic, self.networks.critic, fraction)
        self.updates += 1
        return metrics

    def _last_change(self) -> str:
        return self._changed

    def _bound_to(self) -> list[Any]:
        """For a graph: settings, parts, and what the optimisers hold."""
        if self._parts is None or (change := self._parts.change()):
            self._changed = "" if self._parts is None else change
            self._parts = Parts(self.networks.modules())
        return [self.bfloat16, self.gamma, self.objectives, self.defaults, self._parts, *self._adam.bound()]

    def gradient_step(self, batch: Batch, draws: Draws, state: State | None = None) -> dict[str, Tensor]:
        """The part of :meth:`train_step` that runs on the device alone: losses, gradients and optimisers."""
        networks = self.networks
        self.guard.begin()

        # World model: harmonised losses on replayed sequences.
        with self._autocast():
            output = self._losses(batch, draws.posterior, state)
        model_loss, metrics = networks.harmonizer(output.losses)
        metrics |= output.metrics | {"loss/model": model_loss.detach()}
        metrics["grad_norm/model"] = self._step(self.model_optimizer, model_loss, self.defaults.model_clip)

        # Dream: from every replayed state, in the world model as it is now.
        start = State(*(part.detach().flatten(0, 1).float() for part in output.posterior))
        differentiable = not self._reinforce
        with self._autocast():
            dream = imagine(
                networks.world_model, networks.actor, start, draws.prior, draws.action, differentiable=differentiable
            )
            targets, critic_out, slow_value = self._evaluate(dream, batch.terminated.flatten())

        # Actor: actions that lead to more than the critic expects.
        scale = networks.return_scale.update(targets.actor_return, self.guard.bad)
        states = len(targets.actor_return)
        policy = networks.actor.distribution(dream.actor_parameters[:states])
        entropy = policy.entropy()
        actor_loss = self.objectives.actor_loss(policy, entropy, dream.action[:states], targets, scale)
        metrics["grad_norm/actor"] = self._step(self.actor_optimizer, actor_loss, BEHAVIOR_CLIP)

        # Critic: the return that the dreams led to.
        critic_targets = targets
        if self.objectives.entropy_in_targets:
            critic_targets = add_entropy(targets, self.objectives.entropy_in_targets * entropy.detach())
        critic_loss = self.objectives.critic_loss(networks.critic, critic_out, critic_targets, slow_value)
        metrics["grad_norm/critic"] = self._step(self.critic_optimizer, critic_loss, BEHAVIOR_CLIP)
        with torch.no_grad():
            metrics |= {
                "loss/actor": actor_loss.detach(),
                "loss/critic": critic_loss.detach(),
                "imagined_return": targets.critic_return.mean(),
                "return_scale": scale,
                "entropy/actor": entropy.mean(),
            }
            metrics["skipped"] = self.guard.count(metrics)
        return metrics

    @property
    def _reinforce(self) -> bool:
        """Whether the actor learns by the score function, not through the dream; as usual, if its loss is silent."""
        return bool(getattr(self.objectives.actor_loss, "reinforce", self.networks.actor.discrete))

    def _evaluate(self, dream: Dream, terminated: Tensor) -> tuple[Targets, Tensor, Tensor]:
        """Predictions along a dream -> targets, the critic's output where it learns, the slow critic there."""
        networks, credit = self.networks, self.objectives.credit
        model, features = networks.world_model, dream.features
        reinforce = self._reinforce
        with torch.set_grad_enabled(not reinforce):
            reward = model.reward(features)
            discount = model.discount(features, self.gamma)
            if model.continue_head is not None:  # what is known of the start need not be predicted
                known = self.gamma * (1.0 - terminated.float())
                discount = torch.cat([known.unsqueeze(0), discount[1:]], 0)
            if credit.from_slow:
                value = networks.slow_critic.mean(networks.slow_critic(features))
            elif not reinforce:
                value = networks.critic.mean(networks.critic(features))
        critic_out = networks.critic(features[:-1].detach())  # of one pass both the values and the loss are made
        with torch.no_grad():
            if reinforce and not credit.from_slow:
                last = networks.critic.mean(networks.critic(features[-1:]))
                value = torch.cat([networks.critic.mean(critic_out), last], 0)
            slow_value = value[:-1]
            if not credit.from_slow:
                slow_value = networks.slow_critic.mean(networks.slow_critic(features[:-1]))
        targets = credit(reward, discount, value, self.gamma)
        return targets, critic_out, slow_value

    def _losses(self, batch: Batch, draws: Tensor, state: State | None) -> ModelOutput:
        model = self.networks.world_model
        if not (self._compiled and model.rssm.is_plain()):
            return model.losses(batch, draws, state)
        if self._compiled_losses is None or self._compiled_losses[0] != model.losses:
            self._compiled_losses = model.losses, compiled_or_plain(model.losses)
        return self._compiled_losses[1](batch, draws, state)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> Tensor:
        """Backpropagate ``loss`` into the optimiser's parameters alone, clip, step if finite; the unclipped norm.

        Frozen ones (``requires_grad_(False)``) stay as they are.
        """
        parameters = [one for one in weights_of(optimizer) if one.requires_grad]
        optimizer.zero_grad(set_to_none=True)
        if parameters:
            loss.backward(inputs=parameters)
        own = optimizer.param_groups[0]["params"]
        if own and all(one.requires_grad and one.grad is None for one in own):
            raise RuntimeError(
                "A loss reaches none of the weights that it is to train. Functions that were set on modules still have "
                "the modules of before where an agent or a module was copied: set them on the copy anew."
            )
        norm = nn.utils.clip_grad_norm_(parameters, clip, foreach=True) if parameters else torch.zeros_like(loss)
        self.guard.gate(optimizer, loss, norm)
        optimizer.step()
        return norm

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)
