"""The two Dreamers. Every difference between DreamerV2 and DreamerV3 stands here, side by side, as a value.

"dreamerv3" is the 2023 JAX release on which HarmonyDream's Atari100K results rest, "dreamerv2" the paper's own PyTorch
code for robotics (wmlib). Everything else in the package receives values and knows no version.
"""

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
from hd_agents.nn.layers import Activation, Init
from hd_agents.presets import DEFAULTS, SIZES, Size
from hd_agents.world_model.decoder import Decoder
from hd_agents.world_model.encoder import Encoder
from hd_agents.world_model.heads import ContinueHead, ScalarHead
from hd_agents.world_model.rssm import RSSM
from hd_agents.world_model.world_model import KLBalance, WorldModel


class Style(NamedTuple):
    """How the layers of a backbone look."""

    norm: bool
    act: Activation
    unimix: float
    kl: KLBalance
    kl_scale: float
    kl_regularizer: float
    error_scale: float
    zero_init: Init


STYLES: dict[str, Style] = {
    "dreamerv3": Style(
        norm=True,
        act="silu",
        unimix=0.01,
        kl=KLBalance(dynamics=0.5 / 0.6, representation=0.1 / 0.6, free=1.0, average_first=False),
        kl_scale=0.6,  # without harmony: 0.5 dynamics + 0.1 representation
        kl_regularizer=0.5 / 0.6,  # the official code weighs the regulariser of the KL with its dynamics part
        error_scale=1.0,
        zero_init="zeros",
    ),
    "dreamerv2": Style(
        norm=False,
        act="elu",
        unimix=0.0,
        kl=KLBalance(dynamics=0.8, representation=0.2, free=0.0, average_first=True),
        kl_scale=1.0,
        kl_regularizer=1.0,
        error_scale=0.5,
        zero_init="uniform",
    ),
}


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
        (0 to 1), ``harmony_kind`` ("rectified" or "naive"), ``bins`` (of DreamerV3's reward and critic, default 255),
        ``vector_units`` and ``vector_layers`` (of the networks that encode and decode vectors, default ``units`` and
        ``layers``).
    :raises ValueError: for an unknown backbone, size, override or loss name.
    """
    widths, style, options = _read_overrides(backbone, size, overrides or {})
    v3 = backbone == "dreamerv3"
    gamma = DEFAULTS[backbone].gamma if gamma is None else gamma

    mlp: dict[str, Any] = {"units": widths.units, "layers": widths.layers, "norm": style.norm, "act": style.act}
    classic = all(shape[:2] == (64, 64) for shape in images.values())  # what DreamerV2's unpadded stack is made for
    shared: dict[str, Any] = {"depth": widths.depth, **mlp, "padded": v3 or not classic, "squash": v3}
    shared |= {"units": options["vector_units"], "layers": options["vector_layers"]}
    encoder = Encoder(images, vectors, **shared)
    rssm = RSSM(
        encoder.outputs,
        action_size,
        deter=widths.deter,
        units=widths.hidden,
        stoch=widths.stoch,
        classes=widths.classes,
        norm=style.norm,
        act=style.act,
        unimix=style.unimix,
        learned_initial=v3,
        clip_action=v3 and not action_groups,  # a one-hot vector has nothing beyond 1
    )
    features = rssm.features

    def scalar() -> TwoHot | UnitNormal:
        return TwoHot(options["bins"]) if v3 else UnitNormal()

    keys = [*images, *vectors]
    names = {key: "observation" if len(keys) == 1 else f"observation/{key}" for key in keys}
    world_model = WorldModel(
        encoder,
        rssm,
        Decoder(features, images, vectors, **shared, error_scale=style.error_scale),
        ScalarHead(features, scalar(), **mlp, init=style.zero_init),
        ContinueHead(features, **mlp, target_scale=1.0 if v3 else gamma, hard=options["hard_continue"])
        if options["predict_continue"]
        else None,
        kl=style.kl,
        observation_losses=names,
        continue_gradient=options["continue_gradient"],
    )
    terms = {name: Term() for name in names.values()}
    terms |= {"reward": Term(), "dynamics": Term(style.kl_scale, regularizer=style.kl_regularizer)}
    if options["predict_continue"]:
        terms["continue"] = Term(harmonized=False)  # as in the official code, unless asked for
    groups = {key: [name] for key, name in names.items()} | {"observation": list(names.values())}
    terms = select_terms(terms, harmony, groups)
    return Networks(
        world_model,
        Harmonizer(terms, options["harmony_kind"]),
        Actor(features, action_size, action_groups, **mlp, unimix=style.unimix, bounded=not v3),
        ScalarHead(features, scalar(), **mlp, init=style.zero_init),
        ReturnScale() if v3 else NoScale(),
    )


def _read_overrides(backbone: str, size: str, overrides: Mapping[str, Any]) -> tuple[Size, Style, dict[str, Any]]:
    """Widths, style and the other options of :func:`build`, checked."""
    checks.choice("backbone", backbone, list(SIZES))
    checks.choice("size", size, list(SIZES[backbone]))
    style = STYLES[backbone]
    options: dict[str, Any] = {"predict_continue": True, "continue_gradient": True, "harmony_kind": "rectified"}
    options |= {"hard_continue": backbone == "dreamerv3", "free_nats": style.kl.free, "unimix": style.unimix}
    options |= {"bins": 255, "vector_units": None, "vector_layers": None} | SIZES[backbone][size]._asdict()
    unknown = sorted(str(key) for key in overrides if key not in options)
    if unknown:
        raise ValueError(f"policy_kwargs has unknown keys {unknown}; it may have {sorted(options)}")
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
    unimix = checks.number("policy_kwargs['unimix']", options["unimix"], 0.0, 1.0)
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
    backbone: str,
    *,
    discrete: bool,
    return_lambda: float,
    entropy_coefficient: float,
    official_quirks: bool = False,
) -> Objectives:
    """The behaviour objectives of a backbone.

    :param discrete: one-hot actions learn by REINFORCE, continuous ones through the dynamics.
    :param official_quirks: repeat an accident of wmlib: with continuous actions, its critic is trained on returns to
        which the actor loss has added its entropy bonus in place.
    """
    checks.choice("backbone", backbone, list(SIZES))
    v3 = backbone == "dreamerv3"
    return Objectives(
        NextStateCredit(return_lambda) if v3 else SameStateCredit(return_lambda),
        ActorLoss(entropy_coefficient, reinforce=discrete, baseline=v3),
        CriticLoss(slow_regularizer=v3),
        entropy_in_targets=entropy_coefficient if official_quirks and not v3 and not discrete else 0.0,
    )
