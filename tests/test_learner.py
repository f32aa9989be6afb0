"""One gradient step: who is trained by what, repeatability, learning on one batch."""

import pytest
import torch

from hd_agents.presets import DEFAULTS
from hd_agents.training.learner import Draws
from tests.models import TINY, batch, learner, networks

CASES = [(backbone, groups) for backbone in ("dreamerv3", "dreamerv2") for groups in ((2, 3), ())]


@pytest.mark.parametrize(("backbone", "groups"), CASES)
def test_every_part_is_trained_and_every_metric_is_finite(backbone, groups):
    torch.manual_seed(0)
    net = networks(backbone, groups)
    teacher = learner(net, backbone)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    data = batch(groups=groups)
    data.is_first[:, 4] = True
    for _ in range(3):
        metrics = teacher.train_step(data)
    assert all(value.dim() == 0 and value.isfinite() and not value.requires_grad for value in metrics.values())
    unmoved = [name for name, parameter in net.named_parameters() if torch.equal(parameter, before[name])]
    # hard copies of the DreamerV2 slow critic come every 100 updates; the first came after the first update
    assert unmoved == []


@pytest.mark.parametrize(("backbone", "groups"), CASES)
def test_the_same_draws_give_the_same_step(backbone, groups):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        teacher = learner(networks(backbone, groups), backbone)
        data = batch(groups=groups)
        draws = teacher.draw(data)
        torch.manual_seed(torch.seed())
        teacher.train_step(data, draws)
        results.append(torch.cat([p.detach().flatten() for p in teacher.networks.parameters()]))
    assert torch.equal(*results)


@pytest.mark.parametrize("groups", [(2, 3), ()])
def test_behaviour_leaves_the_world_model_alone(groups):
    """The world model after a step does not depend on anything the actor or critic did."""
    after = []
    for rate in (0.0, 0.1):
        torch.manual_seed(0)
        teacher = learner(networks(groups=groups), actor_learning_rate=rate, critic_learning_rate=rate)
        data = batch(groups=groups)
        draws = teacher.draw(data)
        for _ in range(3):
            teacher.train_step(data, draws)
        parts = [*teacher.networks.world_model.parameters(), *teacher.networks.harmonizer.parameters()]
        after.append(torch.cat([p.detach().flatten() for p in parts]))
    assert torch.equal(*after)


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_a_batch_is_learned_by_heart(backbone):
    torch.manual_seed(0)
    teacher = learner(networks(backbone, overrides=TINY | {"units": 31}), backbone, learning_rate=1e-2)
    data = batch((2, 5))
    first = teacher.train_step(data)
    for _ in range(150):
        last = teacher.train_step(data)
    assert last["loss/reward"] < 0.5 * first["loss/reward"]
    assert last["loss/continue"] < 0.5 * first["loss/continue"]
    assert last["loss/observation/image"] < 0.9 * first["loss/observation/image"]


def test_log_sigma_may_have_its_own_rate():
    torch.manual_seed(0)
    teacher = learner(networks(), harmony_learning_rate=0.1)
    teacher.train_step(batch())
    assert teacher.networks.harmonizer.log_sigma.abs().max().item() == pytest.approx(0.1, rel=1e-3)
    teacher.set_learning_rates(1e-4, 1e-4, 1e-4)
    assert teacher.model_optimizer.param_groups[1]["lr"] == 0.1


def test_without_harmony_the_total_is_the_plain_sum():
    torch.manual_seed(0)
    net = networks(harmony=False)
    metrics = learner(net).train_step(batch())
    scales = {"observation/image": 1.0, "observation/vector": 1.0, "reward": 1.0, "continue": 1.0, "dynamics": 0.6}
    plain = sum(scale * metrics[f"loss/{name}"] for name, scale in scales.items())
    torch.testing.assert_close(metrics["loss/model"], plain)


def test_recorded_classes_replay_a_trajectory():
    torch.manual_seed(0)
    net = networks(groups=(5,))
    teacher = learner(net)
    data = batch(groups=(5,))
    shapes = (2, 11, 3), (3, 22, 3), (3, 22, 1)
    recorded = Draws(*(torch.randint(0, 5, shape) for shape in shapes))
    output = net.world_model.losses(data, recorded.posterior)
    classes = output.posterior.stoch.unflatten(-1, (3, 5)).argmax(-1)
    assert torch.equal(classes, recorded.posterior)
    teacher.train_step(data, recorded)


def test_bfloat16_stays_close_to_float32():
    losses = []
    for bfloat16 in (False, True):
        torch.manual_seed(0)
        teacher = learner(networks(), bfloat16=bfloat16)
        data = batch()
        losses.append(teacher.train_step(data, teacher.draw(data)))
    for name in ("loss/reward", "loss/continue", "loss/observation/image", "loss/critic"):
        # Where a rounded probability lets a sample fall otherwise, the losses of this small batch notice.
        assert losses[1][name].item() == pytest.approx(losses[0][name].item(), rel=0.05), name


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_optimisers_have_the_papers_numbers(backbone):
    defaults = DEFAULTS[backbone]
    optimizers = learner(networks(backbone), backbone).optimizers
    found = {
        name: {(group["eps"], group["weight_decay"]) for group in o.param_groups} for name, o in optimizers.items()
    }
    behavior = {(1e-5, defaults.weight_decay)}
    assert found == {"model": {(defaults.model_eps, defaults.weight_decay)}, "actor": behavior, "critic": behavior}


def test_gradients_are_clipped_at_the_papers_norms(monkeypatch):
    clip, norms = torch.nn.utils.clip_grad_norm_, []
    monkeypatch.setattr(
        "torch.nn.utils.clip_grad_norm_", lambda *args, **kw: norms.append(args[1]) or clip(*args, **kw)
    )
    learner(networks()).train_step(batch())
    assert norms == [1000.0, 100.0, 100.0]


def test_sigmas_stay_with_a_rate_of_zero():
    teacher = learner(networks(), harmony_learning_rate=0.0)
    teacher.train_step(batch())
    assert (teacher.networks.harmonizer.log_sigma == 0.0).all()


def test_replay_and_dreams_are_computed_in_bfloat16():
    net, seen = networks(), []
    for part in (net.world_model.encoder, net.critic):
        part.register_forward_hook(lambda module, arguments, out: seen.append(out.dtype))
    learner(net, bfloat16=True).train_step(batch())
    assert len(seen) > 1 and set(seen) == {torch.bfloat16}
