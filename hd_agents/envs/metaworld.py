"""Meta-World's fifty tasks for a robot arm, from pixels or from the state. Needs metaworld (the extra of that name)."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from hd_agents.envs.rendering import Renderer, choose_backend
from hd_agents.envs.replayed import Replayed
from hd_agents.extras import needing
from hd_agents.randomness import new_generator

__all__ = ["MetaWorld"]

Image = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float32]

RENDER_SIZE = 256  # pixels; of `render`, which people look at
# These are mounted upside down in the model, as mujoco-py used to turn every picture over.
CAMERAS = ("corner", "corner2", "corner3", "corner4")
CORNER2_POSITION = (0.75, 0.075, 0.7)  # nearer than the model's own; the official code's, and customary


class MetaWorld(Replayed):
    """A task of Meta-World (its version 3), with a new place of object and goal in each episode.

    Observation: ``(size, size, 3)`` uint8, upright, or with ``observation="state"`` 39 numbers, float32, of which the
    last three are the goal.
    Actions: ``(4,)`` in [-1, 1]: the hand's movement in x, y, z and the gripper's closing.
    Reward: Meta-World's dense one, 0 to 10 a step.
    Episode: 500 steps of the simulator, then ``truncated``; success doesn't end it. ``info["success"]`` is that of the
    step, ``info["is_success"]`` whether there was any so far: at the episode's end that is the episode's success, which
    Stable-Baselines3 logs as ``success_rate``.

    After ``reset(seed=...)`` everything follows from the seed, also in an environment that has been in use.

    :param task: Meta-World's name without its version, such as ``"lever-pull"``.
    :param observation: ``"pixels"`` or ``"state"``.
    :param size: pixels of the observation's edge.
    :param camera: ``"corner"`` as in the paper, ``"corner2"`` (moved nearer), ``"corner3"`` or ``"corner4"``.
    :param action_repeat: simulator steps per step, 1 or more; rewards are added up.
    :param shadows: False draws no shadows: other pixels than the papers', but several times faster without a GPU.
    :param render_mode: None or "rgb_array" (``(256, 256, 3)`` uint8 from the same camera).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 40}  # noqa: RUF012  Gymnasium's own declaration

    def __init__(
        self,
        task: str,
        observation: Literal["pixels", "state"] = "pixels",
        size: int = 64,
        camera: str = "corner",
        action_repeat: int = 1,
        shadows: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if observation not in ("pixels", "state"):
            raise ValueError(f"observation={observation!r}: choose 'pixels' or 'state'")
        if camera not in CAMERAS:
            raise ValueError(f"camera={camera!r}: choose one of {', '.join(CAMERAS)}")
        if action_repeat < 1 or size < 1:
            raise ValueError(f"{action_repeat=}, {size=}: both start at 1")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} is not supported: choose None or 'rgb_array'")
        self._env = _load(task)
        self._env.model.camera("corner2").pos[:] = CORNER2_POSITION
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        if observation == "pixels":
            self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        else:
            self.observation_space = spaces.Box(-np.inf, np.inf, (39,), np.float32)
        self._eye = Renderer(self._env.model, camera, size, shadows, upside_down=True)
        self._big_eye = Renderer(self._env.model, camera, RENDER_SIZE, shadows, upside_down=True)
        self.render_mode = render_mode
        self.observation = observation
        self.action_repeat = action_repeat
        self._succeeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode with object and goal anywhere that the task allows; ``options`` are not used."""
        super().reset(seed=seed)
        return self._observe(self._begin()), {"success": False, "is_success": False}

    def step(self, action: Vector) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play ``action_repeat`` steps of the simulator, or what is left of the episode."""
        state, total, success, truncated = self._act(action)
        found = {"success": success, "is_success": self._succeeded}
        return self._observe(state), total, False, truncated, found

    def _start(self) -> npt.NDArray[np.float64]:
        self._env.np_random = self.np_random  # draws the places
        self._succeeded = False
        state: npt.NDArray[np.float64] = self._env.reset()[0]
        return state

    def _play(self, action: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], float, bool, bool]:
        bounded = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        total, success = 0.0, False
        for _ in range(self.action_repeat):
            state, reward, _, truncated, info = self._env.step(bounded)
            total += float(reward)
            success = success or bool(info["success"])
            if truncated:
                break
        self._succeeded = self._succeeded or success
        return state, total, success, bool(truncated)

    def _random(self) -> dict[str, Any]:
        return {"own": self.np_random.bit_generator.state}

    def _set_random(self, states: dict[str, Any]) -> None:
        self.np_random = new_generator(states["own"])

    def render(self) -> Image | None:
        """Return the scene as ``(256, 256, 3)`` uint8, or None without a render mode."""
        return self._big_eye.draw(self._env.data) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the graphics memory."""
        self._eye.close()
        self._big_eye.close()

    def _observe(self, state: npt.NDArray[np.float64]) -> Any:
        return self._eye.draw(self._env.data) if self.observation == "pixels" else state.astype(np.float32)


def _load(task: str) -> Any:
    """Meta-World's environment of a task, with the goal to be seen in its state and redrawn at each reset."""
    choose_backend()
    with needing("Meta-World", "metaworld"):
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    if f"{task}-v3" not in ALL_V3_ENVIRONMENTS:
        names = ", ".join(sorted(name.removesuffix("-v3") for name in ALL_V3_ENVIRONMENTS))
        raise ValueError(f"task={task!r} is none of Meta-World's: {names}")
    env = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    # What its own benchmark classes do when they hand out a task, except that the goal is not fixed afterwards.
    env._set_task_called = True
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env._partially_observable = False
    del env.sawyer_observation_space  # kept from when the goal was hidden, and would cut it to zero
    return env
