"""What is compared of a golden case: dreams, actor and critic, the policy, and whole updates."""

from __future__ import annotations

import numpy as np
import torch
from golden_case import Arrays, Case, Row, classes, gradients, state
from golden_report import FORWARD, GRADIENT, Report, orphan, strip, updated
from torch import Tensor
from torch.nn import functional as F

from hd_agents.behavior.actor_critic import update_slow
from hd_agents.behavior.imagination import imagine
from hd_agents.behavior.returns import add_entropy
from hd_agents.nn.distributions import ActionDistribution, NormalActions, OneHotActions, TruncatedNormalActions


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
    deter, stoch = dream.features.split([model.rssm.deter, model.rssm.stoch_size], -1)
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
    actor_loss = goals.actor_loss(policy, policy.entropy(), action, targets, scale)
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
        actor = net.actor.distribution(net.actor.parameters_of(model.features(found)))
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
