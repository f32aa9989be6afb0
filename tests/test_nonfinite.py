"""Updates that are not finite leave no trace but a count with the right name."""

import pytest
import torch

from hd_agents.behavior.actor_critic import NoScale, ReturnScale
from hd_agents.harmony import Term
from hd_agents.training.nonfinite import Guard, Tally
from tests.models import batch, learner, networks


def everything(teacher):
    """Weights, buffers and optimisers, copied."""
    found = {name: value.clone() for name, value in teacher.networks.state_dict().items()}
    for name in ("model", "actor", "critic"):
        optimizer = getattr(teacher, f"{name}_optimizer")
        for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            found |= {f"{name}.{index}.{key}": value.clone() for key, value in optimizer.state[parameter].items()}
    return found


def changed(before, after):
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def poisoned(data, part, value=float("nan")):
    """The batch with ``value`` at sequence 1, step 4 of one part."""
    if part == "reward":
        reward = data.reward.clone()
        reward[1, 4] = value
        return data._replace(reward=reward)
    if part == "action":
        action = data.action.clone()
        action[1, 4, 0] = value
        return data._replace(action=action)
    vector = data.observation["vector"].clone()
    vector[1, 4, 2] = value
    return data._replace(observation={**data.observation, "vector": vector})


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
@pytest.mark.parametrize("groups", [(2, 3), ()])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_observation_changes_nothing(backbone, groups, value):
    torch.manual_seed(0)
    teacher = learner(networks(backbone, groups), backbone)
    data = batch(groups=groups)
    for _ in range(2):
        teacher.train_step(data)
    before = everything(teacher)
    metrics = teacher.train_step(poisoned(data, "vector", value))
    after = everything(teacher)
    # DreamerV3's slow critic goes on following the critic, which has not moved.
    assert changed(before, after) == ({"slow_critic"} if backbone == "dreamerv3" else set())
    assert all(value.isfinite().all() for value in after.values())
    assert metrics["skipped"] == 1.0

    tally = teacher.guard.read()
    assert (tally.in_a_row, tally.total) == (1, 1)
    assert {"loss/observation/vector", "loss/model", "grad_norm/model"} <= set(tally.names)
    assert teacher.train_step(data)["skipped"] == 0.0
    assert teacher.guard.read()[:2] == (0, 1)
    assert {"world_model", "actor", "critic", "model"} <= changed(after, everything(teacher)), "it must learn again"


def test_a_first_update_may_be_skipped():
    torch.manual_seed(0)
    teacher = learner(networks())
    weights = {name: value.clone() for name, value in teacher.networks.state_dict().items()}
    teacher.train_step(poisoned(batch(), "vector"))
    assert changed(weights, teacher.networks.state_dict()) == set()
    assert all(state["step"] == 0.0 for state in teacher.model_optimizer.state.values())


def test_the_losses_that_were_not_finite_are_named_and_no_others():
    torch.manual_seed(0)
    teacher = learner(networks())
    teacher.train_step(batch())
    teacher.train_step(poisoned(batch(), "reward"))
    assert set(teacher.guard.read().names) == {"loss/reward", "loss/model", "grad_norm/model"}


@pytest.mark.parametrize("scale", [ReturnScale(), NoScale()])
def test_returns_that_are_not_finite_or_skipped_leave_the_moments(scale):
    scale.update(torch.arange(100.0))
    before = {name: value.clone() for name, value in scale.state_dict().items()}
    bad, ones = torch.full((7,), float("nan")), torch.ones(())
    for returns, skip in [(bad, None), (bad, 0.0 * ones), (torch.ones(7), ones)]:
        assert scale.update(returns, skip).isfinite()
        assert all(torch.equal(before[name], value) for name, value in scale.state_dict().items())


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is():
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
    guard = Guard(torch.device("cpu"))
    loss = torch.sqrt(weight).sum()  # finite at zero, with an infinite slope
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([weight], 1.0, foreach=True)
    guard.gate(optimizer, loss, norm)
    optimizer.step()
    assert guard.count({"loss/root": loss.detach(), "grad_norm/root": norm}) == 1.0
    assert torch.equal(weight, torch.zeros(3))
    assert guard.read() == (1, 1, {"grad_norm/root": 1})


def test_those_in_a_row_are_counted_until_a_good_one():
    torch.manual_seed(0)
    teacher = learner(networks())
    data = batch()
    for _ in range(3):
        teacher.train_step(poisoned(data, "vector"))
    assert teacher.guard.read()[:2] == (3, 3)
    teacher.guard.restart()
    teacher.train_step(poisoned(data, "vector"))
    assert teacher.guard.read()[:2] == (1, 4)
    teacher.train_step(data)
    assert teacher.guard.read()[:2] == (0, 4)


def test_a_sound_run_is_the_same_with_and_without_the_guard(monkeypatch):
    results = []
    for guarded in (True, False):
        if not guarded:
            monkeypatch.setattr(Guard, "gate", lambda *args: None)
            monkeypatch.setattr(Guard, "count", lambda *args: torch.zeros(()))
        torch.manual_seed(0)
        teacher = learner(networks())
        data = batch()
        for _ in range(3):
            teacher.train_step(data)
        results.append(torch.cat([value.flatten() for value in teacher.networks.state_dict().values()]))
    assert torch.equal(*results)


@pytest.mark.gpu
def test_nothing_waits_for_the_device():
    torch.manual_seed(0)
    teacher = learner(networks().cuda())
    data = batch()
    data = type(data)({key: value.cuda() for key, value in data.observation.items()}, *(x.cuda() for x in data[1:]))
    for _ in range(2):
        teacher.train_step(data)
    bad = poisoned(data, "vector")
    torch.cuda.set_sync_debug_mode("error")
    try:
        teacher.train_step(bad)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert teacher.guard.read()[:2] == (1, 1)
    assert all(value.isfinite().all() for value in everything(teacher).values())


@pytest.mark.parametrize(("loss", "norm"), [(float("inf"), 1.0), (float("nan"), 1.0), (1.0, float("inf")), (1.0, 1.0)])
def test_the_gate_looks_at_the_loss_and_at_the_gradient(loss, norm):
    """A loss that is infinite can have finite gradients, where it was cut."""
    guard = Guard(torch.device("cpu"))
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
    weight.grad = torch.ones(3)
    guard.begin()
    guard.gate(optimizer, torch.tensor(loss), torch.tensor(norm))
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(3)) == (loss != 1.0 or norm != 1.0)


def test_counts_of_a_run_that_goes_on_keep_their_names():
    guard = Guard(torch.device("cpu"))
    guard.go_on(Tally(in_a_row=2, total=5, names={"loss/critic": 4, "loss/gone": 1}))
    assert guard.read() == Tally(2, 5, {"loss/critic": 4, "loss/gone": 1})
    guard.begin()
    guard.count({"loss/critic": torch.tensor(float("nan")), "grad_norm/critic": torch.tensor(1.0)})
    assert guard.read().names == {"loss/critic": 5}


def test_losses_that_come_and_go_are_counted():
    torch.manual_seed(0)
    teacher = learner(networks())
    teacher.train_step(poisoned(batch(), "reward"))
    model, harmonizer = teacher.networks.world_model, teacher.networks.harmonizer
    losses, forward = model.losses, harmonizer.forward
    model.losses = lambda *given: _with_own(losses(*given))
    model.continue_head = None
    del harmonizer.terms["continue"]
    harmonizer.terms["own"] = Term(harmonized=False)
    teacher.train_step(batch())
    now = {"loss/reward": 1, "loss/own": 1, "loss/model": 2, "grad_norm/model": 2}
    assert teacher.guard.read().names == now
    harmonizer.forward = lambda losses: (forward(losses)[0], {})  # as another method's, which has no metrics
    teacher.train_step(batch())
    assert teacher.guard.read().names == {"loss/model": 3, "grad_norm/model": 3}
    harmonizer.forward = forward
    teacher.train_step(batch())
    assert teacher.guard.read().names == {"loss/reward": 1, "loss/own": 2, "loss/model": 4, "grad_norm/model": 4}


def _with_own(output):
    """The model's output with one more loss, which is not finite."""
    return output._replace(losses={**output.losses, "own": output.losses["reward"] * float("nan")})
