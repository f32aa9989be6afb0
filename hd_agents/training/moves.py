"""Who moves the environments: a vector environment that counts its resets and steps, whoever asks for them."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from hd_agents.envs.state import innermost

MOVES = "_hd_agents_moves"  # attribute of a vector environment that counts


def moves(env: VecEnv) -> int:
    """How often anybody has reset or stepped the innermost vector environment since this was first asked."""
    env = innermost(env)
    if MOVES not in vars(env):
        counter = _Counter()
        setattr(env, MOVES, counter)
        # A Ctrl-C may come between the two halves of a step. A simulator that only a wrapper makes a vector environment
        # may not have them.
        steps = ("step_async", "step_wait") if hasattr(env, "step_async") else ("step",)
        for name in ("reset", *steps):
            setattr(env, name, _Counted(counter, getattr(env, name)))
    return int(getattr(env, MOVES).count)


class _Counter:
    count = 0


class _Counted:
    """A method that counts its calls; a copy of its environment has a copy of it, bound to itself."""

    def __init__(self, counter: _Counter, method: Callable[..., Any]) -> None:
        self.counter, self.method = counter, method

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.counter.count += 1
        return self.method(*arguments, **named)
