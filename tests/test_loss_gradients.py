"""How hard each loss pulls at the shared weights, measured while an agent learns."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import EveryNTimesteps
from stable_baselines3.common.logger import KVWriter, Logger

from hd_agents.callbacks import DreamFilm, LossGradients
from hd_agents.films.dream_film import KEY as FILM
from hd_agents.randomness import seeded
from hd_agents.replay import SequenceReplay
from hd_agents.training.loss_gradients import SEQUENCES, gradient_lengths, shares
from tests.agents import TINY, Clock, Scripted, tiny

KEY = "train/gradient_share/"


class Kept(KVWriter):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.rows.append({key[len(KEY) :]: value for key, value in key_values.items() if key.startswith(KEY)})

    def close(self) -> None:
        pass


def batch_of(agent: Any) -> Any:
    return agent.replay_buffer.sample(3, 8, np.random.default_rng(0), agent.device)


def lengths_of(agent: Any) -> dict[str, float]:
    with seeded(0, agent.device):
        return gradient_lengths(agent.learner, batch_of(agent))


@pytest.mark.parametrize("harmony", [True, False, {"reward": 7.0}])
def test_the_lengths_are_those_of_the_weighted_losses_in_encoder_and_recurrence(harmony: Any) -> None:
    small = {**TINY["policy_kwargs"], "free_nats": 0.0}  # or the dynamics' gradient may be 0
    agent = tiny(harmony=harmony, learning_rate=0.01, policy_kwargs=small).learn(80)
    networks, batch = agent.policy.networks, batch_of(agent)
    model, found = networks.world_model, lengths_of(agent)
    assert found.keys() == networks.harmonizer.terms.keys()
    heads = ("decoder.", "reward_head.", "continue_head.", "rssm.image_out.", "rssm.prior_out.")  # one loss each
    shared = [weight for name, weight in model.named_parameters() if not name.startswith(heads)]
    with seeded(0, agent.device):
        losses = model.losses(batch, agent.learner.draw(batch).posterior).losses
    sigmas = dict(zip(networks.harmonizer.harmonized, networks.harmonizer.log_sigma.exp(), strict=True))
    for name, loss in losses.items():
        weight = 1.0 / sigmas[name].detach() if name in sigmas else networks.harmonizer.terms[name].scale
        gradients = torch.autograd.grad(weight * loss.mean(), shared, retain_graph=True, allow_unused=True)
        flat = torch.cat([one.flatten() for one in gradients if one is not None])
        assert found[name] == pytest.approx(float(flat.norm()), rel=1e-4)
        assert found[name] > 0.0


def test_images_and_a_continue_loss_that_may_not_shape_the_features() -> None:
    env = Scripted(spaces.Box(0, 255, (16, 20, 3), np.uint8), spaces.Box(-1, 1, (2,)))
    agent = tiny("CnnPolicy", env, backbone="dreamerv2", size="nano").learn(60)
    with torch.no_grad():
        found = lengths_of(agent)
    assert set(found) == {"observation", "reward", "dynamics", "continue"}
    assert found["observation"] > 0.0
    agent.policy.networks.world_model.continue_gradient = False
    assert lengths_of(agent)["continue"] == 0.0
    assert lengths_of(agent)["observation"] == pytest.approx(found["observation"])


def test_a_loss_without_weight_and_a_model_that_is_frozen() -> None:
    agent = tiny(harmony={"reward": 0.0}).learn(60)
    assert lengths_of(agent)["reward"] == 0.0
    agent.policy.networks.world_model.requires_grad_(False)
    assert set(lengths_of(agent).values()) == {0.0}
    assert agent.learn(60, callback=LossGradients(20))._n_updates > 0


def test_another_module_that_weighs_the_losses_and_weights_beside_the_model() -> None:
    class Sum(torch.nn.Module):
        def forward(self, losses: Any) -> Any:
            return sum(loss.mean() for loss in losses.values()), {}

    agent = tiny()
    networks = agent.policy.networks
    model, plain = networks.world_model, networks.world_model.losses
    beside = torch.nn.Parameter(torch.ones(()))

    def losses(*given: Any) -> Any:
        output = plain(*given)
        return output._replace(losses={**output.losses, "own": beside * output.losses["reward"].mean()})

    networks.harmonizer, model.losses = Sum(), losses
    agent.learner.model_optimizer.add_param_group({"params": [beside]})
    agent.learn(60, callback=LossGradients(20))
    found = lengths_of(agent)
    assert set(found) == {"observation", "reward", "dynamics", "continue", "own"}
    assert found["own"] > 0.0
    model.requires_grad_(False)
    agent.learn(40, callback=LossGradients(20))
    assert set(lengths_of(agent).values()) == {0.0}


def test_shares() -> None:
    assert shares({"a": 3.0, "b": 1.0}) == {"a": 0.75, "b": 0.25}
    assert shares({"a": 0.0}) == shares({"a": float("nan"), "b": 1.0}) == shares({}) == {}


def test_they_are_logged_and_training_does_not_notice() -> None:
    weights, kept = [], Kept()
    for callback in (None, LossGradients(50)):
        agent = tiny(env=gym.make("CartPole-v1"), seed=5)
        agent.set_logger(Logger(None, [kept]))
        agent.learn(200, callback=callback, log_interval=1)
        weights.append(torch.cat([part.flatten() for part in agent.policy.state_dict().values()]))
    assert torch.equal(*weights)
    rows = [row for row in kept.rows if row]
    assert 2 <= len(rows) <= 5  # the first gradient steps, and the steps 50, 100 and 150
    for row in rows:
        assert set(row) == {"observation", "reward", "dynamics", "continue"}
        assert sum(row.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", [LossGradients, DreamFilm])
def test_a_callback_serves_the_next_run_too(kind: Any) -> None:
    callback, counts = kind(100_000), []
    for seed in (0, 1):
        agent = tiny(env=Clock(70), seed=seed)
        agent.learn(110, callback=callback, log_interval=None)
        counts.append(sum(key.startswith((KEY, FILM)) for key in agent.logger.name_to_value))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("place", ["gradients", "batch"])
def test_a_gpu_that_is_full_ends_no_training(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = SequenceReplay.sample

    def full(*given: Any) -> Any:
        if isinstance(given[0], SequenceReplay) and given[1] != SEQUENCES:  # one for a gradient step
            return sample(*given)
        raise torch.OutOfMemoryError

    if place == "batch":
        monkeypatch.setattr(SequenceReplay, "sample", full)
    else:
        monkeypatch.setattr("hd_agents.training.loss_gradients.gradient_lengths", full)
    with pytest.warns(UserWarning, match=r"LossGradients left out at env step \d+: no memory"):
        agent = tiny().learn(60, callback=LossGradients(1_000))
    assert agent.num_timesteps == 60


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="every=0"):
        LossGradients(0)
    with pytest.raises(ValueError, match="LossGradients within EveryNTimesteps"):
        tiny().learn(30, callback=EveryNTimesteps(10, LossGradients(10)))
