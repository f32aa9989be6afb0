"""Weights of the two official releases (thuml/HarmonyDream) -> our networks.

"dreamerv3" is their dreamerv3-jax, with names like ``agent/wm/rssm/gru/kernel``; "dreamerv2" is their wmlib-torch, with
names like ``wm.rssm._cell._layer.weight``. The way from either to ours is a fixed relayout
(:mod:`hd_agents.official.layout`), so :func:`convert` serves gradients and optimiser moments as well as weights::

    params = read("variables.pt")
    networks = sizes(params).networks()
    load(params, networks)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from hd_agents import checks
from hd_agents.backbones import Networks, build
from hd_agents.official.files import clean, read
from hd_agents.official.layout import (
    ACTOR_STD,
    IMAGE_LAYER,
    LOG_SIGMAS,
    UNUSED,
    VECTOR_LAYER,
    VECTOR_OUT,
    Array,
    Entry,
    is_jax,
    leaf_name,
    origin,
    weight_name,
)
from hd_agents.saving.vetting import blamed_on
from hd_agents.spaces import ActionCodec, ObservationCodec


class Official(NamedTuple):
    """What official arrays say about the model they come from.

    :param images: key -> (H, W, C), at most one key. :param vectors: key -> size.
    :param action_groups: sizes of the one-hot groups; empty for continuous actions. :param discrete: one-hot actions.
    :param overrides: sizes for :func:`hd_agents.backbones.build`, the agent's ``policy_kwargs``.
    :param harmony: what the release harmonised, as the agent's argument: reward, image and dynamics, or nothing.
    :param updates: of the slow critic; at 0 the next one copies the critic. wmlib does not store it.
    """

    backbone: str
    images: dict[str, tuple[int, int, int]]
    vectors: dict[str, int]
    action_size: int
    action_groups: tuple[int, ...]
    discrete: bool
    overrides: dict[str, Any]
    harmony: bool | dict[str, bool | float]
    updates: int

    def networks(self, **arguments: Any) -> Networks:
        """Fresh networks of these sizes; ``arguments`` of :func:`hd_agents.backbones.build` go before what was read."""
        names = ("images", "vectors", "action_size", "action_groups", "harmony")
        overrides = self.overrides | dict(arguments.pop("overrides", None) or {})
        return build(self.backbone, overrides=overrides, **({name: getattr(self, name) for name in names} | arguments))


def sizes(
    params: Mapping[str, Any],
    *,
    images: Mapping[str, tuple[int, int, int]] | None = None,
    vectors: Mapping[str, int] | None = None,
    action_groups: tuple[int, ...] | None = None,
    classes: int | None = None,
) -> Official:
    """Infer the model that official arrays belong to.

    :param images: what the environment gives, key -> (H, W, C); default a square "image" of the size that fits.
    :param vectors: key -> size, in the order in which the release joined them; default the decoder's keys, sorted.
    :param action_groups: default one group for discrete actions; several choices at once cannot be told from one.
    :param classes: of each latent; default as many as there are latents, as in every official setting.
    :raises ValueError: where something is missing or cannot be inferred, naming it.
    """
    with blamed_on("The official model"):
        return _sizes(clean(params), images, vectors, action_groups, classes)


def _sizes(
    params: Mapping[str, Array],
    images: Mapping[str, tuple[int, int, int]] | None,
    vectors: Mapping[str, int] | None,
    action_groups: tuple[int, ...] | None,
    classes: int | None,
) -> Official:
    jax = is_jax(params)

    def has(module: str, index: int | str = "") -> bool:
        return weight_name(module, index, jax) in params

    def count(module: str) -> int:
        return next(i for i in range(len(params) + 1) if not has(module, i))

    def widths(module: str, index: int | str = "") -> tuple[int, int]:
        shape = _get(params, weight_name(module, index, jax)).shape
        return (shape[-2], shape[-1]) if jax else (shape[1], shape[0])

    inputs, hidden = widths("world_model.rssm.image_in")
    deter = widths("world_model.rssm.gru")[1] // 3
    flat = widths("world_model.rssm.prior_out")[1]
    guessed = classes is None
    classes = isqrt(flat) if classes is None else classes
    if flat % classes or (guessed and classes**2 != flat):
        raise ValueError(f"{flat} latent units do not tell how many classes each latent has: pass classes=")
    sized: dict[str, Any] = {"deter": deter, "hidden": hidden, "stoch": flat // classes, "classes": classes}
    sized |= {"units": widths("actor.mlp.{}", 0)[1], "layers": count("actor.mlp.{}")}
    sized["predict_continue"] = has("world_model.continue_head.out")
    if jax:
        sized["bins"] = widths("critic.out")[1]
    embed = widths("world_model.rssm.observe_in")[0] - deter
    if has(VECTOR_LAYER, 0):
        sized |= {"vector_units": widths(VECTOR_LAYER, 0)[1], "vector_layers": count(VECTOR_LAYER)}
        embed -= sized["vector_units"]
        if vectors is None:
            vectors = {key: widths(VECTOR_OUT, key)[1] for key in _vector_keys(params)}
    if has(IMAGE_LAYER, 0):
        channels, sized["depth"] = widths(IMAGE_LAYER, 0)
        stages = count(IMAGE_LAYER)
        side = isqrt(embed // (sized["depth"] * 2 ** (stages - 1))) * 2**stages if jax else 64
        images = {"image": (side, side, channels)} if images is None else images
    if float(params.get("_task_behavior.rewnorm.mag", 1.0)) != 1.0:
        raise ValueError("_task_behavior.rewnorm.mag is not 1: rewards scaled in imagination have no place here")
    discrete = leaf_name(ACTOR_STD[not jax], "weight", jax) not in params
    harmony: bool | dict[str, bool | float] = LOG_SIGMAS[not jax].format(1) in params
    return Official(
        backbone="dreamerv3" if jax else "dreamerv2",
        images=dict(images or {}),
        vectors=dict(vectors or {}),
        action_size=inputs - flat,
        action_groups=((inputs - flat,) if action_groups is None else action_groups) if discrete else (),
        discrete=discrete,
        overrides=sized,
        harmony=dict.fromkeys(vectors, 1.0 if jax else 0.0) if harmony and vectors else harmony,
        updates=int(params.get("task_behavior/critic/updates/value", 0)),
    )


def for_spaces(
    params: Mapping[str, Any],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    classes: int | None = None,
) -> Official:
    """:func:`sizes` for the spaces of an environment, whose observations then go by the environment's keys.

    An agent for them has ``backbone``, ``harmony`` and ``policy_kwargs=overrides`` of the result; then :func:`load` its
    networks, and count its updates from ``updates`` on.

    :raises ValueError: where the spaces cannot be those of the official model.
    """
    observations, actions = ObservationCodec(observation_space), ActionCodec(action_space)
    if len(observations.images) > 1:
        raise ValueError(f"{list(observations.images)}: official models join cameras into one image; give one key")
    found = sizes(
        params,
        images={key: spec.shape for key, spec in observations.images.items()},
        vectors={key: spec.size for key, spec in observations.vectors.items()},
        action_groups=actions.groups,
        classes=classes,
    )
    kinds = {True: "discrete", False: "continuous"}
    if found.action_size != actions.size or found.discrete != bool(actions.groups):
        raise ValueError(
            f"The official model has {found.action_size} {kinds[found.discrete]} actions, "
            f"but {action_space} has {actions.size} {kinds[bool(actions.groups)]} ones"
        )
    with blamed_on("The official model"), torch.device("meta"):  # sizes of a few arrays ask for all the others
        _table(clean(params), found.networks())
    return found


def make_agent(
    cls: Any, params: Mapping[str, Any] | str | Path, env: VecEnv, classes: int | None, settings: dict[str, Any]
) -> Any:
    """An agent of ``cls`` in ``env``; see :meth:`hd_agents.agent.HarmonyDreamAgent.from_official`."""
    arrays = params if isinstance(params, Mapping) else read(params)
    classes = None if classes is None else checks.whole("classes", classes, 1)
    found = for_spaces(arrays, env.observation_space, env.action_space, classes)
    own = checks.mapping("policy_kwargs", settings.get("policy_kwargs") or {})
    if told := sorted({"policy", "backbone", "harmony"} & settings.keys() | found.overrides.keys() & own.keys()):
        raise ValueError(f"{', '.join(told)}: follows from the model; leave it out.")
    shaped: dict[str, Any] = {"backbone": found.backbone, "harmony": found.harmony}
    shaped["policy_kwargs"] = {**own, **found.overrides}
    agent = cls(ObservationCodec(env.observation_space).policy, env, **{**settings, **shaped})
    load(arrays, agent.policy.networks)
    agent._n_updates = agent.learner.updates = max(1, found.updates)  # it has learned, known or not for how long
    return agent


def load(params: Mapping[str, Any], networks: Networks) -> None:
    """Copy official weights into ``networks``, see :meth:`Official.networks`.

    :raises ValueError: naming the tensor that is missing, of the wrong shape (with both shapes) or without a place.
    """
    tensors = convert(params, networks)
    networks.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})


def convert(params: Mapping[str, Any], networks: Networks) -> dict[str, Array]:
    """Official arrays -> arrays by the names and in the layout of ``networks.state_dict()``, which is only read.

    :raises ValueError: as :func:`load`.
    """
    params = clean(params)
    table = _table(params, networks)
    return {ours: entry.convert(_parts(params, entry)) for ours, entry in table.items()}


def _table(params: Mapping[str, Array], networks: Networks) -> dict[str, Entry]:
    """Where every tensor of ``networks`` comes from, once all shapes and names are found to fit."""
    table = {name: origin(name, tuple(old.shape), networks, params) for name, old in networks.state_dict().items()}
    for ours, entry in table.items():
        for name, part in zip(entry.theirs, _parts(params, entry), strict=True):
            if part.shape != entry.shape:
                raise ValueError(f"{name} has shape {part.shape}, but {ours} of these networks needs {entry.shape}")
    known = {name for entry in table.values() for name in entry.theirs}
    unknown = [f"{name} {params[name].shape}" for name in params if name not in known and not UNUSED.search(name)]
    if unknown:
        raise ValueError(f"No place in these {'dreamerv3' if is_jax(params) else 'dreamerv2'} networks for {unknown}")
    return table


def _parts(params: Mapping[str, Array], entry: Entry) -> list[Array]:
    return [_get(params, name) if name else np.zeros(()) for name in entry.theirs]


def _get(params: Mapping[str, Array], name: str) -> Array:
    if name not in params:
        raise ValueError(f"{name} is missing from the official arrays")
    return params[name]


def _vector_keys(params: Mapping[str, Array]) -> list[str]:
    pattern = re.escape(weight_name(VECTOR_OUT, "@", is_jax(params))).replace("@", "(.+)")
    return sorted(match[1] for match in (re.fullmatch(pattern, name) for name in params) if match)
