"""Training that begins with the weights of a trained agent."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import main
from hd_agents.collection import Collector
from hd_agents.zoo import cards
from hd_agents.zoo.training import plan
from tests.agents import TINY, tiny

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
        ({"harmony": False}, "harmony=False: the trained agent has True"),
        ({"harmony.reward": False}, "harmony={'reward': False}: the trained agent has True"),
    ):
        with pytest.raises(ValueError, match=message):
            plan("CartPole-v1", settings=settings, trained_agent=trained)


def test_agents_that_cannot_learn_it_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"observation space is Box.*and that of the task is Box.*\(2,\)"):
        zoo.train("MountainCar-v0", device="cpu", steps=20, trained_agent=trained)
    with pytest.raises(ValueError, match=r"observation space is Box\(0, 255.*and that of the task is Box\(\[-4.8"):
        zoo.train("classic/CartPole", device="cpu", steps=20, trained_agent="classic/Catch")
    zoo.pack(trained, "CartPole-v1", episodes=1, full=False, target=tmp_path / "a", device="cpu")
    with pytest.raises(ValueError, match="packed for acting only, and cannot learn on"):
        zoo.train("classic/CartPole", steps=20, trained_agent=tmp_path / "a")
    with pytest.raises(ValueError, match="'classic/CartPoel' is no task of the zoo"):
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
