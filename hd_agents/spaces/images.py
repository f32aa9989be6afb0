"""Which spaces are images, and which only look like some."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from hd_agents.spaces.advice import to_vector

SMALLEST_IMAGE = 16  # pixels a side; below that there is nothing to halve
MOST_CHANNELS = 4

OBSERVATIONS_SUPPORTED = (
    "supported observations: Box images (uint8, 0..255, HxWxC or CxHxW, 1 to 4 channels, 16 pixels or more a side), "
    "any other finite-size Box (flattened to a vector), Discrete, MultiDiscrete, MultiBinary, and a Dict of these"
)


class ImageSpec(NamedTuple):
    """One image of an observation: its size in pixels, and whether the environment delivers it as CxHxW."""

    height: int
    width: int
    channels: int
    channels_first: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), the layout used everywhere inside the package."""
        return self.height, self.width, self.channels


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether a space is read as an image: uint8 Box with three axes and the full range 0..255."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 3
        and space.dtype == np.uint8
        and bool(np.all(space.low == 0) and np.all(space.high == 255))
    )


def image_spec(key: str, space: spaces.Space[Any], whole: spaces.Space[Any]) -> ImageSpec:
    """Size and layout of a space that :func:`is_image` holds for, perhaps a key of the ``whole`` observation.

    :raises ValueError: for one that no network takes.
    """
    shape = space.shape or ()
    first = int(np.argmin(shape)) == 0
    channels, height, width = shape if first else (shape[2], shape[0], shape[1])
    if not 1 <= channels <= MOST_CHANNELS or min(height, width) < SMALLEST_IMAGE:
        resize = "TransformObservation to resize it" if isinstance(whole, spaces.Dict) else "ResizeObservation"
        raise ValueError(
            f"The observation {key!r} is an image of shape {shape}; {OBSERVATIONS_SUPPORTED}. Use "
            f"gymnasium.wrappers.{resize} or drop frame stacking (the agent has memory), or, if these are no pixels, "
            f"{to_vector(whole)} and MlpPolicy."
        )
    return ImageSpec(int(height), int(width), int(channels), first)


def looks_like_images(space: spaces.Space[Any]) -> bool:
    """Whether a Box has the shape of an image, or of several in a row, but cannot be used as one.

    Its type or bounds are others than those of pixels, or its axis of channels is missing.
    """
    shape = space.shape or ()
    if not isinstance(space, spaces.Box) or is_image(space) or not 2 <= len(shape) <= 4:
        return False
    if len(shape) == 2:
        return min(shape) >= SMALLEST_IMAGE
    image = shape if len(shape) == 3 else shape[1:] if min(shape[1:]) <= MOST_CHANNELS else shape[:-1]
    channels, *sides = sorted(image)
    return channels <= MOST_CHANNELS and min(sides) >= SMALLEST_IMAGE


def to_pixels(space: spaces.Space[Any], key: str) -> str:
    """How to make pixels of what looks like images: of a space, or of the ``key`` of a Dict."""
    part = space[key] if isinstance(space, spaces.Dict) else space
    to_255 = isinstance(part, spaces.Box) and bool(np.all(part.low == 0) and np.all(part.high == 255))
    if to_255 and part.dtype == np.uint8:
        return "If these are frames of images, leave out what stacks them: the agent has memory."
    factor, which = ("", "") if to_255 else ("255 * ", " for floats from 0 to 1")
    pixels = f"gymnasium.spaces.Box(0, 255, {part.shape}, 'uint8')"
    change = f"lambda image: np.rint({factor}image).astype('uint8')"
    if part is not space:
        change = f"lambda seen: {{**seen, {key!r}: np.rint({factor}seen[{key!r}]).astype('uint8')}}"
        pixels = f"gymnasium.spaces.Dict({{**env.observation_space, {key!r}: {pixels}}})"
    return (
        f"If it is an image, make it one of uint8, 0 to 255: gymnasium.wrappers.TransformObservation(env, {change}, "
        f"{pixels}){which}, with an axis of 1 to 4 channels and no axis of frames, as the agent has memory. "
        "VecNormalize makes floats of it: pass it norm_obs=False, or as norm_obs_keys the keys of vectors alone."
    )


def refuse_flat_image(key: str, space: spaces.Box) -> None:
    """A grey image without a channel axis would be flattened to thousands of numbers without a word."""
    shape = space.shape
    if len(shape) == 2 and space.dtype == np.uint8 and min(shape) >= SMALLEST_IMAGE:
        raise ValueError(
            f"The observation {key!r} of shape {shape} looks like an image without a channel axis; "
            f"{OBSERVATIONS_SUPPORTED}. Use gymnasium.wrappers.GrayscaleObservation(env, keep_dim=True)."
        )
