"""Fast paths give what the plain ones give."""

import pytest
import torch

from hd_agents.behavior.actor_critic import Actor
from hd_agents.behavior.imagination import Dreaming
from hd_agents.nn import products
from hd_agents.nn.convolution import Conv
from hd_agents.nn.functional import draw_one_hot, sample_one_hot
from hd_agents.nn.known import known_linear
from hd_agents.nn.layers import GRUCell, linear
from hd_agents.world_model import rssm as rssm_module
from hd_agents.world_model.rssm import RSSM, State
from tests.models import batch, filtered, learner, networks


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


@pytest.mark.parametrize("modes", [False, True])
@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_gradients_of_the_recurrence(backbone: str, modes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand and by autograd: what is computed, and the gradients of every input and every weight."""
    by_hand_itself = rssm_module.filter_by_hand
    torch.manual_seed(0)
    rssm = networks(backbone).world_model.rssm
    for parameter in rssm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    first = torch.zeros(2, 7, dtype=torch.bool)
    first[0, 0] = first[1, 4] = True
    leaves = [torch.randn(2, 7, rssm.observe_in.linear.in_features - rssm.deter), 2.0 * torch.randn(2, 7, 5)]
    leaves += [torch.randn(2, rssm.deter), torch.randn(2, rssm.stoch_size)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    used = [*leaves, *(p for name, p in rssm.named_parameters() if not name.startswith(("prior_out", "image_out")))]
    draws = None if modes else torch.rand(2, 7, rssm.stoch)
    calls: list[int] = []
    monkeypatch.setattr(rssm_module, "filter_by_hand", lambda *a, **k: calls.append(1) or by_hand_itself(*a, **k))
    found = filtered(rssm, leaves, first, draws)
    assert calls == [1]  # or autograd would be compared with itself
    pulls = [torch.randn_like(part) for part in found]
    by_hand = torch.autograd.grad(found, used, pulls)
    monkeypatch.setattr(RSSM, "_filter_by_hand", RSSM._filter)
    expected = filtered(rssm, leaves, first, draws)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(by_hand, torch.autograd.grad(expected, used, pulls), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_the_recurrence_in_bfloat16(backbone: str, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and gradients are float32, and close to those of a float32 run on the same classes."""
    if not small:
        monkeypatch.setattr(rssm_module, "SMALL_PRODUCT", {})
    torch.manual_seed(0)
    rssm = networks(backbone).world_model.rssm
    embed, action = torch.randn(2, 7, rssm.observe_in.linear.in_features - rssm.deter), torch.randn(2, 7, 5)
    first, classes = torch.zeros(2, 7, dtype=torch.bool), torch.randint(0, rssm.classes, (2, 7, rssm.stoch))
    gradients = []
    for bfloat16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            posterior, logits = rssm.observe(embed, action, first, classes)
        assert posterior.deter.dtype == torch.float32
        assert logits.dtype == (torch.bfloat16 if bfloat16 and not small else torch.float32)
        loss = posterior.deter.square().sum() + logits.float().square().sum()
        gradients.append(torch.autograd.grad(loss, [rssm.gru.linear.weight, rssm.posterior_out.weight]))
    for exact, rounded in zip(*gradients, strict=True):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_twenty_updates_on_the_fast_and_the_plain_path(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def twenty_updates() -> list[torch.Tensor]:
        torch.manual_seed(0)
        made = networks(backbone)
        student = learner(made, backbone)
        data = batch()
        data.is_first[:, 6] = True
        for _ in range(20):
            student.train_step(data)
        return list(made.parameters())

    monkeypatch.setattr(products, "LARGE", 0)
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: True)
    fast = twenty_updates()
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: False)
    monkeypatch.setattr(RSSM, "_filter_by_hand", RSSM._filter)
    monkeypatch.setattr(Actor, "recall", lambda actor, features, _: actor.parameters_of(features))
    monkeypatch.setattr("hd_agents.behavior.imagination.FlatDreaming", Dreaming)
    monkeypatch.setattr(Conv, "_convolve", lambda layer, x: layer.conv(x))
    plain = twenty_updates()
    for left, right in zip(fast, plain, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("classes", [1, 2, 5, 16, 33])
@pytest.mark.parametrize("unimix", [0.0, 0.01])
def test_samples_are_those_of_the_distribution_function(classes: int, unimix: float) -> None:
    torch.manual_seed(0)
    logits = 3.0 * torch.randn(50, 7, classes)
    draws = torch.rand(50, 7)
    draws[0], draws[1] = 0.0, 1.0 - 2.0**-24  # the least and the most that torch.rand gives
    mixed = (1.0 - unimix) * torch.softmax(logits.double(), -1) + unimix / classes
    reached = mixed.cumsum(-1)
    clear = ((reached - draws.unsqueeze(-1)).abs() > 1e-6)[..., :-1].all(-1)  # of what rounding decides
    expected = torch.searchsorted(reached, draws.double().unsqueeze(-1), right=True).clamp(max=classes - 1)
    room = torch.zeros(50, 7, classes + 1)
    for _ in range(2):  # what the first call has left in the room does not matter
        sample, probs = draw_one_hot(logits, draws, unimix, room)
        assert torch.equal(sample[clear], torch.zeros_like(logits).scatter_(-1, expected, 1.0)[clear])
        assert torch.equal(sample.sum(-1), torch.ones(50, 7))
    assert clear.float().mean() > 0.9
    assert torch.equal(sample, draw_one_hot(logits, draws, unimix)[0])
    torch.testing.assert_close(probs, torch.softmax(logits, -1))
    many = logits.repeat(40, 1, 1)  # of few classes, computed otherwise
    sample, many_probs = draw_one_hot(many, draws.repeat(40, 1), unimix)
    torch.testing.assert_close(many_probs, probs.repeat(40, 1, 1))
    assert sample.is_contiguous() and torch.equal(sample.sum(-1), torch.ones(2_000, 7))


def test_a_sample_is_a_class_whatever_rounding_leaves_of_the_last_one() -> None:
    torch.manual_seed(0)
    logits, most = torch.randn(1_000, 33), 1.0 - 2.0**-24
    short = logits[torch.softmax(logits, -1).cumsum(-1)[:, -1] < most]
    assert len(short)
    sample, _ = draw_one_hot(short, torch.full((len(short),), most), 0.0)
    assert torch.equal(sample[:, -1], torch.ones(len(short)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_pass_straight_through_samples(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits, draws = torch.randn(6, 7, 5).to(dtype).requires_grad_(), torch.rand(6, 7)
    weights = torch.randn(6, 7, 5)
    sample = sample_one_hot(logits, draws, 0.01)
    assert sample.dtype == dtype
    probs = 0.99 * torch.softmax(logits.float(), -1) + 0.01 / 5
    gradients = [torch.autograd.grad((one * weights).sum(), logits)[0] for one in (sample, probs)]
    tolerance = 5e-3 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


class Lazy(GRUCell):
    """A memory that stays what it is."""

    def finish(self, gates: torch.Tensor, deter: torch.Tensor) -> torch.Tensor:
        return deter + 0.0 * gates[:, : deter.shape[-1]]


def test_a_part_that_was_replaced_is_trained_as_it_is() -> None:
    rssm = networks().world_model.rssm
    lazy = Lazy(rssm.gru.linear.in_features - rssm.deter, rssm.deter, bias=False)
    lazy.load_state_dict(rssm.gru.state_dict())
    rssm.gru = lazy
    torch.manual_seed(0)
    embed = torch.randn(2, 3, rssm.observe_in.linear.in_features - rssm.deter)
    inputs = embed, torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.bool), torch.rand(2, 3, rssm.stoch)
    start = State(torch.randn(2, rssm.deter), rssm.initial(2).stoch)
    posterior, _ = rssm.observe(*inputs, state=start)
    assert torch.equal(posterior.deter, start.deter.unsqueeze(1).expand(-1, 3, -1))
