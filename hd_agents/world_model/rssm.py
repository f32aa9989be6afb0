"""The recurrent state-space model: a deterministic memory beside categorical latents."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hd_agents.nn import fused
from hd_agents.nn.flat import Places, can_be_flat
from hd_agents.nn.functional import sample_one_hot, unimix_log_probs
from hd_agents.nn.layers import Activation, Dense, GRUCell, linear
from hd_agents.nn.products import Linear, apply_linear
from hd_agents.world_model.filter_parts import Sequences, Weights
from hd_agents.world_model.filtering import filter_by_hand

# Multiplications of a step's largest product up to which float32 is faster: a CPU has done so many before a product in
# bfloat16 has begun, a GPU before the sixteen conversions that a step then takes, both ways.
SMALL_PRODUCT = {"cpu": 4_000_000, "cuda": 64_000_000}


class State(NamedTuple):
    """A latent state; any leading axes.

    :param deter: (..., D) memory.
    :param stoch: (..., S * K) one-hot samples of S categoricals with K classes.
    """

    deter: Tensor
    stoch: Tensor


class RSSM(nn.Module):
    """prior:  h' = GRU(h, [z, a]),  z' ~ p(z' | h');   posterior:  z' ~ q(z' | h', embed).

    A step is written here three times, module by module: :meth:`imagine_step`, :meth:`filter_step`, :meth:`_filter`.
    The same operations without the modules, for speed: :mod:`hd_agents.world_model.filtering` (with gradients),
    :mod:`hd_agents.acting` and :mod:`hd_agents.behavior.imagination`. Tests hold all of them to the same numbers. The
    official code's names: ``image_in`` and ``image_out`` are its layers of imagination (img), not of images.

    :param deter: D. :param hidden: width of the layers between. :param stoch: S. :param classes: K.
    :param norm: layer norm everywhere and no GRU bias (DreamerV3), or only in the GRU (DreamerV2).
    :param unimix: share of the uniform distribution in prior and posterior.
    :param learned_initial: the first state of an episode is learned (DreamerV3) instead of zeros (DreamerV2).
    :param clip_action: divide actions beyond 1 by their magnitude; the gradient sees a constant factor (DreamerV3).
    """

    PARTS: ClassVar[Places] = {  # what it is made of, where nobody has put in something else
        **dict.fromkeys(("image_in", "image_out", "observe_in"), Dense),
        **dict.fromkeys(("prior_out", "posterior_out"), Linear),
        "gru": GRUCell,
    }
    fused = False  # may be set at any time: on CUDA, by the kernels of nn/kernels.py where they work

    def __init__(
        self,
        embed: int,
        action: int,
        *,
        deter: int,
        hidden: int,
        stoch: int,
        classes: int,
        norm: bool,
        act: Activation,
        unimix: float,
        learned_initial: bool,
        clip_action: bool,
    ) -> None:
        super().__init__()
        self.deter, self.stoch, self.classes = deter, stoch, classes
        self.stoch_size = stoch * classes
        self.features = deter + self.stoch_size
        self.unimix, self.clip_action = unimix, clip_action
        self.image_in = Dense(self.stoch_size + action, hidden, norm=norm, act=act)
        self.gru = GRUCell(hidden, deter, bias=not norm)
        self.image_out = Dense(deter, hidden, norm=norm, act=act)
        self.prior_out = linear(hidden, self.stoch_size)
        self.observe_in = Dense(deter + embed, hidden, norm=norm, act=act)
        self.posterior_out = linear(hidden, self.stoch_size)
        self.initial_deter = nn.Parameter(torch.zeros(deter)) if learned_initial else None

    def initial(self, n: int) -> State:
        """The state before the first observation of an episode, (n, D) and (n, S * K)."""
        if self.initial_deter is None:
            zeros = torch.zeros(n, self.features, device=next(self.parameters()).device)
            return State(zeros[:, : self.deter], zeros[:, self.deter :])
        deter = torch.tanh(self.initial_deter).unsqueeze(0)
        stoch = self.sample(self.prior(deter), None).detach()
        return State(deter.expand(n, -1), stoch.to(deter.dtype).expand(n, -1))

    def prior(self, deter: Tensor) -> Tensor:
        """(..., D) -> raw prior logits (..., S, K)."""
        return self.prior_out(self.image_out(deter)).unflatten(-1, (self.stoch, self.classes))

    def log_probs(self, logits: Tensor) -> Tensor:
        """Raw logits -> log-probabilities with the uniform share mixed in."""
        return unimix_log_probs(logits.float(), self.unimix)

    def sample(self, logits: Tensor, draw: Tensor | None) -> Tensor:
        """Raw logits (..., S, K) -> one-hot samples (..., S * K); ``draw`` as in :func:`sample_one_hot`."""
        return sample_one_hot(logits, draw, self.unimix).flatten(-2)

    def imagine_step(self, state: State, action: Tensor, draw: Tensor | None) -> State:
        """One step without an observation.

        :param action: (N, A) taken in ``state``. :param draw: (N, S), or None for the mode.
        """
        inputs = torch.cat([state.stoch, self.clip(action)], -1)
        deter = self.gru(self.image_in(inputs), state.deter)
        return State(deter, self.sample(self.prior(deter), draw))

    def restart(self, state: State, action: Tensor, is_first: Tensor) -> tuple[State, Tensor]:
        """The initial state and no action (N, A) where ``is_first`` (N,) says so, else what they were."""
        initial = self.initial(len(is_first))
        first = is_first.unsqueeze(-1)
        deter, stoch = torch.where(first, initial.deter, state.deter), torch.where(first, initial.stoch, state.stoch)
        return State(deter, stoch), action.masked_fill(first, 0.0)

    def observe_step(
        self, state: State, action: Tensor, embed: Tensor, is_first: Tensor | None, draw: Tensor | None
    ) -> State:
        """One step of filtering, as :meth:`observe` does for a whole sequence, without what only pays over many steps.

        :param action: (N, A) that led to the observation. :param embed: (N, E). :param is_first: (N,) bool,
            restart there; None for nowhere. :param draw: (N, S), or None for the mode.
        """
        return self.filter_step(state, action, embed, is_first, draw)[0]

    def filter_step(
        self, state: State, action: Tensor, embed: Tensor, is_first: Tensor | None, draw: Tensor | None
    ) -> tuple[State, Tensor]:
        """:meth:`observe_step`, and the raw posterior logits (N, S, K)."""
        action = self.clip(action)
        if is_first is not None:
            state, action = self.restart(state, action, is_first)
        deter = self.gru(self.image_in(torch.cat([state.stoch, action], -1)), state.deter)
        hidden = self.observe_in(torch.cat([deter, embed], -1))
        logits = self.posterior_out(hidden).unflatten(-1, (self.stoch, self.classes))
        return State(deter, self.sample(logits, draw)), logits

    def observe(
        self, embed: Tensor, action: Tensor, is_first: Tensor, draws: Tensor | None, state: State | None = None
    ) -> tuple[State, Tensor]:
        """Filter sequences: the posterior states (B, T, ...) and their raw logits (B, T, S, K).

        What does not depend on the recurrence is computed for all steps at once, before the loop: the parts of the
        first layers that see the action and the embedding. The prior is left to the caller, who knows all ``deter``.
        Where a part was replaced or has hooks, all goes by :meth:`filter_step`.

        :param embed: (B, T, E). :param action: (B, T, A); action[:, t] led to embed[:, t]. :param is_first: (B, T)
            bool. :param draws: (B, T, S), or None for modes. :param state: where the sequences start; default the
            initial state.
        """
        if not (torch.compiler.is_compiling() or self.is_plain()):
            return self._step_by_step(embed, action, is_first, draws, state)
        first, observe = self.image_in.linear, self.observe_in.linear
        keep = (~is_first).float().unsqueeze(-1)
        initial = self.initial(embed.shape[0])
        from_action = apply_linear(self.clip(action) * keep, first.weight[:, self.stoch_size :], first.bias)
        from_embed = apply_linear(embed, observe.weight[:, self.deter :], observe.bias)
        small = len(embed) * self.gru.linear.weight.numel() <= SMALL_PRODUCT.get(embed.device.type, 0)
        if small and from_embed.dtype == torch.bfloat16:
            from_action, from_embed = from_action.float(), from_embed.float()
        inputs = Sequences(
            from_action,
            from_embed,
            *initial,
            *(initial if state is None else state),
            keep.transpose(0, 1),
            None if draws is None else draws.transpose(0, 1).contiguous(),
        )
        by_hand = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        by_hand = by_hand and self.image_in.act == self.observe_in.act
        deter, stoch, logits = self._filter_by_hand(inputs) if by_hand else self._filter(inputs)
        return State(deter.transpose(0, 1), stoch.transpose(0, 1)), logits.transpose(0, 1)

    def is_plain(self) -> bool:
        """Whether all of it is as we made it: no part of another kind, no hook, no method of its own."""
        return can_be_flat(self.modules(), {RSSM: self.PARTS}) and self.posterior_out.bias is not None

    def _step_by_step(
        self, embed: Tensor, action: Tensor, is_first: Tensor, draws: Tensor | None, state: State | None
    ) -> tuple[State, Tensor]:
        """:meth:`observe` by :meth:`filter_step`, whatever the modules are."""
        steps = {name: getattr(getattr(self, name), "__func__", None) for name in ("observe_step", "filter_step")}
        if steps["observe_step"] is not RSSM.observe_step and steps["filter_step"] is RSSM.filter_step:
            raise TypeError(f"This {type(self).__name__} has its own observe_step: learning needs a filter_step.")
        made, state = [], self.initial(len(embed)) if state is None else state
        for step in range(embed.shape[1]):
            draw = None if draws is None else draws[:, step]
            state, logits = self.filter_step(state, action[:, step], embed[:, step], is_first[:, step], draw)
            made.append((*state, logits))
        deter, stoch, logits = (torch.stack(parts, 1) for parts in zip(*made, strict=True))
        return State(deter, stoch), logits

    def _filter(self, inputs: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        """:func:`hd_agents.world_model.filtering.filter_by_hand` step by step, with gradients by autograd."""
        into, observe = (
            self.image_in.linear.weight[:, : self.stoch_size],
            self.observe_in.linear.weight[:, : self.deter],
        )
        actions, embeds = inputs.from_action.unbind(1), inputs.from_embed.unbind(1)
        numbers = [None] * len(actions) if inputs.draws is None else inputs.draws.unbind()
        deter, stoch, made = inputs.deter, inputs.stoch, []
        for action, embed, keep, draw in zip(actions, embeds, inputs.keep.unbind(), numbers, strict=True):
            deter = torch.addcmul((1.0 - keep) * inputs.initial_deter, deter, keep)
            stoch = torch.addcmul((1.0 - keep) * inputs.initial_stoch, stoch, keep)
            deter = self.gru(self.image_in.finish(action + F.linear(stoch, into)), deter)
            hidden = self.observe_in.finish(embed + F.linear(deter, observe))
            logits = self.posterior_out(hidden).unflatten(-1, (self.stoch, self.classes))
            stoch = self.sample(logits, draw)
            made.append((deter, stoch, logits))
        deters, stochs, logits_of_all = (torch.stack(column) for column in zip(*made, strict=True))
        return deters, stochs, logits_of_all

    def _filter_by_hand(self, inputs: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        weights = Weights(
            self.image_in.linear.weight[:, : self.stoch_size],
            _norm(self.image_in),
            self.gru.linear.weight,
            self.gru.linear.bias,
            (self.gru.norm.weight, self.gru.norm.bias),
            self.observe_in.linear.weight[:, : self.deter],
            _norm(self.observe_in),
            self.posterior_out.weight,
            self.posterior_out.bias,
        )
        kernels = inputs.draws is not None and self.can_be_fused(inputs.draws, inputs.from_action.dtype)
        given = self.stoch, self.unimix, self.image_in.act
        return filter_by_hand(inputs, weights, *given, fused=kernels)

    def can_be_fused(self, draws: Tensor, dtype: torch.dtype) -> bool:
        """Whether the kernels of :mod:`hd_agents.nn.kernels` are wanted and work for such draws and products."""
        biased = self.prior_out.bias is not None and self.posterior_out.bias is not None
        if not (self.fused and biased and draws.is_floating_point()):
            return False
        hidden, norm = self.gru.linear.in_features - self.deter, self.image_in.norm is not None
        sizes = self.deter, hidden, self.stoch, self.classes
        return fused.usable(draws.device, dtype, *sizes, norm, self.image_in.act, self.unimix)

    def clip(self, action: Tensor) -> Tensor:
        """Actions (..., A) as the recurrence takes them."""
        return action / action.detach().abs().clamp(min=1.0) if self.clip_action else action


def _norm(layer: Dense) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if layer.norm is None else (layer.norm.weight, layer.norm.bias)
