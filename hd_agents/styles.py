"""How DreamerV2 and DreamerV3 differ: every difference stands here, side by side, as a value.

"dreamerv3" is the 2023 JAX release on which HarmonyDream's Atari100K results rest, "dreamerv2" the paper's own PyTorch
code for robotics (wmlib). Everything else in the package receives values and knows no version.
"""

from __future__ import annotations

from typing import NamedTuple

from hd_agents.nn.layers import Activation, Init
from hd_agents.world_model.world_model import KLBalance


class Style(NamedTuple):
    """How a backbone differs from the other one.

    :param norm: layer norm in every layer instead of the GRU alone. :param padded: a CNN for images of all sizes.
    :param squash: vectors are seen and predicted as their symlog. :param error_scale: of squared errors.
    :param unimix: uniform share of latents and discrete actions. :param clip_action: the recurrence takes continuous
        actions of at most 1. :param learned_initial: the first state of an episode is learned.
    :param two_hot: rewards and values are distributions over bins instead of means of a unit normal.
    :param scalar_init: of the last layer that predicts them. :param discounted_continue: the continue head is trained
        on gamma instead of 1. :param hard_continue: a dream ends where its end is likelier than not.
    :param kl_scale: of the dynamics loss. :param kl_regularizer: weight of its harmoniser's regulariser.
    :param bounded_actions: continuous actions of the actor never leave -1 to 1.
    :param scaled_returns: advantages are divided by the range of returns. :param baseline: the critic's value is
        subtracted from returns. :param slow_regularizer: the critic is drawn towards the slow one.
    :param next_state: credit of a state is counted from the reward after it.
    """

    norm: bool
    act: Activation
    padded: bool
    squash: bool
    error_scale: float
    unimix: float
    clip_action: bool
    learned_initial: bool
    two_hot: bool
    scalar_init: Init
    discounted_continue: bool
    hard_continue: bool
    kl: KLBalance
    kl_scale: float
    kl_regularizer: float
    bounded_actions: bool
    scaled_returns: bool
    baseline: bool
    slow_regularizer: bool
    next_state: bool


STYLES: dict[str, Style] = {
    "dreamerv3": Style(
        norm=True,
        act="silu",
        padded=True,
        squash=True,
        error_scale=1.0,
        unimix=0.01,
        clip_action=True,
        learned_initial=True,
        two_hot=True,
        scalar_init="zeros",
        discounted_continue=False,
        hard_continue=True,
        kl=KLBalance(dynamics=0.5 / 0.6, representation=0.1 / 0.6, free=1.0, average_first=False),
        kl_scale=0.6,  # without harmony: 0.5 dynamics + 0.1 representation
        kl_regularizer=0.5 / 0.6,  # the official code weighs the regulariser of the KL with its dynamics part
        bounded_actions=False,
        scaled_returns=True,
        baseline=True,
        slow_regularizer=True,
        next_state=True,
    ),
    "dreamerv2": Style(
        norm=False,
        act="elu",
        padded=False,  # other images than 64x64 are padded all the same
        squash=False,
        error_scale=0.5,
        unimix=0.0,
        clip_action=False,
        learned_initial=False,
        two_hot=False,
        scalar_init="uniform",
        discounted_continue=True,
        hard_continue=False,
        kl=KLBalance(dynamics=0.8, representation=0.2, free=0.0, average_first=True),
        kl_scale=1.0,
        kl_regularizer=1.0,
        bounded_actions=True,
        scaled_returns=False,
        baseline=False,
        slow_regularizer=False,
        next_state=False,
    ),
}
