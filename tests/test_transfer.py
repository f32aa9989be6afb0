"""Training that begins with the weights of a trained agent."""

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import main
from hd_agents.training.collection import Collector
from hd_agents.zoo import cards
from hd_agents.zoo.training import plan
from tests.agents import TINY, Scripted, tiny

OWN = {name: TINY[name] for name in ("size", "policy_kwargs")}  # of the trained agent, and not of the zoo's row
FAST = {name: TINY[name] for name in ("learning_starts", "batch_size", "sequence_length", "train_ratio")}
RUN = {"task": "CartPole-v1", "command": "c", "commit": "d", "machine": "m", "seed": 0, "wall_seconds": 1.0}


class Start(BaseCallback):
    """Keeps the weights and counters of the moment at which learning starts."""

    def _on_training_start(self) -> None:
        agent: Any = self.model
        self.weights = {key: tensor.clone() for key, tensor in agent.policy.state_dict().items()}
        self.counters = agent._n_updates, agent.learner.updates, agent.num_timesteps
        self.remembered = len(agent.learner.model_optimizer.state)

    def _on_step(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hd_agents.cli.pictures.leave", lambda *arguments: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("trained") / "agent.zip"
    tiny(seed=1).learn(60).save(file)
    file.with_name("run.json").write_text(json.dumps(RUN))
    return file


@pytest.fixture
def random(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each vector step, whether its actions were random."""
    found: list[bool] = []
    act = Collector.act

    def watched(self: Collector, observation: Any, starts: Any, random: bool) -> Any:
        found.append(random)
        return act(self, observation, starts, random)

    monkeypatch.setattr(Collector, "act", watched)
    return found


@pytest.mark.parametrize("kind", ["agent", "file", "run", "package"])
def test_it_begins_with_the_weights_and_plays_by_itself(
    kind: str, trained: Path, tmp_path: Path, random: list[bool]
) -> None:
    agent = HarmonyDreamAgent.load(trained, device="cpu")
    if kind == "package":
        zoo.pack(trained, "CartPole-v1", episodes=1, target=tmp_path / "a", device="cpu", bits=32)
    sources = {"agent": agent, "file": trained, "run": trained.parent, "package": tmp_path / "a"}
    random.clear()
    start = Start()
    found = zoo.train(
        "classic/CartPole", 5, steps=60, device="cpu", callback=start, trained_agent=sources[kind], gamma=0.9, **FAST
    )
    state = agent.policy.state_dict()
    assert start.weights.keys() == state.keys()
    assert all(torch.equal(tensor, start.weights[key]) for key, tensor in state.items())
    assert start.counters == (agent._n_updates, agent._n_updates, 0)
    assert start.remembered == 0
    assert random == [False] * 60
    assert found._n_updates == found.learner.updates > agent._n_updates > 0
    assert (found.gamma, found.seed) == (0.9, 5)
    assert {name: getattr(found, name) for name in OWN} == OWN
    assert any((tensor != start.weights[key]).any() for key, tensor in found.policy.state_dict().items())
    assert all(torch.equal(tensor, state[key]) for key, tensor in agent.policy.state_dict().items())


def test_only_who_has_learned_nothing_plays_at_random(random: list[bool]) -> None:
    agent = tiny().learn(40)
    assert random == [True] * 24 + [False] * 16
    assert agent._n_updates == 1
    random.clear()
    with pytest.warns(UserWarning, match="No learning: 20 steps end before learning_starts=24"):
        agent.learn(20)
    assert agent._n_updates == 1  # learning_starts counts anew
    assert random == [False] * 20


def test_settings_of_other_networks_are_refused(trained: Path) -> None:
    same = plan("CartPole-v1", settings={"size": "nano", "policy_kwargs.units": 16}, trained_agent=trained)
    assert same.arguments["policy"] == "MlpPolicy"
    for settings, message in (
        ({"size": "small"}, r"size='small': the trained agent has 'nano'.*Leave size out"),
        ({"policy_kwargs.units": 32}, "policy_kwargs.units=32: the trained agent has 16"),
        ({"policy_kwargs.layers": 3}, "policy_kwargs.layers=3: the trained agent was made without it"),
        ({"policy_kwargs": {"units": 16}}, "policy_kwargs={'units': 16}: the trained agent has {'deter': 16"),
        ({"policy": "CnnPolicy"}, "policy='CnnPolicy': the trained agent has 'MlpPolicy'"),
    ):
        with pytest.raises(ValueError, match=message):
            plan("CartPole-v1", settings=settings, trained_agent=trained)


def test_what_is_no_network_may_differ(trained: Path) -> None:
    """Such as what is harmonised: a loss that both harmonise keeps its coefficient."""
    agent = HarmonyDreamAgent.load(trained, device="cpu")
    theirs = agent.policy.networks.harmonizer
    sigmas = dict(zip(theirs.harmonized, theirs.log_sigma.tolist(), strict=True))
    for harmony, names in ((False, set()), ({"reward": False}, sigmas.keys() - {"reward"}), (True, sigmas.keys())):
        start = Start()
        run: Any = {"device": "cpu", "steps": 40, "trained_agent": trained, "callback": start, **FAST}
        found = zoo.train("CartPole-v1", harmony=harmony, **run)
        assert found._n_updates > agent._n_updates
        own = found.policy.networks.harmonizer.harmonized
        assert set(own) == names
        assert start.weights["networks.harmonizer.log_sigma"].tolist() == [sigmas[name] for name in own]


def test_with_more_environments_a_policy_class_and_from_8_bits(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hd_agents.zoo.packing._check_loss", lambda card: None)  # what one episode scores is chance
    package = zoo.pack(trained, "CartPole-v1", episodes=1, target=tmp_path / "a", device="cpu", bits=8)
    policy = HarmonyDreamAgent.load(trained, device="cpu").policy_class
    settings: dict[str, Any] = {**FAST, "n_envs": 2, "policy": policy, "policy_kwargs": TINY["policy_kwargs"]}
    start = Start()
    found = zoo.train("CartPole-v1", steps=60, device="cpu", trained_agent=package, callback=start, **settings)
    packed = zoo.load(package, device="cpu").policy.state_dict()
    assert all(torch.equal(tensor, start.weights[key]) for key, tensor in packed.items())
    assert found._n_updates > start.counters[0] > 0
    assert found.n_envs == 2


class OwnPolicy(HarmonyDreamAgent.policy_aliases["MlpPolicy"]):  # type: ignore[misc]
    """A policy class of a user's own."""


def test_a_policy_class_of_ones_own_is_kept() -> None:
    agent = tiny(policy=OwnPolicy)
    assert plan("CartPole-v1", trained_agent=agent).arguments["policy"] is OwnPolicy
    with pytest.raises(ValueError, match=r"policy='MlpPolicy': the trained agent has .*OwnPolicy"):
        plan("CartPole-v1", settings={"policy": "MlpPolicy"}, trained_agent=agent)


def test_other_actions_and_missing_files_are_named(trained: Path, tmp_path: Path) -> None:
    four = tiny(env=Scripted(gym.make("CartPole-v1").observation_space, spaces.Discrete(4), length=6))
    with pytest.raises(
        ValueError, match=r"Action spaces .* is Discrete\(4\), that of the environment is Discrete\(2\)"
    ):
        zoo.train("CartPole-v1", device="cpu", steps=20, trained_agent=four)
    with pytest.raises(FileNotFoundError, match=r"none\.zip"):
        zoo.train("CartPole-v1", device="cpu", steps=20, trained_agent=tmp_path / "none.zip")
    with pytest.raises(ValueError, match="Did you mean trained_agent"):
        zoo.train("CartPole-v1", steps=20, trained_agnet=trained)


def test_the_trained_agent_is_let_go_of(trained: Path) -> None:
    agent = HarmonyDreamAgent.load(trained, device="cpu")
    seen = weakref.ref(agent)
    run = plan("CartPole-v1", settings=FAST, trained_agent=agent)
    assert run.trained_agent is agent
    del agent, run

    class Look(Start):
        def _on_step(self) -> bool:
            gc.collect()
            found.append(seen() is None)
            return False

    found: list[bool] = []
    with pytest.warns(UserWarning, match="No learning"):
        zoo.train("CartPole-v1", steps=20, device="cpu", callback=Look(), trained_agent=trained, **FAST)
    assert found == [True]


def test_agents_that_cannot_learn_it_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Observation spaces .* is Box.*, that of the environment is Box.*\(2,\)"):
        zoo.train("MountainCar-v0", device="cpu", steps=20, trained_agent=trained)
    with pytest.raises(ValueError, match=r"is Box\(0, 255.*, that of the environment is Box\(\[-4.8"):
        zoo.train("classic/CartPole", device="cpu", steps=20, trained_agent="classic/Catch")
    zoo.pack(trained, "CartPole-v1", episodes=1, full=False, target=tmp_path / "a", device="cpu")
    with pytest.raises(ValueError, match="packed for acting only, and cannot learn on"):
        zoo.train("classic/CartPole", steps=20, trained_agent=tmp_path / "a")
    with pytest.raises(ValueError, match=r"There is no model 'classic/CartPoel'.*Did you mean classic/CartPole"):
        zoo.train("classic/CartPole", steps=20, trained_agent="classic/CartPoel")


def test_on_the_command_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"--set={name}={value}" for name, value in FAST.items()]
    run = tmp_path / "run"
    command = ["train", "classic/CartPole", "--steps", "40", "-i", str(trained), *settings]
    assert main([*command, "--folder", str(run), "--resume"]) == 0
    facts = json.loads((run / "run.json").read_text())
    before = HarmonyDreamAgent.load(trained, device="cpu")
    began = {"env_steps": 60, "gradient_steps": before._n_updates}
    assert facts["trained_agent"] == {"model": str(trained), **began}
    assert f"--trained-agent {trained}" in facts["command"]
    agent = HarmonyDreamAgent.load(run / "agent.zip", device="cpu")
    assert (agent.num_timesteps, agent.size) == (40, "nano")
    assert agent._n_updates > before._n_updates
    longer = [word if word != "40" else "60" for word in command]
    assert main([*longer, "--folder", str(run), "--resume"]) == 0
    assert "resumed at step 40" in capsys.readouterr().out
    card = zoo.card(zoo.pack(run / "agent.zip", "CartPole-v1", episodes=1, target=tmp_path / "a", device="cpu"))
    assert json.loads((run / "run.json").read_text())["trained_agent"] == facts["trained_agent"]
    text = f"| began with | `{trained}`, after 60 environment and {before._n_updates} gradient steps |"
    assert text in cards.readme(card)


def test_mistakes_on_the_command_line(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = ["--folder", str(tmp_path / "runs")]
    assert main(["train", "MountainCar-v0", "-i", str(trained), *folder]) == 2
    assert "its weights fit no other" in capsys.readouterr().err
    assert main(["train", "CartPole-v1", "-i", str(trained), "--size", "small", *folder]) == 2
    assert "Leave size out" in capsys.readouterr().err
    assert main(["train", "CartPole-v1", "-i", str(tmp_path / "none.zip"), *folder]) == 2
    assert "none.zip" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*"))


def test_a_run_is_resumed_with_what_it_began_with(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes on with its own weights: the model is not read again, and no other can take its place."""
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(trained.parent, model)
    settings = [f"--set={name}={value}" for name, value in FAST.items()]
    command = ["train", "classic/CartPole", *settings, "--folder", str(run), "--resume", "--steps"]
    assert main([*command, "40", "-i", str(model)]) == 0
    began = json.loads((run / "run.json").read_text())["trained_agent"]
    shutil.rmtree(model)
    updates = []
    for steps, more in (("60", []), ("80", ["-i", str(model)])):
        assert main([*command, steps, *more]) == 0
        assert f"resumed at step {int(steps) - 20}; changed: n_timesteps" in capsys.readouterr().out
        facts = json.loads((run / "run.json").read_text())
        assert facts["trained_agent"] == began
        assert f"--trained-agent {model}" in facts["command"]
        agent = HarmonyDreamAgent.load(run / "agent.zip", device="cpu")
        assert {name: getattr(agent, name) for name in OWN} == OWN
        updates.append(agent._n_updates)
    assert updates[1] > updates[0] > began["gradient_steps"]
    assert main([*command, "100", "-i", str(trained)]) == 2
    message = capsys.readouterr().err
    assert f"begun with {model}" in message and f"not with {trained}" in message
    assert "leave --trained-agent out" in message
    assert json.loads((run / "run.json").read_text()) == facts


def test_a_resumed_run_takes_what_was_set_of_its_networks(trained: Path, tmp_path: Path) -> None:
    settings = [f"--set={name}={value}" for name, value in FAST.items()]
    command = ["train", "classic/CartPole", *settings, "--folder", str(tmp_path / "run"), "--resume"]
    command += ["-i", str(trained), "--set=policy_kwargs.units=16", "--size=nano", "--steps"]
    assert main([*command, "40"]) == 0
    assert main([*command, "60"]) == 0
    agent = HarmonyDreamAgent.load(tmp_path / "run" / "agent.zip", device="cpu")
    assert agent.num_timesteps == 60
    assert {name: getattr(agent, name) for name in OWN} == OWN
    assert main([*command, "80", "--set=policy_kwargs.units=17"]) == 2


def test_a_run_that_began_at_random_stays_one(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"--set={name}={value}" for name, value in FAST.items()]
    command = ["train", "classic/CartPole", *settings, "--folder", str(tmp_path / "run"), "--resume", "--steps"]
    assert main([*command, "40"]) == 0
    assert main([*command, "60", "-i", str(trained)]) == 2
    assert "begun with random weights, and goes on with its own weights" in capsys.readouterr().err
    assert "trained_agent" not in json.loads((tmp_path / "run" / "run.json").read_text())


def test_what_the_flag_names_is_no_setting(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "classic/CartPole", "--steps", "20", f"--set=trained_agent={trained}"]) == 2
    assert "on the command line --trained-agent" in capsys.readouterr().err
    assert main(["train", "classic/CartPole", "--steps", "20", "-i", "classic/CartPoel"]) == 2
    assert "There is no model 'classic/CartPoel'" in capsys.readouterr().err
