"""Observations of a space to and from named arrays: images, vectors, one-hots."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hd_agents.spaces.advice import to_supported
from hd_agents.spaces.images import (
    OBSERVATIONS_SUPPORTED,
    ImageSpec,
    image_spec,
    is_image,
    looks_like_images,
    refuse_flat_image,
)
from hd_agents.spaces.one_hot import from_one_hot, one_hot_groups, to_one_hot

SINGLE_KEY = "observation"
Observation = NDArray[Any] | Mapping[str, Any] | int


class VectorSpec(NamedTuple):
    """One vector of an observation: its length, and the sizes of its one-hot groups (None for plain numbers)."""

    size: int
    nvec: tuple[int, ...] | None


class ObservationCodec:
    """Turns what an environment delivers into named image and vector arrays, and predictions back into its values.

    ``spaces`` holds the space of each key.
    Raises ``ValueError`` for a space it has no network for, with the key, what is supported and what to do.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.is_dict = isinstance(space, spaces.Dict)
        self.spaces = dict(space.spaces) if isinstance(space, spaces.Dict) else {SINGLE_KEY: space}
        self.images: dict[str, ImageSpec] = {}
        self.vectors: dict[str, VectorSpec] = {}
        self._starts: dict[str, NDArray[np.int64]] = {}
        for key, subspace in self.spaces.items():
            if not isinstance(key, str):
                raise ValueError(f"The observation space has the key {key!r}: keys must be text.")
            self._add(key, subspace)
        if not self.spaces:
            raise ValueError(f"The observation space {space} has no keys; {OBSERVATIONS_SUPPORTED}.")

    def _add(self, key: str, space: spaces.Space[Any]) -> None:
        groups = one_hot_groups(space)
        if groups is not None:
            self.vectors[key] = VectorSpec(sum(groups[0]), groups[0])
            self._starts[key] = groups[1]
        elif is_image(space):
            self.images[key] = image_spec(key, space, self.space)
        elif isinstance(space, spaces.Box):
            refuse_flat_image(key, space)
            if 0 in space.shape:
                raise ValueError(f"The observation {key!r} of shape {space.shape} is empty: leave the key out.")
            self.vectors[key] = VectorSpec(int(np.prod(space.shape)), None)
        else:
            raise ValueError(
                f"The observation {key!r} has the space {space}, which has no network; {OBSERVATIONS_SUPPORTED}. "
                f"{to_supported(self.space, key)}"
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each encoded value of one observation."""
        vectors = {key: (spec.size,) for key, spec in self.vectors.items()}
        return {**{key: spec.shape for key, spec in self.images.items()}, **vectors}

    @property
    def policy(self) -> str:
        """Name of the policy that is for these observations."""
        if self.is_dict:
            return "MultiInputPolicy"
        return "CnnPolicy" if self.images else "MlpPolicy"

    def flattened_images(self) -> list[str]:
        """Keys that are read as vectors though they have the shape of images."""
        return [key for key in self.vectors if looks_like_images(self.spaces[key])]

    def encode(self, observation: Observation) -> dict[str, NDArray[Any]]:
        """One observation (gets an env axis of 1) or a batch of N, as images (N, H, W, C) and vectors (N, D).

        Images are taken in the layout of the space or in the other one, as Stable-Baselines3 does. The result may
        share memory with the argument.
        """
        return self._encode(*self._batched_values(observation))

    def _encode(self, values: Mapping[str, NDArray[Any]], batched: bool) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {}
        for key, value in values.items():
            rows = value if batched else value[None]
            if key in self.images:
                out[key] = self._encode_image(key, self.images[key], rows)
                continue
            nvec = self.vectors[key].nvec
            if nvec is None:
                out[key] = rows.reshape(len(rows), -1).astype(np.float32)
            else:
                out[key] = to_one_hot(rows, nvec, self._starts[key], f"The observation {key!r} holds ")
        return out

    def read(self, observation: Observation) -> tuple[dict[str, NDArray[Any]], bool]:
        """As :meth:`encode`, and whether the observation had an env axis in front.

        ValueError for NaN, infinity and what float32 cannot hold, which networks hide.
        """
        values, batched = self._batched_values(observation)
        with np.errstate(over="ignore"):
            encoded = self._encode(values, batched)
        for key, rows in encoded.items():
            if key in self.vectors and not np.isfinite(rows).all():
                row, place = np.argwhere(~np.isfinite(rows))[0]
                raise ValueError(
                    f"The observation {key!r} holds {rows[row, place]} at index {place}: expected finite numbers that "
                    "fit into float32."
                )
        return encoded, batched

    def decode(self, encoded: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Predicted means with any leading axes back to the environment's values, key by key.

        Images 0..1 become uint8 (..., H, W, C) whatever the environment's layout, numbers keep float32 and get
        the shape of their space, one-hot groups become the integers they most likely stand for.
        """
        out: dict[str, NDArray[Any]] = {}
        for key, rows in encoded.items():
            if key in self.images:
                out[key] = np.rint(np.clip(rows, 0.0, 1.0) * 255.0).astype(np.uint8)
                continue
            shape = rows.shape[:-1] + (self.spaces[key].shape or ())
            nvec = self.vectors[key].nvec
            if nvec is None:
                out[key] = rows.astype(np.float32).reshape(shape)
            else:
                out[key] = from_one_hot(rows, nvec, self._starts[key]).reshape(shape)
        return out

    def restore(self, encoded: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What :meth:`encode` gave, with any leading axes, in the form of :meth:`decode`."""
        scaled = {key: rows / np.float32(255.0) if key in self.images else rows for key, rows in encoded.items()}
        return self.decode(scaled)

    def _batched_values(self, observation: Observation) -> tuple[dict[str, NDArray[Any]], bool]:
        if isinstance(observation, tuple) and isinstance(observation[-1], Mapping):
            raise ValueError(
                "The observation is a tuple (observation, info), as reset() of a Gymnasium environment gives it: write "
                "`obs, info = env.reset()`. That of a Stable-Baselines3 VecEnv returns the observations alone."
            )
        if self.is_dict != isinstance(observation, Mapping):
            wanted = f"a dict with the keys {sorted(self.spaces)}" if self.is_dict else "one array, not a dict"
            raise ValueError(f"The observation is a {type(observation).__name__}; {self.space} needs {wanted}.")
        source: Mapping[str, Any] = observation if isinstance(observation, Mapping) else {SINGLE_KEY: observation}
        missing = sorted(set(self.spaces) - set(source))
        if missing:
            raise ValueError(f"The observation lacks the keys {missing}; it has {sorted(source)}.")
        values = {key: np.asarray(source[key]) for key in self.spaces}
        found = {key: self._has_env_axis(key, value) for key, value in values.items()}
        if len(set(found.values())) > 1:
            raise ValueError(f"Some keys of the observation have an env axis and some do not: {found}.")
        lengths = {key: len(value) for key, value in values.items()} if all(found.values()) else {}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise ValueError(f"The keys of the observation need one number of rows, 1 or more; they have {lengths}.")
        return values, next(iter(found.values()))

    def _has_env_axis(self, key: str, value: NDArray[Any]) -> bool:
        shape = self.spaces[key].shape or ()
        allowed = [shape]
        if key in self.images:
            spec = self.images[key]
            allowed = [shape, spec.shape, (spec.channels, spec.height, spec.width)]
        if value.shape in allowed:
            return False
        if value.shape[1:] in allowed and value.ndim > 0:
            return True
        several = f"(n_envs, {', '.join(map(str, shape))})" if shape else "(n_envs,)"
        raise ValueError(f"The observation {key!r} has shape {value.shape}; expected {shape}, or {several}.")

    @staticmethod
    def _encode_image(key: str, spec: ImageSpec, rows: NDArray[Any]) -> NDArray[np.uint8]:
        if rows.dtype != np.uint8:
            if rows.dtype.kind not in "iu" or rows.min(initial=0) < 0 or rows.max(initial=0) > 255:
                raise ValueError(
                    f"The observation {key!r} is {rows.dtype}: an image must hold uint8, 0 to 255: do not scale it."
                )
            rows = rows.astype(np.uint8)
        return rows if rows.shape[1:] == spec.shape else rows.transpose(0, 2, 3, 1)
