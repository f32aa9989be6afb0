"""Fast paths give what the plain ones give."""

import pytest
import torch

from hd_agents.behavior.actor_critic import Actor
from hd_agents.nn.functional import softmax
from hd_agents.nn.layers import linear
from hd_agents.nn.recurrent import StepLinear, known_linear
from tests.models import batch, learner, networks


def run(x: torch.Tensor, base: torch.Tensor, weight: torch.Tensor, plain: bool) -> torch.Tensor:
    """A small recurrence: h <- tanh(base[t] + (x[t] + h) W^T)."""
    layer = None if plain else StepLinear(base, weight)
    state, total = torch.zeros(2, 3), torch.zeros(())
    for t in range(5):
        inputs = torch.cat([x[:, t], state], -1)
        state = torch.tanh(base[:, t] + inputs @ weight.t() if layer is None else layer(t, inputs))
        total = total + (state * (t + 1)).sum()
    return total


def test_gradients_of_a_recurrence() -> None:
    torch.manual_seed(0)
    x, base = torch.randn(2, 5, 7, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    weight = torch.randn(3, 10, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (x, base, weight)]
    expected = torch.autograd.grad(run(*leaves, plain=True), leaves)
    torch.testing.assert_close(torch.autograd.grad(run(*leaves, plain=False), leaves), expected)


def test_bfloat16_weight_gets_one_rounding() -> None:
    """Summed over many steps in bfloat16 the gradient would stop growing at 256 times its first term."""
    weight = torch.ones(1, 1, requires_grad=True)
    layer = StepLinear(torch.zeros(1, 2_000, 1, dtype=torch.bfloat16), weight)
    total = torch.stack([layer(t, torch.ones(1, 1)) for t in range(2_000)]).float().sum()
    total.backward()
    assert weight.grad.dtype == torch.float32
    assert weight.grad.item() == pytest.approx(2_000, rel=0.01)


def test_without_gradient_nothing_is_kept() -> None:
    with torch.no_grad():
        layer = StepLinear(torch.zeros(2, 5, 3), torch.randn(3, 7, requires_grad=True))
        layer(0, torch.randn(2, 7))
    assert layer._inputs is None


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_layer_whose_result_is_known(bias: bool) -> None:
    torch.manual_seed(0)
    layer = linear(7, 3, bias=bias).double()
    x = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    leaves, pull = [x, *layer.parameters()], torch.randn(2, 5, 3, dtype=torch.float64)
    with torch.no_grad():
        out = layer(x)
    found = known_linear(layer, x, out)
    assert torch.equal(found, out)
    expected = torch.autograd.grad((layer(x) * pull).sum(), leaves)
    torch.testing.assert_close(torch.autograd.grad((found * pull).sum(), leaves), expected)


def test_known_results_in_bfloat16() -> None:
    """Gradients have the dtype of what they belong to, and the sum over rows is not made in bfloat16."""
    layer = linear(1, 1)
    torch.nn.init.ones_(layer.weight)
    x = torch.ones(2_000, 1, requires_grad=True)
    known_linear(layer, x, torch.ones(2_000, 1, dtype=torch.bfloat16)).float().sum().backward()
    assert (x.grad.dtype, layer.weight.grad.dtype, layer.bias.grad.dtype) == (torch.float32,) * 3
    assert layer.weight.grad.item() == pytest.approx(2_000, rel=0.01)
    assert layer.bias.grad.item() == pytest.approx(2_000, rel=0.01)


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_twenty_updates_on_the_fast_and_the_plain_path(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        """What autograd makes of the same steps by itself."""

        def __init__(self, base: torch.Tensor, weight: torch.Tensor) -> None:
            self.base, self.weight = base, weight

        def __call__(self, t: int, x: torch.Tensor) -> torch.Tensor:
            return torch.addmm(self.base[:, t], x, self.weight.t())

    def twenty_updates() -> list[torch.Tensor]:
        torch.manual_seed(0)
        made = networks(backbone)
        student = learner(made, backbone)
        data = batch()
        data.is_first[:, 6] = True
        for _ in range(20):
            student.train_step(data)
        return list(made.parameters())

    fast = twenty_updates()
    monkeypatch.setattr("hd_agents.world_model.rssm.StepLinear", Plain)
    monkeypatch.setattr("hd_agents.nn.functional.softmax", lambda logits: torch.softmax(logits.float(), -1))
    monkeypatch.setattr(Actor, "recall", lambda actor, features, _: actor.parameters_of(features))
    plain = twenty_updates()
    for left, right in zip(fast, plain, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("classes", [1, 5, 8, 16, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softmax_is_softmax(classes: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (40.0 * torch.randn(6, 7, classes)).to(dtype).requires_grad_()
    expected = torch.softmax(logits.float(), -1)
    found = softmax(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((probs * weights).sum(), logits)[0] for probs in (found, expected)]
    torch.testing.assert_close(*gradients)
