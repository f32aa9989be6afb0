"""Arguments of the environment: from what is typed to the run, its files, its evaluation and its package."""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces

from hd_agents import envs, zoo
from hd_agents.callbacks import ScoreCurve
from hd_agents.cli import main
from hd_agents.cli.errors import UsageError
from hd_agents.cli.flags import plan_defaults
from hd_agents.cli.resuming import plan_to_resume
from hd_agents.cli.tasks import as_json, make_plan, parse_setting
from hd_agents.evaluation import evaluate
from hd_agents.saving.jsonable import ArchiveError
from tests.agents import tiny

ID = "hd_agents_tests/Corridor-v0"
TINY = ["batch_size=2", "sequence_length=8", "train_ratio=1", "learning_starts=40", "size=nano"]
TRAINED = {"length": 5, "colour": "red"}


class Corridor(gym.Env[np.ndarray, int]):
    """As many steps as it is told, with a reward of one each."""

    def __init__(self, length: int = 9, colour: str = "grey") -> None:
        if colour not in ("grey", "red"):
            raise ValueError(f"colour={colour!r}: choose grey or red")
        self.length = length
        self.observation_space = spaces.Box(0.0, 100.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        return np.full(1, self.count, np.float32), 1.0, False, self.count == self.length, {}


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    gym.register(ID, Corridor)
    yield
    del gym.registry[ID]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corridor") / "run"
    typed = [f"--set={setting}" for setting in TINY]
    typed += ["--env-kwargs", "length=5", "--env-kwargs=colour=red"]
    assert main(["train", ID, "--steps", "60", "--folder", str(folder), "--resume", *typed]) == 0
    return folder


def test_plan_takes_entries_one_by_one() -> None:
    plan = make_plan(ID, settings=["env_kwargs.length=5", "policy_kwargs.units=32", "harmony.reward=False"])
    assert plan.env_kwargs == {"length": 5}
    assert plan.arguments["policy_kwargs"] == {"units": 32}
    assert plan.arguments["harmony"] == {"reward": False}
    assert plan.make_env().unwrapped.length == 5  # type: ignore[attr-defined]
    row = zoo.hyperparameters("classic/Catch")["policy_kwargs"]
    changed = make_plan("classic/Catch", settings=["policy_kwargs.units=32"]).arguments["policy_kwargs"]
    assert changed == {**row, "units": 32}
    assert make_plan("classic/Catch", settings=["policy_kwargs={'units': 32}"]).arguments["policy_kwargs"] == {
        "units": 32
    }


def test_frames_are_counted_as_the_environments_repeat_actions(tmp_path: Path) -> None:
    def repeat(*settings: str, **options: Any) -> int:
        return make_plan("atari100k/Pong", settings=list(settings), **options).arguments["action_repeat"]

    assert (repeat(), repeat("env_kwargs.action_repeat=2")) == (4, 2)
    assert repeat("env_kwargs.action_repeat=2", preset="nano") == 2
    assert repeat("env_kwargs={'action_repeat': 2}") == 2
    assert repeat("env_kwargs.action_repeat=0") == 4  # of an environment that may mean "once" by it
    assert repeat("env_kwargs.action_repeat=2", "action_repeat=6") == 6
    row = tmp_path / "my.yml"
    row.write_text("default: {policy: CnnPolicy, n_timesteps: 9, action_repeat: 6, env_kwargs: {action_repeat: 2}}")
    assert repeat(preset=str(row)) == 6  # its word: there may be more that repeats actions
    assert repeat("env_kwargs.action_repeat=3", preset=str(row)) == 3
    row.write_text("default: {policy: CnnPolicy, n_timesteps: 9, env_kwargs: {action_repeat: 2}}")
    assert repeat(preset=str(row)) == 2


@pytest.mark.parametrize(("setting", "said"), [("depth=2", "depth"), ("colour=blue", "choose grey or red")])
def test_arguments_that_are_not_taken(setting: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        make_plan(ID, settings=[f"env_kwargs.{setting}"])
    assert main(["train", "CartPole-v1", "--env-kwargs=depth=2", "--folder", str(tmp_path / "runs")]) == 2
    assert not (tmp_path / "runs").exists()


def test_run_keeps_them(trained: Path) -> None:
    lengths = [line.split(",")[1] for line in (trained / "0.monitor.csv").read_text().splitlines()[2:]]
    assert set(lengths) == {"5"}
    facts = json.loads((trained / "run.json").read_text())
    assert facts["env_kwargs"] == TRAINED
    assert "--env-kwargs length=5 --env-kwargs colour=red" in facts["command"]
    assert yaml.safe_load((trained / "config.yml").read_text())[ID]["env_kwargs"] == TRAINED


def test_evaluation_takes_the_runs_own(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", ID, "--model", str(trained), "--episodes", "2"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["lengths"], found["env_kwargs"]) == ([5, 5], TRAINED)
    assert main([*command, "--env-kwargs", "length=3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["lengths"], found["env_kwargs"]) == ([3, 3], {**TRAINED, "length": 3})
    assert main(["enjoy", str(trained), "--episodes", "1"]) == 0
    assert "in 5 steps" in capsys.readouterr().out


def test_a_run_goes_on_with_its_own(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    command = ["train", ID, "--steps", "80", "--folder", str(folder), "--resume"]
    command += [f"--set={setting}" for setting in TINY]
    assert main([*command, "--env-kwargs=length=3"]) == 2
    assert "begun in environments made with {'length': 5, 'colour': 'red'}" in capsys.readouterr().err
    assert main(command) == 0
    assert "changed: n_timesteps 60 -> 80\n" in capsys.readouterr().out
    lengths = [line.split(",")[1] for line in (folder / "0.monitor.csv").read_text().splitlines()[2:]]
    assert (len(lengths), set(lengths)) == (16, {"5"})
    facts = json.loads((folder / "run.json").read_text())
    assert facts["env_kwargs"] == TRAINED
    assert "--env-kwargs length=5 --env-kwargs colour=red" in facts["command"]
    checkpoint = next((folder / "checkpoints").glob("agent-*.zip"))
    assert main(["enjoy", str(checkpoint), "--episodes", "1"]) == 0
    assert "in 5 steps" in capsys.readouterr().out


def test_a_run_that_goes_on_states_what_gives_its_own_again(tmp_path: Path) -> None:
    own = {"colour": "5", "length": 5, "deep": [1, {"a": None}], "on": True}
    own |= {"kind": "vec", "no": "none", "spaced": " a", "row": "[1]"}
    (tmp_path / "run.json").write_text(json.dumps({"env_kwargs": own}))
    told = {**plan_defaults(), "task": "CartPole-v1", "seed": None, "settings": ["size=nano"]}
    plan, options = plan_to_resume(argparse.Namespace(**told), tmp_path)
    settings = options.settings
    assert plan.env_kwargs == own
    assert settings[0] == "size=nano"
    assert {"env_kwargs.kind=vec", "env_kwargs.no='none'", "env_kwargs.length=5"} < set(settings)
    assert dict(map(parse_setting, settings[1:])) == {f"env_kwargs.{key}": value for key, value in own.items()}


@pytest.mark.parametrize("text", ["size={1: 2}", "size={'a'}", "size=1e999"])
def test_values_that_no_file_holds(text: str) -> None:
    key, value = parse_setting(text)
    with pytest.raises(UsageError, match="cannot be stored"):
        as_json({key: value})


def test_tuples_become_lists_at_once() -> None:
    assert as_json({"size": (2, (3, 4))}) == {"size": [2, [3, 4]]}


def test_entries_and_wholes_in_the_order_typed() -> None:
    plan = make_plan(ID, settings=["policy_kwargs.units=32", "policy_kwargs={'deter': 8}", "policy_kwargs.hidden=4"])
    assert plan.arguments["policy_kwargs"] == {"deter": 8, "hidden": 4}
    with pytest.raises(UsageError, match="harmony=False has no entries"):
        make_plan(ID, settings=["harmony=False", "harmony.reward=True"])
    assert make_plan(ID, settings=["harmony=True", "harmony.reward=False"]).arguments["harmony"] == {"reward": False}


def test_comparison_sets_harmony_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", ID, "--set", "harmony.reward=False", "--folder", str(tmp_path)]) == 2
    assert "harmony is what is compared" in capsys.readouterr().err


def test_comparison_trains_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("hd_agents.cli.runs.run_jobs", lambda jobs, *rest: asked.extend(jobs))
    typed = ["--seeds", "1", "--harmony", "on", "--env-kwargs=length=5"]
    assert main(["compare", ID, *typed, "--folder", str(tmp_path), "--resume"]) == 0
    training, evaluation = asked[0].commands
    assert training[-3:] == ("--env-kwargs", "length=5", "--set=harmony=True")
    assert "--env-kwargs" not in evaluation  # as the model's own are taken


def test_package_is_evaluated_and_verified_with_them(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = zoo.pack(trained / "agent.zip", ID, episodes=3, target=tmp_path / "corridor")
    card = zoo.card(target)
    assert (card["env_kwargs"], card["evaluation"]["lengths"]) == (TRAINED, [5, 5, 5])
    assert card["dream"]["context"] + card["dream"]["horizon"] <= 6  # observations of an episode
    assert f"zoo.make_env(\"{ID}\", length=5, colour='red')" in (target / "README.md").read_text()
    assert main(["zoo", "verify", str(target)]) == 0
    assert "made with {'length': 5, 'colour': 'red'}, as the card says" in capsys.readouterr().out


@pytest.mark.parametrize(
    "env_kwargs",
    [
        {"videos": "/etc"},
        {"videos": "..\\share"},
        {"a": "../b"},
        {"a": "b/../../c"},
        {"a": [1]},
        {"a": "b" * 2000},
        [1],
        "abc",
        3,
    ],
)
@pytest.mark.parametrize("where", ["card", "evaluation"])
def test_cards_of_strangers_name_no_places(trained: Path, tmp_path: Path, env_kwargs: Any, where: str) -> None:
    target = zoo.pack(trained / "agent.zip", ID, episodes=1, target=tmp_path / "corridor")
    card = zoo.card(target)
    part = card if where == "card" else card["evaluation"]
    part["env_kwargs"] = env_kwargs
    (target / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArchiveError, match="env_kwargs"):
        zoo.load(target)
    assert main(["enjoy", str(target)]) == 2


def test_places_are_not_packed(trained: Path, tmp_path: Path) -> None:
    facts = json.loads((trained / "run.json").read_text())
    with pytest.raises(ArchiveError, match="no places of files"):
        zoo.pack(trained / "agent.zip", ID, {**facts, "env_kwargs": {"colour": "/home"}}, 1, target=tmp_path / "a")
    other = {**facts, "task": "Other-v0"}
    target = zoo.pack(trained / "agent.zip", ID, other, 1, target=tmp_path / "b")
    assert other["env_kwargs"] == TRAINED  # what is passed stays as it was
    assert "env_kwargs" not in zoo.card(target)
    assert zoo.card(target)["evaluation"]["lengths"] == [9]


def test_python_takes_a_dict(capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {key: int(value) for key, _, value in (text.partition("=") for text in TINY[:4])}
    agent = zoo.train(ID, steps=60, size="nano", env_kwargs={"length": 4}, **settings)
    assert {info["l"] for info in agent.ep_info_buffer or ()} == {4}
    with pytest.raises(ValueError, match="env_kwargs"):
        evaluate(agent, Corridor, 1, env_kwargs={"length": 4})
    for wrong in (0, 3):
        with pytest.raises(ValueError, match=f"env_kwargs={wrong}: use a dict"):
            zoo.train(ID, steps=60, env_kwargs=wrong)


def test_arguments_may_have_any_name() -> None:
    gym.register("hd_agents_tests/Named-v0", lambda name, drawn: Corridor(name + drawn))
    try:
        plan = make_plan("hd_agents_tests/Named-v0", settings=["env_kwargs.name=2", "env_kwargs.drawn=1"])
        assert plan.make_env().unwrapped.length == 3  # type: ignore[attr-defined]
        with pytest.raises(UsageError, match=r"cannot be made with .*TypeError"):
            make_plan("hd_agents_tests/Named-v0", settings=["env_kwargs.name=2", "env_kwargs.drawn=x"])
    finally:
        del gym.registry["hd_agents_tests/Named-v0"]


@pytest.mark.parametrize("error", [ConnectionError("one at a time"), RuntimeError("no simulator")])
def test_what_a_simulator_fails_of_is_no_mistake_in_the_arguments(error: Exception, tmp_path: Path) -> None:
    made: list[int] = []

    def make(length: int) -> Corridor:
        made.append(length)
        if len(made) > 1:
            raise error
        return Corridor(length)

    gym.register("hd_agents_tests/Exclusive-v0", make)
    try:
        envs.make("hd_agents_tests/Exclusive-v0", {"length": 3})
        with pytest.raises(type(error), match=str(error)):
            envs.make("hd_agents_tests/Exclusive-v0", {"length": 3})
        score = ScoreCurve("hd_agents_tests/Exclusive-v0", tmp_path / "s", 20, 1, env_kwargs={"length": 3})
        with (
            pytest.warns(UserWarning, match="environment of evaluations could not be made"),
            pytest.warns(UserWarning, match="evaluation after 20 env steps failed"),
        ):
            tiny(env=Corridor(3)).learn(30, callback=score)
    finally:
        del gym.registry["hd_agents_tests/Exclusive-v0"]


def test_pair_without_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", ID, "--model", "m", "--env-kwargs", "length"])
    assert "'length': write it as KEY=VALUE" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", ID, "--model", "m", "--env-kwargs", "length=5", "colour=red"])
    assert "colour=red. Repeat --env-kwargs for each: --env-kwargs colour=red." in capsys.readouterr().err


class Needy(Corridor):
    """A corridor that cannot be made without being told how long it is."""

    def __init__(self, length: int, colour: str = "red") -> None:
        super().__init__(length, colour)


def test_a_run_goes_on_with_arguments_that_cannot_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hd_agents.cli.pictures.leave", lambda *arguments: None)
    gym.register("hd_agents_tests/Needy-v0", Needy)
    try:
        words = ["train", "hd_agents_tests/Needy-v0", "--folder", str(tmp_path / "run"), "--resume"]
        words += [f"--set={setting}" for setting in TINY]
        assert main([*words, "--steps", "20", "--env-kwargs", "length=5"]) == 0
        assert main([*words, "--steps", "30"]) == 0
    finally:
        del gym.registry["hd_agents_tests/Needy-v0"]
    assert "resumed at step 20" in capsys.readouterr().out


def test_our_own_environments_say_what_they_need_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dm_control")
    monkeypatch.setenv("HD_AGENTS_VIDEOS", str(tmp_path / "nothing"))
    assert main(["train", "dmc_natural/cheetah-run", "--folder", str(tmp_path / "runs")]) == 2
    assert "No video that OpenCV can read" in capsys.readouterr().err
    monkeypatch.delenv("HD_AGENTS_VIDEOS")
    assert main(["train", "dmc_natural/cheetah-run", "--folder", str(tmp_path / "runs")]) == 2
    assert "pass videos=<folder>" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_damaged_facts_of_a_run_are_a_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for damage in ("{", "3"):
        (tmp_path / "run" / "run.json").write_text(damage)
        assert main(["train", "classic/Catch", "--folder", str(tmp_path / "run"), "--resume"]) == 1
        assert "run.json is damaged" in capsys.readouterr().err
