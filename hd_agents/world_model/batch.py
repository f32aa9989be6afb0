"""The record of replayed sequences that the world model learns from; the alignment in time is stated here, once."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """B sequences of T consecutive rows, each row being what one environment delivered at one step.

    Alignment: ``action[:, t]`` led into ``observation[:, t]``, and ``reward[:, t]`` arrived together with
    ``observation[:, t]``::

        action[:, t] ---> environment ---> observation[:, t], reward[:, t], terminated[:, t]

    The row of a reset has ``is_first`` True, a zero action and a zero reward. The last observation of an episode is a
    row of its own, with the last reward; ``terminated`` is True there if the episode ended by the task's own rules and
    False if it was cut off (time limit). A sequence may run across episodes: at ``is_first`` the recurrent state
    starts anew. What the replay samples carries no state from before it: its ``is_first[:, 0]`` is always True.

    :param observation: key to tensor. Images uint8 (B, T, H, W, C), channels last, 0..255; vectors float32 (B, T, D) in
        the data's own unit.
    :param action: (B, T, A) float32. Discrete choices are one-hot (several choices: their one-hots concatenated),
        continuous actions lie in -1..1 per dimension.
    :param reward: (B, T) float32, in the environment's own unit.
    :param is_first: (B, T) bool. :param terminated: (B, T) bool.
    """

    observation: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    is_first: Tensor
    terminated: Tensor
