"""Between Gymnasium's spaces and the arrays that the networks read and write. Pure NumPy, no torch.

Inside the package an observation is a dict of arrays with the env axis first: images uint8 (N, H, W, C), everything
else float32 vectors (N, D). A space that is no Dict has the single key ``"observation"``. An action is one float32
vector (N, A): concatenated one-hots, or numbers in [-1, 1] that stand for the bounds of a Box.
"""

from hd_agents.spaces.actions import ActionCodec
from hd_agents.spaces.images import ImageSpec, looks_like_images, to_pixels
from hd_agents.spaces.observations import SINGLE_KEY, Observation, ObservationCodec, VectorSpec

__all__ = [
    "SINGLE_KEY",
    "ActionCodec",
    "ImageSpec",
    "Observation",
    "ObservationCodec",
    "VectorSpec",
    "looks_like_images",
    "to_pixels",
]
