"""The official code's pieces one by one: layers, returns, moving averages and optimisers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_units import golden, leaf, near, near_gradient

from hd_agents.behavior.actor_critic import ReturnScale, update_slow
from hd_agents.behavior.returns import NextStateCredit, SameStateCredit, lambda_return
from hd_agents.nn.convolution import Conv
from hd_agents.nn.layers import GRUCell
from hd_agents.presets import BEHAVIOR_CLIP
from hd_agents.styles import STYLES
from hd_agents.world_model.rssm import RSSM, State
from hd_agents.world_model.world_model import KLBalance


def test_gru() -> None:
    data = golden("c3_torch_layers", "gru/")
    inputs, deter = data["x"].shape[1], data["h"].shape[1]
    cell = GRUCell(inputs, deter, bias=True)
    weight = data["_layer.weight"].roll(deter, 1)  # theirs reads [x, deter]
    named = {"linear.weight": weight, "linear.bias": data["_layer.bias"]}
    cell.load_state_dict(named | {"norm.weight": data["_norm.weight"], "norm.bias": data["_norm.bias"]})
    x, h = leaf(data["x"]), leaf(data["h"])
    out = cell(x, h)
    near(out, data["out"])
    out.square().sum().backward()
    assert x.grad is not None
    assert h.grad is not None
    near_gradient(x.grad, data["grad_x"])
    near_gradient(h.grad, data["grad_h"])


@pytest.mark.parametrize("kind", ["conv", "convt"])
def test_convolutions_of_dreamerv3(kind: str) -> None:
    data = golden("c10_jax_layers", f"{kind}/")
    layer = Conv(data["x"].shape[-1], data["y"].shape[-1], transposed=kind == "convt", norm=True, act="silu")
    kernel = data["param/c/kernel"].permute(3, 2, 0, 1)
    layer.conv.weight.data.copy_(kernel.flip(-2, -1) if kind == "convt" else kernel)
    assert layer.norm is not None
    layer.norm.weight.data.copy_(data["param/c/norm/scale"])
    layer.norm.bias.data.copy_(data["param/c/norm/bias"])
    near(layer(data["x"].permute(0, 3, 1, 2)), data["y"].permute(0, 3, 1, 2))


@pytest.mark.parametrize("release", ["jax", "wmlib"])
def test_one_step_of_the_rssm(release: str) -> None:
    jax = release == "jax"
    data = golden("c10_jax_layers") if jax else golden("c3_torch_layers", "rssm_v2/")
    names = {"img_in": "image_in", "gru": "gru", "img_out": "image_out", "img_stats": "prior_out"} | (
        {"obs_out": "observe_in", "obs_stats": "posterior_out"}
    )
    (stoch, classes), deter = data["prev/stoch"].shape[1:], data["prev/deter"].shape[1]
    hidden = data["param/rssm/img_in/kernel" if jax else "param/img_in.bias"].shape[-1]
    rssm = RSSM(
        data["embed"].shape[1], data["action"].shape[1], deter=deter, hidden=hidden, stoch=stoch, classes=classes,
        norm=jax, act="silu" if jax else "elu", unimix=0.01 if jax else 0.0, learned_initial=jax, clip_action=jax,
    )  # fmt: skip
    weights = {}
    for name, tensor in rssm.state_dict().items():
        if name == "initial_deter":
            weights[name] = data["param/rssm/initial"]
            continue
        module, *_, leaf_name = name.split(".")
        theirs = next(key for key, value in names.items() if value == module)
        if jax:
            end = (
                {"weight": "norm/scale", "bias": "norm/bias"}[leaf_name]
                if ".norm." in name
                else {"weight": "kernel"}.get(leaf_name, "bias")
            )
            value = data[f"param/rssm/{theirs}/{end}"]
            weights[name] = value.t() if value.dim() == 2 else value
        else:
            theirs = {"img_out": "img_out_0", "img_stats": "img_dist_0", "obs_stats": "obs_dist"}.get(theirs, theirs)
            theirs = theirs if module != "gru" else "_cell._norm" if ".norm." in name else "_cell._layer"
            value = data[f"param/{theirs}.{leaf_name}"]
            weights[name] = value.roll(deter, 1) if theirs == "_cell._layer" and value.dim() == 2 else value
        assert weights[name].shape == tensor.shape
    rssm.load_state_dict(weights)

    start = State(data["prev/deter"], data["prev/stoch"].flatten(1))
    draws = {key: data[f"{key}/stoch"].argmax(-1) if jax else None for key in ("post", "img")}
    post = rssm.observe_step(start, data["action"], data["embed"], data["is_first"] > 0.5, draws["post"])
    near(post.deter, data["post/deter"])
    near(post.stoch, data["post/stoch"].flatten(1))
    prior = rssm.prior(post.deter)
    near(rssm.log_probs(prior) if jax else prior, data["prior/logit"])
    imagined = rssm.imagine_step(start, data["action"], draws["img"])
    near(imagined.deter, data["img/deter"])
    near(imagined.stoch, data["img/stoch"].flatten(1))
    if jax:
        near(rssm.initial(1).deter[0], data["initial/deter"])
        near(rssm.initial(1).stoch[0], data["initial/stoch"].flatten())
        near(rssm.gru(data["gru/x"], data["prev/deter"]), data["gru/out"])


@pytest.mark.parametrize(("name", "mix"), [("l095", 0.95), ("l0", 0.0), ("l1", 1.0)])
def test_lambda_returns_of_wmlib(name: str, mix: float) -> None:
    data = golden("c4_torch_returns", f"{name}/")
    following = torch.cat([data["value"][1:], data["bootstrap"].unsqueeze(0)])
    near(lambda_return(data["reward"], data["discount"], following, mix), data["return"])


@pytest.mark.parametrize("name", ["imag_no_head", "imag_head"])
def test_imagination_weights_of_wmlib(name: str) -> None:
    discount = golden("c4_torch_returns", f"{name}/")["discount"]
    weight = golden("c4_torch_returns", f"{name}/")["weight"]
    zeros = torch.zeros_like(discount)
    targets = SameStateCredit(0.95)(zeros, discount, zeros, 0.99)
    near(targets.critic_weight, weight[:-1])
    near(targets.actor_weight, weight[:-2])


@pytest.mark.parametrize("name", ["lambda_default", "lambda_l0", "lambda_l1"])
def test_lambda_returns_of_dreamerv3(name: str) -> None:
    data = golden("c11_jax_returns_opt", f"{name}/")
    mix, horizon = data["config"].tolist()
    gamma = 1 - 1 / horizon
    reward = torch.cat([torch.zeros(1, data["reward"].shape[1]), data["reward"]])
    targets = NextStateCredit(mix)(reward, gamma * data["cont"], data["value"], gamma)
    near(targets.actor_return, data["return"])
    near(targets.baseline, data["baseline"])


@pytest.mark.parametrize(
    ("name", "prefix"), [("c11_jax_returns_opt", "moments_default/"), ("c6_torch_norms_schedules", "percnorm_v3/")]
)
def test_percentiles_of_returns(name: str, prefix: str) -> None:
    data, scale = golden(name, prefix), ReturnScale(0.99)
    for number, x in enumerate(data["x"]):
        near(scale.update(x), data["invscale" if "invscale" in data else "scale"][number])
        theirs = (
            data["values"][number] if "values" in data else torch.stack([data["low"][number], data["high"][number]])
        )
        near(torch.stack([scale.low, scale.high]), theirs)


@pytest.mark.parametrize(
    ("name", "prefix", "source"),
    [("c6_torch_norms_schedules", f"slow_{kind}/", "critic") for kind in ("v2_every3", "v3", "mixed")]
    + [("c11_jax_returns_opt", f"slow_{kind}/", "net") for kind in ("default", "every3")],
)
def test_slow_critic(name: str, prefix: str, source: str) -> None:
    data = golden(name, prefix)
    first, second = (data["config"].tolist()[i] for i in ((1, 0) if source == "critic" else (0, 1)))
    fast, slow = (torch.nn.Linear(*data["target_init"].shape[::-1], bias=False) for _ in range(2))
    slow.weight.data.copy_(data["target_init"])
    for number, weight in enumerate(data[source]):
        fast.weight.data.copy_(weight)
        if number % int(second) == 0:
            update_slow(slow, fast, first if number else 1.0)
        near(slow.weight, data["target"][number])


@pytest.mark.parametrize("name", ["adam_v2_model", "adam_v2_big_wd", "adam_v3_model", "adam_v3_actor"])
def test_clipping_adam_and_weight_decay_of_wmlib(name: str) -> None:
    data = golden("c6_torch_norms_schedules", f"{name}/")
    rate, eps, clip, decay = data["config"].tolist()
    parameters = [torch.nn.Parameter(data[f"init{i}"].clone()) for i in range(3)]
    optimizer = torch.optim.Adam(parameters, lr=rate, eps=eps, weight_decay=decay, fused=True)
    for step in range(sum(key.startswith("norm_step") for key in data)):
        for i, parameter in enumerate(parameters):
            parameter.grad = data[f"grad{i}_step{step}"].clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
        near(norm, data[f"norm_step{step}"])
        optimizer.step()
        for i, parameter in enumerate(parameters):
            near(parameter, data[f"param{i}_step{step}"], 1e-6)


@pytest.mark.parametrize("name", ["adam_model", "adam_actor"])
def test_clipping_and_adam_of_dreamerv3(name: str) -> None:
    data = golden("c11_jax_returns_opt", f"{name}/")
    rate, eps, clip = data["config"].tolist()
    parameters = {key: torch.nn.Parameter(data[f"init_{key}"].clone()) for key in ("kernel", "bias")}
    optimizer = torch.optim.Adam(parameters.values(), lr=rate, eps=eps, fused=True)
    for step in range(sum(key.startswith("norm_step") for key in data)):
        for key, parameter in parameters.items():
            parameter.grad = data[f"grad_{key}_step{step}"].clone()
        near(torch.nn.utils.clip_grad_norm_(parameters.values(), clip, foreach=True), data[f"norm_step{step}"])
        optimizer.step()
        for key, parameter in parameters.items():
            near(parameter, data[f"{key}_step{step}"], 1e-6)


def test_settings_of_the_backbones_are_the_official_ones() -> None:
    """What the cases set themselves and so do not check: free bits are per step in DreamerV3 only."""
    assert STYLES["dreamerv3"].kl == KLBalance(0.5 / 0.6, 0.1 / 0.6, 1.0, average_first=False)
    assert STYLES["dreamerv2"].kl == KLBalance(0.8, 0.2, 0.0, average_first=True)
    assert np.isclose(STYLES["dreamerv3"].kl_regularizer, 0.5 / 0.6)
    assert BEHAVIOR_CLIP == 100.0
