"""Who moves the environments: they count their resets and steps, whoever asks for them."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from hd_agents.envs.state import innermost

MOVES = "_hd_agents_moves"  # attribute of what counts


def moves(env: VecEnv) -> tuple[int, ...]:
    """How often anybody has reset or stepped the innermost vector environment since this was first asked.

    After it, the same of each single environment that is in this process, within all wrappers: somebody may have kept
    the environment that was given to the agent, and play in it.
    """
    env = innermost(env)
    single = [each.unwrapped for each in env.envs] if isinstance(env, DummyVecEnv) else []
    own = [each for each in single if isinstance(each, gym.Env)]  # it may be the simulator itself, of another kind
    # A Ctrl-C may come between step_async and step_wait.
    return _count(env, "reset", "step_async", "step_wait"), *(_count(each, "reset", "step") for each in own)


def _count(env: Any, *names: str) -> int:
    if MOVES not in vars(env):
        counter = _Counter()
        setattr(env, MOVES, counter)
        for name in names:
            setattr(env, name, _Counted(counter, getattr(env, name)))
    return int(getattr(env, MOVES).count)


class _Counter:
    count = 0


class _Counted:
    """A method that counts its calls; a copy of its environment has a copy of it, bound to itself."""

    def __init__(self, counter: _Counter, method: Callable[..., Any]) -> None:
        update_wrapper(self, method)  # with the signature, which Gymnasium looks at
        self.counter, self.method = counter, method

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.counter.count += 1
        return self.method(*arguments, **named)
