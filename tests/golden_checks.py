"""What is compared with a golden case: functions from a case to rows of errors, one per part of the official code."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from golden_case import Arrays, Case, Row, classes, gradients, state
from torch import Tensor
from torch.nn import functional as F

from hd_agents import official
from hd_agents.backbones import Networks
from hd_agents.behavior.actor_critic import update_slow
from hd_agents.behavior.imagination import imagine
from hd_agents.behavior.returns import add_entropy
from hd_agents.nn.distributions import ActionDistribution, NormalActions, OneHotActions, TruncatedNormalActions
from hd_agents.nn.functional import categorical_kl, symexp

FORWARD, GRADIENT, UPDATED, CHANGED = 1e-5, 1e-3, 1e-4, 1e-2


def difference(ours: Tensor | np.ndarray | float, theirs: np.ndarray) -> float:
    """Largest error, relative to max(1, |official|)."""
    a = ours.detach().double().numpy() if isinstance(ours, Tensor) else np.asarray(ours, np.float64)
    b = np.asarray(theirs, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((np.abs(a - b) / np.maximum(1.0, np.abs(b))).max())


class Report:
    """Collects the rows of one part of a case."""

    def __init__(self, case: Case, part: str) -> None:
        self.case, self.part = case, part
        self.rows: list[Row] = []

    def add(self, quantity: str, error: float, tolerance: float) -> None:
        self.rows.append(Row(self.case.name, self.part, quantity, error, tolerance))

    def forward(self, quantity: str, ours: Tensor | np.ndarray | float, theirs: np.ndarray) -> None:
        """Compare values."""
        self.add(quantity, difference(ours, theirs), FORWARD)

    def idle(self, name: str) -> bool:
        """An official tensor without a counterpart: counters, and the log-sigma of an image that is not there."""
        image = re.search(r"har(mony)?_s2", name) is not None
        return not self.case.model.images if image else official.UNUSED.search(name) is not None

    def tensors(self, quantity: str, ours: Mapping[str, np.ndarray], data: Arrays, key: str, prefix: str) -> None:
        """Compare named tensors with the full ones and with the statistics of all of them.

        Gradients count relative to their tensor's largest entry, sums of n entries relative to sqrt(n) times its norm.

        :param prefix: what ``data`` leaves out of the names in ``ours``.
        """
        worst = worst_statistic = 0.0
        floor = 1e-6 * max(data[f"{key}__stats"][:, 3])  # below that a gradient is rounding
        for name, stats in zip(data[f"{key}__names"], data[f"{key}__stats"], strict=True):
            mine = ours.get(prefix + name)
            if mine is None:
                assert not stats.any() or self.idle(prefix + name), f"{name} has no gradient here"
                continue
            full = data.get(f"{key}/{name}")
            if full is not None:
                worst = max(worst, np.abs(mine - full).max() / max(np.abs(full).max(), floor))
            size, norm = mine.size, max(stats[0], floor)
            scale = np.array([norm, norm * size**0.5, norm * size**0.5, max(stats[3], floor)])
            worst_statistic = max(worst_statistic, (np.abs(statistics(mine) - stats) / scale).max())
        self.add(f"{quantity}, full", float(worst), GRADIENT)
        self.add(f"{quantity}, statistics of all", float(worst_statistic), GRADIENT)


def statistics(x: np.ndarray) -> np.ndarray:
    """Norm, sum, product with a ramp from -1 to 1 (1 for a single number), largest magnitude."""
    flat = x.astype(np.float64).ravel()
    ramp = np.linspace(-1, 1, flat.size) if flat.size > 1 else np.ones(1)
    return np.array([np.linalg.norm(flat), flat.sum(), flat @ ramp, np.abs(flat).max()])


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


def orphan(case: Case, net: Networks) -> bool:
    """Whether wmlib has a log-sigma for an image that is not there. We have none: it adds log(1 + sigma) to the total, the
    slope of that to the gradient's norm, and nothing to anything else.
    """
    return not case.jax and not case.model.images and bool(net.harmonizer.harmonized)


def strip(data: Arrays, prefix: str) -> Arrays:
    """The entries under ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}


def embed_order(embed: Tensor, case: Case, net: Networks) -> Tensor:
    """Our embedding in the official order: wmlib flattens images as C, H, W."""
    if case.jax or not case.model.images:
        return embed
    cnn = net.world_model.encoder.cnns[0]
    image = embed[..., : cnn.outputs].unflatten(-1, (-1, cnn.layers[-1].conv.out_channels))
    return torch.cat([image.movedim(-1, -2).flatten(-2), embed[..., cnn.outputs :]], -1)


def behavior(case: Case) -> list[Row]:
    """Imagination, targets, actor and critic losses with their gradients."""
    report, data, net, goals = Report(case, "behavior"), case.part("behavior"), case.networks(), case.objectives()
    model, jax = net.world_model, case.jax
    start = type(state(data, "start/"))(*(part.flatten(0, 1) for part in state(data, "start/")))
    prior = classes(data["imag/stoch"][1:])
    dream = imagine(
        model,
        net.actor,
        start,
        prior,
        case.imagined_actions(data, "imag/"),
        differentiable=not goals.actor_loss.reinforce,
    )
    deter, stoch = dream.features.split([model.rssm.deter, model.rssm.flat], -1)
    report.forward("imagined deter", deter, data["imag/deter"])
    report.forward("imagined stoch", stoch, data["imag/stoch"].reshape(stoch.shape))
    logits = model.rssm.prior(deter[1:])
    report.forward("imagined logits", model.rssm.log_probs(logits) if jax else logits, data["imag/logit"][1:])
    report.forward("imagined action", dream.action, data["imag/action"][:-1] if jax else data["imag/action"][1:])

    reward, discount = model.reward(dream.features), model.discount(dream.features, case.gamma)
    if model.continue_head is not None:
        known = case.gamma * (1.0 - torch.from_numpy(data["start/is_terminal"]).flatten())
        discount = torch.cat([known.unsqueeze(0), discount[1:]], 0)
    report.forward("reward", reward[1:] if jax else reward, data["imag/reward"])
    report.forward("discount", discount, case.gamma * data["imag/cont"] if jax else data["imag/discount"])
    head = net.slow_critic if goals.credit.from_slow else net.critic
    value = head.mean(head(dream.features))
    report.forward("value", value, data["imag/value"])
    targets = goals.credit(reward, discount, value, case.gamma)
    states, acting = len(targets.critic_return), len(targets.actor_return)
    report.forward("returns", targets.critic_return, data["return" if jax else "target"])
    report.forward("weight of the critic", targets.critic_weight, data["imag/weight"][:states])
    report.forward("weight of the actor", targets.actor_weight, data["imag/weight"][:acting])
    report.forward("baseline", targets.baseline, data["baseline"])

    scale = net.return_scale.update(targets.actor_return)
    if jax:
        low, high = data["retnorm/low_after"], data["retnorm/high_after"]
        report.forward("percentiles", torch.stack([net.return_scale.low, net.return_scale.high]), np.stack([low, high]))
        report.forward("scale of returns", scale, np.maximum(1.0, high - low))
    policy = net.actor.distribution(dream.actor_parameters[:acting])
    action = dream.action[:acting]
    distribution(
        report, policy, action, {key: data[key][:acting] for key in data if key.startswith("policy/")}, "policy/"
    )
    actor_loss = goals.actor_loss(policy, action, targets, scale)
    report.forward("actor loss", actor_loss, data["actor_loss"])
    prefix = "" if jax else "_task_behavior.actor."
    report.tensors(
        "actor gradients", case.parts(gradients(actor_loss, net.actor, "actor"), net), data, "grad_actor", prefix
    )

    if goals.entropy_in_targets:
        targets = add_entropy(targets, goals.entropy_in_targets * policy.entropy())
        report.forward("returns for the critic", targets.critic_return, data["target_for_critic"])
    out = net.critic(dream.features[:states].detach())
    slow_value = net.slow_critic.mean(net.slow_critic(dream.features[:states])).detach()
    if jax:
        report.forward("value of the slow critic", slow_value, data["slow_value"])
    else:
        report.forward("value of the critic", net.critic.mean(out), data["critic/mean"])
    critic_loss = goals.critic_loss(net.critic, out, targets, slow_value)
    report.forward("critic loss", critic_loss, data["critic_loss"])
    prefix = "" if jax else "_task_behavior.critic."
    found = case.parts(gradients(critic_loss, net.critic, "critic"), net)
    report.tensors("critic gradients", found, data, "grad_critic", prefix)
    if "slow_after__names" in data:
        update_slow(net.slow_critic, net.critic, 1.0)
        updated = case.parts(dict(net.state_dict()), net)
        report.tensors("slow critic after its first update", updated, data, "slow_after", "")
    return report.rows


def distribution(report: Report, policy: ActionDistribution, action: Tensor, data: Arrays, prefix: str) -> None:
    """The actor's distribution against whichever of its numbers were recorded under ``prefix``."""
    fields = {"entropy": policy.entropy(), "log_prob": policy.log_prob(action), "mode": policy.mode()}
    if isinstance(policy, OneHotActions):
        fields["logits"] = policy.log_probs
    elif isinstance(policy, NormalActions):
        fields |= {"mean": policy.mean, "std": policy.std}
    elif isinstance(policy, TruncatedNormalActions):
        fields |= {"loc": policy.loc, "scale": policy.scale}
    for name, value in fields.items():
        if f"{prefix}{name}" in data:
            report.forward(f"actor {name}", value, data[f"{prefix}{name}"])


def policy(case: Case) -> list[Row]:
    """Filtering and acting, one step; sampled and by mode."""
    report, data, net = Report(case, "policy"), case.part("policy"), case.networks()
    model = net.world_model
    embed = model.encode(case.observation(strip(data, "obs/")))
    action, latent = torch.from_numpy(data["action_in"]), state(data, "latent/")
    is_first = torch.from_numpy(data["obs/is_first"] > 0.5)
    for mode in ("",) if case.jax else ("train/", "eval/", "eval_statemean/"):
        post = f"{mode}post/" if case.jax else f"{mode}post_"
        draws = None if mode == "eval_statemean/" else classes(data[f"{post}stoch"])
        found = model.rssm.observe_step(latent, action, embed, is_first, draws)
        report.forward(f"{mode}deter", found.deter, data[f"{post}deter"])
        report.forward(f"{mode}stoch", found.stoch, data[f"{post}stoch"].reshape(found.stoch.shape))
        actor = net.actor(model.features(found))
        distribution(report, actor, actor.mode(), data, f"{mode}actor_")
        if mode in ("", "train/"):
            noise = data.get("normal" if case.jax else f"{mode}uniform")
            chosen = actor.sample(case.actions(data[f"{mode}action"], noise))
            if case.jax:
                report.forward("entropy", actor.entropy(), data["log_entropy"])
        else:
            chosen = actor.mode()
        report.forward(f"{mode}action", chosen, data[f"{mode}action"])
    initial = model.rssm.initial(len(embed))
    if case.jax:
        report.forward("initial deter", initial.deter[0], data["initial/deter"])
        report.forward("initial stoch", initial.stoch[0], data["initial/stoch"].ravel())
    else:
        restarted = model.rssm.observe_step(initial, torch.zeros_like(action), embed, torch.ones_like(is_first), None)
        report.forward("deter after a reset", restarted.deter, data["initial/post_deter"])
    return report.rows


METRICS = {
    # ours: (JAX, wmlib)
    "loss/model": ("model_loss_mean", "model_loss"),
    "loss/reward": ("reward_loss_mean", "reward_loss"),
    "loss/observation": ("image_loss_mean", "image_loss"),
    "loss/continue": ("cont_loss_mean", "discount_loss"),
    "grad_norm/model": ("model_opt_grad_norm", "model_grad_norm"),
    "entropy/prior": ("prior_ent_mean", "prior_ent"),
    "entropy/posterior": ("post_ent_mean", "post_ent"),
    "loss/actor": ("actor_opt_loss", "actor_loss"),
    "grad_norm/actor": ("actor_opt_grad_norm", "actor_grad_norm"),
    "entropy/actor": ("policy_entropy_mean", "actor_ent"),
    "imagined_return": ("extr_return_raw_mean", "critic_target"),
    "loss/critic": ("extr_critic_critic_opt_loss", "critic_loss"),
    "grad_norm/critic": ("extr_critic_critic_opt_grad_norm", "critic_grad_norm"),
}


def train(case: Case) -> list[Row]:
    """Complete updates with the official optimisers, each from where the one before ended."""
    report, data, net = Report(case, "train"), case.part("train"), case.networks()
    learner = case.learner(net)
    carried, action = state(data, "state_in/"), data.get("state_in/action")
    for number in range(sum(key.endswith("/params_after__names") for key in data)):
        step = f"step{number}/"
        batch, draws = case.batch(strip(data, f"{step}data/"), action), case.draws(data, step)
        action = data[f"{step}data/action"][:, -1]
        with torch.no_grad():
            posterior = net.world_model.losses(batch, draws.posterior, carried).posterior
        metrics = learner.train_step(batch, draws, carried)
        carried = type(posterior)(*(part[:, -1] for part in posterior))
        if orphan(case, net):
            s2 = torch.from_numpy(data[f"{step}metric/harmony_s2"])
            metrics["loss/model"] += F.softplus(s2)
            metrics["grad_norm/model"] = torch.hypot(metrics["grad_norm/model"], torch.sigmoid(s2))
        for ours, names in METRICS.items():
            theirs = data.get(f"{step}metric/{names[not case.jax]}")
            if ours in metrics and theirs is not None:
                error = abs(float(metrics[ours]) - float(theirs)) / max(1.0, abs(float(theirs)))
                report.add(f"{step}{ours}", error, GRADIENT if ours.startswith("grad") else FORWARD)
        updated(report, case.parts(dict(net.state_dict()), net), data, f"{step}params_after")
    if "state_out/deter" in data:
        report.forward("state after the last update", carried.deter, data["state_out/deter"])
    return report.rows


def updated(report: Report, ours: Mapping[str, np.ndarray], data: Arrays, key: str) -> None:
    """Parameters after an update: absolute or relative, whichever is milder. And, as updates of 1e-5 move nothing by more
    than that tolerance, the mean error over the mean movement since the start, of the worst tensor.
    """
    worst = worst_statistic = worst_change = 0.0
    for name, stats in zip(data[f"{key}__names"], data[f"{key}__stats"], strict=True):
        mine = ours.get(name)
        if mine is None:
            assert report.idle(name), f"{name} is missing"
            continue
        full = data.get(f"{key}/{name}")
        if full is not None:
            worst = max(worst, difference(mine, full))
            moved = np.abs(full - report.case.params[name]).sum()
            worst_change = max(worst_change, np.abs(mine - full).sum() / moved if moved else 0.0)
        errors = np.abs(statistics(mine) - stats)[[0, 3]] / np.maximum(1.0, np.abs(stats[[0, 3]]))
        worst_statistic = max(worst_statistic, float(errors.max()))
    if worst_change:
        report.add(f"{key}, full", worst, UPDATED)
        report.add(f"{key}, error over change", worst_change, CHANGED)
    report.add(f"{key}, statistics of all", worst_statistic, UPDATED)


PARTS = {"world model": world_model, "behavior": behavior, "policy": policy, "train": train}
