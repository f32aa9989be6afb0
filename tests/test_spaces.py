"""Observation and action codecs: shapes, layouts, ranges, round trips, and errors that name the fix."""

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from hd_agents.spaces import ActionCodec, ImageSpec, ObservationCodec, VectorSpec

HWC = spaces.Box(0, 255, (17, 19, 3), np.uint8)
CHW = spaces.Box(0, 255, (3, 17, 19), np.uint8)
MIXED = spaces.Dict(
    {
        "eye": HWC,
        "arm": spaces.Box(-1.0, 1.0, (5,)),
        "grid": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
        "mode": spaces.Discrete(4, start=-1),
        "dials": spaces.MultiDiscrete([2, 3], start=[1, 5]),
        "bits": spaces.MultiBinary(2),
    }
)


def image(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("space", "numbers"),
    [
        (spaces.Box(0, 255, (4, 20, 20, 3), np.uint8), 4800),
        (spaces.Box(0, 10, (20, 20), np.float32), 400),
        (spaces.Box(0, 65_535, (20, 20), np.uint16), 400),
        (spaces.Box(0, 1, (20, 20, 1), np.float32), 400),
        (spaces.Box(0, 1, (3, 20, 20, 2), np.float32), 2400),
        (spaces.Box(0, 1, (4, 4), np.float32), None),
        (spaces.Box(0, 1, (20, 20, 20), np.float32), None),
        (spaces.Box(0, 1, (400,), np.float32), None),
    ],
)
def test_what_looks_like_images_is_told(space: spaces.Box, numbers: int | None) -> None:
    codec = ObservationCodec(spaces.Dict({"seen": space}))
    assert codec.flattened_images() == ([] if numbers is None else ["seen"])
    assert numbers is None or codec.vectors["seen"].size == numbers


def test_every_key_is_routed_by_its_space() -> None:
    codec = ObservationCodec(MIXED)
    assert codec.images == {"eye": ImageSpec(17, 19, 3, channels_first=False)}
    assert codec.images["eye"].shape == (17, 19, 3)
    assert codec.vectors == {
        "arm": VectorSpec(5, None),
        "grid": VectorSpec(6, None),
        "mode": VectorSpec(4, (4,)),
        "dials": VectorSpec(5, (2, 3)),
        "bits": VectorSpec(4, (2, 2)),
    }


def test_a_dict_observation_becomes_rows_with_an_env_axis() -> None:
    codec = ObservationCodec(MIXED)
    one = {
        "eye": image((17, 19, 3)),
        "arm": np.arange(5, dtype=np.float32),
        "grid": np.arange(6, dtype=np.float64).reshape(2, 3),
        "mode": np.int64(1),
        "dials": np.array([2, 5]),
        "bits": np.array([0, 1], dtype=np.int8),
    }
    rows = codec.encode(one)
    assert not codec.read(one)[1]
    assert np.array_equal(rows["eye"], one["eye"][None])
    assert np.array_equal(rows["grid"], [[0, 1, 2, 3, 4, 5]])
    assert rows["grid"].dtype == np.float32
    assert np.array_equal(rows["mode"], [[0, 0, 1, 0]])  # -1, 0, [1], 2
    assert np.array_equal(rows["dials"], [[0, 1, 1, 0, 0]])
    assert np.array_equal(rows["bits"], [[1, 0, 0, 1]])

    pair = {key: np.stack([value, value]) for key, value in one.items()}
    assert codec.read(pair)[1]
    for key, value in codec.encode(pair).items():
        assert np.array_equal(value, np.concatenate([rows[key], rows[key]])), key


@pytest.mark.parametrize("space", [HWC, CHW])
@pytest.mark.parametrize("batched", [False, True])
def test_images_are_taken_in_either_layout(space: spaces.Box, batched: bool) -> None:
    codec = ObservationCodec(space)
    last = image((5, 17, 19, 3)) if batched else image((17, 19, 3))
    first = np.moveaxis(last, -1, -3)
    for given in (last, first):
        assert codec.read(given)[1] is batched
        encoded = codec.encode(given)["observation"]
        assert encoded.dtype == np.uint8
        assert np.array_equal(encoded, last if batched else last[None])


def test_images_of_other_integers_are_taken() -> None:
    seen = image((17, 19, 3))
    found = ObservationCodec(HWC).encode(seen.astype(np.int64))["observation"]
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], seen)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_may_have_one_to_four_channels(channels: int) -> None:
    assert ObservationCodec(spaces.Box(0, 255, (16, 23, channels), np.uint8)).images["observation"].channels == channels


def test_decoding_gives_the_environments_values() -> None:
    codec = ObservationCodec(MIXED)
    lead = (2, 3)
    means: dict[str, Any] = {
        "eye": np.full((*lead, 17, 19, 3), 2.0),
        "arm": np.ones((*lead, 5)),
        "grid": np.ones((*lead, 6)),
        "mode": np.tile([0.1, 0.7, 0.1, 0.1], (*lead, 1)),
        "dials": np.tile([0.4, 0.6, 0.1, 0.2, 0.7], (*lead, 1)),
        "bits": np.tile([0.4, 0.6, 0.8, 0.2], (*lead, 1)),
    }
    out = codec.decode(means)
    assert out["eye"].dtype == np.uint8
    assert (out["eye"] == 255).all()
    assert out["grid"].shape == (*lead, 2, 3)
    assert out["mode"].shape == lead
    assert (out["mode"] == 0).all()
    assert (out["dials"] == [2, 7]).all()
    assert (out["bits"] == [1, 0]).all()
    assert codec.decode({"eye": np.full((17, 19, 3), 0.5)})["eye"].max() == 128


@pytest.mark.parametrize(
    ("space", "word"),
    [
        (spaces.Text(5), "Text"),
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple"),
        (spaces.Dict({"inner": spaces.Dict({"x": spaces.Discrete(2)})}), "inner"),
        (spaces.Dict(), "no keys"),
        (spaces.Box(0, 255, (15, 64, 3), np.uint8), "ResizeObservation"),
        (spaces.Box(0, 255, (64, 64, 12), np.uint8), "frame stacking"),
        (spaces.Box(0, 255, (84, 84), np.uint8), "keep_dim=True"),
    ],
)
def test_an_unsupported_observation_says_what_is_supported(space: spaces.Space[Any], word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        ObservationCodec(space)
    assert "supported observations" in str(caught.value)


class Mission(spaces.Space[str]):
    """A text that Gymnasium cannot flatten, as grid worlds name their tasks."""


CELLS = spaces.Box(0, 255, (7, 7, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "vectors"),
    [
        (
            spaces.Dict({"cells": CELLS, "heading": spaces.Discrete(4), "task": Mission()}),
            {"observation": 7 * 7 * 3 + 4},
        ),
        (spaces.Dict({"heading": spaces.Discrete(4), "task": Mission()}), {"heading": 4}),
        (spaces.Dict({"cells": CELLS, "heading": spaces.Discrete(4)}), {"observation": 7 * 7 * 3 + 4}),
        (spaces.Tuple([spaces.Discrete(32), spaces.Discrete(11)]), {"observation": 43}),
    ],
)
def test_the_wrappers_of_the_advice_help(space: spaces.Space[Any], vectors: dict[str, int]) -> None:
    env: gymnasium.Env[Any, Any] = gymnasium.Env()
    env.observation_space = space
    with pytest.raises(ValueError, match="supported observations") as caught:
        ObservationCodec(space)
    (line,) = re.findall(r"gymnasium\.wrappers\.\S*\(env.*?\)(?= )", str(caught.value))
    wrapped = eval(line, {"gymnasium": gymnasium, "env": env})
    assert {key: spec.size for key, spec in ObservationCodec(wrapped.observation_space).vectors.items()} == vectors


@pytest.mark.parametrize(
    ("space", "observation", "word"),
    [
        (spaces.Box(-1, 1, (3,)), np.zeros(4), r"has shape \(4,\); expected \(3,\), or \(n_envs, 3\)"),
        (spaces.Box(-1, 1, (3,)), {"a": np.zeros(3)}, "not a dict"),
        (MIXED, np.zeros(3), "dict with the keys"),
        (spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(2)}), {"a": 0}, "b"),
        (spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(2)}), {"a": 0, "b": np.array([1])}, "env axis"),
        (spaces.Discrete(3), np.int64(3), "expected 0 to"),
        (HWC, image((17, 19, 3)).astype(np.float32), "uint8"),
        (HWC, np.full((17, 19, 3), 256), "uint8"),
        (HWC, np.full((17, 19, 3), -1), "uint8"),
        (HWC, (image((17, 19, 3)), {}), "write `obs, info = env.reset"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(space: spaces.Space[Any], observation: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ObservationCodec(space).encode(observation)


def test_box_actions_are_rescaled_to_the_bounds() -> None:
    space = spaces.Box(np.array([-2.0, 0.0, 5.0]), np.array([2.0, 10.0, 5.0]), dtype=np.float64)
    codec = ActionCodec(space)
    assert (codec.size, codec.groups) == (3, ())
    actions = codec.decode(np.array([[-1.0, -1.0, 0.0], [1.0, 0.5, 1.0], [7.0, -7.0, 0.0]], dtype=np.float32))
    assert actions.dtype == np.float64
    assert np.array_equal(actions, [[-2.0, 0.0, 5.0], [2.0, 7.5, 5.0], [2.0, 0.0, 5.0]])
    assert np.array_equal(codec.encode(actions), [[-1.0, -1.0, 0.0], [1.0, 0.5, 0.0], [1.0, -1.0, 0.0]])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Discrete(3, start=-7),
        spaces.MultiDiscrete([2, 5, 3]),
        spaces.MultiDiscrete([[2, 5], [3, 7]]),
        spaces.MultiBinary(4),
        spaces.MultiBinary((2, 3)),
        spaces.Box(-3.0, 4.0, (2, 3)),
        spaces.Box(-3, 9, (5,), np.int64),
    ],
)
def test_actions_survive_the_round_trip(space: spaces.Space[Any]) -> None:
    space.seed(3)
    codec = ActionCodec(space)
    samples = np.stack([np.asarray(space.sample()) for _ in range(11)])
    vectors = codec.encode(samples)
    assert vectors.shape == (11, codec.size)
    assert vectors.dtype == np.float32
    assert np.abs(vectors).max() <= 1.0
    if codec.groups:
        assert np.array_equal(vectors.sum(-1), np.full(11, len(codec.groups)))
    back = codec.decode(vectors)
    assert np.allclose(back, samples, atol=1e-5)
    assert all(space.contains(action if action.shape else action[()]) for action in back)


def test_random_actions_come_from_the_seeded_space() -> None:
    space = spaces.MultiDiscrete([2, 5, 3])
    codec = ActionCodec(space)
    space.seed(5)
    first = codec.sample(13)
    second = codec.sample(13)
    space.seed(5)
    assert np.array_equal(codec.sample(13), first)
    assert not np.array_equal(second, first)


@pytest.mark.parametrize(
    ("space", "word"),
    [
        (spaces.Tuple([spaces.Discrete(2)]), "supported actions"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "supported actions"),
        (spaces.Box(-np.inf, 1.0, (2,)), "finite bounds"),
    ],
)
def test_an_unsupported_action_space_says_what_is_supported(space: spaces.Space[Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ActionCodec(space)
