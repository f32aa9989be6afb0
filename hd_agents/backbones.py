"""The two Dreamers, put together: networks and objectives out of the values of :mod:`hd_agents.styles`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from hd_agents import checks
from hd_agents.behavior.actor_critic import Actor, ActorLoss, CriticLoss, NoScale, ReturnScale
from hd_agents.behavior.returns import CreditAssignment, NextStateCredit, SameStateCredit
from hd_agents.harmony import Harmonizer, Term, select_terms
from hd_agents.nn.distributions import TwoHot, UnitNormal
from hd_agents.presets import DEFAULTS, SIZES, Size
from hd_agents.styles import STYLES, Style
from hd_agents.world_model.decoder import Decoder
from hd_agents.world_model.encoder import Encoder
from hd_agents.world_model.heads import ContinueHead, ScalarHead
from hd_agents.world_model.rssm import RSSM
from hd_agents.world_model.world_model import WorldModel


class Networks(nn.Module):
    """Everything with parameters: the world model, the harmoniser, the actor and the critics."""

    def __init__(
        self,
        world_model: WorldModel,
        harmonizer: Harmonizer,
        actor: Actor,
        critic: ScalarHead,
        return_scale: ReturnScale | NoScale,
    ) -> None:
        super().__init__()
        self.world_model, self.harmonizer = world_model, harmonizer
        self.actor, self.critic = actor, critic
        self.slow_critic = deepcopy(critic).requires_grad_(False)
        self.return_scale = return_scale


def build(
    backbone: str,
    *,
    images: Mapping[str, tuple[int, int, int]],
    vectors: Mapping[str, int],
    action_size: int,
    action_groups: tuple[int, ...],
    size: str = "small",
    harmony: bool | Mapping[str, bool | float] = True,
    gamma: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Networks:
    """Assemble the networks of a backbone.

    :param images: key -> (H, W, C). :param vectors: key -> size. :param action_size: A.
    :param action_groups: sizes of the one-hot groups; empty for continuous actions.
    :param harmony: which losses are harmonised, see :func:`hd_agents.harmony.select_terms`.
    :param gamma: the discount, which DreamerV2's continue head is trained on; default the backbone's.
    :param overrides: fields of :class:`Size`, and ``predict_continue`` (bool, default True), ``continue_gradient``
        (bool, default True), ``hard_continue`` (bool; True ends a dream where its end is likelier than not, as
        DreamerV3 has it, False weighs what follows by the probability, as DreamerV2), ``free_nats`` (nats), ``unimix``
        (0 to 0.99), ``harmony_kind`` ("rectified" or "naive"), ``bins`` (of DreamerV3's reward and critic, default
        255), ``vector_units`` and ``vector_layers`` (of the networks that encode and decode vectors, default ``units``
        and ``layers``).
    :raises ValueError: for an unknown backbone, size, override or loss name.
    """
    widths, style, options = _read_overrides(backbone, size, overrides or {})
    gamma = DEFAULTS[backbone].gamma if gamma is None else gamma
    mlp: dict[str, Any] = {"units": widths.units, "layers": widths.layers, "norm": style.norm, "act": style.act}
    classic = all(shape[:2] == (64, 64) for shape in images.values())  # what an unpadded CNN is made for
    shared = {**mlp, "depth": widths.depth, "squash": style.squash, "padded": style.padded or not classic}
    shared |= {"units": options["vector_units"], "layers": options["vector_layers"]}
    encoder = Encoder(images, vectors, **shared)
    rssm = RSSM(
        encoder.outputs,
        action_size,
        deter=widths.deter,
        hidden=widths.hidden,
        stoch=widths.stoch,
        classes=widths.classes,
        norm=style.norm,
        act=style.act,
        unimix=style.unimix,
        learned_initial=style.learned_initial,
        clip_action=style.clip_action and not action_groups,  # a one-hot vector has nothing beyond 1
    )
    features = rssm.features

    def scalar_head() -> ScalarHead:
        kind = TwoHot(options["bins"]) if style.two_hot else UnitNormal()
        return ScalarHead(features, kind, **mlp, init=style.scalar_init)

    keys = [*images, *vectors]
    names = {key: "observation" if len(keys) == 1 else f"observation/{key}" for key in keys}
    ending = {"target_scale": gamma if style.discounted_continue else 1.0, "hard": options["hard_continue"]}
    world_model = WorldModel(
        encoder,
        rssm,
        Decoder(features, images, vectors, **shared, error_scale=style.error_scale),
        scalar_head(),
        ContinueHead(features, **mlp, **ending) if options["predict_continue"] else None,
        kl=style.kl,
        observation_losses=names,
        continue_gradient=options["continue_gradient"],
    )
    return Networks(
        world_model,
        _harmonizer(names, style, options, harmony),
        Actor(features, action_size, action_groups, **mlp, unimix=style.unimix, bounded=style.bounded_actions),
        scalar_head(),
        ReturnScale() if style.scaled_returns else NoScale(),
    )


def _harmonizer(
    names: Mapping[str, str], style: Style, options: Mapping[str, Any], harmony: bool | Mapping[str, bool | float]
) -> Harmonizer:
    """The harmoniser of all losses of the world model.

    :param names: observation key -> name of its loss.
    """
    terms = {name: Term() for name in names.values()}
    terms |= {"reward": Term(), "dynamics": Term(style.kl_scale, regularizer=style.kl_regularizer)}
    if options["predict_continue"]:
        terms["continue"] = Term(harmonized=False)  # as in the official code, unless asked for
    groups = {key: [name] for key, name in names.items()} | {"observation": list(names.values())}
    return Harmonizer(select_terms(terms, harmony, groups), options["harmony_kind"])


def _read_overrides(backbone: str, size: str, overrides: Mapping[str, Any]) -> tuple[Size, Style, dict[str, Any]]:
    """Widths, style and the other options of :func:`build`, checked."""
    checks.choice("backbone", backbone, list(SIZES))
    checks.choice("size", size, list(SIZES[backbone]))
    style = STYLES[backbone]
    options: dict[str, Any] = {"predict_continue": True, "continue_gradient": True, "harmony_kind": "rectified"}
    options |= {"hard_continue": style.hard_continue, "free_nats": style.kl.free, "unimix": style.unimix}
    options |= {"bins": 255, "vector_units": None, "vector_layers": None} | SIZES[backbone][size]._asdict()
    unknown = sorted(str(key) for key in overrides if key not in options)
    if unknown:
        raise ValueError(
            f"policy_kwargs has unknown keys {unknown}; it may have {sorted(options)}."
            " 'units' and 'layers' are width and depth of the dense networks, size='nano' to 'xlarge' sets all; for "
            "networks of your own see docs/extending.md."
        )
    options |= overrides

    def whole(name: str, low: int = 1, default: int | None = None) -> int:
        return checks.whole(f"policy_kwargs[{name!r}]", options[name], low, default)

    widths = Size(**{name: whole(name) for name in Size._fields})
    options["vector_units"] = whole("vector_units", default=widths.units)
    options["vector_layers"] = whole("vector_layers", default=widths.layers)
    options["bins"] = whole("bins", 2)
    for name in ("predict_continue", "continue_gradient", "hard_continue"):
        given = options[name]
        given = bool(given) if isinstance(given, int | np.bool_) and given in (0, 1) else given
        options[name] = checks.choice(f"policy_kwargs[{name!r}]", given, [True, False])
    checks.choice("policy_kwargs['harmony_kind']", options["harmony_kind"], ["rectified", "naive"])
    unimix = checks.number("policy_kwargs['unimix']", options["unimix"], 0.0, 0.99)
    free = checks.number("policy_kwargs['free_nats']", options["free_nats"], 0.0)
    return widths, style._replace(unimix=unimix, kl=style.kl._replace(free=free)), options


class Objectives(NamedTuple):
    """How actor and critic learn, in the form the learner calls.

    :param entropy_in_targets: weight of the actor's entropy in the critic's targets, see :func:`objectives`.
    """

    credit: CreditAssignment
    actor_loss: ActorLoss
    critic_loss: CriticLoss
    entropy_in_targets: float = 0.0


def objectives(
    backbone: str, *, discrete: bool, return_lambda: float, entropy_coefficient: float, official_quirks: bool = False
) -> Objectives:
    """The behaviour objectives of a backbone.

    :param discrete: one-hot actions learn by REINFORCE, continuous ones through the dynamics.
    :param official_quirks: repeat an accident of wmlib: with continuous actions, its critic is trained on returns to
        which the actor loss has added its entropy bonus in place.
    """
    style = STYLES[backbone]
    quirky = official_quirks and backbone == "dreamerv2" and not discrete
    return Objectives(
        (NextStateCredit if style.next_state else SameStateCredit)(return_lambda),
        ActorLoss(entropy_coefficient, reinforce=discrete, baseline=style.baseline),
        CriticLoss(slow_regularizer=style.slow_regularizer),
        entropy_in_targets=entropy_coefficient if quirky else 0.0,
    )
