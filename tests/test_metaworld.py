"""Meta-World: episodes, goals, success, and which way up the picture is."""

from typing import Any

import numpy as np
import pytest
from suites import make


def test_defaults() -> None:
    env = make("metaworld/lever-pull-v0", size=64, shadows=True).unwrapped
    assert env.observation_space.shape == (64, 64, 3)
    assert (env.action_repeat, env._eye._shadows) == (1, True)
    assert env._eye._camera_number == env._env.model.camera("corner").id
    assert np.array_equal(env.action_space.high, np.ones(4, np.float32))


@pytest.mark.filterwarnings("ignore:Constant.s. may be too high")  # the scripted policy's; clipping is meant
def test_success_counts_from_its_first_step_on_and_ends_nothing() -> None:
    env = make("metaworld/window-open-v0", observation="state")
    from metaworld.policies import ENV_POLICY_MAP

    policy = ENV_POLICY_MAP["window-open-v3"]()
    state, info = env.reset(seed=0)
    assert info == {"success": False, "is_success": False}
    successes, ever, ends = [], [], []
    for step in range(500):
        action = policy.get_action(state.astype(np.float64)) if step < 200 else np.array([0, -1, 1, 0])  # then go away
        state, reward, terminated, truncated, info = env.step(np.clip(action, -1, 1).astype(np.float32))
        assert 0 <= reward <= 10
        successes.append(info["success"])
        ever.append(info["is_success"])
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * 499 + [(False, True)]
    assert True in successes
    assert ever == [any(successes[: step + 1]) for step in range(500)]
    assert env.reset()[1]["is_success"] is False


def test_a_success_that_is_lost_again_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("metaworld/window-open-v0", observation="state").unwrapped
    env.reset(seed=0)
    step, successes = env._env.step, iter([False, True, False])

    def stepped(action: Any) -> Any:
        *rest, info = step(action)
        return *rest, {**info, "success": float(next(successes))}

    monkeypatch.setattr(env._env, "step", stepped)
    infos = [env.step(np.zeros(4, np.float32))[-1] for _ in range(3)]
    assert [info["success"] for info in infos] == [False, True, False]
    assert [info["is_success"] for info in infos] == [False, True, True]


def test_the_second_corner_is_where_the_official_code_has_it() -> None:
    env = make("metaworld/lever-pull-v0", camera="corner2").unwrapped
    assert env._env.model.camera("corner2").pos == pytest.approx([0.75, 0.075, 0.7])


def test_goals_are_new_in_each_episode() -> None:
    env = make("metaworld/reach-v0", observation="state")
    first = [env.reset(seed=seed)[0][-3:] for seed in (0, None, None, 0)]
    assert np.array_equal(first[0], first[3])
    assert len({tuple(goal) for goal in first}) == 3
    assert np.all(np.abs(first[0]) > 0)  # and the state shows them


def test_rewards_add_up_over_the_repeat() -> None:
    single = make("metaworld/reach-v0", observation="state")
    double = make("metaworld/reach-v0", observation="state", action_repeat=2)
    single.reset(seed=3)
    double.reset(seed=3)
    single.action_space.seed(0)
    for _ in range(10):
        action = single.action_space.sample()
        (_, first, *_), (state, second, *_) = single.step(action), single.step(action)
        both, reward, *_ = double.step(action)
        assert reward == pytest.approx(first + second)
        assert np.array_equal(both, state)
    for step in range(240):
        truncated = double.step(action)[3]
        assert truncated == (step == 239)  # 500 steps of the simulator


@pytest.mark.parametrize("camera", ["corner", "corner2", "corner3"])
def test_up_is_up(camera: str) -> None:
    """The hand, painted green, rises in the picture when it rises in the world."""
    env = make("metaworld/reach-v0", size=96, camera=camera, shadows=False)
    inner = env.unwrapped._env
    bodies = [inner.model.body(name).id for name in ("right_hand", "hand", "rightclaw", "leftclaw")]
    hand = np.isin(inner.model.geom_bodyid, bodies)
    inner.model.geom_matid[hand] = -1
    inner.model.geom_rgba[hand] = (0, 1, 0, 1)
    rows = []
    for move in (-1.0, 1.0):
        env.reset(seed=0)
        for _ in range(30):
            env.unwrapped._env.step(np.array([0, 0, move, 0]))
        observation = env.step(np.array([0, 0, move, 0], np.float32))[0].astype(int)
        green = (observation[..., 1] > observation[..., 0] + 40) & (observation[..., 1] > observation[..., 2] + 40)
        assert green.sum() >= 4
        rows.append(np.argwhere(green)[:, 0].mean())
    assert rows[1] < rows[0] - 6  # pixels
    env.close()


def test_two_draw_in_one_process() -> None:
    one = make("metaworld/reach-v0", size=16, shadows=False)
    alone, _ = one.reset(seed=0)
    two = make("metaworld/drawer-open-v0", size=16, shadows=False)
    other, _ = two.reset(seed=0)
    beside, _ = one.reset(seed=0)
    assert np.array_equal(alone, beside)
    assert np.abs(alone.astype(int) - other).mean() > 1
    one.close()
    two.close()


@pytest.mark.parametrize("wrong", [{"action_repeat": 0}, {"camera": "topview"}, {"observation": "sound"}])
def test_refuses_what_it_cannot_do(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make("metaworld/reach-v0", **wrong)
