"""The world model: resets, the acting path beside the training path, image scaling, what each loss trains."""

import pytest
import torch

from hd_agents.backbones import build
from hd_agents.nn.distributions import TwoHot
from hd_agents.nn.functional import symexp
from hd_agents.world_model import decoder
from hd_agents.world_model.encoder import model_size
from hd_agents.world_model.heads import ContinueHead, ScalarHead
from tests.models import TINY, batch, networks

BACKBONES = ["dreamerv3", "dreamerv2"]


def rows(source, start, stop):
    """Steps start..stop-1 of every sequence of a batch."""
    observation = {key: value[:, start:stop] for key, value in source.observation.items()}
    return source._replace(
        observation=observation, **{name: getattr(source, name)[:, start:stop] for name in source._fields[1:]}
    )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_reset_in_mid_sequence_equals_two_sequences(backbone):
    torch.manual_seed(0)
    model = networks(backbone).world_model
    if model.rssm.initial_deter is not None:
        torch.nn.init.normal_(model.rssm.initial_deter)  # so that the learned start differs from zeros
    whole = batch()
    whole.is_first[:, 4] = True
    draws = torch.rand(2, 11, 3)
    together = model.losses(whole, draws)
    first, second = model.losses(rows(whole, 0, 4), draws[:, :4]), model.losses(rows(whole, 4, 11), draws[:, 4:])
    torch.testing.assert_close(together.posterior.deter[:, :4], first.posterior.deter)
    torch.testing.assert_close(together.posterior.deter[:, 4:], second.posterior.deter)
    assert torch.equal(together.posterior.stoch[:, 4:], second.posterior.stoch)
    for name in ("reward", "continue", "observation/image", "observation/vector"):
        both = torch.cat([first.losses[name], second.losses[name]], 1)
        torch.testing.assert_close(together.losses[name], both)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_action_of_a_reset_row_is_ignored(backbone):
    torch.manual_seed(0)
    model = networks(backbone).world_model
    one = batch()
    other = one._replace(action=one.action.clone())
    other.action[:, 0] = 1.0 - other.action[:, 0]
    draws = torch.rand(2, 11, 3)
    assert torch.equal(model.losses(one, draws).posterior.deter, model.losses(other, draws).posterior.deter)


@pytest.mark.parametrize("groups", [(2, 3), ()])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_acting_latents_equal_training_latents(backbone, groups):
    torch.manual_seed(1)
    model = networks(backbone, groups).world_model
    data = batch(groups=groups)
    data.is_first[1, 5] = True
    draws = torch.rand(2, 11, 3)
    trained = model.losses(data, draws).posterior
    state = model.rssm.initial(2)
    for t in range(11):
        embed = model.encode({key: value[:, t] for key, value in data.observation.items()})
        first = data.is_first[:, t] if data.is_first[:, t].any() else None  # as in acting
        state = model.rssm.observe_step(state, data.action[:, t], embed, first, draws[:, t])
        torch.testing.assert_close(state.deter, trained.deter[:, t])
        assert torch.equal(state.stoch, trained.stoch[:, t])


@pytest.mark.parametrize("shape", [(16, 24, 3), (84, 84, 1), (64, 64, 4)])
def test_images_are_scaled_alike_with_any_leading_axes(shape):
    model = build(
        "dreamerv3", images={"image": shape}, vectors={}, action_size=2, action_groups=(2,), overrides=TINY
    ).world_model
    image = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    training = model.encode({"image": image})
    acting = model.encode({"image": image[1, 2].unsqueeze(0)})
    torch.testing.assert_close(training[1, 2], acting[0])
    prepared = model.encoder.prepare({"image": image})["image"]
    assert -0.5 <= prepared.min() < -0.3 and 0.3 < prepared.max() <= 0.5
    decoded = model.decode(torch.zeros(5, 7, model.rssm.features))["image"]
    assert decoded.shape == (5, 7, *shape)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (64, 64, 4)),
        ((84, 84), (80, 80, 4)),
        ((210, 160), (224, 160, 5)),
        ((16, 16), (16, 16, 2)),
        ((17, 31), (16, 32, 2)),
        ((128, 128), (128, 128, 5)),
        ((16, 200), (16, 200, 2)),
        ((30, 45), (28, 44, 2)),
        ((31, 31), (28, 28, 2)),
        ((240, 426), (224, 416, 5)),
    ],
)
def test_sizes_that_cannot_be_halved_go_to_the_nearest_that_can(size, expected):
    assert model_size(*size) == expected


def test_the_size_of_a_size_is_itself():
    for height in range(16, 260):
        for width in range(height, 2 * height + 60):
            found = model_size(height, width)
            assert model_size(*found[:2]) == found
            assert 4 <= min(found[:2]) / 2 ** found[2] < 8


def test_imagination_and_filtering_share_the_dynamics():
    torch.manual_seed(2)
    model = networks().world_model
    state = model.rssm.initial(3)
    action = torch.eye(5)[:3]
    imagined = model.rssm.imagine_step(state, action, torch.rand(3, 3))
    embed = torch.randn(3, model.encoder.outputs)
    filtered = model.rssm.observe_step(state, action, embed, torch.zeros(3, dtype=torch.bool), torch.rand(3, 3))
    torch.testing.assert_close(imagined.deter, filtered.deter)


def test_kl_directions_train_their_own_side():
    torch.manual_seed(3)
    kl = networks().world_model.kl._replace(free=0.0, dynamics=1.0, representation=0.0)
    posterior = torch.randn(2, 3, 5, 7).log_softmax(-1).requires_grad_()
    prior = torch.randn(2, 3, 5, 7).log_softmax(-1).requires_grad_()
    loss, value = kl.loss(posterior, prior)
    assert loss.shape == value.shape == (2, 3)
    loss.sum().backward()
    assert posterior.grad.abs().sum() == 0 and prior.grad.abs().sum() > 0


def test_free_nats_per_step_or_on_the_mean():
    posterior = torch.stack([torch.tensor([0.98, 0.01, 0.01]).log(), torch.full((3,), 1 / 3).log()]).view(1, 2, 1, 3)
    prior = torch.full((1, 2, 1, 3), 1 / 3).log()
    raw = (posterior.exp() * (posterior - prior)).sum((-2, -1))
    per_step = networks("dreamerv3").world_model.kl._replace(free=0.6)
    on_mean = networks("dreamerv2").world_model.kl._replace(free=0.6)
    torch.testing.assert_close(per_step.loss(posterior, prior)[0], raw.clamp(min=0.6))
    assert on_mean.loss(posterior, prior)[0].item() == pytest.approx(max(raw.mean().item(), 0.6))
    assert raw.max() > 0.6 > raw.mean()


def test_the_continue_loss_can_be_kept_from_the_features():
    torch.manual_seed(4)
    model = networks(overrides=TINY | {"continue_gradient": False}).world_model
    model.losses(batch(), torch.rand(2, 11, 3)).losses["continue"].sum().backward()
    assert model.rssm.gru.linear.weight.grad is None
    assert model.continue_head.out.weight.grad is not None


@pytest.mark.parametrize("backbone", BACKBONES)
def test_without_a_continue_head_dreams_go_on(backbone):
    model = networks(backbone, overrides=TINY | {"predict_continue": False}).world_model
    features = torch.randn(3, model.rssm.features)
    assert "continue" not in model.losses(batch(), torch.rand(2, 11, 3)).losses
    assert model.continues(features).tolist() == [1.0] * 3
    assert model.discount(features, 0.97).tolist() == pytest.approx([0.97] * 3)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("hard", [True, False])
def test_dreams_end_at_once_or_by_their_probability(backbone: str, hard: bool) -> None:
    model = networks(backbone, overrides=TINY | {"hard_continue": hard}).world_model
    features = torch.randn(50, model.rssm.features)
    gamma = model.continue_head.target_scale
    expected = gamma * (model.continue_head(features) > 0.0) if hard else model.continue_head(features).sigmoid()
    torch.testing.assert_close(model.discount(features, gamma), expected.float())


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_decoding_in_chunks_changes_neither_losses_nor_gradients(backbone, bfloat16, monkeypatch):
    torch.manual_seed(3)
    net = networks(backbone)
    data, draws = batch(), torch.rand(2, 11, 3)

    def trained():
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            losses = net.world_model.losses(data, draws).losses
        net.harmonizer(losses)[0].backward()
        return losses, {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}

    whole, expected = trained()
    monkeypatch.setattr(decoder, "FRAMES_AT_ONCE", 8)  # 22 steps: 8, 8 and 6
    losses, gradients = trained()
    assert whole["observation/image"].shape == (2, 11) and losses["observation/image"].shape == ()
    rtol, atol = (3e-2, 1e-2) if bfloat16 else (1e-4, 1e-6)
    for name, loss in losses.items():
        torch.testing.assert_close(loss.mean(), whole[name].mean(), rtol=rtol, atol=atol)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        size = expected[name].abs().max().clamp(min=1e-12)  # below the free nats the prior gets zeros
        torch.testing.assert_close(gradient / size, expected[name] / size, rtol=rtol, atol=atol, msg=name)
    with torch.no_grad():
        assert net.world_model.losses(data, draws).losses["observation/image"].shape == (2, 11)


def test_decoding_in_chunks_leaves_frozen_weights_alone(monkeypatch):
    monkeypatch.setattr(decoder, "FRAMES_AT_ONCE", 8)
    net = networks("dreamerv3")
    net.world_model.decoder.requires_grad_(False)
    net.harmonizer(net.world_model.losses(batch(), torch.rand(2, 11, 3)).losses)[0].backward()
    assert all(p.grad is None for p in net.world_model.decoder.parameters())
    assert any(p.grad.any() for p in net.world_model.encoder.parameters())


def test_decoding_in_chunks_allows_weights_that_are_not_used(monkeypatch):
    """A decoder of one's own may have some, and a large batch must not be what ends its training."""
    monkeypatch.setattr(decoder, "FRAMES_AT_ONCE", 8)
    net = networks("dreamerv3")
    (cnn,) = net.world_model.decoder.cnns
    cnn.spare = torch.nn.Parameter(torch.ones(3))
    net.harmonizer(net.world_model.losses(batch(), torch.rand(2, 11, 3)).losses)[0].backward()
    assert not cnn.spare.grad.any() and cnn.first.weight.grad.any()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_reward_head_learns_from_logits_of_float32(backbone, monkeypatch):
    torch.manual_seed(0)
    model, dtypes = networks(backbone).world_model, []
    loss = ScalarHead.loss
    monkeypatch.setattr(
        ScalarHead, "loss", lambda head, out, target: dtypes.append(out.dtype) or loss(head, out, target)
    )
    with torch.autocast("cpu", torch.bfloat16):
        model.losses(batch(), torch.rand(2, 11, 3))
    assert dtypes == [torch.float32]


def test_a_head_that_knows_its_targets_goes_on_learning_in_bfloat16():
    """Rounded logits would leave a gradient that is mostly noise, of nearly the size of the true one."""
    torch.manual_seed(0)
    head = ScalarHead(16, TwoHot(), units=32, layers=1, norm=True, act="silu", init="zeros")
    features, target = torch.randn(256, 16), (torch.rand(256) < 0.1).float()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)

    def learn(predict, bfloat16):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            head.loss(predict(features), target).mean().backward()
        return head.out.weight.grad.clone()

    for _ in range(400):
        learn(head, bfloat16=False)
        optimizer.step()
    right = learn(head, bfloat16=False)
    assert torch.equal(learn(head.exactly, bfloat16=False), right)
    calls = {"exactly": head.exactly, "forward": head}
    off = {name: (learn(predict, True) - right).norm() / right.norm() for name, predict in calls.items()}
    assert off["exactly"] < 0.1
    assert off["forward"] > 0.3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"unimix": 1.0}, "unimix.*1.0.*at most 0.99"),  # whose samples would not depend on the networks
        ({"free_nats": -1.0}, "free_nats.*-1.0.*at least 0"),
        ({"units": 0}, "units.*0"),
        ({"bins": 1}, "bins.*1"),
        ({"vector_layers": 0}, "vector_layers.*0"),
        ({"predict_continue": 2}, "predict_continue.*2.*True"),
        ({"harmony_kind": "harmony"}, "harmony_kind.*'harmony'.*rectified"),
        ({"unitz": 8}, "unitz.*units"),
    ],
)
def test_overrides_are_checked(wrong, words):
    with pytest.raises(ValueError, match=words):
        networks(overrides=TINY | wrong)


def test_targets_beyond_the_bins_are_those_of_the_last_one() -> None:
    codec = TwoHot(7, -3.0, 3.0)
    out = torch.randn(2, 7)
    ends = symexp(torch.tensor([-3.0, 3.0]))
    torch.testing.assert_close(codec.loss(out, torch.tensor([-1e10, 1e10])), codec.loss(out, ends))
    torch.testing.assert_close(codec.loss(out, ends), -torch.log_softmax(out, -1)[[0, 1], [0, 6]])


@pytest.mark.parametrize("gamma", [0.9, 0.995])
def test_the_probability_to_go_on_is_without_the_discount_that_is_trained(gamma: float) -> None:
    """DreamerV2's head is trained on gamma times it, and so gives gamma where it is sure."""
    head = ContinueHead(3, units=5, layers=1, norm=False, act="elu", target_scale=gamma, hard=False)
    sure = torch.logit(torch.tensor([gamma, gamma / 2, 0.9999]))
    torch.testing.assert_close(head.probability(sure), torch.tensor([1.0, 0.5, 1.0]))
    torch.testing.assert_close(head.discount(sure, 0.8), torch.tensor([0.8, 0.4, 0.8 * 0.9999 / gamma]))


def test_vectors_that_are_met_exactly_enough_pull_no_more() -> None:
    """As in the official loss: squared errors below 1e-8 count as none."""
    shared = {"depth": 2, "units": 5, "layers": 1, "padded": True, "norm": True, "act": "silu"}
    made = decoder.Decoder(3, {}, {"v": 2}, **shared, squash=True, error_scale=1.0)
    prepared = {"v": torch.zeros(1, 2)}
    for error, expected in ((7e-5, 0.0), (2e-4, 2.0 * 4e-8)):
        prediction = torch.full((1, 2), error, requires_grad=True)
        made._predict = lambda *_, p=prediction: {"v": p}
        (loss,) = made.losses(torch.zeros(1, 3), prepared)["v"]
        loss.backward()
        assert loss.item() == pytest.approx(made.error_scale * expected)
        assert (prediction.grad.abs().sum() > 0) == (expected > 0)


def test_the_discount_is_not_rounded() -> None:
    model = networks("dreamerv2").world_model
    model.continue_head = None
    found = model.discount(torch.zeros(2, 3, dtype=torch.bfloat16), 0.997)
    assert (found.dtype, found.shape) == (torch.float32, (2,))
    assert torch.equal(found, torch.full((2,), 0.997))
