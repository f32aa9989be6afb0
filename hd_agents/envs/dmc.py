"""The DeepMind Control suite from pixels or from its state. Needs dm_control and Shimmy (the `dmc` extra)."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from hd_agents.envs.rendering import Renderer, choose_backend
from hd_agents.envs.replayed import Replayed
from hd_agents.extras import needing
from hd_agents.randomness import new_generator

__all__ = ["Control"]

Image = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float32]

RENDER_SIZE = 256  # pixels; of `render`, which people look at
UNBOUNDED = 1e9  # dm_control's bound of an actuator without one is 1e10


class Control(Replayed):
    """A task of the DeepMind Control suite.

    Observation: ``(size, size, 3)`` uint8, or with ``observation="state"`` all of the task's observations in one
    float32 vector, in dm_control's order.
    Actions: in [-1, 1], scaled to the actuators' bounds (lqr has none; its actions are used as they are); each repeated
    ``action_repeat`` frames.
    Reward: the sum over the repeat; dm_control's are 0 to 1 a frame, so 1,000 is the best return.
    Episode: ``max_frames`` frames, then ``truncated``. Only lqr ends earlier, ``terminated`` when it is at rest.
    ``info["frames"]`` counts.

    After ``reset(seed=...)`` everything follows from the seed, also in an environment that has been in use.

    :param domain: dm_control's, such as ``"walker"``.
    :param task: dm_control's, such as ``"walk"``.
    :param observation: ``"pixels"`` or ``"state"``.
    :param size: pixels of the observation's edge.
    :param camera: name or number; None for 0, and 2 in the quadruped's tasks.
    :param action_repeat: frames per step, 1 or more.
    :param max_frames: frames per episode, 1 to 1,000 (which is dm_control's own limit).
    :param shadows: False draws no shadows: other pixels than the papers', but several times faster without a GPU.
    :param render_mode: None or "rgb_array" (``(256, 256, 3)`` uint8 from the same camera).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012  Gymnasium's own declaration

    def __init__(
        self,
        domain: str,
        task: str,
        observation: Literal["pixels", "state"] = "pixels",
        size: int = 64,
        camera: str | int | None = None,
        action_repeat: int = 2,
        max_frames: int = 1000,
        shadows: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if observation not in ("pixels", "state"):
            raise ValueError(f"observation={observation!r}: choose 'pixels' or 'state'")
        if action_repeat < 1 or size < 1 or not 1 <= max_frames <= 1000:
            raise ValueError(f"{action_repeat=}, {size=}: from 1 up; {max_frames=}: 1 to 1000")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} is not supported: choose None or 'rgb_array'")
        self._env = _load(domain, task, self._assets)
        self._low = self._env.action_space.low.astype(np.float64)
        self._high = self._env.action_space.high.astype(np.float64)
        unbounded = self._high > UNBOUNDED
        self._low[unbounded], self._high[unbounded] = -1.0, 1.0
        self.action_space = spaces.Box(-1.0, 1.0, self._low.shape, np.float32)
        if observation == "pixels":
            self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        else:
            length = sum(int(np.prod(part.shape)) for part in self._env.observation_space.values())
            self.observation_space = spaces.Box(-np.inf, np.inf, (length,), np.float32)
        if camera is None:
            camera = 2 if domain == "quadruped" else 0
        model = self._env.physics.model.ptr
        self._eye = Renderer(model, camera, size, shadows)
        self._big_eye = Renderer(model, camera, RENDER_SIZE, shadows)
        self.render_mode = render_mode
        self.observation = observation
        self.action_repeat = action_repeat
        self.max_frames = max_frames
        self._frames = 0
        self._seeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; ``options`` are not used."""
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self._env.np_random = np.random.RandomState(int(self.np_random.integers(2**31)))
            self._seeded = True
        return self._observe(self._begin()), {"frames": 0}

    def step(self, action: Vector) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play ``action_repeat`` frames, or what is left of the episode."""
        parts, total, terminated, truncated = self._act(action)
        return self._observe(parts), total, terminated, truncated, {"frames": self._frames}

    def _start(self) -> dict[str, Any]:
        parts, _ = self._env.reset()
        for eye in (self._eye, self._big_eye):
            eye.upload_heightfields()  # quadruped-escape's ground is a new one
        self._frames = 0
        return parts

    def _play(self, action: npt.NDArray[Any]) -> tuple[dict[str, Any], float, bool, bool]:
        share = 0.5 * (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0)
        control = self._low + share * (self._high - self._low)
        total = 0.0
        for _ in range(self.action_repeat):
            parts, reward, terminated, truncated, _ = self._env.step(control)
            total += float(reward)
            self._frames += 1
            truncated = truncated or (self._frames == self.max_frames and not terminated)
            if terminated or truncated:
                break
        return parts, total, terminated, truncated

    def _random(self) -> dict[str, Any]:
        inner = self._env.np_random.get_state(legacy=False)
        return {"own": self.np_random.bit_generator.state, "simulator": inner}

    def _set_random(self, states: dict[str, Any]) -> None:
        self.np_random = new_generator(states["own"])
        self._env.np_random.set_state(states["simulator"])

    def render(self) -> Image | None:
        """Return the scene as ``(256, 256, 3)`` uint8, or None without a render mode."""
        return self._draw(self._big_eye) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the graphics memory."""
        self._eye.close()
        self._big_eye.close()

    def _observe(self, parts: dict[str, Any]) -> Any:
        if self.observation == "pixels":
            return self._draw(self._eye)
        return np.concatenate([np.ravel(part) for part in parts.values()]).astype(np.float32)

    def _draw(self, eye: Renderer) -> Image:
        return eye.draw(self._env.physics.data.ptr)

    def _assets(self, domain: str) -> dict[str, bytes]:
        """Files to take instead of dm_control's shared ones of these names."""
        return {}


def _load(domain: str, task: str, assets_of: Callable[[str], dict[str, bytes]]) -> Any:
    """dm_control's task in Shimmy's Gymnasium interface, which brings spaces, seeding and the kinds of episode ends."""
    choose_backend()
    with needing("DeepMind Control", "dmc"):
        from dm_control import suite
        from dm_control.suite.common import ASSETS
        from shimmy.dm_control_compatibility import DmControlCompatibilityV0
    if (domain, task) not in suite.ALL_TASKS:
        raise ValueError(f"{domain!r} {task!r} is none of DeepMind Control's tasks: {suite.ALL_TASKS}")
    assets = assets_of(domain)  # now that dm_control is there, imported with the backend chosen
    usual = {name: ASSETS[name] for name in assets}
    ASSETS.update(assets)
    try:
        # The seed here only chooses lqr's springs, which would otherwise differ from process to process.
        env = suite.load(domain, task, task_kwargs={"random": 0})
    finally:
        ASSETS.update(usual)
    if domain == "quadruped":
        _name_sensors(env.physics)
    if task == "escape":
        # It would open dm_control's own OpenGL to upload the ground, and upload to whatever context is then current.
        kind = type(env.physics)
        env.physics.__class__ = type(kind.__name__, (kind,), {"contexts": None})
    return DmControlCompatibilityV0(env)


def _name_sensors(physics: Any) -> None:
    """Fill the quadruped's table of sensors by their types.

    dm_control 1.0.28 would fill it by ``numpy.in1d``, which NumPy 2.4 no longer has.
    """
    from mujoco import mjtSensor as kind

    for kinds in (
        (kind.mjSENS_FORCE, kind.mjSENS_TORQUE),
        (kind.mjSENS_GYRO, kind.mjSENS_ACCELEROMETER),
        (kind.mjSENS_RANGEFINDER,),
    ):
        key = tuple(int(one) for one in kinds)
        numbers = np.flatnonzero(np.isin(physics.model.sensor_type, key))
        physics._sensor_types_to_names[key] = [physics.model.id2name(number, "sensor") for number in numbers]
