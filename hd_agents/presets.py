"""The papers' numbers: widths of the networks by size, and the hyper-parameters of either Dreamer."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """Widths of the networks; each can be given in ``policy_kwargs``.

    :param deter: memory of the RSSM. :param hidden: width inside the RSSM. :param stoch: categoricals.
    :param classes: of each categorical. :param depth: channels of the first convolution. :param units: width of the
        heads, the actor, the critic and the vector networks. :param layers: their depth.
    """

    deter: int
    hidden: int
    stoch: int
    classes: int
    depth: int
    units: int
    layers: int


SIZES: dict[str, dict[str, Size]] = {
    "dreamerv3": {
        "nano": Size(128, 128, 8, 8, 8, 128, 1),
        "xsmall": Size(256, 256, 32, 32, 24, 256, 1),
        "small": Size(512, 512, 32, 32, 32, 512, 2),
        "medium": Size(1024, 640, 32, 32, 48, 640, 3),
        "large": Size(2048, 768, 32, 32, 64, 768, 4),
        "xlarge": Size(4096, 1024, 32, 32, 96, 1024, 5),
    },
    "dreamerv2": {
        "nano": Size(128, 128, 8, 8, 8, 128, 2),
        "xsmall": Size(128, 128, 32, 32, 24, 200, 3),
        "small": Size(200, 200, 32, 32, 48, 400, 4),  # wmlib's dmc_vision
        "medium": Size(1024, 1024, 32, 32, 48, 400, 4),  # wmlib's defaults: Meta-world, RLBench, DMC Remastered
        "large": Size(2048, 1024, 32, 32, 64, 640, 4),
        "xlarge": Size(4096, 1024, 32, 32, 96, 1024, 5),
    },
}


class Defaults(NamedTuple):
    """Hyper-parameters that the user may leave to the backbone. Rates per gradient step, ``gamma`` per agent step.

    The last five have no constructor argument: they belong to the method.
    """

    learning_rate: float
    actor_learning_rate: float
    critic_learning_rate: float
    batch_size: int
    sequence_length: int
    train_ratio: float
    gamma: float
    return_lambda: float
    horizon: int
    entropy_coefficient: float
    model_eps: float
    model_clip: float
    weight_decay: float
    slow_fraction: float
    slow_every: int


DEFAULTS: dict[str, Defaults] = {
    "dreamerv3": Defaults(
        learning_rate=1e-4,
        actor_learning_rate=3e-5,
        critic_learning_rate=3e-5,
        batch_size=16,
        sequence_length=64,
        train_ratio=1024.0,
        gamma=1 - 1 / 333,
        return_lambda=0.95,
        horizon=15,
        entropy_coefficient=3e-4,
        model_eps=1e-8,
        model_clip=1000.0,
        weight_decay=0.0,
        slow_fraction=0.02,
        slow_every=1,
    ),
    "dreamerv2": Defaults(
        learning_rate=3e-4,
        actor_learning_rate=8e-5,
        critic_learning_rate=8e-5,
        batch_size=16,
        sequence_length=50,
        train_ratio=160.0,
        gamma=0.99,
        return_lambda=0.95,
        horizon=15,
        entropy_coefficient=1e-4,
        model_eps=1e-5,
        model_clip=100.0,
        weight_decay=1e-6,
        slow_fraction=1.0,
        slow_every=100,
    ),
}
BEHAVIOR_EPS, BEHAVIOR_CLIP = 1e-5, 100.0  # of the actor's and the critic's optimiser, in both
