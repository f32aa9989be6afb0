"""Aggregate scores: what the official data of Atari100K add up to, and what the measures are by their definitions."""

import sys

import numpy as np
import pytest

from hd_agents import zoo
from hd_agents.evaluation import aggregates
from hd_agents.evaluation.scores import human_normalized

pytest.importorskip("rliable")
OURS, THEIRS = "HarmonyDream (official)", "DreamerV3 (their rerun)"


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    """Method -> human-normalised scores (5 seeds, 26 games)."""
    found = zoo.published("atari100k")
    assert found is not None

    def column(method: str, name: str) -> list[float]:
        return [human_normalized(zoo.env_id(name), score) or 0.0 for score in found.scores(method, name)]

    return {method: np.array([column(method, name) for name in found.curves[method]]).T for method in found.curves}


def test_the_official_scores_add_up_to_what_the_paper_states(official: dict[str, np.ndarray]) -> None:
    """Stated: mean 136.5%, median 67.1%; the other values were worked out from the same data beforehand, elsewhere."""
    assert {method: runs.shape for method, runs in official.items()} == {OURS: (5, 26), THEIRS: (5, 26)}
    found = aggregates.aggregates(official)
    stated = zoo.published("atari100k").stated
    assert found[OURS]["mean"].value == pytest.approx(stated["mean"], abs=0.002)
    assert found[OURS]["median"].value == pytest.approx(stated["median"], abs=0.0006)
    values = {method: [round(estimate.value, 3) for estimate in found[method].values()] for method in official}
    assert values == {OURS: [0.607, 0.671, 1.364, 0.462], THEIRS: [0.472, 0.416, 1.074, 0.508]}
    bounds = [(found[OURS][name].low, found[OURS][name].high) for name in ("mean", "median", "IQM")]
    assert np.array(bounds) == pytest.approx(np.array([(1.18, 1.58), (0.41, 0.73), (0.55, 0.68)]), abs=0.02)
    better = aggregates.improvement(official[OURS], official[THEIRS])
    assert better == pytest.approx((0.639, 0.576, 0.701), abs=0.01)


def test_the_measures_by_their_definitions() -> None:
    runs = np.array([[0.0, 1.0, 2.0, 9.0], [0.2, 1.0, 4.0, 3.0]])
    found = aggregates.aggregates({"one": runs})["one"]
    assert found["IQM"].value == pytest.approx((1 + 1 + 2 + 3) / 4)
    assert found["median"].value == pytest.approx((1 + 3) / 2)
    assert found["mean"].value == pytest.approx((0.1 + 1 + 3 + 6) / 4)
    assert found["optimality gap"].value == pytest.approx((1 + 0.8) / 8)
    profile = aggregates.profiles({"one": runs}, np.array([0.5, 2.5]))["one"]
    assert profile.value.tolist() == [6 / 8, 3 / 8]
    assert np.all(profile.low <= profile.value) and np.all(profile.value <= profile.high)


def test_improvement_is_rliables(official: dict[str, np.ndarray]) -> None:
    from rliable import metrics

    for first, second in ((OURS, THEIRS), (THEIRS, OURS), (OURS, OURS)):
        expected = metrics.probability_of_improvement(official[first], official[second][:3])
        assert aggregates._beats(official[first], official[second][:3]) == pytest.approx(expected)


def test_random_numbers_repeat_and_are_left_alone() -> None:
    scores = {"one": np.arange(12.0).reshape(3, 4) / 12}
    np.random.seed(7)  # noqa: NPY002
    first = aggregates.aggregates(scores)
    drawn = np.random.rand()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    assert np.random.rand() == drawn  # noqa: NPY002
    assert aggregates.aggregates(scores) == first


def test_without_rliable_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rliable", None)
    with pytest.raises(ImportError, match=r"hd_agents\[plot\]"):
        aggregates.aggregates({"one": np.zeros((2, 3))})


def test_scores_of_another_shape_are_refused() -> None:
    """NumPy would compare five tasks with one, and rliable fails without a word of whose scores they are."""
    many, one = np.ones((2, 5)), np.ones((3, 1))
    with pytest.raises(ValueError, match="first is of 5 tasks and second of 1"):
        aggregates.improvement(many, one)
    for function in (aggregates.aggregates, lambda scores: aggregates.profiles(scores, np.array([0.5]))):
        with pytest.raises(ValueError, match=r"scores of plain have the shape \(5,\): expected \(runs, tasks\)"):
            function({"full": many, "plain": many[0]})
    assert aggregates.aggregates({"full": many.tolist()})["full"]["mean"].value == 1  # lists will do
