"""Evaluation: which episodes are played, how the agent acts in them, and that the numbers are Stable-Baselines3's."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from hd_agents.cli import main
from hd_agents.evaluation import ActorsMode, evaluate
from hd_agents.evaluation import rules as evaluation
from hd_agents.evaluation.episodes import SeededEpisodes, share_seeds
from hd_agents.evaluation.scores import human_normalized, prediction_interval
from tests.agents import Scripted, tiny
from tests.test_sb3_logging import Memory, logged


class Chance(gym.Env[Any, Any]):
    """Length, rewards and success of an episode depend on its seed, and the rewards on the actions too."""

    observation_space = spaces.Box(-5.0, 5.0, (3,))
    action_space = spaces.Discrete(5)
    seeds: list[int | None] = []  # noqa: RUF012  what every reset of every instance was given

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        Chance.seeds.append(seed)
        self.left = int(self.np_random.integers(2, 6))
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        reward = float(self.np_random.integers(10)) + 100.0 * float(action)
        return self._look(), reward, False, self.left == 0, {"is_success": self.left == 0 and reward > 200}

    def _look(self) -> np.ndarray:
        return self.np_random.uniform(-5, 5, 3).astype(np.float32)


@pytest.fixture
def agent() -> Any:
    return tiny(env=Chance(), seed=3)


@pytest.fixture
def suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tasks under the names of the papers' suites."""
    for name in ("atari100k/Pong-v7", "metaworld/reach-v7"):
        monkeypatch.setitem(gym.registry, name, gym.envs.registration.EnvSpec(name, Chance))


@pytest.mark.parametrize("n_envs", [1, 3])
def test_every_episode_has_the_seed_that_is_stated(agent: Any, n_envs: int) -> None:
    Chance.seeds.clear()
    found = evaluate(agent, Chance, 7, seed=20, n_envs=n_envs)
    assert found.seeds == list(range(20, 27))
    assert sorted(Chance.seeds) == found.seeds  # and no episode besides
    rows = zip(found.seeds, found.returns, found.lengths, found.successes, strict=True)
    for seed, total, length, success in rows:
        assert length == np.random.default_rng(seed).integers(2, 6)
        assert success in (False, True)
        assert 0 <= total < 410 * length


def test_deterministic_episodes_are_those_of_a_plain_loop(agent: Any) -> None:
    found = evaluate(agent, Chance, 5, "deterministic", seed=4, n_envs=2)
    assert found == evaluate(agent, Chance, 5, "deterministic", seed=4, n_envs=5)._replace(n_envs=2)
    env = Chance()
    for seed, expected, length, success in zip(*found[4:8], strict=True):
        (obs, _), player, done, total, steps = env.reset(seed=seed), agent.player(deterministic=True), False, 0.0, 0
        while not done:
            obs, reward, _, done, info = env.step(player.act(obs))
            total, steps = total + reward, steps + 1
        assert (total, steps, info["is_success"]) == (expected, length, success)


def test_sampled_episodes_repeat_and_leave_no_trace(agent: Any) -> None:
    before = torch.random.get_rng_state()
    first = evaluate(agent, Chance, 6)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert evaluate(agent, Chance, 6) == first
    assert evaluate(agent, Chance, 6, seed=100).returns != first.returns
    assert evaluate(agent, Chance, 6, "deterministic").returns != first.returns


@pytest.mark.parametrize(
    ("task", "rule"), [("atari100k/Pong-v7", "paper"), ("metaworld/reach-v7", "paper"), ("Chance", "deterministic")]
)
def test_evaluate_policy_gives_the_same_numbers(suites: None, agent: Any, task: str, rule: str) -> None:
    """The unpatched evaluate_policy, the seeds handed out by the environments' own resets."""
    found = evaluate(agent, Chance if task == "Chance" else task, 6, rule, seed=9, n_envs=2)
    shares = share_seeds(found.seeds, 2)
    env = DummyVecEnv([lambda share=share: Monitor(SeededEpisodes(Chance(), share)) for share in shares])
    torch.manual_seed(9)
    model = ActorsMode(agent.policy) if task.startswith("metaworld") else agent
    returns, lengths = evaluate_policy(
        model, env, 6, deterministic=rule == "deterministic", return_episode_rewards=True
    )
    assert sorted(zip(returns, lengths, strict=True)) == sorted(zip(found.returns, found.lengths, strict=True))


def test_the_papers_rules(suites: None, agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[bool, bool]] = []
    acting, sample = agent.policy.acting_now(), agent.policy._sample
    update = acting.filter

    def filtered(observation: Any, state: Any, action: Any, first: Any, draw: Any) -> Any:
        calls.append((draw is None, False))
        return update(observation, state, action, first, draw)

    def sampled(parameters: Any, draw: Any) -> Any:
        calls[-1] = calls[-1][0], draw is None
        return sample(parameters, draw)

    monkeypatch.setattr(acting, "filter", filtered)
    monkeypatch.setattr(agent.policy, "_sample", sampled)
    expected = {
        ("atari100k/Pong-v7", "paper"): ("sampled", 100, (False, False)),
        ("metaworld/reach-v7", "paper"): ("mode", 10, (False, True)),
        ("metaworld/reach-v7", "deterministic"): ("deterministic", 10, (True, True)),
    }
    for (task, rule), (how, episodes, modes) in expected.items():
        calls.clear()
        found = evaluate(agent, task, None, rule, n_envs=10)
        assert (found.acting, len(found.returns)) == (how, episodes)
        assert set(calls) == {modes}  # of the latent, of the action


def test_actors_mode_remembers_and_forgets_as_predict_does(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the latent's chance taken away it is predict(deterministic=True)."""
    monkeypatch.setattr(agent.policy, "latent_draw", lambda n: None)
    rng, ours, theirs = np.random.default_rng(0), None, None
    for start in ([1, 1], [0, 0], [0, 1], [0, 0], None):
        obs = rng.uniform(-5, 5, (2, 3)).astype(np.float32)
        starts = None if start is None else np.array(start, bool)
        mode, ours = ActorsMode(agent.policy).predict(obs, ours, starts)
        plain, theirs = agent.predict(obs, theirs, starts, deterministic=True)
        assert np.array_equal(mode, plain)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_other_tasks_are_played_as_often_as_is_stated() -> None:
    assert evaluation.protocol("CartPole-v1") == ("sampled", 20)
    assert evaluation.protocol("hd_agents/Catch-v0") == ("sampled", 20)


@pytest.mark.parametrize("module", ["", "hd_agents:", "my.package:"])
def test_how_each_suite_is_played(module: str) -> None:
    """By the namespace of an id, also with the module in front that Gymnasium imports for it."""
    for suite in ("atari100k", "ALE"):
        assert evaluation.protocol(f"{module}{suite}/Pong-v0") == ("sampled", 100)
    for suite in ("dmc_vision", "dmc_proprio", "dmc_natural", "dm_control", "metaworld", "Meta-World"):
        assert evaluation.protocol(f"{module}{suite}/walker-walk-v0") == ("mode", 10)


def test_no_environment_is_made_that_plays_nothing(agent: Any) -> None:
    assert evaluate(agent, Chance, 2, n_envs=5).n_envs == 2


def test_an_environment_itself_is_refused(agent: Any) -> None:
    with pytest.raises(ValueError, match="a function that makes the environment"):
        evaluate(agent, Chance(), 1)


def test_observations_are_normalised_as_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(Chance())]))
    agent = tiny(env=env).learn(60)
    before, count = env.obs_rms.mean.copy(), env.obs_rms.count
    seen: list[Any] = []
    predict = agent.predict
    monkeypatch.setattr(agent, "predict", lambda obs, *a, **k: seen.append(obs) or predict(obs, *a, **k))
    found = evaluate(agent, Chance, 2, seed=5)
    first, _ = Chance().reset(seed=5)
    np.testing.assert_allclose(seen[0][0], env.normalize_obs(first), rtol=1e-6)
    assert abs(seen[0][0] - first).max() > 0.1
    assert (env.obs_rms.count, env.training, env.venv.num_envs) == (count, True, 1)
    assert np.array_equal(env.obs_rms.mean, before)
    assert all(total == round(total) for total in found.returns)  # the task's own rewards
    agent.learn(20, reset_num_timesteps=False)


def test_a_normaliser_around_transposed_images_is_evaluated() -> None:
    space = spaces.Dict({"eye": spaces.Box(0, 255, (16, 17, 3), np.uint8), "arm": spaces.Box(-1, 1, (3,))})

    def make() -> gym.Env[Any, Any]:
        return Scripted(space, spaces.Discrete(2))

    env = VecNormalize(VecTransposeImage(DummyVecEnv([make])), norm_obs_keys=["arm"])
    assert evaluate(tiny("MultiInputPolicy", env), make, 2).lengths == [7, 7]
    stacked = VecNormalize(VecFrameStack(DummyVecEnv([lambda: gym.make("CartPole-v1")]), 3))
    with pytest.raises(ValueError, match="spaces do not match"):
        evaluate(tiny(env=stacked), "CartPole-v1", 1)


def test_the_record_is_json_and_says_what_was_done(suites: None, agent: Any) -> None:
    found = evaluate(agent, "atari100k/Pong-v7", 4, seed=2)
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["returns"] == found.returns
    assert record["success_rate"] == np.mean(found.successes)
    assert record["mean_return"] == pytest.approx(np.mean(found.returns))
    assert record["std_return"] == pytest.approx(np.std(found.returns))
    assert "env_kwargs" not in record
    assert record["human_normalized_score"] == pytest.approx((record["mean_return"] + 20.7) / 35.3)
    assert {"hd_agents", "PyTorch", "Gymnasium", "ale-py"} <= record["versions"].keys()
    assert (record["rule"], record["acting"], record["seeds"]) == ("paper", "sampled", [2, 3, 4, 5])


def test_an_episode_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Scripted(spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(2), length=8)
    agent = tiny(env=env)
    evaluate(agent, lambda: env, 2)
    monkeypatch.setattr("hd_agents.evaluation.episodes.LONG", 8)
    with pytest.warns(UserWarning, match=r"has not ended in 8 steps.*: register it with max_episode_steps=") as caught:
        assert evaluate(agent, lambda: env, 1).lengths == [8]
    assert len(caught) == 1


def test_a_task_without_success_has_none() -> None:
    found = evaluate(tiny(size="nano"), "CartPole-v1", 2)
    assert found.successes is None
    assert "success_rate" not in found.to_json()
    assert found.returns == found.lengths


def test_images_are_evaluated_as_they_were_trained() -> None:
    agent = tiny("CnnPolicy", "hd_agents/Catch-v0", seed=0)
    found = evaluate(agent, lambda: gym.make("hd_agents/Catch-v0", balls=1), 2, "deterministic")
    player, env = agent.player(deterministic=True), gym.make("hd_agents/Catch-v0", balls=1)
    (obs, _), done, total = env.reset(seed=0), False, 0.0
    while not done:
        obs, reward, done, *_ = env.step(player.act(obs))
        total += reward
    assert found.returns[0] == total


def test_actors_mode_refuses_what_predict_refuses(agent: Any) -> None:
    player = ActorsMode(agent.policy)
    with pytest.raises(ValueError, match="finite"):
        player.predict(np.full((1, 3), np.nan, np.float32))
    _, state = player.predict(np.zeros((3, 3), np.float32), episode_start=[True, True, True])
    with pytest.raises(ValueError, match="episode_start has 2 entries for 3"):
        player.predict(np.zeros((3, 3), np.float32), state, [True, False])


def test_an_agent_of_other_spaces_is_refused(agent: Any) -> None:
    closed: list[bool] = []

    class Closed(gym.Wrapper[Any, Any, Any, Any]):
        def close(self) -> None:
            closed.append(True)
            super().close()

    with pytest.raises(ValueError, match="spaces do not match"):
        evaluate(agent, lambda: Closed(gym.make("CartPole-v1")), 2, n_envs=2)
    assert len(closed) == 2


def test_environments_before_one_that_cannot_be_made_are_closed(agent: Any) -> None:
    envs: list[Any] = []

    class Closed(Chance):
        closed = False

        def close(self) -> None:
            self.closed = True

    def make() -> Closed:
        if len(envs) == 2:
            raise RuntimeError("no licence left")
        envs.append(Closed())
        return envs[-1]

    with pytest.raises(RuntimeError, match="no licence left"):
        evaluate(agent, make, 3, n_envs=3)
    assert [env.closed for env in envs] == [True, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rule": "best"}, "rule='best'"), ({"episodes": 0}, "episodes=0"), ({"seed": -1}, "seed=-1")],
)
def test_wrong_arguments(agent: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(agent, Chance, **{"episodes": 1, **change})


@pytest.mark.parametrize(
    ("task", "score", "normalized"),
    [
        ("atari100k/Pong-v0", 14.6, 1.0),
        ("ALE/Alien-v5", 227.8, 0.0),
        ("ale_py:ALE/Alien-v5", 7127.7, 1.0),
        ("atari100k/Jamesbond-v0", (29.0 + 302.8) / 2, 0.5),
        ("atari100k/Skiing-v0", 1.0, None),
        ("metaworld/reach-v0", 1.0, None),
    ],
)
def test_human_normalized(task: str, score: float, normalized: float | None) -> None:
    found = human_normalized(task, score)
    assert found == (None if normalized is None else pytest.approx(normalized))


def test_prediction_interval_covers_what_it_promises() -> None:
    """Of pairs of samples of one distribution, the second's mean is in the first's range about as often as said."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(150):
        low, high = prediction_interval(rng.normal(5, 2, 50).tolist(), 20, confidence=0.8)
        inside += low <= rng.normal(5, 2, 20).mean() <= high
    assert 0.72 < inside / 150 < 0.88
    assert prediction_interval([3.0] * 9, 4) == (3.0, 3.0)
    assert prediction_interval([3.0], 4) == (3.0, 3.0)


def test_prediction_interval_of_few_episodes_is_wide_enough() -> None:
    """Without Student's t it covers 96%, and not 99%."""
    rng, inside = np.random.default_rng(2), 0
    for _ in range(400):
        low, high = prediction_interval(rng.normal(5, 2, 10).tolist(), 10)
        inside += low <= rng.normal(5, 2, 10).mean() <= high
    assert inside / 400 > 0.98


def test_prediction_interval_is_of_99_percent() -> None:
    """Of both means: 2.64 deviations (Student's t) of 0.5, times the root of 1/100 + 1/100 or of 1/100 + 1/25."""
    assert prediction_interval([0.0, 1.0] * 50, 100) == pytest.approx((0.314, 0.686), abs=0.012)
    assert prediction_interval([0.0, 1.0] * 50, 25) == pytest.approx((0.205, 0.795), abs=0.012)


def test_success_is_logged_in_training_and_by_eval_callback() -> None:
    """`is_success` counts at the ends of episodes only, and the rates are means over episodes."""

    class EveryThird(Chance):
        def __init__(self) -> None:
            self.episode = -1

        def reset(self, **named: Any) -> Any:
            self.episode += 1
            return super().reset(**named)

        def step(self, action: Any) -> Any:
            *rest, _ = super().step(action)
            return *rest, {"is_success": self.left > 0 or self.episode % 3 == 0}

    agent = tiny(env=EveryThird(), learning_starts=10_000)
    callback = EvalCallback(Monitor(EveryThird()), n_eval_episodes=6, eval_freq=30, verbose=0)
    tables = [table for _, table in logged(agent, 60, log_interval=1, callback=callback)]
    rates = [table["rollout/success_rate"] for table in tables if "rollout/success_rate" in table]
    assert rates[:4] == [1.0, 0.5, pytest.approx(1 / 3), 0.5]
    assert [table["eval/success_rate"] for table in tables if "eval/success_rate" in table] == [
        pytest.approx(1 / 3)
    ] * 2
    assert isinstance(agent.logger.output_formats[0], Memory)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = tiny(seed=1)
    agent.save(tmp_path / "agent.zip")
    command = ["evaluate", "CartPole-v1", "--model", str(tmp_path / "agent.zip"), "--episodes", "3", "--seed", "5"]
    assert main([*command, "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert len(out.splitlines()) == len(record) + 2  # a line for each entry
    assert record["returns"] == evaluate(agent, "CartPole-v1", 3, seed=5).returns
    assert (record["seeds"], record["acting"], record["env_steps"]) == ([5, 6, 7], "sampled", 0)
    assert f"{record['mean_return']:.2f}" in err
    assert main([*command, "--output", str(tmp_path / "new" / "a.json"), "--rule", "deterministic"]) == 0
    written = json.loads((tmp_path / "new" / "a.json").read_text())
    assert written["returns"] == evaluate(agent, "CartPole-v1", 3, "deterministic", seed=5).returns
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model", "nowhere.zip"], "no saved agent"),
    ],
)
def test_command_line_mistakes(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny().save(tmp_path / "agent.zip")
    assert main(["evaluate", "CartPole-v1", "--model", str(tmp_path / "agent.zip"), *change]) == 2
    assert message in capsys.readouterr().err
    assert main(["evaluate", "Acrobot-v1", "--model", str(tmp_path / "agent.zip")]) == 2
    assert "cannot play Acrobot-v1" in capsys.readouterr().err
    assert main(["evaluate", "NoTask-v0", "--model", str(tmp_path / "agent.zip")]) == 2
    assert "cannot make 'NoTask-v0'" in capsys.readouterr().err


def test_few_episodes_leave_the_range_wide_however_many_follow() -> None:
    low, high = prediction_interval([0.0, 1.0, 2.0, 3.0], 400)
    assert low < 0.6 and high > 2.4
