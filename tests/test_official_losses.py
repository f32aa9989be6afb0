"""The official code's pieces one by one: distributions, codecs, KL and the harmonised total."""

from __future__ import annotations

import pytest
import torch
from golden_units import golden, leaf, near, near_gradient

from hd_agents.harmony import Harmonizer, Term
from hd_agents.nn.distributions import (
    NormalActions,
    OneHotActions,
    TruncatedNormalActions,
    TwoHot,
    UnitNormal,
    bernoulli_loss,
)
from hd_agents.nn.functional import categorical_kl, sample_one_hot, symexp, symlog
from hd_agents.world_model.world_model import KLBalance

UNIMIX = ["onehot_unimix0.0/", "onehot_unimix0.01/", "onehot_unimix0.1/"]


@pytest.mark.parametrize("name", ["c1_torch_dists", "c8_jax_dists"])
def test_symlog(name: str) -> None:
    data = golden(name)
    near(symlog(data["symlog/x"]), data["symlog/y"])
    near(symexp(data["symexp/x"]), data["symexp/y"])


@pytest.mark.parametrize(
    ("name", "prefix"), [("c1_torch_dists", "twohot255/"), ("c1_torch_dists", "twohot41/"), ("c8_jax_dists", "twohot/")]
)
def test_two_hot(name: str, prefix: str) -> None:
    data = golden(name, prefix)
    codec, logits = TwoHot(len(data["bins"])), leaf(data["logits"])
    near(codec.points, data["bins"])
    loss = codec.loss(logits, data["x"])
    near(-loss, data["log_prob"], 1e-4)
    near(codec.mean(logits), data["mean"])
    loss.sum().backward()
    assert logits.grad is not None
    near(torch.softmax(data["logits"], -1) - logits.grad, data["twohot_target"], 1e-4)


def test_two_hot_means_are_float32_in_autocast() -> None:
    codec, out = TwoHot(), torch.randn(7, 255)
    with torch.autocast("cpu", torch.bfloat16):
        inside = codec.mean(out)
    assert torch.equal(inside, codec.mean(out))


def test_squared_errors() -> None:
    data = golden("c1_torch_dists", "mse/")
    codec = UnitNormal()
    near(-codec.loss(data["mean"].unsqueeze(-1), data["value"]).sum((-2, -1)), data["log_prob_event2"])


def test_bernoulli_with_soft_targets() -> None:
    data = golden("c1_torch_dists", "bernoulli/")
    near(-bernoulli_loss(data["logits"], data["target"]), data["log_prob"])


@pytest.mark.parametrize("name", ["c1_torch_dists", "c8_jax_dists"])
@pytest.mark.parametrize("prefix", UNIMIX)
def test_one_hot(name: str, prefix: str) -> None:
    data, unimix = golden(name, prefix), float(prefix[len("onehot_unimix") : -1])
    raw = leaf(data["raw"])
    actions = OneHotActions(raw, (raw.shape[-1],), unimix)
    near(actions.log_probs, data["logits"])
    near(actions.log_prob(data["value"]), data["log_prob"])
    near(actions.entropy(), data["entropy"])
    if "mode" in data:
        near(actions.mode(), data["mode"])
    near_gradient(
        torch.autograd.grad(actions.log_prob(data["value"]).sum(), raw, retain_graph=True)[0], data["grad_log_prob"]
    )
    near_gradient(torch.autograd.grad(actions.entropy().sum(), raw, retain_graph=True)[0], data["grad_entropy"])
    sample = sample_one_hot(raw, data["st_sample"].argmax(-1), unimix)
    near(sample, data["st_sample"])
    near_gradient(torch.autograd.grad((sample * data["st_coef"]).sum(), raw)[0], data["st_grad"])


def test_several_choices_at_once() -> None:
    data = golden("c1_torch_dists", "multidiscrete/")
    actions = OneHotActions(data["logits"], tuple(data["nvec"].tolist()), 0.0)
    near(actions.log_prob(data["value"]), data["log_prob"])
    near(actions.entropy(), data["entropy"])
    near(actions.mode(), data["mode"])


def test_truncated_normal() -> None:
    data = golden("c1_torch_dists", "trunc_normal/")
    out = leaf(torch.cat([data["raw_out"], data["raw_std"]], -1))
    actions = TruncatedNormalActions(out)
    near(actions.loc, data["loc"])
    near(actions.scale, data["scale"])
    near(actions.mode(), data["mode"])
    near(actions.sample(data["uniform"]), data["sample"], 1e-4)
    usual = slice(3, None)  # the first rows are so extreme that float32 cancels
    near(actions.log_prob(data["value"])[usual], data["log_prob"][usual])
    near(actions.entropy()[usual], data["entropy"][usual])
    for value, name in (
        ((actions.sample(data["uniform"]) * data["coef"])[usual], "grad_sample"),
        (actions.entropy()[usual], "grad_entropy"),
        (actions.log_prob(data["value"])[usual], "grad_log_prob"),
    ):
        near_gradient(torch.autograd.grad(value.sum(), out, retain_graph=True)[0][usual], data[name][usual])


def test_normal() -> None:
    data = golden("c8_jax_dists", "normal/")
    actions = NormalActions(torch.cat([data["raw_out"], data["raw_std"]], -1))
    near(actions.mode(), data["mean"])
    near(actions.std, data["std"])
    near(actions.log_prob(data["value"]), data["log_prob"])
    near(actions.entropy(), data["entropy"])
    near(actions.sample(data["noise"]), data["sample"])


@pytest.mark.parametrize(
    "name", ["v2_metaworld", "v2_dmc", "v2_free_high", "v3_config", "per_step_free", "per_step_free_v3"]
)
def test_kl_of_wmlib(name: str) -> None:
    data, config = golden("c2_torch_kl"), golden("c2_torch_kl", f"{name}/")
    _, share, free, average = config["config"].tolist()
    balance = KLBalance(dynamics=share, representation=1.0 - share, free=free, average_first=bool(average))
    posterior, prior = leaf(data["post_logit"]), leaf(data["prior_logit"])
    loss, value = balance.loss(torch.log_softmax(posterior, -1), torch.log_softmax(prior, -1))
    loss.mean().backward()
    near(loss.mean(), config["loss"])
    near(value, config["value"])
    for tensor, key in ((posterior, "grad_post"), (prior, "grad_prior")):
        assert tensor.grad is not None
        near_gradient(tensor.grad, config[key])


@pytest.mark.parametrize("free", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("side", ["dyn", "rep"])
def test_kl_of_dreamerv3(side: str, free: float) -> None:
    data, expected = golden("c9_jax_kl_harmony"), golden("c9_jax_kl_harmony", f"{side}_free{free}/")
    balance = KLBalance(
        dynamics=float(side == "dyn"), representation=float(side == "rep"), free=free, average_first=False
    )
    posterior, prior = leaf(data["post_logit"]), leaf(data["prior_logit"])
    loss, _ = balance.loss(torch.log_softmax(posterior, -1), torch.log_softmax(prior, -1))
    near(loss, expected["loss"])
    loss.sum().backward()
    for tensor, key in ((posterior, "grad_post"), (prior, "grad_prior")):
        assert tensor.grad is not None
        near_gradient(tensor.grad, expected[key])


def test_kl_of_a_distribution_with_itself_is_zero() -> None:
    logits = torch.log_softmax(golden("c2_torch_kl")["post_logit"], -1)
    near(categorical_kl(logits, logits), torch.zeros(logits.shape[:2]))


def test_harmonised_total_of_wmlib() -> None:
    data = golden("c5_torch_harmony")
    for losses, s, discount, total, slope_s, slope, plain in zip(
        *(data[key] for key in ("losses", "s", "has_discount", "total", "grad_s", "grad_losses", "plain_total")),
        strict=True,
    ):
        terms = {"reward": Term(), "observation": Term(), "dynamics": Term(0.6)}
        names = ["reward", "observation", "dynamics"] + ["continue"] * int(discount)
        if discount:
            terms["continue"] = Term(harmonized=False)
        harmonizer = Harmonizer(terms)
        harmonizer.log_sigma.data.copy_(s)
        values = leaf(losses)
        found, _ = harmonizer(dict(zip(names, values, strict=False)))
        near(found, total)
        found.backward()
        assert values.grad is not None
        assert harmonizer.log_sigma.grad is not None
        near(harmonizer.log_sigma.grad, slope_s)
        near(values.grad, slope)
        off = Harmonizer({name: term._replace(harmonized=False) for name, term in terms.items()})
        near(off(dict(zip(names, losses, strict=False)))[0], plain)


@pytest.mark.parametrize("regularizer", [1.0, 0.0])
def test_harmoniser_of_dreamerv3(regularizer: float) -> None:
    data = golden("c9_jax_kl_harmony", "harmony/")
    value, slope = (0, 1) if regularizer else (2, 3)
    for s, row in zip(data["s"], data["out"], strict=True):
        for loss, expected in zip(data["loss"], row, strict=True):
            harmonizer = Harmonizer({"reward": Term(regularizer=regularizer)})
            harmonizer.log_sigma.data.fill_(float(s))
            total, _ = harmonizer({"reward": loss})
            total.backward()
            assert harmonizer.log_sigma.grad is not None
            near(total, expected[value])
            near(harmonizer.log_sigma.grad[0], expected[slope])
