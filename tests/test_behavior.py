"""Returns against slow loops, weights, dreams, and where gradients may go."""

import pytest
import torch

from hd_agents.behavior.actor_critic import Actor, ActorLoss, ReturnScale, update_slow
from hd_agents.behavior.imagination import Dreaming, FlatDreaming, imagine
from hd_agents.behavior.returns import NextStateCredit, SameStateCredit, lambda_return
from hd_agents.nn.layers import linear
from hd_agents.world_model.rssm import State
from hd_agents.world_model.world_model import WorldModel
from tests.models import networks


def predictions(steps=6, n=5):
    torch.manual_seed(0)
    return torch.randn(steps, n), torch.rand(steps, n), torch.randn(steps, n)


def slow_return(reward, discount, value, lam):
    """The recursion as the papers write it, one number at a time."""
    steps, n = reward.shape
    out = torch.zeros(steps, n)
    for i in range(n):
        last = value[-1, i]
        for t in reversed(range(steps)):
            last = reward[t, i] + discount[t, i] * ((1 - lam) * value[t, i] + lam * last)
            out[t, i] = last
    return out


@pytest.mark.parametrize("lam", [0.0, 0.7, 0.95, 1.0])
def test_lambda_return_equals_the_slow_loop(lam):
    reward, discount, value = predictions()
    torch.testing.assert_close(lambda_return(reward, discount, value, lam), slow_return(reward, discount, value, lam))


def test_lambda_one_without_values_is_the_discounted_sum():
    reward, discount = torch.ones(4, 3), torch.full((4, 3), 0.5)
    assert lambda_return(reward, discount, torch.zeros(4, 3), 1.0)[0].tolist() == [1.875] * 3


def test_next_state_credit_gives_an_action_the_reward_it_leads_to():
    """One reward, at state 3: the action taken in state 2 earns it undiscounted, earlier ones discounted."""
    reward, discount = torch.zeros(5, 1), torch.full((5, 1), 0.9)
    reward[3] = 1.0
    targets = NextStateCredit(1.0)(reward, discount, torch.zeros(5, 1), gamma=0.9)
    assert targets.actor_return.flatten().tolist() == pytest.approx([0.81, 0.9, 1.0, 0.0])
    assert targets.critic_weight.flatten().tolist() == pytest.approx([1.0, 0.9, 0.81, 0.729])


def test_same_state_credit_gives_the_action_the_return_of_the_next_state():
    reward, discount = torch.zeros(5, 1), torch.full((5, 1), 0.9)
    reward[3] = 1.0
    targets = SameStateCredit(1.0)(reward, discount, torch.zeros(5, 1), gamma=0.9)
    assert targets.critic_return.flatten().tolist() == pytest.approx([0.729, 0.81, 0.9, 1.0])
    assert targets.actor_return.flatten().tolist() == pytest.approx([0.81, 0.9, 1.0])
    assert targets.actor_weight.flatten().tolist() == pytest.approx([1.0, 0.9, 0.81])


@pytest.mark.parametrize("credit", [NextStateCredit(0.95), SameStateCredit(0.95)])
def test_nothing_counts_after_a_terminal_state(credit):
    reward, discount, value = predictions()
    discount[2] = 0.0
    targets = credit(reward, discount, value, gamma=0.9)
    changed = reward.clone()
    changed[4:] += 100.0
    again = credit(changed, discount, value, gamma=0.9)
    assert torch.equal(targets.actor_return[:1], again.actor_return[:1])
    assert not torch.equal(targets.critic_return[-1], again.critic_return[-1])
    assert (targets.critic_weight[3:] == 0).all() and (targets.critic_weight[:2] > 0).all()


def test_return_scale_follows_the_percentiles_and_never_amplifies():
    scale = ReturnScale(decay=0.5)
    returns = torch.arange(101.0)
    assert scale.update(returns).item() == pytest.approx(45.0)
    assert scale.update(returns).item() == pytest.approx(67.5)
    assert ReturnScale().update(returns / 1000).item() == 1.0


@pytest.mark.parametrize(("fraction", "expected"), [(1.0, 3.0), (0.25, 1.5)])
def test_slow_critic_moves_by_the_fraction(fraction, expected):
    slow, fast = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    for module, value in ((slow, 1.0), (fast, 3.0)):
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, value)
    update_slow(slow, fast, fraction)
    assert all((parameter == expected).all() for parameter in slow.parameters())


@pytest.mark.parametrize("groups", [(2, 3), ()])
def test_a_dream_steps_through_the_model_with_the_actors_actions(groups):
    torch.manual_seed(1)
    net = networks(groups=groups)
    start = State(*map(torch.detach, net.world_model.rssm.initial(7)))
    draws, action_draws = torch.rand(4, 7, 3), net.actor.draw(4, 7)
    dream = imagine(net.world_model, net.actor, start, draws, action_draws, differentiable=False)
    assert dream.features.shape == (5, 7, net.world_model.rssm.features)
    assert dream.action.shape == (4, 7, 5)
    state = start
    for t in range(4):
        features = net.world_model.features(state)
        torch.testing.assert_close(dream.features[t], features)
        policy = net.actor.distribution(net.actor.parameters_of(features))
        torch.testing.assert_close(dream.action[t], policy.sample(action_draws[t]))
        state = net.world_model.rssm.imagine_step(state, dream.action[t], draws[t])
    torch.testing.assert_close(dream.features[4], net.world_model.features(state))


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
@pytest.mark.parametrize("groups", [(2, 3), ()])
def test_flat_dreams_are_those_of_the_modules_to_the_last_bit(groups, backbone, bfloat16, monkeypatch):
    torch.manual_seed(1)
    net = networks(backbone, groups=groups)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    start = State(*map(torch.detach, net.world_model.rssm.initial(7)))
    draws, action_draws = torch.rand(4, 7, 3), net.actor.draw(4, 7)
    dreamers = []

    def dream():
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            found = imagine(net.world_model, net.actor, start, draws, action_draws, differentiable=False)
            head = net.critic(found.features)
        return found, head

    for kind in (Dreaming, FlatDreaming):
        made = lambda *arguments, kind=kind: dreamers.append(kind) or kind(*arguments)  # noqa: E731
        monkeypatch.setattr(f"hd_agents.behavior.imagination.{kind.__name__}", made)
    flat, head = dream()
    net.actor.mlp[0].register_forward_hook(lambda *_: None)  # which wants the modules to be called
    plain, plain_head = dream()
    assert dreamers == [FlatDreaming, Dreaming]
    assert flat.features.dtype == (torch.bfloat16 if bfloat16 else torch.float32)
    assert torch.equal(flat.features, plain.features.to(flat.features.dtype)) and torch.equal(head, plain_head)
    assert torch.equal(flat.action, plain.action)
    torch.testing.assert_close(flat.actor_parameters, plain.actor_parameters)  # of all steps at once, and made anew


def test_gradients_reach_the_actor_through_the_dynamics_only_if_asked():
    torch.manual_seed(2)
    net = networks(groups=())
    start = State(*map(torch.detach, net.world_model.rssm.initial(3)))
    draws, action_draws = torch.rand(4, 3, 3), net.actor.draw(4, 3)
    dream = imagine(net.world_model, net.actor, start, draws, action_draws, differentiable=True)
    (gradient,) = torch.autograd.grad(dream.features[-1].sum(), net.actor.out.weight)
    assert gradient.abs().sum() > 0
    flat = imagine(net.world_model, net.actor, start, draws, action_draws, differentiable=False)
    assert not flat.features.requires_grad and flat.actor_parameters.requires_grad


def test_reinforce_raises_the_probability_of_what_beat_the_baseline():
    torch.manual_seed(3)
    net = networks(groups=(5,))
    features = torch.randn(1, 2, net.world_model.rssm.features)
    action = torch.eye(5)[torch.tensor([[1, 3]])]
    ones = torch.ones(1, 2)
    targets = NextStateCredit(0.95)(torch.zeros(2, 2), torch.ones(2, 2), torch.zeros(2, 2), 1.0)
    targets = targets._replace(actor_return=torch.tensor([[1.0, -1.0]]), baseline=torch.zeros(1, 2), actor_weight=ones)
    loss = ActorLoss(0.0, reinforce=True, baseline=True)
    policy = net.actor.distribution(net.actor.parameters_of(features))
    before = policy.log_prob(action)
    loss(policy, policy.entropy(), action, targets, torch.ones(())).backward()
    with torch.no_grad():
        for parameter in net.actor.parameters():
            parameter -= 0.01 * parameter.grad
    after = net.actor.distribution(net.actor.parameters_of(features)).log_prob(action)
    assert after[0, 0] > before[0, 0] and after[0, 1] < before[0, 1]


def test_a_world_model_of_ones_own_is_dreamt_in():
    class Doubled(WorldModel):
        def features(self, state):
            return 2.0 * super().features(state)

    net = networks()
    net.world_model.__class__ = Doubled
    start = State(*map(torch.detach, net.world_model.rssm.initial(7)))
    draws = torch.rand(4, 7, 3), net.actor.draw(4, 7)
    dream = imagine(net.world_model, net.actor, start, *draws, differentiable=False)
    assert torch.equal(dream.features[0], 2.0 * torch.cat(start, -1))


@pytest.mark.parametrize("credit", [NextStateCredit(0.95), SameStateCredit(0.95)])
def test_weights_pass_no_gradient(credit):
    reward, discount, value = predictions()
    targets = credit(reward, discount.requires_grad_(), value, gamma=0.9)
    assert targets.actor_return.requires_grad
    assert not targets.actor_weight.requires_grad and not targets.critic_weight.requires_grad


@pytest.mark.parametrize("edge", [0, 1])
def test_the_edges_of_a_bounded_draw_are_actions(edge, monkeypatch):
    actor = networks("dreamerv2", groups=()).actor
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *bounds: self.fill_(bounds[edge]))
    raw = torch.cat([torch.linspace(-5.0, 5.0, 7).unsqueeze(-1).expand(-1, 5), torch.full((7, 5), -20.0)], -1)
    action = actor.distribution(raw).sample(actor.draw(7))
    assert action.isfinite().all() and action.abs().max() < 1.0 - 9e-7


def test_means_and_deviations_begin_as_two_layers():
    torch.manual_seed(0)
    options = {"units": 7, "layers": 1, "norm": True, "act": "silu", "unimix": 0.0, "bounded": False}
    weight = Actor(3, 499, (), **options).out.weight
    assert weight.std().item() == pytest.approx(linear(7, 499).weight.std().item(), rel=0.05)
