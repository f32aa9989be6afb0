"""Acting by operations alone is acting by the modules, whatever becomes of them."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from hd_agents.acting import Acting, FlatActing
from hd_agents.nn import products
from hd_agents.nn.layers import Dense
from hd_agents.policies import DreamPolicy, Latent
from hd_agents.world_model.rssm import State

TINY = {"deter": 24, "hidden": 20, "stoch": 5, "classes": 7, "depth": 3, "units": 18, "layers": 2}
IMAGE, VECTOR = spaces.Box(0, 255, (16, 24, 3), np.uint8), spaces.Box(-9.0, 9.0, (5,))
OBSERVATIONS = {
    "image": IMAGE,
    "vector": VECTOR,
    "classic": spaces.Box(0, 255, (64, 64, 3), np.uint8),  # DreamerV2's convolutions have no padding there
    "resized": spaces.Box(0, 255, (17, 30, 1), np.uint8),
    "both": spaces.Dict(
        far=IMAGE, near=spaces.Box(0, 255, (16, 16, 1), np.uint8), speed=VECTOR, gear=spaces.Discrete(3)
    ),
}
ACTIONS = {"discrete": spaces.Discrete(4), "many": spaces.MultiDiscrete([3, 2]), "box": spaces.Box(-2.0, 2.0, (3,))}


def make_policy(seen: str = "both", done: str = "discrete", backbone: str = "dreamerv3") -> DreamPolicy:
    torch.manual_seed(0)
    policy = DreamPolicy(OBSERVATIONS[seen], ACTIONS[done], backbone=backbone, overrides=TINY)
    for weight in policy.parameters():
        weight.data += 0.1 * torch.randn_like(weight)  # biases, norms and first states as after learning
    nn.init.normal_(policy.networks.actor.out.weight)  # actions that depend on what is seen
    return policy


def walk(policy: DreamPolicy, n: int, deterministic: bool = False) -> list[Latent]:
    """Latents of a few steps of n environments, with episodes that begin here and there."""
    rng, latent, latents = np.random.default_rng(0), policy.initial(n), []
    policy.observation_space.seed(0)
    torch.manual_seed(1)
    for step in range(6):
        samples = [policy.observation_space.sample() for _ in range(n)]
        keys = samples[0] if isinstance(samples[0], dict) else None
        seen: Any = (
            np.stack(samples) if keys is None else {key: np.stack([one[key] for one in samples]) for key in keys}
        )
        starts = rng.random(n) < 0.3 if step else np.ones(n, dtype=bool)
        latent = policy.step(policy.observations.encode(seen), latent, starts, deterministic)
        latents.append(latent)
    return latents


def by_modules(policy: DreamPolicy) -> DreamPolicy:
    """The same policy, acting by its modules."""
    policy._acting = Acting(policy.networks.world_model, policy.networks.actor)
    return policy


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
@pytest.mark.parametrize("done", ACTIONS)
@pytest.mark.parametrize("seen", OBSERVATIONS)
def test_flat_acting_is_that_of_the_modules_to_the_last_bit(
    seen: str, done: str, backbone: str, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: done == "discrete")
    monkeypatch.setattr(products, "LARGE", 0)
    policy = make_policy(seen, done, backbone)
    found = walk(policy, 3, deterministic)
    assert isinstance(policy._acting, FlatActing)
    expected = walk(by_modules(make_policy(seen, done, backbone)), 3, deterministic)
    assert len({tuple(row.tolist()) for latent in found for row in latent.action}) > 1
    for one, other in zip(found, expected, strict=True):
        for part, wanted in zip(one, other, strict=True):
            assert torch.equal(part, wanted)


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
@pytest.mark.parametrize("seen", ["classic", "resized", "both"])
def test_a_single_image_is_seen_as_many_are(seen: str, backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = walk(make_policy(seen, backbone=backbone), 1)
    expected = walk(by_modules(make_policy(seen, backbone=backbone)), 1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.deter, other.deter, rtol=1e-5, atol=1e-5)
        assert torch.equal(one.action, other.action)
    policy = make_policy(seen, backbone=backbone)
    rows = policy.to_device(policy.observations.encode(policy.observation_space.sample()))
    with torch.no_grad():
        wanted = policy.networks.world_model.encode(rows)
        embed = policy.acting_now()._embed(rows)
    torch.testing.assert_close(embed, wanted, rtol=1e-5, atol=1e-5)


def learn(policy: DreamPolicy) -> DreamPolicy:
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(-0.7)
    return policy


def take_over(policy: DreamPolicy) -> DreamPolicy:
    """Other weights in other memory."""
    policy.load_state_dict({name: -0.7 * value for name, value in policy.state_dict().items()}, assign=True)
    return policy


def move(policy: DreamPolicy) -> DreamPolicy:
    """As another device does it, and back, after other weights."""
    learn(policy)
    for weight in policy.parameters():
        weight.data = weight.data.clone()
    return policy


def exchange_actor(policy: DreamPolicy) -> DreamPolicy:
    policy.networks.actor = learn(make_policy()).networks.actor
    return policy


def exchange_layer(policy: DreamPolicy) -> DreamPolicy:
    policy.networks.actor.mlp[0].norm = learn(make_policy()).networks.actor.mlp[0].norm
    return policy


def exchange_encoder(policy: DreamPolicy) -> DreamPolicy:
    policy.networks.world_model.encoder = learn(make_policy()).networks.world_model.encoder
    return policy


def exchange_weight(policy: DreamPolicy) -> DreamPolicy:
    policy.networks.actor.out.weight = nn.Parameter(-policy.networks.actor.out.weight.detach())
    return policy


CHANGES = [learn, take_over, move, exchange_actor, exchange_layer, exchange_encoder, exchange_weight, deepcopy]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_acts_with_what_the_networks_have_become(change: Any) -> None:
    policy = make_policy()
    before = walk(policy, 2)
    changed = change(policy)
    found = walk(changed, 2)
    assert isinstance(changed._acting, FlatActing)
    expected = walk(by_modules(changed), 2)
    assert torch.equal(found[-1].deter, expected[-1].deter)
    assert all(torch.equal(one.action, other.action) for one, other in zip(found, expected, strict=True))
    assert (change is deepcopy) == all(torch.equal(*pair) for pair in zip(before[-1], found[-1], strict=True))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("rssm.gru.norm", "eps", 10.0), ("encoder.cnns.0.layers.0.conv", "padding_mode", "circular")],
)
def test_acts_with_settings_of_layers_that_have_changed(part: str, name: str, value: Any) -> None:
    policy = make_policy()
    before = walk(policy, 2)
    setattr(policy.networks.world_model.get_submodule(part), name, value)
    found, expected = walk(policy, 2), walk(by_modules(policy), 2)
    assert torch.equal(found[-1].deter, expected[-1].deter)
    assert not torch.equal(found[-1].deter, before[-1].deter)


def test_weights_with_their_channels_first_are_not_copied() -> None:
    policy = make_policy("image")
    policy.load_state_dict({name: value.contiguous() for name, value in policy.state_dict().items()}, assign=True)
    walk(policy, 1)
    acting, seen = learn(policy)._acting, torch.randint(0, 256, (1, *IMAGE.shape), dtype=torch.uint8)
    assert acting is policy.acting_now()
    with torch.no_grad():
        torch.testing.assert_close(
            acting._embed({"observation": seen}), policy.networks.world_model.encode({"observation": seen})
        )


def test_a_copy_learns_alone() -> None:
    policy = make_policy()
    before = walk(policy, 2)
    other = learn(deepcopy(policy))
    assert not torch.equal(walk(other, 2)[-1].deter, before[-1].deter)
    assert torch.equal(walk(policy, 2)[-1].deter, before[-1].deter)


def test_networks_of_ones_own_are_called() -> None:
    class Blind(nn.Module):
        image_keys = ()

        def __init__(self, outputs: int) -> None:
            super().__init__()
            self.outputs = outputs

        def prepare(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
            return next(iter(observation.values()))

        def forward(self, prepared: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(prepared), self.outputs)

    policy = make_policy("vector")
    walk(policy, 1)
    policy.networks.world_model.encoder = Blind(policy.networks.world_model.encoder.outputs)  # type: ignore[assignment]
    latent = policy.initial(2)
    rows = np.array([[1.0] * 5, [-1.0] * 5], dtype=np.float32)
    state = policy.step(policy.observations.encode(rows), latent, np.ones(2, dtype=bool), deterministic=True)
    torch.testing.assert_close(*state.deter)
    assert torch.equal(*state.stoch)


def test_a_layer_of_ones_own_is_called() -> None:
    class Silent(Dense):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(super().forward(x))

    policy = make_policy("vector")
    before = policy.acting_now().choose(State(*policy.initial(1)[:2]))
    mlp = policy.networks.actor.mlp
    mlp[1] = Silent(18, 18, norm=True, act="silu")
    after = policy.acting_now().choose(State(*policy.initial(1)[:2]))
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, policy.networks.actor.out.bias.unsqueeze(0))


def test_hooks_are_called() -> None:
    policy, seen = make_policy(), []
    walk(policy, 1)
    handle = policy.networks.actor.mlp[0].register_forward_hook(lambda *_: seen.append(1))
    walk(policy, 1)
    assert len(seen) == 6
    handle.remove()
