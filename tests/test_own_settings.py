"""`--preset FILE`: settings in a YAML file of one's own, as `config.yml` of a run and `best.yml` of a study are."""

import json
import re
from pathlib import Path

import pytest
import yaml

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import main
from hd_agents.cli.resuming import changed_settings
from hd_agents.zoo import cards, search_space
from hd_agents.zoo.catalogue import preset_of
from hd_agents.zoo.training import Plan, plan

TINY = {"n_timesteps": 60, "size": "nano", "batch_size": 2, "sequence_length": 8, "train_ratio": 1}
TINY |= {"learning_starts": 40, "policy": "MlpPolicy"}


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(rows: object, name: str = "my.yml") -> str:
    Path(name).write_text(rows if isinstance(rows, str) else yaml.safe_dump(rows), encoding="utf-8")
    return name


@pytest.mark.parametrize("preset", zoo.PRESETS)
@pytest.mark.parametrize("task", ["atari100k/pong", "metaworld/lever-pull", "classic/Catch", "Acrobot-v1"])
def test_what_a_run_leaves_makes_the_same_run(task: str, preset: str) -> None:
    changes = {"gamma": 0.9, "n_envs": 2, "vec_env": "subproc", "policy_kwargs.units": 24}
    before = plan(task, preset=preset, device="cpu", settings=changes)
    again = plan(task, preset=write({before.task: before.settings(7)}))
    assert again == before
    assert "buffer_size" not in before.row(), "it follows from the steps"
    longer = plan(task, 2 * before.steps, preset=Path("my.yml"))
    assert (
        longer.arguments["buffer_size"] == plan(task, 2 * before.steps, preset, "cpu", changes).arguments["buffer_size"]
    )
    small = plan(task, 100_000, preset, "cpu", {"buffer_size": 500})
    assert plan(task, preset=write({small.task: small.row()})) == small


def test_a_row_stands_alone_and_default_is_for_all_others() -> None:
    file = write({"classic/CartPole": {"n_timesteps": 70, "gamma": 0.8}, "default": TINY, "nano": {"gamma": 0.1}})
    assert zoo.hyperparameters("CartPole-v1", file) == {"n_timesteps": 70, "gamma": 0.8}
    assert zoo.hyperparameters("classic/Pendulum", file) == TINY
    run = plan("CartPole-v1", preset=file)
    assert run.arguments == {"gamma": 0.8, "policy": "MlpPolicy", "buffer_size": 10_000}
    assert plan("CartPole-v1", preset=file, settings={"gamma": 0.7}).arguments["gamma"] == 0.7
    assert zoo.train("Acrobot-v1", preset=file, device="cpu", steps=5).num_timesteps == 5


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            {"classic/Catch": TINY},
            "my.yml has no row for CartPole-v1, only for classic/Catch: add one, or one called def",
        ),
        (
            {"classic/CartPol": TINY},
            "my.yml: 'classic/CartPol' is no task of the zoo and no Gymnasium id. Did you mean",
        ),
        ({"CartPole-v1": {**TINY, "gama": 1}}, "my.yml: gama=1: no such setting. Did you mean gamma"),
        ({"CartPole-v1": {**TINY, "device": "cpu"}}, "my.yml: device='cpu': no such setting. Use the argument device"),
        ({"CartPole-v1": {**TINY, "steps": 9}}, "my.yml: steps=9: no such setting. Did you mean n_timesteps?"),
        ({"CartPole-v1": TINY, "classic/CartPole": TINY}, "my.yml has two rows for a task: remove"),
        ({"CartPole-v1": {"gamma": 0.9}}, "my.yml has no n_timesteps for CartPole-v1: add it, or give steps"),
        ({"CartPole-v1": {**TINY, "agent_class": "os:Own"}}, "my.yml is for agents of os:Own: set agent_class=os:Own"),
        ({"CartPole-v1": {**TINY, "n_envs": 0}}, "n_envs=0: use a whole number"),
        ({"CartPole-v1": {**TINY, "vec_env": "x"}}, "vec_env='x': use one of"),
        ({"CartPole-v1": None}, "my.yml holds no settings of tasks: write it as in zoo/hyperparams"),
        ({**TINY}, "my.yml holds no settings of tasks"),
        ("", "my.yml holds no settings of tasks"),
        ("[1]", "my.yml holds no settings of tasks"),
        ("{", "my.yml is not YAML"),
        ("a: !!python/name:os.system", "my.yml is not YAML"),
    ],
)
def test_mistakes_in_a_file_are_named(rows: object, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(rows)
    with pytest.raises(ValueError, match=re.escape(told)):
        plan("CartPole-v1", preset=file)
    assert main(["train", "CartPole-v1", "--preset", file]) == 2
    assert told in capsys.readouterr().err
    assert not Path("runs").exists()


def test_numbers_may_be_written_as_elsewhere() -> None:
    file = write(
        "CartPole-v1:\n  n_timesteps: 1e5\n  learning_rate: 1e-3\n  gamma: 9.9E-1\n  actor_learning_rate: lin_1e-3\n"
    )
    run = plan("CartPole-v1", preset=file)
    rates = {"learning_rate": 1e-3, "gamma": 0.99, "actor_learning_rate": "lin_1e-3"}
    assert run.steps == 100_000 and run.arguments.items() >= rates.items()
    assert search_space.read(Path(write("learning_rate: {low: 1e-4, high: 1e-2, log: true}"))) == {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}
    }


def test_presets_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"none\.yml cannot be read: No such file"):
        zoo.hyperparameters("CartPole-v1", "none.yml")
    assert main(["train", "--preset", "none.yml"]) == 2
    assert "none.yml cannot be read: No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--preset", "huge"])
    assert "'huge': use paper, nano, or a file of yours such as my.yml" in capsys.readouterr().err
    assert preset_of("hd-agents train x --preset 'my own.yml' --seed 1") == "my own.yml"
    assert preset_of("hd-agents train x '--preset=my own.yml'") == "my own.yml"
    assert preset_of("the robot's own script") == "paper"


def test_a_run_by_a_file_goes_on_and_tells_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    file = write({"CartPole-v1": TINY}, "my own.yml")
    command = ["train", "CartPole-v1", "--preset", file, "--folder", "run", "--resume", "--no-video", "--device", "cpu"]
    assert main(command) == 0, capsys.readouterr().err
    facts = json.loads(Path("run/run.json").read_text())
    assert facts["command"] == "hd-agents train CartPole-v1 --seed 0 --preset 'my own.yml'"
    assert facts["settings"] == plan("CartPole-v1", preset=file).row()
    card = {**zoo.card("classic/CartPole"), **{key: facts[key] for key in ("command", "settings")}}
    assert '| its settings | `{"n_timesteps": 60, "n_envs": 1' in cards.readme(card)
    on = "`hd-agents train classic/CartPole --trained-agent me/cart`"
    assert on in cards.readme(card, "me/cart"), "whoever learns on has no such file"
    write({"CartPole-v1": {**TINY, "n_timesteps": 70, "gamma": 0.9}}, file)
    capsys.readouterr()
    assert main(command) == 0, capsys.readouterr().err
    assert "resumed at step 60; changed: n_timesteps 60 -> 70, gamma None -> 0.9" in capsys.readouterr().out
    agent = HarmonyDreamAgent.load("run/agent.zip")
    assert (agent.num_timesteps, agent.gamma) == (70, 0.9)
    assert plan("CartPole-v1", preset="run/config.yml") == plan("CartPole-v1", preset=file)


def test_a_run_of_an_earlier_version_that_states_the_usual_replay_tells_no_change() -> None:
    run = plan("CartPole-v1")
    for rows, told in ((run.arguments["buffer_size"], ""), (500, "buffer_size 500 -> None")):
        write({run.task: {**run.settings(0), "buffer_size": rows}}, "config.yml")
        assert changed_settings(Path(), run, 0) == told


def test_comparisons_pass_the_file_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Plan] = []
    monkeypatch.setattr("hd_agents.cli.runs.run_all", lambda runs, *_: seen.extend(run.plan for run in runs) or [])
    file = write({"default": TINY})
    assert main(["compare", "CartPole-v1", "--preset", file, "--seeds", "1"]) == 0, capsys.readouterr().err
    assert [run.arguments["batch_size"] for run in seen] == [2, 2]
    assert [run.arguments.get("harmony") for run in seen] == [True, False]
