"""The harmoniser against the paper's closed forms, and the user's choice of what it harmonises."""

import math

import pytest
import torch

from hd_agents.harmony import Harmonizer, Term, select_terms


def optimum(loss: float) -> float:
    return (loss + math.sqrt(loss**2 + 4 * loss)) / 2


@pytest.mark.parametrize("loss", [1e-8, 1e-3, 0.1, 0.5, 1.0, 10.0, 1e3, 1e8])
def test_gradient_vanishes_at_the_closed_form_optimum(loss):
    harmonizer = Harmonizer({"reward": Term()}).double()
    harmonizer.log_sigma.data.fill_(math.log(optimum(loss)))
    total, _ = harmonizer({"reward": torch.tensor(loss, dtype=torch.float64)})
    total.backward()
    assert abs(harmonizer.log_sigma.grad.item()) < 1e-6 * max(1.0, loss / optimum(loss))


@pytest.mark.parametrize(
    ("loss", "weight"), [(0.001, 31.13), (0.01, 9.512), (0.1, 2.702), (0.5, 1.0), (1.0, 0.618), (10.0, 0.0916)]
)
def test_descent_reaches_the_weights_of_the_paper(loss, weight):
    harmonizer = Harmonizer({"reward": Term()})
    optimizer = torch.optim.Adam(harmonizer.parameters(), lr=0.05)
    for _ in range(600):
        total, metrics = harmonizer({"reward": torch.full((3, 5), loss)})
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert metrics["weight/reward"].item() == pytest.approx(weight, rel=2e-3)
    assert metrics["sigma/reward"].item() == pytest.approx(1 / weight, rel=2e-3)


def test_gradient_at_the_start_is_half_minus_the_loss():
    harmonizer = Harmonizer({"reward": Term(), "dynamics": Term(regularizer=5 / 6)})
    harmonizer({"reward": torch.tensor(3.0), "dynamics": torch.tensor(0.25)})[0].backward()
    assert harmonizer.log_sigma.grad.tolist() == pytest.approx([0.5 - 3.0, 0.5 * 5 / 6 - 0.25])


def test_naive_variant_weighs_by_the_inverse_loss():
    harmonizer = Harmonizer({"reward": Term()}, kind="naive")
    harmonizer.log_sigma.data.fill_(math.log(0.01))
    harmonizer({"reward": torch.tensor(0.01)})[0].backward()
    assert harmonizer.log_sigma.grad.item() == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="'rectified' or 'naive'"):
        Harmonizer({"reward": Term()}, kind="other")  # type: ignore[arg-type]


def test_extreme_losses_stay_finite():
    harmonizer = Harmonizer({"reward": Term()})
    for log_sigma in (-40.0, 40.0):
        harmonizer.log_sigma.data.fill_(log_sigma)
        for loss in (0.0, 1e-8, 1e8):
            total, _ = harmonizer({"reward": torch.tensor(loss)})
            (gradient,) = torch.autograd.grad(total, harmonizer.log_sigma)
            assert total.isfinite() and gradient.isfinite().all()


def test_plain_terms_are_scaled_and_shares_add_up():
    harmonizer = Harmonizer({"observation": Term(), "continue": Term(scale=2.0, harmonized=False)})
    losses = {"observation": torch.tensor([2.0, 4.0]), "continue": torch.tensor([0.5])}
    total, metrics = harmonizer(losses)
    assert total.item() == pytest.approx(3.0 + math.log(2.0) + 1.0)
    assert metrics["share/observation"].item() == pytest.approx(0.75)
    assert metrics["share/continue"].item() == pytest.approx(0.25)
    assert "sigma/continue" not in metrics


def test_no_loss_is_dropped_in_silence():
    harmonizer = Harmonizer({"reward": Term()})
    with pytest.raises(KeyError, match="camera"):
        harmonizer({"reward": torch.tensor(1.0), "camera": torch.tensor(1.0)})
    with pytest.raises(KeyError, match="reward"):
        harmonizer({})


@pytest.mark.parametrize("change", [Term(3.0, harmonized=False), Term(regularizer=0.5), None])
def test_terms_that_change_what_is_learned_are_not_ignored(change):
    """Its sigmas were made for the terms of before: it had gone on by those, whatever the terms said."""
    harmonizer = Harmonizer({"reward": Term(), "dynamics": Term(0.5, harmonized=False)})
    losses = {name: torch.ones(2, 3) for name in harmonizer.terms}
    harmonizer.terms["dynamics"] = Term(3.0, harmonized=False)  # a fixed weight is read each time
    assert harmonizer(losses)[0].item() == pytest.approx(3.0 + 1.0 + math.log(2.0))
    harmonizer.terms["dynamics" if change is None else "reward"] = Term() if change is None else change
    with pytest.raises(ValueError, match=r"its sigmas were made for others.*another Harmonizer\(terms\)"):
        harmonizer(losses)


def test_without_harmony_there_is_nothing_to_learn():
    harmonizer = Harmonizer({"reward": Term(harmonized=False), "dynamics": Term(0.6, harmonized=False)})
    total, metrics = harmonizer({"reward": torch.tensor(1.0), "dynamics": torch.tensor(10.0)})
    assert total.item() == pytest.approx(7.0)
    assert harmonizer.log_sigma.numel() == 0
    assert not any(name.startswith("sigma") for name in metrics)


TERMS = {"reward": Term(), "dynamics": Term(0.6), "observation/a": Term(), "observation/b": Term()}
GROUPS = {"observation": ["observation/a", "observation/b"], "a": ["observation/a"], "b": ["observation/b"]}


@pytest.mark.parametrize(
    ("harmony", "harmonized"),
    [
        (True, {"reward", "dynamics", "observation/a", "observation/b"}),
        (False, set()),
        ({"reward": False}, {"dynamics", "observation/a", "observation/b"}),
        ({"observation": False}, {"reward", "dynamics"}),
        ({"b": 3, "dynamics": False}, {"reward", "observation/a"}),
    ],
)
def test_the_user_selects_what_is_harmonised(harmony, harmonized):
    terms = select_terms(TERMS, harmony, GROUPS)
    assert {name for name, term in terms.items() if term.harmonized} == harmonized
    assert terms["dynamics"].scale == 0.6
    if harmony == {"b": 3, "dynamics": False}:
        assert terms["observation/b"].scale == 3.0


def test_something_has_to_be_learned():
    nothing = {"observation": 0.0, "reward": 0, "dynamics": 0.0}
    with pytest.raises(ValueError, match="leaves no loss with a weight above 0"):
        select_terms(TERMS, nothing, GROUPS)
    assert select_terms(TERMS, {**nothing, "reward": 0.1}, GROUPS)["reward"].scale == 0.1


@pytest.mark.parametrize("harmony", [{"rewards": True}, {"reward": -1.0}, {"reward": "yes"}])
def test_bad_selections_are_named(harmony):
    with pytest.raises(ValueError, match=next(iter(harmony))):
        select_terms(TERMS, harmony, GROUPS)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_passed_on_and_named_by_its_metric(bad):
    """Hiding it here would train on in silence; who owns the step decides what to do."""
    harmonizer = Harmonizer({"reward": Term(), "dynamics": Term()})
    total, metrics = harmonizer({"reward": torch.tensor(bad), "dynamics": torch.tensor(1.0)})
    assert not total.isfinite()
    losses = {name: value for name, value in metrics.items() if name.startswith("loss/")}
    assert [name for name, value in losses.items() if not value.isfinite()] == ["loss/reward"]
