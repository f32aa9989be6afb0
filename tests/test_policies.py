"""Acting: states in and out, resets, repeatability, memory, the player, and policies alone on disk."""

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from hd_agents.policies import MlpPolicy, MultiInputPolicy
from hd_agents.world_model.rssm import State
from tests.agents import Clock, Scripted, tiny

OBSERVATIONS = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)  # 5 steps of 3 environments


def follow(policy: Any, observations: np.ndarray, starts: Any, **options: Any) -> tuple[list[Any], Any]:
    """Predict along a sequence; ``starts`` gives episode_start of each step."""
    state, actions = None, []
    for observation, start in zip(observations, starts, strict=True):
        action, state = policy.predict(observation, state, start, **options)
        actions.append(action)
    return actions, state


def test_the_state_is_numpy_with_the_env_axis_first() -> None:
    agent = tiny()
    action, state = agent.predict(OBSERVATIONS[0], deterministic=True)
    assert [part.shape for part in state] == [(3, 16), (3, 3 * 4), (3, 2)]
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float32 for part in state)
    assert np.array_equal(state[2].argmax(-1), action)
    assert np.array_equal(state[1].reshape(3, 3, 4).sum(-1), np.ones((3, 3)))


def test_a_batch_is_its_members_one_by_one() -> None:
    agent = tiny()
    starts = [np.array([True, True, True])] + [np.array([False, n == 2, False]) for n in range(4)]
    together, state = follow(agent, OBSERVATIONS, starts, deterministic=True)
    for env in range(3):
        alone, own = follow(agent, OBSERVATIONS[:, env], [start[env] for start in starts], deterministic=True)
        assert [int(action) for action in alone] == [int(action[env]) for action in together]
        for part, whole in zip(own, state, strict=True):
            assert np.allclose(part[0], whole[env], atol=1e-5)


def test_an_episode_start_forgets_everything() -> None:
    agent = tiny()
    _, kept = follow(agent, OBSERVATIONS[:, 0], [True, False, False, False, False], deterministic=True)
    _, reset = follow(agent, OBSERVATIONS[:, 0], [True, False, False, False, True], deterministic=True)
    _, fresh = follow(agent, OBSERVATIONS[4:, 0], [True], deterministic=True)
    assert np.allclose(reset[0], fresh[0], atol=1e-6)
    assert not np.allclose(kept[0], fresh[0], atol=1e-3)
    for start in (None, [True], np.array([True]), True):
        again = agent.policy.predict(OBSERVATIONS[4, 0], None, start, deterministic=True)[1]
        assert np.array_equal(again[0], fresh[0])


def test_an_episode_start_forgets_even_what_is_no_number() -> None:
    agent = tiny()
    _, fresh = agent.predict(OBSERVATIONS[0], deterministic=True)
    spoilt = tuple(np.full_like(part, np.nan) for part in fresh)
    _, state = agent.predict(OBSERVATIONS[0], spoilt, np.ones(3, bool), deterministic=True)
    assert all(np.array_equal(part, whole) for part, whole in zip(state, fresh, strict=True))


def test_the_state_remembers_the_action() -> None:
    agent = tiny(seed=0)
    _, state = agent.predict(OBSERVATIONS[0, 0], deterministic=True)
    other = (*state[:2], state[2][:, ::-1].copy())
    one, two = (agent.predict(OBSERVATIONS[1, 0], given, deterministic=True)[1] for given in (state, other))
    assert not np.allclose(one[0], two[0], atol=1e-4)


def test_deterministic_repeats_and_sampling_does_not() -> None:
    agent = tiny(seed=0)
    starts = [True] + [False] * 4
    repeated = [follow(agent, OBSERVATIONS, starts, deterministic=True)[1] for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*repeated, strict=True))
    sampled = [follow(agent, OBSERVATIONS, starts)[1] for _ in range(2)]
    assert not np.array_equal(sampled[0][1], sampled[1][1])
    torch.manual_seed(5)
    first = follow(agent, OBSERVATIONS, starts)[1]
    torch.manual_seed(5)
    assert all(np.array_equal(a, b) for a, b in zip(first, follow(agent, OBSERVATIONS, starts)[1], strict=True))


def test_continuous_actions_stay_inside_their_bounds_and_in_the_state() -> None:
    env = Scripted(spaces.Box(-1, 1, (3,)), spaces.Box(np.float32([-3.0, 0.0]), np.float32([5.0, 0.5])))
    agent = tiny(env=env)
    for _ in range(40):
        action, state = agent.predict(env.observation_space.sample(), episode_start=np.array([True]))
        assert env.action_space.contains(action.astype(np.float32))
        assert np.abs(state[2]).max() <= 1.0
        assert np.allclose(state[2][0], [(action[0] - 1.0) / 4.0, (action[1] - 0.25) / 0.25], atol=1e-5)


def test_forgetting_the_state_warns_once() -> None:
    agent = tiny()
    agent.predict(OBSERVATIONS[0, 0])
    with pytest.warns(UserWarning, match="agent.player") as caught:
        action, _ = agent.predict(OBSERVATIONS[1, 0])
    assert caught[0].filename == __file__
    assert agent.action_space.contains(int(action))
    _, state = agent.predict(OBSERVATIONS[2, 0])  # warnings are errors here: no second one
    agent.predict(OBSERVATIONS[3, 0], state)
    for _ in range(2):
        agent.predict(OBSERVATIONS[4, 0])


def test_episodes_that_begin_without_state_do_not_warn() -> None:
    agent = tiny()
    for _ in range(3):
        _, state = agent.predict(OBSERVATIONS[0, 0])
        agent.predict(OBSERVATIONS[1, 0], state)
    for _ in range(3):
        agent.predict(OBSERVATIONS[0], episode_start=np.ones(3, dtype=bool))


def test_a_player_that_begins_anew_does_not_warn() -> None:
    player = tiny().player()
    for _ in range(3):
        player.reset()
        player.act(OBSERVATIONS[0, 0])


def test_forgetting_some_environments_warns_too() -> None:
    agent, starts = tiny(), np.array([True, False, False])
    agent.predict(OBSERVATIONS[0], episode_start=starts)
    with pytest.warns(UserWarning, match="agent.player"):
        agent.predict(OBSERVATIONS[1], episode_start=starts)


def test_choices_are_drawn_unless_deterministic() -> None:
    policy = tiny(env=Scripted(spaces.Box(-1, 1, (3,)), spaces.Box(-2.0, 4.0, (2,)))).policy
    state = State(*policy.initial(3)[:2])
    assert torch.equal(*(policy.choose(state, deterministic=True) for _ in range(2)))
    assert not torch.equal(*(policy.choose(state, deterministic=False) for _ in range(2)))


@pytest.mark.parametrize(
    ("observation", "state", "start", "word"),
    [
        ((OBSERVATIONS[0, 0], {}), None, None, "info"),
        (OBSERVATIONS[0, 0, :3], None, None, r"\(3,\)"),
        (OBSERVATIONS[0], (np.zeros((1, 16)), np.zeros((1, 12)), np.zeros((1, 2))), None, "3 observations"),
        (OBSERVATIONS[0], None, np.array([True, False]), "2 entries for 3"),
    ],
)
def test_what_does_not_fit_is_refused(observation: Any, state: Any, start: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        tiny().predict(observation, state, start)


def test_a_player_that_is_given_something_wrong_goes_on() -> None:
    agent = tiny(env=Clock(5))
    player, seen = agent.player(), np.zeros(3, np.float32)
    player.act(seen)
    before = player.state
    with pytest.raises(ValueError, match=r"executed has 3 actions for 1 environments"):
        player.act(seen, executed=np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="observation"):
        player.act(np.zeros(4, np.float32), executed=np.array(2))
    with pytest.raises(ValueError, match="actions"):
        player.act(seen, executed=np.array([[0.5]]))
    assert player.state is before
    player.act(seen, executed=np.array(2))


def test_the_player_keeps_the_state() -> None:
    agent = tiny()
    starts = [np.ones(3, dtype=bool)] + [np.array([False, n == 1, False]) for n in range(4)]
    expected, _ = follow(agent, OBSERVATIONS, starts, deterministic=True)
    player = agent.player(deterministic=True)
    for _ in range(2):
        player.reset()
        acted = [player.act(OBSERVATIONS[0])]
        acted += [player.act(*pair) for pair in zip(OBSERVATIONS[1:], starts[1:], strict=True)]
        assert np.array_equal(acted, expected)
    with pytest.raises(ValueError, match="shapes"):
        player.act(OBSERVATIONS[0, 0])
    player.reset()
    assert player.state is None
    assert player.act(OBSERVATIONS[0, 0]).shape == ()
    player.act(OBSERVATIONS[1, 0])
    seen = OBSERVATIONS[2, 0]
    with_past = agent.imagine(seen, horizon=2, state=player.state).observations["observation"]
    without = agent.imagine(seen, horizon=2).observations["observation"]
    assert np.abs(with_past - without).max() > 0.01


@pytest.mark.parametrize("batch", [False, True])
def test_the_player_is_told_what_was_executed(batch: bool) -> None:
    agent = tiny()
    player = agent.player(deterministic=True)
    one, two = (OBSERVATIONS[0], OBSERVATIONS[1]) if batch else (OBSERVATIONS[0, 0], OBSERVATIONS[1, 0])
    executed = 1 - player.act(one)
    deter, stoch, told = player.state
    starts = np.zeros(len(told), dtype=bool)
    expected, state = agent.predict(two, (deter, stoch, 1.0 - told), starts, deterministic=True)
    assert np.array_equal(player.act(two, executed=executed), expected)
    for found, wanted in zip(player.state, state, strict=True):
        np.testing.assert_array_equal(found, wanted)
    plans = np.ones((3 if batch else 5, 2), np.int64)  # one of each, or five for one
    named = [((deter, stoch, told), executed), ((deter, stoch, 1.0 - told), None), ((deter, stoch, told), None)]
    found = [agent.imagine(two, plans, state=last, executed=done) for last, done in named]
    dreamt, wanted, untold = (one.observations["observation"] for one in found)
    assert np.array_equal(dreamt, wanted)
    assert not np.array_equal(dreamt, untold)
    for refused in (player.act, lambda obs, executed: agent.imagine(obs, plans, state=player.state, executed=executed)):
        with pytest.raises(ValueError, match="do not fit"):
            refused(two, executed=executed + 2)
    player.reset()
    player.act(one, executed=executed)  # there was nothing before
    np.testing.assert_array_equal(player.state[0], deter)


def test_what_was_measured_may_be_a_little_beyond_the_bounds() -> None:
    """As in an info's "executed_action" while learning: the same robot is played afterwards."""
    agent = tiny(env="Pendulum-v1")
    seen, players = np.zeros(3, np.float32), [agent.player(deterministic=True) for _ in range(2)]
    dreams = []
    for player, done in zip(players, (2.0, 2.39), strict=True):
        player.act(seen)
        dreams.append(agent.imagine(seen, np.zeros((2, 1)), state=player.state, executed=np.array([done])).values)
        player.act(seen, executed=np.array([done]))
    np.testing.assert_array_equal(players[0].state[0], players[1].state[0])
    np.testing.assert_array_equal(*dreams)


def test_actions_out_of_bounds_are_refused() -> None:
    """In a dream and as what was executed; the networks would cut off the one and be poisoned by NaN."""
    agent = tiny(env="Pendulum-v1")
    seen, player = np.zeros(3, np.float32), agent.player()
    player.act(seen)
    for wrong in (np.nan, 50.0):
        with pytest.raises(ValueError, match=r"actions\[0\] is .*expected \[-2.\] to \[2.\]"):
            player.act(seen, executed=np.array([wrong]))
        with pytest.raises(ValueError, match=r"actions\[1\] is .*expected \[-2.\] to \[2.\]"):
            agent.imagine(seen, np.array([[0.0], [wrong]]))
        with pytest.raises(ValueError, match=r"actions\[2, 1\] is "):
            agent.imagine(seen, np.array([[[0.0], [0.0]]] * 2 + [[[0.0], [wrong]]]))
    with pytest.raises(ValueError, match=r"has shape \(2, 3\); expected \(H, 1\) or \(plans, H, 1\), of at least"):
        agent.imagine(seen, np.zeros((2, 3)))


def test_a_state_that_is_not_finite_is_refused() -> None:
    agent = tiny()
    _, state = agent.predict(OBSERVATIONS[0])
    state[0][1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        agent.predict(OBSERVATIONS[1], state)


def test_an_action_that_is_not_finite_reaches_no_robot() -> None:
    env = Scripted(spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-2.0, 2.0, (3,)))
    agent = tiny(env=env, learning_starts=0)
    player = agent.player()
    player.act(np.zeros(2, np.float32))
    known = player.state
    with torch.no_grad():  # as after steps at a rate that is far too high
        for weight in agent.policy.networks.actor.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"The agent's action is \[nan nan nan\]"):
        player.act(np.zeros(2, np.float32))
    assert player.state is known
    with pytest.raises(ValueError, match="learning rate"):
        agent.learn(5)
    assert not env.actions


def test_a_state_may_have_been_json() -> None:
    agent = tiny()
    _, state = agent.predict(OBSERVATIONS[0])
    read = json.loads(json.dumps([part.tolist() for part in state]))
    found = agent.predict(OBSERVATIONS[1], read, deterministic=True)[1]
    for part, expected in zip(found, agent.predict(OBSERVATIONS[1], state, deterministic=True)[1], strict=True):
        np.testing.assert_array_equal(part, expected)


def test_five_lines_play_an_episode() -> None:
    env = gym.make("CartPole-v1")
    player = tiny().player()
    observation, _ = env.reset(seed=0)
    ended = False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(player.act(observation))
        ended = terminated or truncated


def test_predicting_during_training_does_not_touch_its_latents() -> None:
    alone = tiny(learning_starts=5, seed=1).learn(40)
    disturbed = tiny(learning_starts=5, seed=1)
    state: Any = None

    def peek(*_: Any) -> bool:
        nonlocal state
        _, state = disturbed.predict(OBSERVATIONS[0], state, deterministic=True)
        return True

    disturbed.learn(40, callback=peek)
    for name, tensor in alone.policy.state_dict().items():
        assert torch.equal(disturbed.policy.state_dict()[name], tensor), name


def test_a_policy_alone_can_be_saved(tmp_path: Path) -> None:
    agent = tiny(seed=0, backbone="dreamerv2", harmony={"reward": False})
    path = str(tmp_path / "policy.zip")
    agent.policy.save(path)
    loaded = MlpPolicy.load(path, device="cpu")
    for name, tensor in agent.policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    one, two = (policy.predict(OBSERVATIONS[0], deterministic=True) for policy in (agent.policy, loaded))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1][0], two[1][0])
    with pytest.raises(ValueError, match="MlpPolicy"):
        MultiInputPolicy.load(path)
    agent.save(path)
    with pytest.raises(ValueError, match="whole agent"):
        MlpPolicy.load(path)


def test_parameters_are_all_floats() -> None:
    for backbone in ("dreamerv3", "dreamerv2"):
        for name, tensor in tiny(backbone=backbone).policy.state_dict().items():
            assert tensor.dtype == torch.float32, name


def test_tensors_in_tensors_out() -> None:
    policy = tiny(seed=0).policy
    actions = policy(torch.tensor(OBSERVATIONS[0]), deterministic=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(actions.numpy(), policy.predict(OBSERVATIONS[0], deterministic=True)[0])
