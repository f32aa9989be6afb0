"""Agents of one's own, as docs/extending.md has them: trained, resumed, evaluated and compared by their names."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import main, pictures
from hd_agents.cli.compare import MEANING
from hd_agents.cli.runs import make_run
from hd_agents.cli.train import add_parser
from hd_agents.zoo.classes import class_name, find_class
from hd_agents.zoo.training import plan

SOURCE = """
import torch
from hd_agents import HarmonyDreamAgent
from hd_agents.harmony import Harmonizer, Term


class MyAgent(HarmonyDreamAgent):
    def __init__(self, *args, inverse_scale=1.0, **kwargs):
        self.inverse_scale = inverse_scale
        super().__init__(*args, **kwargs)

    def _make_policy(self):
        policy = super()._make_policy()
        world_model, harmonizer = policy.networks.world_model, policy.networks.harmonizer
        world_model.inverse = torch.nn.Linear(2 * world_model.rssm.features, policy.actions.size)
        plain = world_model.losses

        def losses(batch, draws, state=None):
            output = plain(batch, draws, state)
            features = world_model.features(output.posterior)
            guess = world_model.inverse(torch.cat([features[:, :-1], features[:, 1:]], -1))
            error = (guess - batch.action[:, 1:]).square().mean()
            return output._replace(losses={**output.losses, "inverse": error})

        world_model.losses = losses
        terms = {**harmonizer.terms, "inverse": Term(self.inverse_scale)}
        policy.networks.harmonizer = Harmonizer(terms, harmonizer.kind)
        return policy
"""
OWN = "own_methods:MyAgent"
TINY = ["batch_size=2", "sequence_length=8", "train_ratio=1", "learning_starts=40", "pretrain_steps=1"]
SETTINGS = [f"--set={text}" for text in (*TINY, f"agent_class={OWN}", "inverse_scale=0.5")]


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the working directory, which is no place of Python's own."""
    (tmp_path / "own_methods.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(pictures, "leave", lambda *arguments: None)
    yield
    sys.modules.pop("own_methods", None)


def test_a_class_of_ones_own_is_trained_resumed_and_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "CartPole-v1", "--folder", "run", "--device", "cpu", "--checkpoint-every", "30", "--resume"]
    for steps in ("60", "90"):
        assert main([*command, *SETTINGS, "--steps", steps]) == 0
    assert main([*command, *SETTINGS[:-2], "--steps", "120"]) == 2
    told, mistake = capsys.readouterr()
    assert f"run holds a run of {OWN}, which cannot go on as one of HarmonyDreamAgent: add --set " in mistake
    assert "resumed at step 60; changed: n_timesteps 60 -> 90\n" in told
    assert json.loads(Path("run/run.json").read_text())["agent_class"] == OWN
    agent = find_class(OWN).load("run/agent.zip")
    assert (agent.num_timesteps, agent.inverse_scale) == (90, 0.5)  # type: ignore[attr-defined]
    assert agent.policy.networks.harmonizer.harmonized[-1] == "inverse"

    model = ["--model", "run", "--episodes", "1"]
    assert main(["evaluate", "CartPole-v1", *model]) == 2, "no file chooses what is imported"
    assert f"run is of {OWN}: add --agent-class {OWN}" in capsys.readouterr().err
    assert main(["evaluate", "CartPole-v1", *model, "--agent-class", OWN, "--output", "score.json"]) == 0
    with pytest.raises(ValueError, match="networks of HarmonyDreamAgent alone: share the file of save"):
        zoo.pack("run/agent.zip", "classic/CartPole", target="packed")
    assert main([*command, "--set=agent_class=HarmonyDreamAgent", *SETTINGS[:-2]]) == 2
    assert "agent_class='HarmonyDreamAgent': write the module and its class" in capsys.readouterr().err


def test_a_variant_may_be_an_agent_of_ones_own() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    options = parser.parse_args(["train", "CartPole-v1", "--seed", "0", *SETTINGS])
    options.episodes = None
    sys.path.insert(0, str(Path.cwd()))
    run = make_run("mine", Path("mine_0"), MEANING.get("mine", "mine"), options)
    training, evaluation = run.job().commands
    assert f"--set=agent_class={OWN}" in training
    assert " ".join(evaluation).endswith(f"--agent-class {OWN}")


def test_the_zoo_trains_a_class(tmp_path: Path) -> None:
    class Loud(HarmonyDreamAgent):
        pass

    made = plan("CartPole-v1", 60, settings={"agent_class": Loud})
    assert made.agent_class is Loud
    assert made.row()["agent_class"] == class_name(Loud)
    assert "agent_class" not in plan("CartPole-v1", 60).row()
    with pytest.raises(ValueError, match="inverse_scale=1: no such setting"):
        plan("CartPole-v1", settings={"inverse_scale": 1})


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("MyAgent", "write the module and its class, such as agent_class=my_module:MyAgent"),
        ("../own_methods:MyAgent", "write the module and its class"),
        ("nowhere.at_all:MyAgent", "there is no module nowhere here"),
        ("own_methods:Mine", r"own_methods\.py has no Mine"),
        ("own_methods:Harmonizer", "is no subclass of HarmonyDreamAgent"),
        (HarmonyDreamAgent.load, "is no subclass of HarmonyDreamAgent"),
    ],
)
def test_what_is_no_class_is_told(told: object, words: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    with pytest.raises(ValueError, match=words):
        find_class(told)
