"""Weights of the two official releases (thuml/HarmonyDream) -> our networks.

"dreamerv3" is their dreamerv3-jax, with names like ``agent/wm/rssm/gru/kernel``; "dreamerv2" is their wmlib-torch, with
names like ``wm.rssm._cell._layer.weight``. Where their layouts differ from ours:

- JAX keeps linear kernels as (in, out), convolutions as (h, w, in, out), transposed ones as (h, w, out, in), unflipped.
- wmlib joins features as [stoch, deter] and GRU inputs as [x, deter] and flattens images as C, H, W; here it is
  [deter, stoch], [deter, x] and H, W, C.
- The mean and the deviation of a continuous actor are two layers there and one here; likewise the three log-sigmas.

All of it is a fixed relayout, so :func:`convert` serves gradients and optimiser moments as well as weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hd_agents.backbones import Networks, build

Array = NDArray[Any]

# Our module: (JAX, wmlib). {} is the index of a layer or the key of a vector observation.
MODULES: dict[str, tuple[str, str]] = {
    "world_model.rssm.image_in": ("wm/rssm/img_in", "wm.rssm.img_in"),
    "world_model.rssm.gru": ("wm/rssm/gru", "wm.rssm._cell"),
    "world_model.rssm.image_out": ("wm/rssm/img_out", "wm.rssm.img_out_0"),
    "world_model.rssm.prior_out": ("wm/rssm/img_stats", "wm.rssm.img_dist_0"),
    "world_model.rssm.observe_in": ("wm/rssm/obs_out", "wm.rssm.obs_out"),
    "world_model.rssm.posterior_out": ("wm/rssm/obs_stats", "wm.rssm.obs_dist"),
    "world_model.encoder.cnns.0.layers.{}": ("wm/enc/cnn/s{}res", "wm.encoder.conv{}"),
    "world_model.encoder.mlp.{}": ("wm/enc/mlp/h{}", "wm.encoder.dense{}"),
    "world_model.decoder.cnns.0.first": ("wm/dec/cnn/in", "wm.heads.decoder.convin"),
    "world_model.decoder.cnns.0.layers.{}": ("wm/dec/cnn/s{}res", "wm.heads.decoder.conv{}"),
    "world_model.decoder.mlp.{}": ("wm/dec/mlp/h{}", "wm.heads.decoder.dense{}"),
    "world_model.decoder.outs.{}": ("wm/dec/mlp/dist_{}/out", "wm.heads.decoder.dense_{}.out"),
    "world_model.reward_head.mlp.{}": ("wm/rew/h{}", "wm.heads.reward.dense{}"),
    "world_model.reward_head.out": ("wm/rew/dist_out/out", "wm.heads.reward.out.out"),
    "world_model.continue_head.mlp.{}": ("wm/cont/h{}", "wm.heads.discount.dense{}"),
    "world_model.continue_head.out": ("wm/cont/dist_out/out", "wm.heads.discount.out.out"),
    "actor.mlp.{}": ("task_behavior/ac/actor/h{}", "_task_behavior.actor.dense{}"),
    "actor.out": ("task_behavior/ac/actor/dist_out/out", "_task_behavior.actor.out.out"),
    "critic.mlp.{}": ("task_behavior/critic/net/h{}", "_task_behavior.critic.dense{}"),
    "critic.out": ("task_behavior/critic/net/dist_out/out", "_task_behavior.critic.out.out"),
    "slow_critic.mlp.{}": ("task_behavior/critic/slow/h{}", "_task_behavior._target_critic.dense{}"),
    "slow_critic.out": ("task_behavior/critic/slow/dist_out/out", "_task_behavior._target_critic.out.out"),
}
JAX_TENSORS = {
    "world_model.rssm.initial_deter": "wm/rssm/initial",
    "return_scale.low": "task_behavior/ac/retnorm_extr/low/value",
    "return_scale.high": "task_behavior/ac/retnorm_extr/high/value",
}
IMAGE_LAYER, VECTOR_LAYER = "world_model.encoder.cnns.0.layers.{}", "world_model.encoder.mlp.{}"
VECTOR_OUT = "world_model.decoder.outs.{}"
LEAVES = {"weight": ("/kernel", ".weight"), "bias": ("/bias", ".bias")}
NORM_LEAVES = {"weight": ("/norm/scale", "._norm.weight"), "bias": ("/norm/bias", "._norm.bias")}
ACTOR_STD = ("task_behavior/ac/actor/dist_out/std", "_task_behavior.actor.out.std")
LOG_SIGMAS = ("wm/har_s{}/harmony_s", "wm.harmony_s{}")
READS_FEATURES = re.compile(r"(decoder\.cnns\.0\.first|(decoder|reward_head|continue_head|actor|critic)\.mlp\.0)$")
# No weights of the model: counters, moments, statistics, and what is stored twice.
UNUSED = re.compile(r"identity/identity$|critic/updates/value$|_opt/|rewnorm\.mag$|_expl_behavior\.|har(mony)?_s\d")


class Official(NamedTuple):
    """What official arrays say about the model they come from.

    :param images: key -> (H, W, C), at most one key. :param vectors: key -> size.
    :param action_groups: sizes of the one-hot groups; empty for continuous actions.
    :param overrides: sizes for :func:`hd_agents.backbones.build`, the agent's ``policy_kwargs``.
    :param harmony: what the release harmonised, as the agent's argument: reward, image and dynamics, or nothing.
    :param updates: of the slow critic; at 0 the next one copies the critic. wmlib does not store it.
    """

    backbone: str
    images: dict[str, tuple[int, int, int]]
    vectors: dict[str, int]
    action_size: int
    action_groups: tuple[int, ...]
    overrides: dict[str, Any]
    harmony: bool | dict[str, bool | float]
    updates: int

    def networks(self, **arguments: Any) -> Networks:
        """Fresh networks of these sizes; ``arguments`` of :func:`hd_agents.backbones.build` go before what was read."""
        names = ("images", "vectors", "action_size", "action_groups", "harmony")
        overrides = self.overrides | dict(arguments.pop("overrides", None) or {})
        return build(self.backbone, overrides=overrides, **({name: getattr(self, name) for name in names} | arguments))


class Entry(NamedTuple):
    """Where one of our tensors comes from.

    :param theirs: official names, joined along the first axis; "" for a loss that the release does not harmonise.
    :param shape: of each of them. :param axes: transposition of theirs to ours.
    :param flip: reverse the last two axes afterwards.
    :param columns: reordering of our last axis: ``ours[:, j] = theirs[:, columns[j]]``.
    """

    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    flip: bool = False
    columns: Array | None = None

    def convert(self, parts: Sequence[Array]) -> Array:
        """Official parts -> our tensor."""
        if not parts:
            return np.zeros(0)
        if self.axes is not None:
            parts = [part.transpose(self.axes) for part in parts]
        out = parts[0] if len(parts) == 1 and parts[0].ndim else np.concatenate([np.atleast_1d(part) for part in parts])
        out = out[..., ::-1, ::-1] if self.flip else out
        return np.ascontiguousarray(out if self.columns is None else out[:, self.columns])


def read(path: str | Path) -> dict[str, Array]:
    """Arrays of an official file: wmlib's ``variables.pt``, or an ``.npz`` of the JAX agent's arrays by name.

    No file is unpickled. A JAX checkpoint is a pickle: open it where it was made and ``numpy.savez`` the arrays of its
    "agent" entry.

    :raises ValueError: for another kind of file.
    """
    if Path(path).suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return clean(dict(file))
    if Path(path).suffix not in (".pt", ".pth"):
        raise ValueError(f"{path}: use wmlib's variables.pt, or an .npz of the JAX agent's arrays by name")
    return clean(torch.load(path, map_location="cpu", weights_only=True))


def clean(params: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays or tensors by official name -> arrays by name without a prefix such as ``agent/``.

    :raises ValueError: where the names are those of neither release.
    """
    matches = (re.fullmatch(r"(.*?)wm(/rssm/gru/kernel|\.rssm\._cell\._layer\.weight)", name) for name in params)
    prefix = next((match[1] for match in matches if match), None)
    if prefix is None:
        raise ValueError(
            "Neither 'wm/rssm/gru/kernel' (dreamerv3-jax) nor 'wm.rssm._cell._layer.weight' (wmlib) is among the names "
            f"{sorted(params)[:4]}..."
        )
    found = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
    return {
        name: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in found.items()
    }


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
    params = clean(params)
    jax = _is_jax(params)

    def has(module: str, index: int | str = "") -> bool:
        return _weight(module, index, jax) in params

    def count(module: str) -> int:
        return next(i for i in range(len(params) + 1) if not has(module, i))

    def widths(module: str, index: int | str = "") -> tuple[int, int]:
        shape = _get(params, _weight(module, index, jax)).shape
        return (shape[-2], shape[-1]) if jax else (shape[1], shape[0])

    inputs, hidden = widths("world_model.rssm.image_in")
    deter = widths("world_model.rssm.gru")[1] // 3
    flat = widths("world_model.rssm.prior_out")[1]
    classes = isqrt(flat) if classes is None else classes
    if flat % classes:
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
    discrete = _leaf(ACTOR_STD[not jax], "weight", jax) not in params
    harmony: bool | dict[str, bool | float] = LOG_SIGMAS[not jax].format(1) in params
    return Official(
        backbone="dreamerv3" if jax else "dreamerv2",
        images=dict(images or {}),
        vectors=dict(vectors or {}),
        action_size=inputs - flat,
        action_groups=((inputs - flat,) if action_groups is None else action_groups) if discrete else (),
        overrides=sized,
        harmony=dict.fromkeys(vectors, 1.0 if jax else 0.0) if harmony and vectors else harmony,
        updates=int(params.get("task_behavior/critic/updates/value", 0)),
    )


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
    table = {name: _entry(name, tuple(old.shape), networks, params) for name, old in networks.state_dict().items()}
    out = {}
    for ours, entry in table.items():
        parts = [_get(params, name) if name else np.zeros(()) for name in entry.theirs]
        for name, part in zip(entry.theirs, parts, strict=True):
            if part.shape != entry.shape:
                raise ValueError(f"{name} has shape {part.shape}, but {ours} of these networks needs {entry.shape}")
        out[ours] = entry.convert(parts)
    known = {name for entry in table.values() for name in entry.theirs}
    unknown = [f"{name} {params[name].shape}" for name in params if name not in known and not UNUSED.search(name)]
    if unknown:
        raise ValueError(f"No place in these {'dreamerv3' if _is_jax(params) else 'dreamerv2'} networks for {unknown}")
    return out


def _entry(ours: str, shape: tuple[int, ...], networks: Networks, params: Mapping[str, Array]) -> Entry:
    """Where the tensor ``ours`` of ``shape`` comes from."""
    jax = _is_jax(params)
    encoder = networks.world_model.encoder
    if ours == "harmonizer.log_sigma":
        numbers = {networks.world_model.observation_losses[key]: 2 for key in encoder.image_keys}
        numbers |= {"reward": 1, "dynamics": 3}
        sigmas = [LOG_SIGMAS[not jax].format(numbers.get(loss, "")) for loss in networks.harmonizer.harmonized]
        return Entry(tuple(name if name in params else "" for name in sigmas), ())
    if ours in JAX_TENSORS:
        return Entry((JAX_TENSORS[ours],), shape)
    match = re.fullmatch(r"(.+?)(\.linear|\.conv|\.norm)?\.(weight|bias)", ours)
    assert match is not None, ours
    module, part, leaf = match.groups()
    stem, index = module, ""
    if module not in MODULES:
        stem, index = re.sub(r"\d+$", "{}", module), module.rpartition(".")[2]
    if stem == VECTOR_OUT:
        index = encoder.vector_keys[int(index)]
    official = MODULES[stem][not jax].format(index)
    if part == ".norm":
        return Entry((official + NORM_LEAVES[leaf][not jax],), shape)
    names: tuple[str, ...] = (_leaf(official, leaf, jax),)
    if module == "actor.out" and not networks.actor.discrete:
        names, shape = (*names, _leaf(ACTOR_STD[not jax], leaf, jax)), (shape[0] // 2, *shape[1:])
    if not jax:
        return Entry(names, shape, columns=_wmlib_columns(module, networks) if len(shape) == 2 else None)
    if len(shape) == 4:
        return Entry(names, (*shape[2:], shape[1], shape[0]), axes=(3, 2, 0, 1), flip=".decoder." in module)
    return Entry(names, shape[::-1], axes=(1, 0) if len(shape) == 2 else None)


def _wmlib_columns(module: str, networks: Networks) -> Array | None:
    """Where wmlib has the inputs of one of our linear layers; None where the order is the same."""
    rssm, encoder = networks.world_model.rssm, networks.world_model.encoder
    if READS_FEATURES.search(module):
        return np.roll(np.arange(rssm.flat + rssm.deter), rssm.deter)
    if module.endswith("rssm.gru"):
        return np.roll(np.arange(rssm.gru.linear.in_features), rssm.deter)
    if module.endswith("rssm.observe_in") and encoder.image_keys:
        channels = [len(tensor) for tensor in encoder.cnns[0].state_dict().values()][-1]
        pixels = encoder.outputs - (encoder.mlp.outputs if encoder.mlp is not None else 0)
        columns = np.arange(rssm.deter + encoder.outputs)
        image = slice(rssm.deter, rssm.deter + pixels)
        columns[image] = columns[image].reshape(channels, -1).T.ravel()
        return columns
    return None


def _is_jax(params: Mapping[str, Array]) -> bool:
    return "wm/rssm/gru/kernel" in params


def _leaf(official: str, leaf: str, jax: bool) -> str:
    return official + ("._layer" if official.endswith("_cell") else "") + LEAVES[leaf][not jax]


def _weight(module: str, index: int | str, jax: bool) -> str:
    return _leaf(MODULES[module][not jax].format(index), "weight", jax)


def _get(params: Mapping[str, Array], name: str) -> Array:
    if name not in params:
        raise ValueError(f"{name} is missing from the official arrays")
    return params[name]


def _vector_keys(params: Mapping[str, Array]) -> list[str]:
    pattern = re.escape(_weight(VECTOR_OUT, "@", _is_jax(params))).replace("@", "(.+)")
    return sorted(match[1] for match in (re.fullmatch(pattern, name) for name in params) if match)
