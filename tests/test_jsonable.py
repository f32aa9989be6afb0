"""Constructor arguments and spaces as JSON: exact round trips, and errors that name the item."""

import json
from contextlib import suppress
from inspect import signature
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hd_agents.saving.jsonable import TYPE, ArchiveError, from_json, space_to_json, to_json

DTYPES = ["u1", "i1", "i4", "i8", "u8", "f2", "f4", "f8", "?"]


def through_text(value: Any) -> Any:
    return from_json(json.loads(json.dumps(to_json(value), allow_nan=False)))


@settings(max_examples=60, deadline=None, database=None)
@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
def test_any_array_comes_back(array: np.ndarray) -> None:
    found = through_text(array)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    dtype = np.dtype(draw(st.sampled_from(["u1", "i4", "i8", "f4", "f8"])))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    finite = dtype.kind != "f"
    bounds = {"min_value": 0, "max_value": 200} if finite else {"min_value": -1000, "max_value": 1000, "width": 32}
    elements = st.integers(**bounds) if finite else st.floats(**bounds) | st.just(-np.inf)  # type: ignore[arg-type]
    low = draw(hnp.arrays(dtype, shape, elements=elements))
    span = draw(st.integers(0, 50)) if finite else draw(st.sampled_from([0, 1.5, np.inf]))
    high = low + span if finite else np.where(np.isfinite(low), np.abs(low) + span, np.inf)
    return spaces.Box(low, high.astype(dtype), dtype=dtype.type)


flat_spaces = (
    boxes()
    | st.builds(spaces.Discrete, st.integers(1, 2**40), start=st.integers(-5, 5))
    | st.builds(spaces.MultiDiscrete, hnp.arrays("i8", st.integers(1, 4), elements=st.integers(1, 9)))
    | st.builds(spaces.MultiBinary, st.integers(1, 9) | st.lists(st.integers(1, 4), min_size=1, max_size=3))
)
any_space = st.recursive(
    flat_spaces, lambda inner: st.builds(spaces.Dict, st.dictionaries(st.text(), inner, max_size=3))
)


@settings(max_examples=100, deadline=None, database=None)
@given(any_space)
def test_any_space_comes_back(space: spaces.Space) -> None:
    found = from_json(json.loads(json.dumps(to_json(space), allow_nan=False)))
    assert found == space
    assert found.dtype == space.dtype
    assert type(found) is type(space)
    assert through_text({"observation_space": space}) == {"observation_space": space}


@pytest.mark.parametrize(
    "space",
    [
        *([spaces.Discrete(3, dtype=np.uint8)] if "dtype" in signature(spaces.Discrete).parameters else []),
        spaces.MultiDiscrete([[2, 3], [5, 7]], start=[[0, -1], [2, 0]]),
        spaces.MultiDiscrete([2, 3], dtype=np.int32),
        spaces.Box(0, 1, (3,), np.bool_),
        spaces.Box(-np.inf, np.inf, (2,), np.float64),
    ],
    ids=str,
)
def test_rarer_spaces_come_back(space: spaces.Space) -> None:
    found = from_json(json.loads(json.dumps(to_json(space), allow_nan=False)))
    assert found == space
    assert found.dtype == space.dtype


def test_image_spaces_take_little_text_and_subclasses_become_their_base() -> None:
    class Screen(spaces.Box):
        pass

    space = Screen(0, 255, (210, 160, 3), np.uint8)
    text = json.dumps(to_json(space))
    assert len(text) < 200
    found = from_json(json.loads(text))
    assert type(found) is spaces.Box
    assert found == spaces.Box(0, 255, (210, 160, 3), np.uint8)


def test_zeros_keep_their_signs() -> None:
    for zeros in ([0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]):
        found = from_json(to_json(np.array(zeros)))
        assert np.signbit(found).tolist() == np.signbit(zeros).tolist()


def test_numbers_become_python_numbers_and_infinities_survive() -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.int64(2**60),
        "c": np.bool_(True),
        "d": [float("inf"), -np.inf],
        "e": np.float64(2),
    }
    found = through_text(value)
    assert found == {"a": 0.5, "b": 2**60, "c": True, "d": [float("inf"), -float("inf")], "e": 2.0}
    assert [type(found[key]) for key in "abce"] == [float, int, bool, float]
    assert np.isnan(through_text([float("nan")])[0])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": [1, len]}}, r"data\['a'\]\['b'\]\[1\] is a builtins.builtin_function_or_method.*exclude"),
        ({"a": {1: 2}}, r"data\['a'\] has the key 1: expected text"),
        ({"__type__": "tuple"}, "key '__type__'"),
        ({"a": {1, 2}}, r"data\['a'\] is a builtins.set"),
        ({"a": 1j}, "complex"),
        ({"a": np.array(["x"])}, r"data\['a'\] is an array of <U1"),
        ({"a": np.longdouble(1)}, "longdouble"),
        ({"a": np.zeros(100_000)}, r"data\['a'\] is an array of 100,000 numbers: store it among the tensors"),
        ({"a": spaces.Text(5)}, r"data\['a'\] is Text.*only Box"),
        ({"a": spaces.Dict(b=spaces.Tuple([]))}, r"data\['a'\]\['b'\] is Tuple"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        to_json(value)


ARRAY = {"__type__": "ndarray", "dtype": "<f4", "shape": [2], "values": [1, 2]}
HUGE = {"dtype": "|u1", "shape": [1 << 20, 1 << 20], "fill": 0}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"__type__": "module"}, "unknown type 'module'"),
        ({"__type__": "tuple"}, "damaged: KeyError"),
        ({"__type__": ["tuple"]}, "unknown type"),
        (ARRAY | {"shape": [3]}, "damaged: ValueError"),
        (ARRAY | {"shape": [-1]}, r"shape \[-1\]"),
        (ARRAY | {"shape": [True, 2]}, r"shape \[True, 2\]"),
        (ARRAY | {"shape": 2}, "damaged: TypeError"),
        (ARRAY | {"values": ["x", "y"]}, "damaged: ValueError"),
        (ARRAY | {"dtype": "O"}, "type 'O'"),
        (ARRAY | {"dtype": "V8"}, "type 'V8'"),
        (ARRAY | {"dtype": 3}, "type 3"),
        (ARRAY | {"dtype": "u1", "values": [1, 300]}, "damaged: OverflowError"),
        ({"__type__": "ndarray", "dtype": "i1", "shape": [2], "fill": -129}, "damaged: OverflowError"),
        ({"__type__": "ndarray"} | HUGE, "more than 16,777,216 numbers"),
        ([{"__type__": "ndarray"} | HUGE | {"shape": [1 << 23]}] * 5, "more than 16,777,216 numbers"),
        ({"__type__": "space", "space": {"kind": "Box", "low": HUGE, "high": HUGE}}, "more than"),
        ({"__type__": "space", "space": {"kind": "MultiBinary", "n": [1 << 20, 1 << 20]}}, "more than"),
        (
            {"__type__": "space", "space": {"kind": "Discrete", "n": -3, "start": 0, "dtype": "<i8"}},
            "damaged: (ValueError|AssertionError)",
        ),
        ({"__type__": "space", "space": {"kind": "Graph"}}, "unknown kind 'Graph'"),
        ({"__type__": "space", "space": [1]}, "damaged: TypeError"),
    ],
)
def test_damaged_documents_are_refused(document: Any, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        from_json(document)


def test_endless_nesting_is_refused() -> None:
    document: list[Any] = []
    for _ in range(100_000):
        document = [document]
    with pytest.raises(ArchiveError, match="damaged: RecursionError"):
        from_json(document)


@settings(max_examples=200, deadline=None, database=None)
@given(st.data())
def test_any_wrong_part_of_a_space_gives_our_error_or_a_space(data: st.DataObject) -> None:
    document = space_to_json(
        spaces.Dict(a=spaces.Box(0, 1, (2,)), b=spaces.MultiDiscrete([2, 3]), c=spaces.Discrete(3))
    )
    part = document
    while isinstance(part, (dict, list)) and part:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()):
            part[key] = data.draw(st.none() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.integers(-2, 2)))
            break
        part = part[key]
    with suppress(ArchiveError):
        assert isinstance(from_json({TYPE: "space", "space": document}), spaces.Space)
