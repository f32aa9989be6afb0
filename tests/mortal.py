"""``tests.mortal:Mortal-v0``: an environment that fails once, for processes that import it by its id."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class Mortal(CartPoleEnv):
    """Fails in the second step of the second episode that begins in its folder, counted in child processes alone."""

    def __init__(self, folder: str, how: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.begun, self.how, self.time = Path(folder) / "begun", how, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time = 0
        if multiprocessing.parent_process() is not None:
            with self.begun.open("a") as file:
                file.write("x")
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        self.time += 1
        if self.time == 2 and self.begun.exists() and self.begun.read_text() == "xx":
            if self.how == "exit":
                os._exit(7)
            raise OSError("simulator lost")
        return super().step(action)


gym.register("Mortal-v0", Mortal, max_episode_steps=500)
