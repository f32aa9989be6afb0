"""What researchers change in an agent is what acts, dreams and learns, on the fast paths as on the plain ones."""

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor, nn

from hd_agents import HarmonyDreamAgent
from hd_agents.acting import Acting
from hd_agents.behavior.actor_critic import Actor
from hd_agents.behavior.imagination import imagine
from hd_agents.behavior.returns import Targets
from hd_agents.callbacks import LossGradients
from hd_agents.dream_env import DreamVecEnv
from hd_agents.harmony import Harmonizer, Term
from hd_agents.nn.layers import MLP, Dense
from hd_agents.nn.products import Linear
from hd_agents.presets import DEFAULTS
from hd_agents.saving.archive import read_archive, write_archive
from hd_agents.training.collection import GraphedActing
from hd_agents.training.recorder import explain
from hd_agents.world_model.rssm import RSSM, State
from hd_agents.world_model.world_model import WorldModel
from hd_agents.zoo.transfer import take_over
from tests.agents import TINY, Clock, Scripted, tiny

CLOCK = np.array([1.0, 2.0, 3.0], np.float32)
CONTINUOUS = pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])


def learned(env: Any = None, **changes: Any) -> HarmonyDreamAgent:
    """An agent with a replay and some updates behind it."""
    return tiny(env=Clock(7) if env is None else env, seed=0, **changes).learn(60)


def weights(module: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in module.parameters()]


def moved(module: nn.Module, before: list[Tensor]) -> bool:
    return any(not torch.equal(weight, old) for weight, old in zip(module.parameters(), before, strict=True))


def acted(agent: HarmonyDreamAgent) -> Any:
    """The state after an episode's first observation: deter, stoch and action."""
    return agent.predict(CLOCK, None, np.ones(1, bool), deterministic=True)[1]


class Cold(Actor):
    """Surer of itself."""

    def parameters_of(self, features: Tensor) -> Tensor:
        return 5.0 * super().parameters_of(features)


class LowRank(nn.Linear):
    """A frozen linear layer and a learned correction, as LoRA."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.load_state_dict(layer.state_dict())
        self.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, layer.in_features) / 4)
        self.up = nn.Parameter(torch.randn(layer.out_features, 2) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


def _five_times(function: Any, features: Tensor) -> Tensor:
    return 5.0 * function(features)


def dream_of(agent: HarmonyDreamAgent) -> Any:
    networks = agent.policy.networks
    start = State(*(part[:1].expand(6, -1) for part in networks.world_model.rssm.initial(1)))
    draws, drawn = torch.rand(3, 6, networks.world_model.rssm.stoch), networks.actor.draw(3, 6)
    return imagine(
        networks.world_model,
        networks.actor,
        start.__class__(*map(torch.detach, start)),
        draws,
        drawn,
        differentiable=not networks.actor.discrete,
    )


@CONTINUOUS
@pytest.mark.parametrize("how", ["subclass", "method", "partial", "low rank"])
def test_the_actor_is_the_same_in_dreams(task: str, how: str) -> None:
    agent = learned(task)
    actor = agent.policy.networks.actor
    if how == "subclass":
        actor.__class__ = Cold
    elif how == "method":
        plain = actor.parameters_of
        actor.parameters_of = lambda features: 5.0 * plain(features)  # type: ignore[method-assign]
    elif how == "partial":
        actor.parameters_of = functools.partial(_five_times, actor.parameters_of)  # type: ignore[method-assign]
    else:
        actor.out = LowRank(actor.out)
    dream = dream_of(agent)
    with torch.no_grad():
        expected = actor.parameters_of(dream.features[:-1])
    torch.testing.assert_close(dream.actor_parameters, expected, check_dtype=False)
    if how == "low rank":
        before = weights(actor.out)
        agent.train(3)
        changed = [not torch.equal(new, old) for new, old in zip(actor.out.parameters(), before, strict=True)]
        assert changed == [False, False, True, True]


PARTS = [
    "world_model.encoder",
    "world_model.rssm",
    "world_model.rssm.gru",
    "world_model.decoder",
    "world_model",
    "actor",
    "critic",
]


@pytest.mark.parametrize("name", [*PARTS, "harmonizer"])
def test_what_was_replaced_is_trained(name: str, tmp_path: Path) -> None:
    agent = learned()
    networks = agent.policy.networks
    owner = networks.get_submodule(name.rpartition(".")[0])
    state = agent.learner.model_optimizer.state
    others = {key: weight for key, weight in networks.named_parameters() if not key.startswith((name, "slow"))}
    moments = {key: state[weight]["exp_avg"] for key, weight in others.items() if weight in state}
    setattr(owner, name.rpartition(".")[2], copy.deepcopy(networks.get_submodule(name)))
    before = weights(networks.get_submodule(name))
    acted(agent)
    agent.train(2)
    assert moved(networks.get_submodule(name), before)
    for key, moment in moments.items():
        assert state[others[key]]["exp_avg"] is moment
    agent.save(tmp_path / "a.zip")
    changed = learned()
    owner = changed.policy.networks.get_submodule(name.rpartition(".")[0])
    setattr(owner, name.rpartition(".")[2], copy.deepcopy(owner.get_submodule(name.rpartition(".")[2])))
    changed.set_parameters(tmp_path / "a.zip")
    assert not moved(changed.policy.networks, weights(networks))
    again = HarmonyDreamAgent.load(tmp_path / "a.zip", env=Clock(7))
    for optimizer, stored in zip(again.learner.optimizers.values(), agent.learner.optimizers.values(), strict=True):
        assert len(optimizer.state_dict()["state"]) == len(stored.state_dict()["state"]) > 0
    again.learn(60)


@pytest.mark.parametrize("name", [*PARTS, "harmonizer"])
def test_what_is_frozen_stays_and_the_rest_learns(name: str, tmp_path: Path) -> None:
    agent = learned()
    networks = agent.policy.networks
    part = networks.get_submodule(name).requires_grad_(False)
    others = ["critic" if name == "actor" else "actor", "world_model" if name in ("actor", "critic") else "critic"]
    before, elsewhere = weights(part), {other: weights(networks.get_submodule(other)) for other in others}
    agent.train(3)
    assert not moved(part, before)
    assert all(moved(networks.get_submodule(other), old) for other, old in elsewhere.items())
    agent.save(tmp_path / "a.zip")
    part.requires_grad_(True)
    agent.train(3)
    assert moved(part, before)


def test_a_frozen_batch_norm_stays_as_it_is_by_the_pages_line() -> None:
    agent = tiny(env=Clock(7), seed=0)
    part: Any = agent.policy.networks.world_model.encoder
    part.mlp.append(nn.Flatten(0, -2)).append(nn.BatchNorm1d(16))
    agent.learn(60)
    part.requires_grad_(False)
    before = copy.deepcopy(part.state_dict())
    part.eval().train = lambda mode=True: part
    agent.train(2)
    acted(agent)
    assert all(torch.equal(weight, before[name]) for name, weight in part.state_dict().items())


class PlainDecoder(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.out = nn.Linear(features, 3)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"observation": self.out(features)}

    def losses(self, features: Tensor, prepared: Any) -> dict[str, Tensor]:
        return {"observation": (self.out(features) - prepared["observation"]).abs().mean(-1)}

    def means(self, predicted: dict[str, Tensor]) -> dict[str, Tensor]:
        return predicted


class PlainContinue(nn.Linear):
    def loss(self, out: Tensor, terminated: Tensor) -> Tensor:
        return (out.squeeze(-1) - 1.0 + terminated.float()).square()

    def probability(self, out: Tensor) -> Tensor:
        return out.squeeze(-1).clamp(0.0, 1.0)

    def discount(self, out: Tensor, gamma: float) -> Tensor:
        return gamma * self.probability(out)


class PlainScale(nn.Module):
    def update(self, returns: Tensor, skip: Tensor) -> Tensor:
        return returns.detach().std().clamp(min=1.0)


class Clipped:
    """Returns of one step, between bounds."""

    from_slow = True

    def __call__(self, reward: Tensor, discount: Tensor, value: Tensor, gamma: float) -> Targets:
        returns, weight = (reward + discount * value)[1:].clamp(-5.0, 5.0), torch.ones_like(reward[:-1])
        return Targets(returns, weight, returns, value[:-1], weight)


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_parts_that_provide_what_the_page_asks_for(backbone: str) -> None:
    agent = learned(backbone=backbone)
    networks, learner = agent.policy.networks, agent.learner
    model, features = networks.world_model, networks.world_model.rssm.features
    model.decoder, model.continue_head = PlainDecoder(features), PlainContinue(features, 1)  # type: ignore[assignment]
    networks.return_scale = PlainScale()  # type: ignore[assignment]

    def critic_loss(critic: Any, out: Tensor, targets: Targets, slow_value: Tensor) -> Tensor:
        return (critic.mean(out) - targets.critic_return.detach()).square().mean() + 0.0 * slow_value.mean()

    learner.objectives = learner.objectives._replace(credit=Clipped(), critic_loss=critic_loss)
    parts = (model.decoder, model.continue_head, networks.critic)
    before = [weights(part) for part in parts]
    agent.learn(40, callback=LossGradients(20), reset_num_timesteps=False)
    assert all(moved(part, old) for part, old in zip(parts, before, strict=True))
    assert np.isfinite(agent.imagine(CLOCK, horizon=2).observations["observation"]).all()
    dream = DreamVecEnv(agent, n_envs=2, seed=0)
    dream.reset()
    assert np.isfinite(dream.step(np.zeros(2, np.int64))[1]).all()


class Wider(RSSM):
    """Doubles the embedding."""

    calls = 0

    def filter_step(self, state: State, action: Tensor, embed: Tensor, is_first: Any, draw: Any) -> Any:
        Wider.calls += 1
        return super().filter_step(state, action, 2.0 * embed, is_first, draw)


class Lost(RSSM):
    def observe_step(self, *arguments: Any) -> State:
        return super().observe_step(*arguments)


def test_a_step_of_filtering_of_ones_own_acts_and_learns() -> None:
    agent = learned()
    rssm = agent.policy.networks.world_model.rssm
    embed, action = torch.randn(2, 5, rssm.observe_in.linear.in_features - rssm.deter), torch.zeros(2, 5, 5)
    first = torch.zeros(2, 5, dtype=torch.bool)
    with torch.no_grad():
        expected, logits = rssm.observe(2.0 * embed, action, first, None)
    rssm.__class__, Wider.calls = Wider, 0
    found, found_logits = rssm.observe(embed, action, first, None)
    torch.testing.assert_close(found.deter, expected.deter)
    torch.testing.assert_close(found_logits, logits)
    assert Wider.calls == 5
    acted(agent)
    assert Wider.calls == 6
    agent.train(1)
    assert Wider.calls == 6 + 8
    rssm.__class__ = Lost
    acted(agent)
    with pytest.raises(TypeError, match="This Lost has its own observe_step: learning needs a filter_step"):
        agent.train(1)


def test_an_encoding_of_ones_own_acts_and_learns() -> None:
    calls: list[int] = []

    class Own(WorldModel):
        def encode(self, observation: Any, prepared: Any = None) -> Tensor:
            calls.append(1)
            return super().encode(observation, prepared)

    agent = learned()
    agent.policy.networks.world_model.__class__ = Own
    acted(agent)
    agent.train(1)
    assert len(calls) == 2
    with pytest.raises(ValueError, match="This Own cannot be exported: it has its own encode"):
        agent.player().export("nowhere.pt2")


@pytest.mark.parametrize("name", ["image_in", "observe_in", "image_out"])
def test_layers_of_ones_own(name: str) -> None:
    calls: list[int] = []

    class Counted(Dense):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return super().forward(x)

    agent = learned(policy_kwargs={**TINY["policy_kwargs"], "free_nats": 0.0})
    rssm = agent.policy.networks.world_model.rssm
    getattr(rssm, name).__class__ = Counted
    agent.train(1)
    assert len(calls) >= (1 if name == "image_out" else 8)
    setattr(rssm, name, nn.Sequential(nn.Linear(getattr(rssm, name).linear.in_features, 16), nn.ReLU()))
    before = weights(getattr(rssm, name))
    acted(agent)
    agent.train(2)
    assert moved(getattr(rssm, name), before)


def _stack(inputs: int, outputs: int) -> MLP:
    return MLP(inputs, outputs, 2, norm=True, act="silu")


@pytest.mark.parametrize("how", [_stack, lambda *sizes: nn.Sequential(_stack(*sizes)), Linear, "bare"])
@pytest.mark.parametrize("name", ["image_in", "observe_in", "image_out", "prior_out", "posterior_out", "gru.linear"])
def test_our_own_layers_in_other_places(name: str, how: Any) -> None:
    """They are as little known there as those of others, and had been taken for what they replace."""
    agent = learned(policy_kwargs={**TINY["policy_kwargs"], "free_nats": 0.0})
    owner = agent.policy.networks.world_model.rssm.get_submodule(name.rpartition(".")[0])
    plain = getattr(owner, name.rpartition(".")[2])
    layer = getattr(plain, "linear", plain)
    sizes = layer.in_features, layer.out_features
    setattr(owner, name.rpartition(".")[2], Linear(*sizes, bias=False) if how == "bare" else how(*sizes))
    before = weights(getattr(owner, name.rpartition(".")[2]))
    acted(agent)
    agent.train(2)
    assert moved(getattr(owner, name.rpartition(".")[2]), before)


@pytest.mark.parametrize("part", ["actor", "world_model.encoder"])
def test_our_own_layers_in_other_places_of_actor_and_encoder(part: str) -> None:
    for change in (
        lambda owner: setattr(owner, "mlp", nn.Sequential(owner.mlp, _stack(16, 16))),
        lambda owner: setattr(owner.mlp[0], "linear", nn.Sequential(owner.mlp[0].linear)),
        lambda owner: owner.mlp.append(Linear(16, 16)),
        lambda owner: owner.mlp.append(nn.LayerNorm(16, eps=1e-3)),
        lambda owner: setattr(owner, "out", _stack(16, 5)) if hasattr(owner, "out") else None,
    ):
        agent = learned()
        change(agent.policy.networks.get_submodule(part))
        acted(agent)
        before = weights(agent.policy.networks.get_submodule(part))
        agent.train(2)
        assert moved(agent.policy.networks.get_submodule(part), before)


@pytest.mark.parametrize("part", ["mlp", "cnns.0.layers"])
def test_a_layer_that_is_appended_acts(part: str) -> None:
    pixels = Scripted(spaces.Box(0, 255, (16, 16, 3), np.uint8), spaces.Discrete(5))
    agent = learned() if part == "mlp" else learned(pixels, policy="CnnPolicy")
    seen = CLOCK if part == "mlp" else np.full((16, 16, 3), 200, np.uint8)

    def memory() -> np.ndarray:
        return agent.predict(seen, None, np.ones(1, bool), deterministic=True)[1][1]

    posterior = agent.policy.networks.world_model.rssm.observe_in
    with torch.no_grad():
        posterior.linear.weight *= 100.0
    first, calls = memory(), []
    layers: Any = agent.policy.networks.world_model.encoder.get_submodule(part)
    layers.append(nn.Identity())
    layers[-1].forward = lambda x: calls.append(1) or -x
    assert not np.array_equal(first, memory())
    assert calls == [1]


class Squared(nn.Conv2d):
    """Another convolution, of the same shapes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


@pytest.mark.parametrize("how", ["class", "hook", "padding", "norm"])
def test_convolutions_of_ones_own_are_what_learns_and_acts(how: str) -> None:
    agent = learned(Scripted(spaces.Box(0, 255, (16, 16, 3), np.uint8), spaces.Discrete(5)), policy="CnnPolicy")
    world_model, calls = agent.policy.networks.world_model, []
    first: Any = world_model.encoder.cnns[0].layers[0]
    seen = {"observation": torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)}
    plain = world_model.encode(seen)
    if how == "class":
        first.conv.__class__ = Squared
    elif how == "hook":
        first.conv.register_forward_hook(lambda *given: calls.append(1) or -given[-1])
    elif how == "norm":  # over the whole image
        first.norm = nn.LayerNorm((8, 8, first.conv.out_channels), eps=1e-3)
    else:
        options = {"stride": 2, "padding": 1, "padding_mode": "circular", "bias": False}
        first.conv = nn.Conv2d(3, first.conv.out_channels, 4, **options)
    with torch.no_grad():
        expected = world_model.encode(seen)
    learns = world_model.encode(seen)
    torch.testing.assert_close(learns, expected)
    assert not torch.allclose(learns, plain)
    state = agent.policy.initial(16)
    acts = agent.policy.acting_now()
    assert type(acts) is Acting
    calls.clear()
    acts.filter({"observation": seen["observation"].flatten(0, 1)}, State(*state[:2]), state.action, None, None)
    assert len(calls) == (how == "hook")


@pytest.mark.parametrize("how", ["eps", "class", "hook", "axes"])
def test_norms_of_ones_own_are_called_in_bfloat16(how: str) -> None:
    class Negative(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    layer, calls = Dense(3, 5, norm=True, act="silu"), []
    if how == "hook":
        layer.norm.register_forward_hook(lambda *given: calls.append(1) or -given[-1])  # type: ignore[union-attr]
    elif how == "axes":
        layer.norm = nn.LayerNorm((7, 5), eps=1e-3)
    else:
        layer.norm = Negative(5, eps=1e-3) if how == "class" else nn.LayerNorm(5, eps=10.0)
    x = torch.randn(2, 7, 3)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05, check_dtype=False)
    assert len(calls) == 2 * (how == "hook")


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_the_last_layers_of_the_latents_may_be_of_any_kind(backbone: str) -> None:
    agent = learned(backbone=backbone)
    rssm = agent.policy.networks.world_model.rssm
    for name in ("prior_out", "posterior_out"):
        setattr(rssm, name, nn.Sequential(nn.Dropout(0.1), getattr(rssm, name)))
    acted(agent)
    before = weights(rssm.prior_out)
    agent.learn(20, reset_num_timesteps=False)
    assert moved(rssm.prior_out, before)


def test_dropout_is_for_learning() -> None:
    agent = learned()
    encoder, modes = agent.policy.networks.world_model.encoder, []
    assert encoder.mlp is not None
    encoder.mlp = nn.Sequential(*encoder.mlp, nn.Dropout(0.5))  # type: ignore[assignment]
    encoder.mlp[-1].register_forward_pre_hook(lambda module, _: modes.append(module.training))
    latents = [acted(agent)[1] for _ in range(4)]
    assert all(np.array_equal(latents[0], latent) for latent in latents)
    agent.train(1)
    acted(agent)
    assert modes == [False] * 4 + [True, False]


def test_parts_that_are_put_in_after_learning_dream_outside_training_mode() -> None:
    agent, modes = learned(), []
    model = agent.policy.networks.world_model

    def put_in() -> None:
        model.reward_head.mlp = nn.Sequential(model.reward_head.mlp, nn.Dropout(0.5))  # type: ignore[assignment]
        model.reward_head.mlp.register_forward_pre_hook(lambda module, _: modes.append(module.training))

    def put_in_and_call(call: Any, *given: Any, **named: Any) -> None:
        put_in()
        modes.clear()
        call(*given, **named)
        assert modes and not any(modes)

    put_in_and_call(agent.imagine, CLOCK, horizon=2, decode=False)
    put_in_and_call(DreamVecEnv, agent, n_envs=2)
    dream = DreamVecEnv(agent, n_envs=2)
    put_in_and_call(lambda: (dream.reset(), dream.step(np.zeros(2, np.int64))))
    measure = LossGradients()
    measure.init_callback(agent)
    put_in_and_call(measure.on_rollout_start)


class Counted(HarmonyDreamAgent):
    """Its encoder ends in a batch norm, which counts its batches, and has a mask of its own."""

    def _make_policy(self) -> Any:
        policy = super()._make_policy()
        mlp = policy.networks.world_model.encoder.mlp
        assert mlp is not None
        mlp.append(nn.Flatten(0, -2)).append(nn.BatchNorm1d(mlp[-2].linear.out_features))  # type: ignore[union-attr, index]
        mlp.register_buffer("mask", torch.ones(3, dtype=torch.bool))
        return policy


def test_whole_numbers_among_the_weights_are_stored(tmp_path: Path) -> None:
    agent = Counted("MlpPolicy", Clock(7), **{**TINY, "seed": 0}).learn(60)
    agent.save(tmp_path / "a.zip")
    state, again = agent.policy.state_dict(), Counted.load(tmp_path / "a.zip", env=Clock(7))
    assert {weight.dtype for weight in state.values()} == {torch.float32, torch.int64, torch.bool}
    for name, weight in again.policy.state_dict().items():
        assert torch.equal(weight, state[name])
    data, tensors = read_archive(tmp_path / "a.zip")
    (name,) = (name for name in state if name.endswith("num_batches_tracked"))
    tensors["policy"][name] = torch.zeros(())
    write_archive(tmp_path / "a.zip", data, tensors)
    with pytest.raises(ValueError, match=r"is \(\) of torch.float32, expected \(\) of torch.int64"):
        Counted.load(tmp_path / "a.zip")


def test_an_archive_of_other_networks_says_what_to_do(tmp_path: Path) -> None:
    Counted("MlpPolicy", Clock(7), **TINY).save(tmp_path / "class.zip")
    with pytest.raises(
        ValueError, match=r"only in the archive. If .*: MyAgent.load\(path\), .* set_parameters\(path\)"
    ):
        HarmonyDreamAgent.load(tmp_path / "class.zip")
    agent = HarmonyDreamAgent("MlpPolicy", Clock(7), **TINY)
    agent.policy.networks.world_model.encoder.mlp = nn.Linear(3, 16)
    agent.learn(60).save(tmp_path / "changed.zip")
    with pytest.raises(ValueError, match=r"is only in the .*, change it in the same way, and call its set_parameters"):
        HarmonyDreamAgent.load(tmp_path / "changed.zip")
    with pytest.raises(ValueError, match=r"is of other networks. Make and change this agent as the one was"):
        HarmonyDreamAgent("MlpPolicy", Clock(7), **TINY).set_parameters(tmp_path / "changed.zip")


class Exact(HarmonyDreamAgent):
    """With weights in float64, and a layer that keeps numbers of its own as torch has it: as extra state."""

    def _make_policy(self) -> Any:
        policy = super()._make_policy()
        mlp = policy.networks.world_model.encoder.mlp
        assert mlp is not None
        mlp.append(Offset())
        return policy


class Offset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(16, dtype=torch.float64))
        self.seen: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.seen["calls"] = self.seen.get("calls", 0) + 1
        return x + self.offset.float()

    def get_extra_state(self) -> dict[str, Any]:
        return self.seen

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seen = state


def test_weights_of_another_type_and_extra_state_are_loaded(tmp_path: Path) -> None:
    agent = Exact("MlpPolicy", Clock(7), **TINY).learn(60)
    agent.save(tmp_path / "a.zip")
    again = Exact.load(tmp_path / "a.zip", env=Clock(7))
    made, stored = (one.policy.networks.world_model.encoder.mlp[-1] for one in (again, agent))  # type: ignore[index]
    assert made.seen == stored.seen != {}
    assert torch.equal(made.offset, stored.offset)
    moments = [one.learner.model_optimizer.state[layer.offset] for one, layer in ((again, made), (agent, stored))]
    assert moments[0]["exp_avg"].dtype == torch.float64
    assert torch.equal(moments[0]["exp_avg"], moments[1]["exp_avg"])
    again.learn(60)
    new = Exact("MlpPolicy", Clock(7), **TINY)
    take_over(new, agent)
    assert new.policy.networks.world_model.encoder.mlp[-1].seen == stored.seen  # type: ignore[index]
    with torch.no_grad():
        stored.offset[0] = torch.nan
    assert agent.replay_buffer is not None
    batch = agent.replay_buffer.sample(2, 8, np.random.default_rng(0), agent.device)
    told = explain(agent, batch, agent.learner.draw(batch))[1]
    assert any(line.startswith("weights world_model.encoder.mlp.1.offset of shape (16,)") for line in told)


class Tempered(HarmonyDreamAgent):
    """With a tensor of its own, and an optimiser for it, as SAC has them."""

    tensors: tuple[str, ...] = ()

    def _setup_model(self) -> None:
        super()._setup_model()
        own = self.policy.networks.world_model.encoder.mlp[0].linear.weight  # type: ignore[index]
        self.temperature = torch.zeros(1, requires_grad=True)
        self.own_optimizer = torch.optim.SGD([own], lr=0.1, momentum=0.9)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, "own_optimizer"], [*tensors, *self.tensors]


def test_an_optimizer_of_ones_own_is_stored_and_a_tensor_that_would_not_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Tempered("MlpPolicy", Clock(7), **TINY)
    (weight,) = agent.own_optimizer.param_groups[0]["params"]
    weight.grad = torch.ones_like(weight)
    agent.own_optimizer.step()
    agent.save(tmp_path / "a.zip")
    (state,) = Tempered.load(tmp_path / "a.zip").own_optimizer.state.values()
    assert torch.equal(state["momentum_buffer"], torch.ones_like(weight))
    monkeypatch.setattr(Tempered, "tensors", ("temperature",))
    with pytest.raises(ValueError, match=r"Tempered names \['temperature'\] .* of a module of agent.policy"):
        agent.save(tmp_path / "b.zip")


class Pretrained(HarmonyDreamAgent):
    """Its encoder begins with weights of another, frozen, and may ask for a number of them."""

    ask = False

    def _make_policy(self) -> Any:
        policy = super()._make_policy()
        encoder = policy.networks.world_model.encoder.requires_grad_(False)
        with torch.device("cpu"):
            encoder.load_state_dict({name: torch.ones(weight.shape) for name, weight in encoder.state_dict().items()})
        if self.ask:
            float(next(encoder.parameters()).sum())
        return policy


def test_an_encoder_that_is_trained_already_is_loaded(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Pretrained("MlpPolicy", Clock(7), **TINY).learn(60)
    agent.save(tmp_path / "a.zip")
    again = Pretrained.load(tmp_path / "a.zip", env=Clock(7))
    assert not moved(again.policy, weights(agent.policy))
    assert not [str(one.message) for one in recwarn if "meta" in str(one.message)]
    monkeypatch.setattr(Pretrained, "ask", True)
    with pytest.raises(ValueError, match=r"cannot be built without memory.*leave out there what reads numbers"):
        Pretrained.load(tmp_path / "a.zip")


def test_settings_that_are_set_later_are_followed() -> None:
    agent = learned()
    agent.entropy_coefficient, agent.gamma, agent.return_lambda = 1.0, 0.5, 0.2
    agent.horizon, agent.harmony_learning_rate, agent.learning_rate = 4, 0.01, 0.002
    agent.train(1)
    learner = agent.learner
    assert (learner.horizon, learner.gamma, learner.objectives.actor_loss.entropy_coefficient) == (4, 0.5, 1.0)
    assert learner.newest is not None and learner.newest[1].prior.shape[0] == 4
    assert learner.model_optimizer.param_groups[1]["lr"] == 0.01
    assert learner.model_optimizer.param_groups[0]["lr"] == 0.002
    agent.learning_rate = "lin_0.002"
    assert agent._rates()["learning_rate"] == 0.0  # at the end of the run
    surer = learner.objectives.actor_loss._replace(entropy_coefficient=0.7)
    own = learner.objectives = learner.objectives._replace(actor_loss=surer)
    agent.train(1)
    assert learner.objectives is own  # nobody has asked for others since
    for name, value in (("gamma", 1.5), ("horizon", 0), ("batch_size", 0), ("entropy_coefficient", "much")):
        kept = getattr(agent, name)
        setattr(agent, name, value)
        with pytest.raises(ValueError, match=f"{name}="):
            agent.train(1)
        setattr(agent, name, kept)
    agent.policy_kwargs = {**agent.policy_kwargs, "units": 99}
    with pytest.raises(ValueError, match=r"agent.policy_kwargs was set to"):
        agent.train(1)
    agent.policy_kwargs["units"] = TINY["policy_kwargs"]["units"]
    some = learned(harmony={"reward": True})
    some.harmony["reward"] = False
    with pytest.raises(ValueError, match=r"agent.harmony was set to {'reward': False}"):
        some.train(1)
    agent.harmony = False
    with pytest.raises(ValueError, match=r"agent.harmony was set to False, but its networks were made with True"):
        agent.train(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("train_ratio", -1),
        ("train_ratio", float("nan")),
        ("learning_starts", -5),
        ("pretrain_steps", 2.5),
        ("sequence_length", "8"),
        ("sequence_length", 3_000),
        ("official_quirks", "no"),
        ("learning_rate", lambda progress: 1e-3 * (progress - 0.7)),
        ("actor_learning_rate", lambda progress: float("nan")),
    ],
)
def test_settings_that_are_set_later_are_checked_before_a_run_and_within_it(name: str, value: Any) -> None:
    """As the constructor does, or after hours, or never, they would end or spoil it."""
    agent = learned()
    steps, kept = agent.num_timesteps, getattr(agent, name)
    setattr(agent, name, value)
    with pytest.raises(ValueError, match=f"{name}( is a function that gives|=)"):
        agent.learn(20, reset_num_timesteps=False)
    assert agent.num_timesteps == steps
    setattr(agent, name, kept)

    def spoil(local: dict[str, Any], _: Any) -> bool:
        if agent.num_timesteps == steps + 10:
            setattr(agent, name, value)
        return True

    with pytest.raises(ValueError, match=f"{name}( is a function that gives|=)"):
        agent.learn(40, callback=spoil, reset_num_timesteps=False)
    assert steps + 10 <= agent.num_timesteps < steps + 40


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", "large"),
        ("precision", "bfloat16"),
        ("compile", True),
        ("buffer_size", 77),
        ("replay_folder", "rows"),
        ("device", "cuda"),
    ],
)
def test_settings_that_cannot_change_are_refused_before_the_next_step(name: str, value: Any) -> None:
    agent, told = tiny(env=Clock(7)), rf"agent\.{name} was set to '?{value}'?, but .* made with .*: that cannot change"
    kept = getattr(agent, name)
    setattr(agent, name, value)
    with pytest.raises(ValueError, match=told):
        agent.learn(5)
    assert agent.num_timesteps == 0
    setattr(agent, name, kept)
    agent.learn(60)
    setattr(agent, name, value)
    with pytest.raises(ValueError, match=told):
        agent.train(1)


@pytest.mark.parametrize(
    ("where", "made", "advice"),
    [
        ("policy", lambda agent, other: tiny(env=Clock(7)).policy, "load_state_dict"),
        ("policy.networks", lambda agent, other: copy.deepcopy(agent.policy.networks), "load_state_dict"),
        ("env", lambda agent, other: other.env, r"set_env\(env\)"),
        ("env", lambda agent, other: VecNormalize(agent.env), r"set_env\(env\)"),
        ("env", lambda agent, other: Clock(7), r"set_env\(env\)"),
        ("replay_buffer", lambda agent, other: other.replay_buffer, "of 1 environments"),
        (
            "replay_buffer",
            lambda agent, other: ReplayBuffer(9, Clock.observation_space, spaces.Discrete(5)),
            "of 1 environments",
        ),
    ],
)
def test_parts_that_others_hold_on_to_are_not_replaced_without_a_word(where: str, made: Any, advice: str) -> None:
    agent, other = tiny(env=Clock(7)), tiny(env=DummyVecEnv([lambda: Clock(7)] * 2))
    *owner, name = where.split(".")
    setattr(agent.policy if owner else agent, name, made(agent, other))
    with pytest.raises(ValueError, match=rf"^agent\.{name if not owner else 'policy'} .*{advice}"):
        agent.learn(5)
    assert agent.num_timesteps == 0


def test_a_critic_of_another_shape_needs_a_slow_one_of_it() -> None:
    agent = learned()
    networks = agent.policy.networks
    networks.critic.out = nn.Linear(networks.critic.out.in_features, 1)  # it would be copied to each of 255 rows
    with pytest.raises(ValueError, match=r"networks.slow_critic = copy.deepcopy\(networks.critic\)"):
        agent.train(1)


@pytest.mark.parametrize("slow_every", [1, 2])
def test_the_slow_critic_has_the_buffers_of_the_critic(slow_every: int) -> None:
    agent = learned()
    networks = agent.policy.networks
    agent.learner.defaults = agent.learner.defaults._replace(slow_every=slow_every)
    agent.learner.updates = 0
    for critic in (networks.critic, networks.slow_critic):
        critic.register_buffer("seen", torch.zeros(()))
    plain = networks.critic.loss

    def loss(out: Tensor, target: Tensor) -> Tensor:
        networks.critic.seen += 1  # as the moments of a critic that normalises its targets
        return plain(out, target)

    networks.critic.loss = loss  # type: ignore[method-assign]
    agent.train(3)
    assert networks.critic.seen == networks.slow_critic.seen == 3


def test_a_replay_that_is_made_anew_may_be_larger() -> None:
    agent = tiny(env=Clock(7)).learn(30)
    agent.replay_buffer, agent.buffer_size = None, 3_000
    agent.learn(30)
    assert agent.replay_buffer.capacity == 3_000


def test_a_rate_of_none_is_the_backbones_own() -> None:
    agent = learned()
    agent.learning_rate = None
    assert agent._rates()["learning_rate"] == DEFAULTS["dreamerv3"].learning_rate
    agent.learn(5, reset_num_timesteps=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nothing", None),
        ("entropy_coefficient", 1.0),
        ("gamma", 0.5),
        ("return_lambda", 0.2),
        ("horizon", 4),
        ("harmony_learning_rate", 0.01),
        ("learning_rate", 0.003),
        ("batch_size", 3),
        ("sequence_length", 5),
    ],
)
def test_each_setting_that_is_set_later_changes_what_is_learned(name: str, value: Any) -> None:
    found = []
    for changed in (False, True):
        agent = learned()
        agent.learning_rate = agent.actor_learning_rate = agent.critic_learning_rate = 0.001
        if changed and value is not None:
            setattr(agent, name, value)
        torch.manual_seed(1)
        agent.train(2)
        found.append(agent.policy.networks)
    assert moved(found[0], weights(found[1])) == (value is not None)


# method -> how often at least it is called by an action, a gradient step and `imagine`
CALLED = {
    "world_model.encode": (1, 1, 1),
    "world_model.features": (1, 1, 1),
    "world_model.losses": (0, 1, 0),
    "world_model.reward": (0, 1, 1),
    "world_model.discount": (0, 1, 0),
    "world_model.continues": (0, 0, 1),
    "world_model.rssm.filter_step": (1, 8, 1),
    "world_model.rssm.imagine_step": (0, 3, 5),
    "actor.parameters_of": (1, 3, 5),
    "actor.distribution": (1, 1, 5),
}


@pytest.mark.parametrize("name", CALLED)
def test_methods_of_ones_own_are_called_where_the_documentation_says(name: str) -> None:
    agent, calls = learned(), list[str]()
    owner = agent.policy.networks.get_submodule(name.rpartition(".")[0])
    plain = getattr(owner, name.rpartition(".")[2])
    setattr(owner, name.rpartition(".")[2], lambda *given, **named: calls.append(name) or plain(*given, **named))
    counts = []
    for act in (lambda: acted(agent), lambda: agent.train(1), lambda: agent.imagine(CLOCK, horizon=5)):
        calls.clear()
        act()
        counts.append(len(calls))
    for count, least in zip(counts, CALLED[name], strict=True):
        assert count >= least if least else count == 0, (counts, CALLED[name])


def test_the_discount_that_dreamerv2_predicts_follows() -> None:
    agent = learned(backbone="dreamerv2")
    agent.gamma = 0.5
    agent.train(1)
    head = agent.policy.networks.world_model.continue_head
    assert head is not None and head.target_scale == 0.5


@pytest.mark.parametrize("kind", ["full_backward", "forward", "everywhere"])
def test_hooks_are_called_where_it_learns(kind: str) -> None:
    agent = learned()
    calls: list[str] = []
    rssm, actor = agent.policy.networks.world_model.rssm, agent.policy.networks.actor
    for layer in (rssm.observe_in, actor.mlp[0] if kind == "forward" else rssm.posterior_out):
        if kind != "everywhere":
            getattr(layer, f"register_{kind}_hook")(lambda module, *_: calls.append(type(module).__name__))
    handle = None
    if kind == "everywhere":
        handle = nn.modules.module.register_module_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    agent.train(1)
    if handle is not None:
        handle.remove()
        assert {"Dense", "RSSM"} & set(calls)
    assert calls.count("Dense") >= 8 + (kind == "forward")


def test_what_changes_between_two_actions_changes_the_second() -> None:
    agent = learned()
    policy, rssm = agent.policy, agent.policy.networks.world_model.rssm

    def memory() -> np.ndarray:
        return acted(agent)[0]

    first = memory()
    rssm.image_in.act = "elu"
    assert not np.array_equal(first, memory())
    rssm.image_in.act = "silu"
    assert np.array_equal(first, memory())
    before, graphed = policy.acting_now(), GraphedActing(policy)
    bound, learners = graphed._bound_to(), agent.learner._bound_to()
    policy.networks.actor.out = copy.deepcopy(policy.networks.actor.out)
    assert policy.acting_now() is not before
    assert graphed._bound_to()[0] is not bound[0]
    assert [id(one) for one in agent.learner._bound_to()] != [id(one) for one in learners]
    calls: list[int] = []
    plain = rssm.observe_step
    rssm.observe_step = lambda *arguments: calls.append(1) or plain(*arguments)  # type: ignore[method-assign, func-returns-value]
    memory()
    assert calls == [1]
    with pytest.raises(TypeError, match="This RSSM has its own observe_step: learning needs a filter_step"):
        agent.train(1)


def test_norms_of_another_kind_are_not_taken_for_ours() -> None:
    rssm = learned().policy.networks.world_model.rssm
    rssm.gru.norm = nn.LayerNorm(rssm.gru.norm.normalized_shape, eps=10.0)
    embed, action = torch.randn(2, 4, rssm.observe_in.linear.in_features - rssm.deter), torch.zeros(2, 4, 5)
    first = torch.zeros(2, 4, dtype=torch.bool)
    with torch.no_grad():
        plain, _ = rssm.observe(embed, action, first, None)
    torch.testing.assert_close(rssm.observe(embed, action, first, None)[0].deter, plain.deter)
    with pytest.raises(ValueError, match="act='relu': use one of"):
        Dense(3, 4, norm=True, act="relu")  # type: ignore[arg-type]


@pytest.mark.parametrize("harmony", [True, False])
def test_groups_of_ones_own_keep_their_rate(harmony: bool) -> None:
    agent = learned(harmony=harmony, harmony_learning_rate=0.123)
    model, optimizer = agent.policy.networks.world_model, agent.learner.model_optimizer
    model.encoder.mlp.append(nn.Linear(16, 16))  # type: ignore[union-attr]
    extra = model.encoder.mlp[-1].weight  # type: ignore[union-attr, index]
    optimizer.add_param_group({"params": list(model.encoder.mlp[-1].parameters()), "lr": 7e-7})  # type: ignore[union-attr, index]
    before = extra.detach().clone()
    agent.train(1)
    assert optimizer.param_groups[-1]["lr"] == 7e-7
    assert 0.0 < (extra - before).abs().max() < 2e-6


def test_a_compiled_model_is_compiled_anew_where_its_losses_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(
        "hd_agents.training.learner.compiled_or_plain", lambda function: made.append(function) or function
    )
    agent = learned(compile=True)
    assert len(made) == 1
    model, calls = agent.policy.networks.world_model, []
    plain = model.losses
    model.losses = lambda *arguments: calls.append(1) or plain(*arguments)  # type: ignore[method-assign]
    agent.train(2)
    assert (len(calls), len(made)) == (2, 2)


class Inverse(nn.Linear):
    """Guesses the action between two states."""

    def forward(self, before: Tensor, after: Tensor, action: Tensor) -> Tensor:
        return (super().forward(torch.cat([before, after], -1)) - action).square().mean(-1)


class Unrewarded(HarmonyDreamAgent):
    """Learns from batches in which nothing was ever rewarded."""

    def _make_replay(self, n_envs: int) -> Any:
        replay = super()._make_replay(n_envs)
        plain = replay.sample

        def sample(batch_size: int, length: int, rng: Any, device: Any) -> Any:
            batch = plain(batch_size, length, rng, device)
            return batch._replace(reward=torch.zeros_like(batch.reward))

        replay.sample = sample  # type: ignore[method-assign]
        return replay


def test_batches_of_ones_own_sampling_and_numbers_of_adams_are_what_learns(tmp_path: Path) -> None:
    agent = Unrewarded("MlpPolicy", Clock(7), **TINY)
    agent.learner.actor_optimizer.param_groups[0].update(betas=(0.7, 0.8), eps=0.1, weight_decay=0.2)
    agent.learn(60).save(tmp_path / "a.zip")
    again = Unrewarded.load(tmp_path / "a.zip", env=Clock(7)).learn(60)
    for one in (agent, again):
        assert one.learner.newest is not None and not one.learner.newest[0].reward.any()
        group = one.learner.actor_optimizer.param_groups[0]
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.7, 0.8), 0.1, 0.2)


@pytest.mark.parametrize("harmony", [True, False])
def test_a_loss_of_ones_own_is_harmonised(harmony: bool, tmp_path: Path) -> None:
    """As docs/extending.md has it; also where the harmoniser that the agent was made with had no sigmas."""
    agent = learned(harmony=harmony)
    networks, learner = agent.policy.networks, agent.learner
    world_model, plain = networks.world_model, networks.world_model.losses
    world_model.inverse = Inverse(2 * world_model.rssm.features, agent.policy.actions.size)

    def losses(batch: Any, draws: Tensor, state: State | None = None) -> Any:
        output = plain(batch, draws, state)
        features = world_model.features(output.posterior)
        inverse = world_model.inverse(features[:, :-1], features[:, 1:], batch.action[:, 1:])
        return output._replace(losses={**output.losses, "inverse": inverse.mean()})

    world_model.losses = losses
    terms = {name: term._replace(harmonized=False) for name, term in networks.harmonizer.terms.items()}
    networks.harmonizer = Harmonizer({**terms, "inverse": Term()})
    mine = nn.Parameter(torch.zeros(3))
    learner.model_optimizer.add_param_group({"params": [mine], "lr": 0.5})
    agent.harmony_learning_rate = 0.01
    before = weights(world_model.inverse)
    for _ in range(2):
        agent.train(1)
    assert moved(world_model.inverse, before)
    assert networks.harmonizer.log_sigma.abs().item() == pytest.approx(0.02, rel=0.1)
    assert [group["lr"] for group in learner.model_optimizer.param_groups] == [agent.learning_rate, 0.01, 0.5]
    assert {"loss/inverse", "sigma/inverse"} <= agent._metrics.flush().keys()
    agent.player(deterministic=True).export(tmp_path / "policy.pt2")  # which acts as before


class Weighted(nn.Module):
    """A harmoniser of another kind: weights by a softmax, and running means without a gradient."""

    def __init__(self, terms: Any) -> None:
        super().__init__()
        self.terms = dict(terms)
        self.logits = nn.Parameter(torch.zeros(len(self.terms)))
        self.register_buffer("mean", torch.ones(len(self.terms)))
        self.mean: Tensor

    def forward(self, losses: Any) -> Any:
        found = torch.stack([losses[name].float().mean() for name in self.terms])
        if self.training:
            self.mean.lerp_(found.detach(), 0.1)
        total = (self.logits.softmax(0) * found / self.mean.clone()).sum()
        return total, {f"mean/{name}": mean.clone() for name, mean in zip(self.terms, self.mean, strict=True)}


class Fixed(Harmonizer):
    """Another kind that is a subclass, and harmonises nothing by sigmas."""

    def __init__(self, terms: Any) -> None:
        super().__init__({name: Term(harmonized=False) for name in terms})
        self.logits = nn.Parameter(torch.zeros(len(terms)))

    def forward(self, losses: Any) -> Any:
        weights = dict(zip(self.terms, 2.0 * self.logits.sigmoid(), strict=True))
        return super().forward({name: weights[name] * loss for name, loss in losses.items()})


class Balanced(HarmonyDreamAgent):
    kind: Any = Weighted

    def _make_policy(self) -> Any:
        policy = super()._make_policy()
        policy.networks.harmonizer = self.kind(policy.networks.harmonizer.terms)
        return policy


@pytest.mark.parametrize("kind", [Weighted, Fixed])
@pytest.mark.parametrize("harmony", [True, False])
def test_a_harmoniser_of_another_kind_learns(kind: Any, harmony: bool, tmp_path: Path) -> None:
    mine = type("Mine", (Balanced,), {"kind": kind})
    agent = mine("MlpPolicy", Clock(7), harmony=harmony, harmony_learning_rate=0.01, **TINY)
    agent.learn(60, callback=LossGradients(20))
    harmonizer: Any = agent.policy.networks.harmonizer
    assert harmonizer.logits.abs().min() > 0.005
    agent.save(tmp_path / "a.zip")
    again = mine.load(tmp_path / "a.zip", env=Clock(7))
    assert not moved(again.policy, weights(agent.policy))
    assert len(again.learner.model_optimizer.param_groups) == 2

    new = mine("MlpPolicy", Clock(7), **{**TINY, "seed": 1})
    take_over(new, agent)
    assert not moved(new.policy, weights(agent.policy))
    take_over(plain := tiny(env=Clock(7)), agent)
    assert not moved(plain.policy.networks.world_model, weights(agent.policy.networks.world_model))
    plain.learn(60)
    new = mine("MlpPolicy", Clock(7), **TINY)
    take_over(new, plain)
    assert not moved(new.policy.networks.world_model, weights(plain.policy.networks.world_model))
    assert not new.policy.networks.harmonizer.logits.any()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("reinforce", [None, True, False])
@CONTINUOUS
def test_the_actors_loss_may_be_any_function(task: str, reinforce: bool | None) -> None:
    seen: list[bool] = []

    def mine(policy: Any, entropy: Tensor, action: Tensor, targets: Any, scale: Tensor) -> Tensor:
        seen.append(targets.actor_return.requires_grad)
        return -(entropy.mean() + (targets.actor_return / scale).mean())

    if reinforce is not None:
        mine.reinforce = reinforce  # type: ignore[attr-defined]
    agent = learned(task)
    agent.learner.objectives = agent.learner.objectives._replace(actor_loss=mine)
    before = weights(agent.policy.networks.actor)
    agent.train(1)
    assert moved(agent.policy.networks.actor, before)
    usual = task == "CartPole-v1"
    assert seen == [not (usual if reinforce is None else reinforce)]
    agent.entropy_coefficient = 0.5
    with pytest.warns(UserWarning, match="objectives was replaced, and gives way"):
        agent.train(1)


def test_a_copy_whose_losses_are_those_of_the_agent_before_is_refused() -> None:
    agent = learned()
    plain = agent.policy.networks.world_model.losses
    agent.policy.networks.world_model.losses = lambda *given: plain(*given)  # type: ignore[method-assign]
    agent.train(1)
    copied = copy.deepcopy(agent)
    with pytest.raises(RuntimeError, match="set them on the copy anew"):
        copied.train(1)
    del copied.policy.networks.world_model.losses
    copied.train(1)


def test_a_metric_of_ones_own_has_to_be_a_tensor() -> None:
    agent = learned()
    world_model, plain = agent.policy.networks.world_model, agent.policy.networks.world_model.losses

    def losses(*arguments: Any) -> Any:
        output = plain(*arguments)
        return output._replace(metrics={**output.metrics, "mine": 1.0})

    world_model.losses = losses
    with pytest.raises(ValueError, match="Metric 'mine' is a float: expected a 0-d tensor"):
        agent.train(1)


@pytest.mark.parametrize(("policy", "frames"), [("MlpPolicy", 512), ("CnnPolicy", 512), ("CnnPolicy", 4)])
@pytest.mark.parametrize("name", ["observation", "reward", "dynamics"])
def test_gradients_of_gradients_are_refused_not_wrong(
    name: str, policy: str, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a penalty on the length of a gradient. The gradients themselves are free, as GradNorm wants them."""
    pixels = Scripted(spaces.Box(0, 255, (16, 16, 3), np.uint8), spaces.Discrete(5))
    agent = learned(pixels if policy == "CnnPolicy" else None, policy=policy)
    monkeypatch.setattr("hd_agents.world_model.decoder.FRAMES_AT_ONCE", frames)
    assert agent.replay_buffer is not None
    batch = agent.replay_buffer.sample(2, 8, np.random.default_rng(0), agent.device)
    world_model = agent.policy.networks.world_model
    loss = world_model.losses(batch, agent.learner.draw(batch).posterior).losses[name].mean()
    weights = list(world_model.parameters())
    first, again = (torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True) for _ in range(2))
    assert any(one is not None and one.any() for one in first)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True) if one is not None)
    with pytest.raises(RuntimeError, match=r"create_graph=True: these gradients are made by hand.*retain_graph=True"):
        torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
