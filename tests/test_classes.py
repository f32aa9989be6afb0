"""Agents of one's own, as docs/extending.md has them: trained, resumed, evaluated and compared by their names."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import main, pictures, runs
from hd_agents.cli.compare import MEANING
from hd_agents.cli.running import Job
from hd_agents.cli.runs import make_run
from hd_agents.cli.train import add_parser
from hd_agents.zoo.classes import class_name, find_class
from hd_agents.zoo.results import read_rows
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


class Other(MyAgent):
    def __init__(self, *args, widths=(3, 4), **kwargs):
        self.widths = widths
        super().__init__(*args, **{"backbone": "dreamerv2", "harmony": False, **kwargs})
"""
OWN, OTHER = "own_methods:MyAgent", "own_methods:Other"
TINY = ["batch_size=2", "sequence_length=8", "train_ratio=1", "learning_starts=40", "pretrain_steps=1"]
SETTINGS = [f"--set={text}" for text in (*TINY, f"agent_class={OWN}", "inverse_scale=0.5")]


leave = pictures.leave


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


def test_the_class_that_loads_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class MyAgent(HarmonyDreamAgent):
        pass

    leave(MyAgent("MlpPolicy", "CartPole-v1", size="nano"), plan("CartPole-v1"), 0, tmp_path, played=False)
    assert "agent.zip  the trained agent, for MyAgent.load\n" in capsys.readouterr().out


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


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `compare` and `benchmark` start runs here: a process of its own takes seconds to begin."""

    def run_jobs(jobs: Sequence[Job], at_once: int, ended: Callable[[Job, int], None], watch: Any) -> None:
        for job in jobs:
            ended(job, max(main([*command[len(runs.PROGRAM) :]]) for command in job.commands))

    monkeypatch.setattr(runs, "run_jobs", run_jobs)


@pytest.mark.usefixtures("in_process")
def test_it_goes_through_compare_benchmark_and_tune(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--steps", "60", "--device", "cpu", "--episodes", "1", *(f"--set={text}" for text in TINY)]
    own = [f"agent_class={OTHER}", "widths=(5, 6)"]
    compare = ["compare", "classic/CartPole", "--seeds", "1", "--folder", "compared", "--resume", *tiny]
    benchmark = ["benchmark", "classic", "--tasks", "CartPole", "--seeds", "1", "--folder", "suite", *tiny]
    for command in (
        [*compare, "--variant", "mine", *own, "--variant", "plain"],
        [*benchmark, *(f"--set={text}" for text in own)],
    ):
        for done in (0, 1):  # the same command again finds the same settings
            assert main(command) == 0, capsys.readouterr().err
            told = capsys.readouterr().out
            assert ("resumed" in told, ", 0 of them done" in told) == (False, not done)
    (row,) = read_rows(Path("suite/results.csv"))
    assert (row["backbone"], row["harmony"], row["size"]) == ("dreamerv2", False, "nano"), "as it was trained"
    Path("space.yml").write_text("inverse_scale: {low: 0.1, high: 10.0, log: true}\n")
    tune = ["tune", "classic/CartPole", "--evaluations", "1", "--folder", "study", "--space", "space.yml", *tiny]
    for trials in ("1", "2"):
        assert main([*tune, "--trials", trials, *(f"--set={text}" for text in own)]) == 0
    best = yaml.safe_load(Path("study/best.yml").read_text())["CartPole-v1"]
    assert (best["agent_class"], best["widths"]) == (OTHER, [5, 6])
    assert "trial 0: inverse_scale=1.0\n" in capsys.readouterr().out, "the class's own value"


@pytest.mark.parametrize("packed", [False, True])
def test_it_begins_with_the_weights_of_ours(packed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--steps", "60", "--device", "cpu", *(f"--set={text}" for text in TINY)]
    assert packed or main(["train", "CartPole-v1", "--folder", "ours", *tiny]) == 0
    model = "classic/CartPole" if packed else "ours/CartPole-v1_1"
    command = ["train", "CartPole-v1", "-i", model, "--set=learning_rate=0.0", *tiny, "--folder", "own"]
    assert main([*command, f"--set=agent_class={OWN}"]) == 0, capsys.readouterr().err
    before = zoo.load(model, device="cpu") if packed else HarmonyDreamAgent.load(f"{model}/agent.zip", device="cpu")
    after = find_class(OWN).load("own/CartPole-v1_1/agent.zip", device="cpu")
    for ours, own in zip(
        before.policy.networks.world_model.rssm.parameters(),
        after.policy.networks.world_model.rssm.parameters(),
        strict=True,
    ):
        assert ours.equal(own)
    Path("own_methods.py").write_text(SOURCE.replace("world_model.inverse =", "world_model.reward_head ="))
    sys.modules.pop("own_methods")
    assert main([*command, f"--set=agent_class={OWN}"]) == 2
    assert "has no place in MyAgent: begin with an agent of that class" in capsys.readouterr().err
    assert not Path("own/CartPole-v1_2").exists()


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("self.inverse_scale = inverse_scale", "pass", "ArchiveError: MyAgent takes ['inverse_scale'] but keeps no"),
        ("self.inverse_scale = inverse_scale", "self.inverse_scale = object", "which cannot be stored as plain JSON"),
        (
            "(*args, **kwargs)",
            "(*args, **kwargs); self.policy.networks.critic.mine = torch.nn.ReLU()",
            "AttributeError",
        ),
    ],
)
def test_a_class_that_cannot_be_stored_is_told_before_it_learns(
    before: str, after: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own_methods.py").write_text(SOURCE.replace(before, after, 1).replace("self.inverse_scale)}", "1.0)}"))
    for command in (["train", "CartPole-v1"], ["compare", "CartPole-v1", "--seeds", "1"]):
        assert main([*command, "--folder", "runs", *SETTINGS[:-1]]) == 2
        told = capsys.readouterr().err
        assert f"agents of {OWN} cannot be stored and loaded again: " in told
        assert why in told
    assert not Path("runs").exists()


def test_a_class_may_store_more_beside_its_file() -> None:
    more = """
    def save(self, path, *arguments):
        super().save(path, *arguments)
        path.with_suffix(".txt").write_text("more")
"""
    Path("own_methods.py").write_text(SOURCE.replace("class Other", f"{more}\nclass Other"))
    assert main(["train", "CartPole-v1", "--folder", "runs", "--steps", "60", "--device", "cpu", *SETTINGS]) == 0
    assert Path("runs/CartPole-v1_1/agent.txt").exists()


def test_its_broken_step_is_repeated_as_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_methods.py").write_text(SOURCE.replace("square().mean()", "square().mean() / 0.0"))
    often = ["--set=train_ratio=16", "--set=precision=float32", "--steps", "70", "--device", "cpu"]
    assert main(["train", "CartPole-v1", "--folder", "runs", *SETTINGS, *often]) == 1
    (record,) = Path("runs").glob("*/*/nonfinite-20.zip")
    assert f"`hd-agents replay-nan {record} --agent-class {OWN}` repeats" in capsys.readouterr().err
    assert main(["replay-nan", str(record), "--agent-class", OWN]) == 0
    assert "Not finite: loss/inverse, loss/model, grad_norm/model." in capsys.readouterr().out
    assert main(["replay-nan", str(record)]) == 2
    assert f"{record} is of {OWN}: add --agent-class {OWN}" in capsys.readouterr().err


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
