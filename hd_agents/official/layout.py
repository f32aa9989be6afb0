"""Where each of our tensors is in the two official releases (thuml/HarmonyDream), and how it is laid out there.

- JAX keeps linear kernels as (in, out), convolutions as (h, w, in, out), transposed ones as (h, w, out, in), unflipped.
- wmlib joins features as [stoch, deter] and GRU inputs as [x, deter] and flattens images as C, H, W; here it is
  [deter, stoch], [deter, x] and H, W, C.
- The mean and the deviation of a continuous actor are two layers there and one here; likewise the three log-sigmas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hd_agents.backbones import Networks

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


def origin(ours: str, shape: tuple[int, ...], networks: Networks, params: Mapping[str, Array]) -> Entry:
    """Where the tensor ``ours`` of ``shape`` in the state dict of ``networks`` comes from.

    :param params: official arrays without a prefix; which ones there are tells the release and whether it had harmony.
    """
    jax = is_jax(params)
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
    names: tuple[str, ...] = (leaf_name(official, leaf, jax),)
    if module == "actor.out" and not networks.actor.discrete:
        names, shape = (*names, leaf_name(ACTOR_STD[not jax], leaf, jax)), (shape[0] // 2, *shape[1:])
    if not jax:
        return Entry(names, shape, columns=_wmlib_columns(module, networks) if len(shape) == 2 else None)
    if len(shape) == 4:
        return Entry(names, (*shape[2:], shape[1], shape[0]), axes=(3, 2, 0, 1), flip=".decoder." in module)
    return Entry(names, shape[::-1], axes=(1, 0) if len(shape) == 2 else None)


def _wmlib_columns(module: str, networks: Networks) -> Array | None:
    """Where wmlib has the inputs of one of our linear layers; None where the order is the same."""
    rssm, encoder = networks.world_model.rssm, networks.world_model.encoder
    if READS_FEATURES.search(module):
        return np.roll(np.arange(rssm.stoch_size + rssm.deter), rssm.deter)
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


def is_jax(params: Mapping[str, Array]) -> bool:
    """Which release arrays without a prefix are from."""
    return "wm/rssm/gru/kernel" in params


def leaf_name(official: str, leaf: str, jax: bool) -> str:
    """The name of the "weight" or "bias" of an official linear or convolutional layer."""
    return official + ("._layer" if official.endswith("_cell") else "") + LEAVES[leaf][not jax]


def weight_name(module: str, index: int | str, jax: bool) -> str:
    """The official name of the weight of one of :data:`MODULES`."""
    return leaf_name(MODULES[module][not jax].format(index), "weight", jax)
