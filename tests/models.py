"""Tiny networks and batches for the tests; shapes are distinct primes wherever they can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from hd_agents.backbones import Networks, build, objectives
from hd_agents.presets import DEFAULTS
from hd_agents.training.learner import Learner
from hd_agents.world_model.batch import Batch
from hd_agents.world_model.rssm import RSSM, State

TINY = {"deter": 19, "hidden": 17, "stoch": 3, "classes": 5, "depth": 2, "units": 13, "layers": 1}
IMAGE = {"image": (16, 24, 3)}
VECTOR = {"vector": 7}


def networks(backbone: str = "dreamerv3", groups: tuple[int, ...] = (2, 3), **kwargs: Any) -> Networks:
    """Tiny networks on an image and a vector; continuous with A = 5 when ``groups`` is empty."""
    options: dict[str, Any] = {"images": IMAGE, "vectors": VECTOR, "size": "nano", "overrides": TINY} | kwargs
    return build(backbone, action_size=5, action_groups=groups, **options)


def learner(net: Networks, backbone: str = "dreamerv3", **kwargs: Any) -> Learner:
    """A learner of ``net`` with a horizon of 3."""
    discrete = net.actor.discrete
    goals = objectives(backbone, discrete=discrete, return_lambda=0.95, entropy_coefficient=3e-4)
    options: dict[str, Any] = {"learning_rate": 1e-3, "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
    return Learner(net, goals, DEFAULTS[backbone], horizon=3, gamma=0.99, **(options | kwargs))


def batch(
    size: tuple[int, int] = (2, 11),
    groups: tuple[int, ...] = (2, 3),
    images: Mapping[str, tuple[int, int, int]] = IMAGE,
    vectors: Mapping[str, int] = VECTOR,
) -> Batch:
    """Random experience, restarting only at the first row."""
    observation: dict[str, torch.Tensor] = {
        key: torch.randint(0, 256, (*size, *shape), dtype=torch.uint8) for key, shape in images.items()
    }
    observation |= {key: torch.randn(*size, width) for key, width in vectors.items()}
    if groups:
        action = torch.cat([F.one_hot(torch.randint(0, n, size), n).float() for n in groups], -1)
    else:
        action = torch.rand(*size, 5) * 2 - 1
    is_first = torch.zeros(size, dtype=torch.bool)
    is_first[:, 0] = True
    return Batch(observation, action, torch.randn(size), is_first, torch.rand(size) < 0.1)


def filtered(
    rssm: RSSM, leaves: list[torch.Tensor], first: torch.Tensor, draws: torch.Tensor | None
) -> list[torch.Tensor]:
    """What comes of the leaves (embeddings, actions and the state before them): deter, stoch and logits."""
    embed, action, deter, stoch = leaves
    posterior, logits = rssm.observe(embed, action, first, draws, State(deter, stoch))
    return [*posterior, logits]
