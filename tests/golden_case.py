"""A case of golden numbers from the official code: its files, our networks with its weights, its batches and draws.

A case is the set of files ``<case>_params``, ``_wm``, ``_behavior``, ``_policy`` and ``_train`` (each .npz with a .json
that says what its keys mean). Everything about the model is read from them. Two releases wrote them: "jax" (DreamerV3)
keeps the action taken *after* an observation beside it, and images as H, W, C; "torch" (wmlib, DreamerV2) keeps the
action that *led to* it, as we do, and images as C, H, W.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hd_agents import official
from hd_agents.backbones import Networks, Objectives, objectives
from hd_agents.presets import DEFAULTS
from hd_agents.training.learner import Draws, Learner
from hd_agents.world_model.batch import Batch
from hd_agents.world_model.rssm import State

Arrays = dict[str, np.ndarray]
KEPT = Path(__file__).parent / "data" / "golden"
REWARDS = {"identity": lambda x: x, "tanh": np.tanh, "sign": np.sign}


def folder() -> Path:
    """Where the golden files are: ``HD_GOLDEN_DIR``, else the copy kept with the tests."""
    return Path(os.environ.get("HD_GOLDEN_DIR") or KEPT)


def case_names(where: Path) -> list[str]:
    """The cases of a folder, by their file of parameters."""
    return sorted(path.name.removesuffix("_params.npz") for path in where.glob("*_params.npz"))


def arrays(path: Path) -> Arrays:
    """All arrays of an .npz."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def unsupported(where: Path, name: str) -> str | None:
    """Why a case is none of our backbones; None if it is one."""
    config = json.loads((where / f"{name}_params.json").read_text())["meta"]["config"]
    if "encoder_type" not in config:
        return None
    if config["encoder_type"] != "plaincnn":
        return f"wmlib's {config['encoder_type']} encoder is not one of our backbones"
    if config["rssm"]["norm"] != "none" or config["reward_head"]["dist"] != "mse" or config["reward_perc"]:
        return "wmlib's own V3 option is not DreamerV3"
    return None


class Row(NamedTuple):
    """One comparison; ``error`` is relative to the official number in the way the quantity's check says."""

    case: str
    part: str
    quantity: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """NaN fails."""
        return self.error <= self.tolerance


class Case:
    """One case of the files in ``where``."""

    def __init__(self, where: Path, name: str) -> None:
        self.where, self.name = where, name
        self.meta = json.loads((where / f"{name}_params.json").read_text())["meta"]
        self.config: dict[str, Any] = self.meta["config"]
        self.params = arrays(where / f"{name}_params.npz")
        self.jax = "encoder_type" not in self.config

    @cached_property
    def model(self) -> official.Official:
        """What the arrays say, with the little that only the configuration knows."""
        vectors = self.meta["spec"].get("vectors") or None
        groups = self.meta["spec"]["action"].get("nvec")
        return official.sizes(
            self.params,
            vectors=vectors,
            action_groups=None if groups is None else tuple(groups),
            classes=self.config["rssm"]["classes" if self.jax else "discrete"],
        )

    @property
    def gamma(self) -> float:
        """Discount per step."""
        return 1.0 - 1.0 / self.config["horizon"] if self.jax else self.config["discount"]

    @property
    def discrete(self) -> bool:
        """One-hot actions."""
        return self.model.discrete

    def part(self, name: str) -> Arrays:
        """The arrays of one of the case's files, such as "wm"."""
        return arrays(self.where / f"{self.name}_{name}.npz")

    def networks(self, harmony: bool | None = None) -> Networks:
        """Networks with the case's weights. ``harmony`` None is as the case was trained, False the plain loss."""
        heads, name = self.config["grad_heads"], "cont" if self.jax else "discount"
        overrides: dict[str, Any] = {"continue_gradient": name in heads}
        overrides["free_nats"] = self.config["dyn_loss" if self.jax else "kl"]["free"]
        choice = self.model.harmony if harmony is None else harmony
        networks = self.model.networks(overrides=overrides, gamma=self.gamma, harmony=choice)
        official.load(self.params, networks)
        return networks

    def objectives(self) -> Objectives:
        """How the official code learns behaviour, accidents included."""
        config = self.config
        return objectives(
            self.model.backbone,
            discrete=self.discrete,
            return_lambda=config["return_lambda" if self.jax else "discount_lambda"],
            entropy_coefficient=float(config["actent" if self.jax else "actor_ent"]),
            official_quirks=True,
        )

    def learner(self, networks: Networks) -> Learner:
        """A learner with the case's optimisers."""
        config = self.config
        options = [config[f"{name}_opt"] for name in ("model", "actor", "critic")]
        fraction, every = (
            ("slow_critic_fraction", "slow_critic_update")
            if self.jax
            else ("slow_target_fraction", "slow_target_update")
        )
        defaults = DEFAULTS[self.model.backbone]._replace(
            model_eps=options[0]["eps"],
            model_clip=options[0]["clip"],
            weight_decay=options[0]["wd"],
            slow_fraction=config[fraction],
            slow_every=config[every],
        )
        rates = dict(zip(("learning_rate", "actor_learning_rate", "critic_learning_rate"), options, strict=True))
        learner = Learner(
            networks,
            self.objectives(),
            defaults,
            horizon=config["imag_horizon"],
            gamma=self.gamma,
            **{name: option["lr"] for name, option in rates.items()},
        )
        learner.updates = self.model.updates
        return learner

    def image(self, image: np.ndarray) -> Tensor:
        """An official image, uint8 or float -> channels last."""
        return torch.from_numpy(image if self.jax else np.ascontiguousarray(np.moveaxis(image, -3, -1)))

    def observation(self, data: Arrays) -> dict[str, Tensor]:
        """What our encoder reads of official ``data``."""
        images = {key: self.image(data[key]) for key in self.model.images}
        return images | {key: torch.from_numpy(data[key]) for key in self.model.vectors}

    def batch(self, data: Arrays, previous_action: np.ndarray | None) -> Batch:
        """An official batch in our alignment.

        :param previous_action: (B, A), the action before the batch; needed where actions follow observations.
        """
        action = data["action"]
        if self.jax:
            assert previous_action is not None
            action = np.concatenate([previous_action[:, None], action[:, :-1]], 1)
        reward = data["reward"] if self.jax else REWARDS[self.config["clip_rewards"]](data["reward"])
        flags = (torch.from_numpy(data[name] > 0.5) for name in ("is_first", "is_terminal"))
        return Batch(self.observation(data), torch.from_numpy(action), torch.from_numpy(reward), *flags)

    def actions(self, action: np.ndarray, noise: np.ndarray | None) -> Tensor:
        """Recorded actions -> draws that repeat them: class indices, or the ``noise`` behind continuous ones."""
        if not self.discrete:
            assert noise is not None
            return torch.from_numpy(noise)
        groups = torch.from_numpy(action).split(self.model.action_groups, -1)
        return torch.stack([group.argmax(-1) for group in groups], -1)

    def imagined_actions(self, data: Arrays, prefix: str) -> Tensor:
        """Draws (H, N, ...) of the dream in ``data``: wmlib's first recorded action and JAX's last are idle."""
        action = data[f"{prefix}action"]
        horizon = len(action) - 1
        noise = data.get(f"{prefix}normal" if self.jax else f"{prefix}uniform")
        taken = action[:-1] if self.jax else action[1:]
        return self.actions(taken, None if noise is None else noise[:horizon])

    def draws(self, data: Arrays, step: str) -> Draws:
        """All draws of one recorded update."""
        return Draws(
            classes(data[f"{step}post_stoch"]),
            classes(data[f"{step}imag_stoch"][1:]),
            self.imagined_actions(data, f"{step}imag_"),
        )

    def parts(self, ours: dict[str, Tensor], networks: Networks) -> Arrays:
        """Our tensors by our names -> official names and layout, the way back of :func:`official.convert`.

        Tensors that we do not have, such as the log-sigma of a loss that is not there, are left out.
        """
        clean = official.clean(self.params)
        starts = np.cumsum([1, *(array.size for array in clean.values())])
        ids = {
            name: np.arange(start, start + array.size, dtype=np.float64).reshape(array.shape)
            for (name, array), start in zip(clean.items(), starts[:-1], strict=True)
        }
        flat = np.full(starts[-1], np.nan)
        for name, index in official.convert(ids, networks).items():
            if ours.get(name) is not None:
                flat[index.astype(np.int64)] = ours[name].detach().double().numpy()
        parts = {
            name: flat[start : start + clean[name].size].reshape(clean[name].shape)
            for name, start in zip(clean, starts, strict=False)
        }
        prefix = "agent/" if self.jax else ""
        return {prefix + name: part for name, part in parts.items() if not np.isnan(part).any()}


def classes(stoch: np.ndarray) -> Tensor:
    """One-hot samples (..., K) -> int64 class indices (...), which replay them as draws."""
    return torch.from_numpy(stoch.argmax(-1))


def state(data: Arrays, prefix: str) -> State:
    """A recorded latent state, samples flattened."""
    stoch = torch.from_numpy(data[f"{prefix}stoch"])
    return State(torch.from_numpy(data[f"{prefix}deter"]), stoch.flatten(-2))


def gradients(loss: Tensor, module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Gradient of ``loss`` by the name of each parameter of ``module`` in the networks; unreached ones are left out."""
    named = dict(module.named_parameters(prefix))
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: grad for name, grad in zip(named, grads, strict=True) if grad is not None}
