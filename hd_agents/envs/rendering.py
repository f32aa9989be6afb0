"""Pictures of MuJoCo models without a screen: which OpenGL draws them, and the drawing."""

import atexit
import functools
import importlib
import os
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

BACKENDS = ("egl", "osmesa", "glfw")  # in the order they are tried: a GPU's or Mesa's, software only, a screen's
INSTALL = (
    "On Debian or Ubuntu: sudo apt-get install --no-install-recommends libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0 "
    "(EGL; with an NVIDIA GPU its driver brings its own). Tasks with state observations draw nothing and need none."
)
_TRIAL = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"
_TRIAL_SECONDS = 60
MAX_GEOMS = 2000  # drawn at once


@functools.cache
def find_backend() -> str | None:
    """The first of BACKENDS that draws on this machine, each tried in a process of its own; None if none does.

    A process of its own, because trying one of them can spoil the others, or end the process.
    """
    for backend in BACKENDS:
        environment = {**os.environ, "MUJOCO_GL": backend}
        try:
            command = [sys.executable, "-c", _TRIAL]
            trial = subprocess.run(command, env=environment, capture_output=True, timeout=_TRIAL_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            continue
        if trial.returncode == 0:
            return backend
    return None


def choose_backend() -> None:
    """Set ``MUJOCO_GL`` to what works here, for this process and its children, unless the user or a parent has set it.

    To be called before mujoco and dm_control are imported, which look at it then and otherwise assume a screen.
    """
    if "MUJOCO_GL" not in os.environ:
        backend = find_backend()
        if backend is not None:
            os.environ["MUJOCO_GL"] = backend


class Renderer:
    """Draws a model's state as seen by one of its cameras, in exactly the size that is asked for.

    The pixels are those of dm_control's and MuJoCo's own renderers. Unlike Gymnasium's for MuJoCo it makes its OpenGL
    context current each time, so that several environments can draw in one process. Nothing is opened before the first
    picture: an environment may be made in one process and used in a fork of it.

    :param model: of type ``mujoco.MjModel``. :param camera: name or number. :param size: pixels of either edge.
    :param shadows: False leaves out the shadows, which changes the picture; without a GPU they take most of the time.
    :param upside_down: turn the picture upside down, for cameras that are mounted so.
    :raises ValueError: for a camera that the model does not have: MuJoCo would end the process.
    """

    def __init__(
        self, model: Any, camera: str | int, size: int, shadows: bool = True, upside_down: bool = False
    ) -> None:
        try:
            self._camera_number = model.camera(camera).id
        except (IndexError, KeyError) as error:
            raise ValueError(f"camera={camera!r}: {error.args[0]}") from error
        self._model, self._size, self._shadows = model, size, shadows
        self._upside_down = upside_down
        self._gl: Any = None

    def draw(self, data: Any) -> Image:
        """Return a new picture ``(size, size, 3)`` of ``data``, of type ``mujoco.MjData``.

        :raises RuntimeError: where there is no OpenGL to draw with, saying what to install.
        """
        import mujoco

        if self._gl is None:
            self._open()
        self._gl.make_current()
        scene, context, everything = self._scene, self._context, mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, scene)
        mujoco.mjr_render(self._viewport, scene, context)
        picture = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, self._viewport, context)
        # OpenGL's first row is the lowest.
        return picture if self._upside_down else np.ascontiguousarray(picture[::-1])

    def upload_heightfields(self) -> None:
        """Draw the ground as it now is; for models that change theirs between episodes."""
        import mujoco

        if self._gl is not None:
            self._gl.make_current()
            for number in range(self._model.nhfield):
                mujoco.mjr_uploadHField(self._model, self._context, number)

    def close(self) -> None:
        """Give the graphics memory back; the next picture opens everything anew."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None

    def _open(self) -> None:
        import mujoco

        gl = _gl_context(self._size)
        gl.make_current()
        buffer = self._model.vis.global_
        usual = buffer.offwidth, buffer.offheight
        buffer.offwidth = buffer.offheight = self._size
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_150)
        buffer.offwidth, buffer.offheight = usual
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._viewport = mujoco.MjrRect(0, 0, self._size, self._size)
        self._scene = mujoco.MjvScene(self._model, MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._shadows
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = self._camera_number
        self._gl = gl
        close_at_exit(self)


def close_at_exit(resource: Any) -> None:
    """Call ``resource.close()`` when Python ends, if it still lives then.

    OpenGL itself goes away at the end, and whoever frees something after that gets an error. Handlers run last in,
    first out: so call this after OpenGL has been opened.
    """
    reference = weakref.ref(resource)

    def close() -> None:
        living = reference()
        if living is not None:
            living.close()

    atexit.register(close)


def _gl_context(size: int) -> Any:
    """A new OpenGL context of the backend in ``MUJOCO_GL``."""
    choose_backend()
    backend = os.environ.get("MUJOCO_GL", "").lower().strip()
    if not backend:
        raise RuntimeError(f"Found no OpenGL to draw MuJoCo's pictures with (tried {', '.join(BACKENDS)}). {INSTALL}")
    if backend not in BACKENDS:
        raise RuntimeError(f"MUJOCO_GL={backend} draws nothing: set it to one of {', '.join(BACKENDS)}, or unset it.")
    try:
        context = importlib.import_module(f"mujoco.{backend}").GLContext(size, size)
        context.make_current()
    except Exception as error:  # each backend has its own, down to AttributeError for a missing library
        raise RuntimeError(f"MUJOCO_GL={backend} cannot draw here; unset it to try the others. {INSTALL}") from error
    return context
