"""What the processes of environments still owe: answers that nobody has waited for would be taken for later ones."""

from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from hd_agents.envs.state import innermost

MARK = ("get_spaces", None)  # a question whose answer no other has
DEAD = (EOFError, ConnectionResetError, BrokenPipeError)  # what the pipe to a dead process says


def settle(envs: VecEnv) -> None:
    """Read what processes still owe, as after a Ctrl-C within a step.

    :raises RuntimeError: for a process that has ended, but of environments with a ``settle`` of their own.
    """
    inner: Any = innermost(envs)
    if not isinstance(inner, SubprocVecEnv):
        return
    if hasattr(inner, "settle"):
        inner.settle()
        return
    try:
        owed = vars(inner).setdefault("_hd_agents_marks", [0] * inner.num_envs)  # more after a Ctrl-C in here
        for env, remote in enumerate(inner.remotes):
            remote.send(MARK)
            owed[env] += 1
            while owed[env]:
                owed[env] -= is_mark(remote.recv())
    except DEAD as error:
        raise RuntimeError(
            "A process of the environments has ended, as those of a SubprocVecEnv do by Ctrl-C in a terminal: "
            "go on with new ones, by set_env()."
        ) from error
    inner.waiting = False


def is_mark(answer: Any) -> bool:
    """Whether it answers ``MARK``, and no question before it."""
    return isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], gym.Space)
