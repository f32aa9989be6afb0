"""The world model as a whole: a batch of experience -> named losses and posterior states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hd_agents.nn.functional import categorical_kl
from hd_agents.world_model.batch import Batch
from hd_agents.world_model.decoder import Decoder
from hd_agents.world_model.encoder import Encoder
from hd_agents.world_model.heads import ContinueHead, ScalarHead
from hd_agents.world_model.rssm import RSSM, State


class KLBalance(NamedTuple):
    """How the two directions of the KL between posterior and prior make the dynamics loss.

    :param dynamics: weight of KL(stop(posterior) || prior), which trains the prior.
    :param representation: weight of KL(posterior || stop(prior)), which trains the posterior.
    :param free: nats below which neither is pushed further.
    :param average_first: compare the batch mean with ``free`` (wmlib) instead of every step (DreamerV3).
    """

    dynamics: float
    representation: float
    free: float
    average_first: bool

    def loss(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T, S, K) of both -> the dynamics loss, (B, T) or 0-d, and the plain KL (B, T)."""
        dynamics = categorical_kl(posterior.detach(), prior)
        representation = categorical_kl(posterior, prior.detach())
        value = dynamics.detach()
        if self.average_first:
            dynamics, representation = dynamics.mean(), representation.mean()
        dynamics, representation = dynamics.clamp(min=self.free), representation.clamp(min=self.free)
        return self.dynamics * dynamics + self.representation * representation, value


class ModelOutput(NamedTuple):
    """What :meth:`WorldModel.losses` returns.

    :param losses: name -> (B, T), or 0-d where the backbone averages first or the decoder works in chunks.
    :param posterior: states (B, T, ...), in the graph.
    :param metrics: 0-d tensors, detached.
    """

    losses: dict[str, Tensor]
    posterior: State
    metrics: dict[str, Tensor]


class WorldModel(nn.Module):
    """Encoder, RSSM, decoder, reward head and (optionally) continue head.

    :param observation_losses: observation key -> name of its loss.
    :param continue_gradient: let the continue loss shape the features; False in the paper's Meta-world runs.
    """

    def __init__(
        self,
        encoder: Encoder,
        rssm: RSSM,
        decoder: Decoder,
        reward_head: ScalarHead,
        continue_head: ContinueHead | None,
        *,
        kl: KLBalance,
        observation_losses: Mapping[str, str],
        continue_gradient: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, self.rssm, self.decoder = encoder, rssm, decoder
        self.reward_head, self.continue_head = reward_head, continue_head
        self.kl = kl
        self.observation_losses = dict(observation_losses)
        self.continue_gradient = continue_gradient

    def losses(self, batch: Batch, draws: Tensor, state: State | None = None) -> ModelOutput:
        """All losses of a batch.

        :param draws: (B, T, S) for the posterior samples.
        :param state: latent at which the sequences start where ``is_first`` is not set; default the initial state.
        """
        # Filter the sequences.
        size = batch.reward.shape
        prepared = self.encoder.prepare(batch.observation)
        embed = self.encode(batch.observation, prepared)
        posterior, logits = self.rssm.observe(embed, batch.action, batch.is_first, draws, state)
        posterior_probs = self.rssm.log_probs(logits)
        prior_probs = self.rssm.log_probs(self.rssm.prior(posterior.deter))

        # Predict what was observed.
        features = self.features(posterior)
        losses = {}
        for key, loss in self.decoder.losses(features.flatten(0, 1), prepared).items():
            losses[self.observation_losses[key]] = loss.unflatten(0, size) if loss.dim() else loss
        losses["reward"] = self.reward_head.loss(self.reward_head.exactly(features), batch.reward)
        if self.continue_head is not None:
            inputs = features if self.continue_gradient else features.detach()
            losses["continue"] = self.continue_head.loss(self.continue_head(inputs), batch.terminated)

        # Let prior and posterior agree.
        losses["dynamics"], kl = self.kl.loss(posterior_probs, prior_probs)
        for name, loss in losses.items():
            assert loss.shape in (size, ()), (name, loss.shape)
        return ModelOutput(losses, posterior, self._metrics(kl, posterior_probs, prior_probs))

    @torch.no_grad()
    def _metrics(self, kl: Tensor, posterior: Tensor, prior: Tensor) -> dict[str, Tensor]:
        def entropy(log_probs: Tensor) -> Tensor:
            return -(log_probs.exp() * log_probs).sum((-2, -1)).mean()

        return {"kl": kl.mean(), "entropy/posterior": entropy(posterior), "entropy/prior": entropy(prior)}

    def encode(self, observation: Mapping[str, Tensor], prepared: Mapping[str, Tensor] | None = None) -> Tensor:
        """Observations with any leading axes, as in :class:`Batch` -> embeddings (..., E).

        :param prepared: what the encoder's ``prepare`` has made of them, where that is known.
        """
        key = next(iter(observation))
        lead = observation[key].shape[: -3 if key in self.encoder.image_keys else -1]
        return self.encoder(self.encoder.prepare(observation) if prepared is None else prepared).unflatten(0, lead)

    def features(self, state: State) -> Tensor:
        """(..., F): memory and samples side by side, what every head reads."""
        return torch.cat([state.deter, state.stoch], -1)

    def decode(self, features: Tensor) -> dict[str, Tensor]:
        """(..., F) -> key -> images (..., H, W, C) in [0, 1] or vectors (..., D), in the environment's own terms."""
        lead = features.shape[:-1]
        means = self.decoder.means(self.decoder(features.flatten(0, -2)))
        return {key: mean.unflatten(0, lead) for key, mean in means.items()}

    def reward(self, features: Tensor) -> Tensor:
        """(..., F) -> (...) expected reward on arriving in the state."""
        return self.reward_head.mean(self.reward_head(features))

    def continues(self, features: Tensor) -> Tensor:
        """(..., F) -> (...) probability that the episode goes on; ones without a continue head."""
        if self.continue_head is None:
            return features.new_ones(features.shape[:-1], dtype=torch.float32)
        return self.continue_head.probability(self.continue_head(features))

    def discount(self, features: Tensor, gamma: float) -> Tensor:
        """(..., F) -> (...) factor on everything that follows the state."""
        if self.continue_head is None:
            return features.new_full(features.shape[:-1], gamma, dtype=torch.float32)  # bfloat16 makes 0.997 0.996
        return self.continue_head.discount(self.continue_head(features), gamma)
