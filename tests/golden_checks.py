"""What is compared of a golden case: the world model here, the rest in golden_behavior.py; and a list of the parts."""

from __future__ import annotations

import numpy as np
import torch
from golden_behavior import behavior, policy, train
from golden_case import Arrays, Case, Row, classes, gradients, state
from golden_report import Report, orphan, strip
from torch import Tensor
from torch.nn import functional as F

from hd_agents.backbones import Networks
from hd_agents.nn.functional import categorical_kl, symexp


def world_model(case: Case) -> list[Row]:
    """Embedding, filter, heads, losses and totals."""
    report, data, net = Report(case, "world model"), case.part("wm"), case.networks()
    model, jax = net.world_model, case.jax
    batch, start = case.batch(strip(data, "data/"), data.get("state_in/action")), state(data, "state_in/")
    draws = classes(data["post/stoch"])

    embed = model.encode(batch.observation)
    report.forward("embedding", embed_order(embed, case, net), data["embed"])
    step = model.rssm.observe_step(start, batch.action[:, 0], embed[:, 0], batch.is_first[:, 0], draws[:, 0])
    report.forward("one observe step, deter", step.deter, data["post/deter"][:, 0])
    report.forward("one observe step, stoch", step.stoch, data["post/stoch"][:, 0].reshape(step.stoch.shape))
    posterior, logits = model.rssm.observe(embed, batch.action, batch.is_first, draws, start)
    report.forward("observe, deter", posterior.deter, data["post/deter"])
    report.forward("observe, stoch", posterior.stoch, data["post/stoch"].reshape(posterior.stoch.shape))
    prior = model.rssm.prior(posterior.deter)
    log_posterior, log_prior = model.rssm.log_probs(logits), model.rssm.log_probs(prior)
    report.forward("posterior logits", log_posterior if jax else logits, data["post/logit"])
    report.forward("prior logits", log_prior if jax else prior, data["prior/logit"])
    heads(report, data, case, net, model.features(posterior))

    output = model.losses(batch, draws, start)
    mean = {name: loss.mean() for name, loss in output.losses.items()}
    for key, name in model.observation_losses.items():
        report.forward(
            f"{key} loss per step", output.losses[name], data[f"loss/{key}"] if jax else -data[f"loglik/{key}"]
        )
    report.forward(
        "reward loss per step", output.losses["reward"], data["loss/reward"] if jax else -data["loglik/reward"]
    )
    if "continue" in output.losses:
        theirs = data["loss/cont"] if jax else -data["loglik/discount"]
        report.forward("continue loss per step", output.losses["continue"], theirs)
    if jax:
        for name, weights in {"dyn": (1.0, 0.0), "rep": (0.0, 1.0)}.items():
            balance = model.kl._replace(dynamics=weights[0], representation=weights[1])
            report.forward(f"{name} loss per step", balance.loss(log_posterior, log_prior)[0], data[f"loss/{name}"])
    else:
        report.forward("dynamics loss", mean["dynamics"], data["loss/kl"])
        report.forward("KL per step", categorical_kl(log_posterior, log_prior), data["kl_value"])
        for name in set(case.model.images) | set(case.model.vectors) | {"reward"}:
            report.forward(f"{name} loss", mean[model.observation_losses.get(name, name)], data[f"loss/{name}"])
    for ours, (name, old) in {
        "prior": ("metric/prior_ent_mean", "prior_entropy_mean"),
        "posterior": ("metric/post_ent_mean", "post_entropy_mean"),
    }.items():
        report.forward(f"{ours} entropy", output.metrics[f"entropy/{ours}"], data[name if jax else old])
    totals(report, data, case)
    return report.rows


def heads(report: Report, data: Arrays, case: Case, net: Networks, features: Tensor) -> None:
    """Every head's output."""
    model = net.world_model
    out = model.decode(features)
    for key in case.model.images:  # ours are cut to [0, 1], wmlib's are centred
        offset = 0.0 if case.jax else 0.5
        theirs = case.image(data[f"head/{key}_mean_strided"]).numpy() + offset
        report.forward(f"{key} mean", out[key][:, :, 3::8, 5::8], theirs.clip(0.0, 1.0))
        if f"head/{key}_mean_b0t1" in data:
            theirs = case.image(data[f"head/{key}_mean_b0t1"]).numpy() + offset
            report.forward(f"{key} mean, one full", out[key][0, 1], theirs.clip(0.0, 1.0))
    for key in case.model.vectors:
        theirs = (
            symexp(torch.from_numpy(data[f"head/{key}_symlog_out"])).numpy() if case.jax else data[f"head/{key}_mean"]
        )
        report.forward(f"{key} mean", out[key], theirs)
    if case.jax:
        report.forward("reward logits", model.reward_head(features), data["head/reward_logits"])
    report.forward("reward mean", model.reward(features), data["head/reward_mean"])
    if model.continue_head is not None:
        name = "head/cont_logits" if case.jax else "head/discount_logits"
        report.forward("continue logits", model.continue_head(features), data[name])


def totals(report: Report, data: Arrays, case: Case) -> None:
    """The harmonised and the plain total with their gradients."""
    batch, start = case.batch(strip(data, "data/"), data.get("state_in/action")), state(data, "state_in/")
    for kind, harmony in {"harmony": None, "plain": False}.items():
        if f"model_loss/{kind}" not in data:
            continue
        net = case.networks(harmony)
        output = net.world_model.losses(batch, classes(data["post/stoch"]), start)
        total = net.harmonizer(output.losses)[0]
        s2 = data.get("value/harmony_s2", np.zeros(()))
        if orphan(case, net):
            total = total + F.softplus(torch.from_numpy(s2))
        report.forward(f"{kind} total", total, data[f"model_loss/{kind}"])
        found = gradients(total, net.world_model, "world_model") | gradients(total, net.harmonizer, "harmonizer")
        prefix = "" if case.jax else "wm."
        report.tensors(f"{kind} gradients", case.parts(found, net), data, f"grad_{kind}", prefix)


def embed_order(embed: Tensor, case: Case, net: Networks) -> Tensor:
    """Our embedding in the official order: wmlib flattens images as C, H, W."""
    if case.jax or not case.model.images:
        return embed
    cnn = net.world_model.encoder.cnns[0]
    image = embed[..., : cnn.outputs].unflatten(-1, (-1, cnn.layers[-1].conv.out_channels))
    return torch.cat([image.movedim(-1, -2).flatten(-2), embed[..., cnn.outputs :]], -1)


PARTS = {"world model": world_model, "behavior": behavior, "policy": policy, "train": train}
