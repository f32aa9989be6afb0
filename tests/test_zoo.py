"""The zoo's catalogue: names, ids, and hyper-parameters that the constructor takes and that learn."""

import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import main
from hd_agents.evaluation.scores import ATARI
from hd_agents.presets import DEFAULTS, SIZES
from hd_agents.zoo.catalogue import name_of, preset_of
from hd_agents.zoo.training import plan
from tests.agents import TINY, Scripted

FILES = sorted((zoo.folder() / "hyperparams").glob("*.yml"))
ROWS = [(path.stem, row, values) for path in FILES for row, values in yaml.safe_load(path.read_text()).items()]
PROTOCOL = {"n_timesteps", "n_envs"}
WORDS = {"policy", "size", "backbone", "precision"}
COUNTS = {"atari100k": 26, "dmc_vision": 51, "dmc_proprio": 51, "dmc_natural": 51, "metaworld": 50, "classic": 3}


def test_every_task_of_the_suites_has_a_name() -> None:
    assert {suite: len(zoo.list(suite)) for suite in COUNTS} == COUNTS
    assert len(zoo.list()) == len(set(zoo.list())) == sum(COUNTS.values())
    assert zoo.list("WALK", "dmc_vision") == [name for name in zoo.list("dmc_vision") if "walk" in name] != []
    with pytest.raises(ValueError, match=r"no task has walk and nothing in its name; the suites are .*dmc_vision"):
        zoo.list("walk", "nothing")


def test_the_games_are_those_of_atari100k() -> None:
    assert [zoo.env_id(name) for name in zoo.list("atari100k")] == [f"atari100k/{game}-v0" for game in ATARI]


@pytest.mark.parametrize("suite", ["dmc_vision", "dmc_proprio", "dmc_natural"])
def test_the_control_tasks_are_those_of_dm_control(suite: str) -> None:
    control = pytest.importorskip("dm_control.suite")
    wanted = {f"{suite}/{domain}-{task}" for domain, task in control.ALL_TASKS}
    assert set(zoo.list(suite)) == wanted


def test_the_meta_world_tasks_are_those_of_metaworld() -> None:
    envs = pytest.importorskip("metaworld.env_dict")
    wanted = {f"metaworld/{name.removesuffix('-v3')}" for name in envs.ALL_V3_ENVIRONMENTS}
    assert set(zoo.list("metaworld")) == wanted


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("atari100k/pong", "atari100k/Pong-v0"),
        ("atari100k/up_n_down", "atari100k/UpNDown-v0"),
        ("Atari100K/UpNDown", "atari100k/UpNDown-v0"),
        ("dmc_vision/walker-walk", "dmc_vision/walker-walk-v0"),
        ("dmc_proprio/ball-in-cup-catch", "dmc_proprio/ball_in_cup-catch-v0"),
        ("metaworld/lever-pull", "metaworld/lever-pull-v0"),
        ("classic/CartPole", "CartPole-v1"),
        ("classic/catch", "hd_agents/Catch-v0"),
        ("CartPole-v1", "CartPole-v1"),
        ("ALE/Skiing-v5", "ALE/Skiing-v5"),
        ("hd_agents:atari100k/Pong-v0", "atari100k/Pong-v0"),
        ("ale_py:ALE/Skiing-v5", "ale_py:ALE/Skiing-v5"),
        ("Meta-World/MT1", "Meta-World/MT1"),
    ],
)
def test_names_and_ids(name: str, expected: str) -> None:
    assert zoo.env_id(name) == expected


def test_ids_of_others_stand_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "mine/Unversioned", gym.spec("CartPole-v1"))
    assert zoo.env_id("mine/Unversioned") == name_of("mine/Unversioned") == "mine/Unversioned"
    assert zoo.env_id("my_module:Unversioned") == "my_module:Unversioned"  # known once the module is imported
    assert name_of("CartPole-v1") == "classic/CartPole"


def test_ids_that_are_registered_are_known_to_gymnasium() -> None:
    """Where the package registers a suite it registers all of its tasks."""
    for suite in COUNTS:
        ids = [zoo.env_id(name) for name in zoo.list(suite)]
        assert sum(found in gym.registry for found in ids) in (0, len(ids)), suite


@pytest.mark.parametrize("name", ["metaworld/lever-pul", "classic/Cartpoel", "nothing"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"metaworld/lever-pull|classic/CartPole|hd-agents list"):
        zoo.env_id(name)


def test_hyperparameters_are_copies_by_name_or_id() -> None:
    row = zoo.hyperparameters("metaworld/lever-pull")
    assert row == zoo.hyperparameters("metaworld/lever-pull-v0")
    row["policy_kwargs"]["free_nats"] = 7
    assert zoo.hyperparameters("metaworld/lever-pull")["policy_kwargs"]["free_nats"] == 0
    assert zoo.hyperparameters("Acrobot-v1") == zoo.hyperparameters("Acrobot-v1", "nano") == {}
    assert zoo.hyperparameters("metaworld/lever-pull", "nano")["size"] == "nano"
    assert zoo.hyperparameters("classic/CartPole", "nano") == zoo.hyperparameters("CartPole-v1")
    for preset in ("paper", "nano"):  # a game that Atari100K does not have is played by the suite's protocol too
        known = zoo.hyperparameters("atari100k/pong", preset)
        assert known == zoo.hyperparameters("hd_agents:atari100k/Tetris-v0", preset)
    zoo.hyperparameters("classic/default").clear()
    assert zoo.hyperparameters("classic/default")["n_timesteps"]
    with pytest.raises(ValueError, match="preset='huge'"):
        zoo.hyperparameters("CartPole-v1", "huge")
    with pytest.raises(ValueError, match="is no task of the zoo"):
        zoo.hyperparameters("nothing/default")


@pytest.mark.parametrize(("flags", "preset"), [("", "paper"), (" --preset nano", "nano"), (" --preset=nano", "nano")])
def test_the_preset_of_a_command(flags: str, preset: str) -> None:
    assert preset_of(f"hd-agents train atari100k/pong{flags} --seed 1") == preset


def test_a_plan_has_the_presets_values_and_a_replay_that_the_run_can_fill() -> None:
    for preset in zoo.PRESETS:
        found, row = plan("atari100k/pong", preset=preset), zoo.hyperparameters("atari100k/pong", preset)
        assert (found.steps, found.arguments["size"]) == (row["n_timesteps"], row["size"])
    assert plan("atari100k/pong").arguments["size"] != plan("atari100k/pong", preset="nano").arguments["size"]

    def rows(steps: int, n_envs: int = 1) -> int:
        return plan("CartPole-v1", steps, settings={"n_envs": n_envs}).arguments["buffer_size"]

    assert [rows(100), rows(8_000), rows(700_000), rows(100, n_envs=100)] == [10_000, 16_000, 1_000_000, 12_800]


def test_every_number_is_a_number() -> None:
    """YAML 1.1 reads a bare 1e-4 as text."""

    def texts(values: dict[str, Any]) -> set[str]:
        nested = [texts(value) for value in values.values() if isinstance(value, dict)]
        return {key for key, value in values.items() if isinstance(value, str) and value[:4] != "lin_"}.union(*nested)

    for suite, row, values in ROWS:
        assert texts(values) <= WORDS, (suite, row)


def test_every_row_binds_to_the_constructor() -> None:
    signature = inspect.signature(HarmonyDreamAgent)
    for suite, row, values in ROWS:
        if (suite, row) == ("classic", "default"):
            continue  # its policy follows from the task's spaces
        arguments = {key: value for key, value in values.items() if key not in PROTOCOL}
        signature.bind(env=None, **arguments)
        assert values["n_timesteps"] > values["learning_starts"], (suite, row)
        assert values["policy"] in HarmonyDreamAgent.policy_aliases


def test_the_papers_values() -> None:
    """Those of the tables, and where they are the backbone's defaults, equal to them."""
    atari = zoo.hyperparameters("atari100k/pong")
    robots = zoo.hyperparameters("metaworld/lever-pull")
    control = zoo.hyperparameters("dmc_vision/walker-walk")
    for row in (atari, robots, control):
        usual = DEFAULTS[row["backbone"]]._asdict()
        changed = {key: row[key] for key in usual.keys() & row.keys() if row[key] != usual[key]}
        assert changed == ({"batch_size": 50, "train_ratio": 500} if row is robots else {})
        assert row["harmony"] is True
    assert [row["n_timesteps"] for row in (atari, robots, control)] == [100_000, 255_000, 502_000]
    gradient_steps = [
        row["train_ratio"] / row["batch_size"] / row["sequence_length"] for row in (atari, robots, control)
    ]
    assert gradient_steps == [1, 0.2, 0.2]
    assert robots["policy_kwargs"] == {"predict_continue": False, "free_nats": 0.0}
    assert control["policy_kwargs"] == {"predict_continue": False, "free_nats": 1.0}
    sizes = [SIZES[row["backbone"]][row["size"]] for row in (atari, robots, control)]
    assert [(size.deter, size.hidden, size.depth) for size in sizes] == [
        (512, 512, 32),
        (1024, 1024, 48),
        (200, 200, 48),
    ]
    natural, proprio = (zoo.hyperparameters(f"{suite}/walker-walk") for suite in ("dmc_natural", "dmc_proprio"))
    assert natural == {**control, "size": "medium"}
    assert proprio == {**control, "policy": "MlpPolicy"}


def distinct_presets() -> dict[str, tuple[str, dict[str, Any]]]:
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for suite, row, values in ROWS:
        if (suite, row) != ("classic", "default"):
            found.setdefault(repr((suite, sorted(values.items()))), (suite, values))
    return {f"{suite}-{number}": (suite, values) for number, (suite, values) in enumerate(found.values())}


PRESETS = distinct_presets()


@pytest.mark.parametrize("preset", PRESETS)
def test_one_update_with_every_distinct_preset(preset: str) -> None:
    """At reduced width, batch and replay, on spaces like the suite's; everything else as the row says."""
    suite, row = PRESETS[preset]
    image = row["policy"] == "CnnPolicy"
    observation = spaces.Box(0, 255, (64, 64, 3), np.uint8) if image else spaces.Box(-1, 1, (5,))
    discrete = suite == "atari100k" or row.get("gamma") == 0.93
    action = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,))
    small = {"batch_size": 2, "sequence_length": 4, "horizon": 3, "train_ratio": 8, "learning_starts": 5}
    small |= {"buffer_size": 50, "pretrain_steps": 0, "device": "cpu"}
    widths = {"policy_kwargs": {**row.get("policy_kwargs", {}), **TINY["policy_kwargs"]}}
    arguments = {key: value for key, value in row.items() if key not in PROTOCOL} | small | widths
    agent = HarmonyDreamAgent(env=Scripted(observation, action), **arguments).learn(5)
    assert agent._n_updates == 1
    assert ("continue" in agent.learner.networks.harmonizer.terms) == row.get("policy_kwargs", {}).get(
        "predict_continue", True
    )
    assert all(value.isfinite().all() for value in agent.policy.state_dict().values())


def test_make_env_by_name() -> None:
    with zoo.make_env("classic/catch", balls=2, render_mode="rgb_array") as env:
        assert env.spec.id == "hd_agents/Catch-v0"
        assert env.render_mode == "rgb_array"
    with zoo.make_env("classic/catch", drawn=True, balls=2) as env:
        assert (env.render_mode, env.unwrapped.balls) == ("rgb_array", 2)
    with zoo.make_env("CartPole-v1") as env:
        assert env.spec.id == "CartPole-v1"


def test_the_data_is_found_where_a_wheel_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hd_agents.zoo.catalogue.__file__", str(tmp_path / "hd_agents" / "zoo" / "catalogue.py"))
    assert zoo.folder() == tmp_path / "zoo"
    (tmp_path / "hd_agents" / "_zoo").mkdir(parents=True)
    assert zoo.folder() == tmp_path / "hd_agents" / "_zoo"


def test_train_gives_the_agent_that_the_command_line_trains(tmp_path: Path) -> None:
    small = {"learning_starts": 20, "batch_size": 2, "sequence_length": 8, "horizon": 3, "train_ratio": 4, "n_envs": 2}
    agent = zoo.train("classic/CartPole", seed=3, steps=6e1, device="cpu", **small)
    flags = [f"--set={key}={value}" for key, value in small.items()]
    words = ["train", "classic/CartPole", "--seed", "3", "--steps", "60", "--device", "cpu", "--folder", str(tmp_path)]
    assert main([*words, *flags]) == 0
    other = HarmonyDreamAgent.load(tmp_path / "CartPole-v1_1" / "agent.zip", device="cpu")
    assert (agent.num_timesteps, agent._n_updates, agent.n_envs) == (60, other._n_updates, 2)
    assert agent._n_updates > 0
    ours, theirs = agent.policy.state_dict(), other.policy.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_train_refuses_what_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"batchsize=3: no such setting\. Did you mean batch_size"):
        zoo.train("classic/CartPole", batchsize=3)
    for name in ("n_timesteps", "total_timesteps"):
        with pytest.raises(ValueError, match=rf"{name}=60: no such setting\. Use the argument steps"):
            zoo.train("classic/CartPole", **{name: 60})
    with pytest.raises(ValueError, match="Did you mean classic/CartPole"):
        zoo.train("classic/CartPoel")
    with pytest.raises(ValueError, match="steps=0: use a whole number of at least 1"):
        zoo.train("classic/CartPole", steps=0)
    with pytest.raises(ValueError, match="batch_size"):
        zoo.train("classic/CartPole", batch_size=0)


def test_load_points_to_who_reads_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "agent.zip").touch()
    for name, file in (("catch.zip", "catch.zip"), ("run", "run/agent.zip"), ("run/agent", "run/agent.zip")):
        with pytest.raises(ValueError, match=rf"HarmonyDreamAgent\.load\('{file}'\)"):
            zoo.load(name)
