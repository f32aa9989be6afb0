"""The command line: what it reads, what it refuses, and what a run leaves behind."""

import argparse
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import build_parser, flags, hints, main, pictures, tasks
from hd_agents.cli.curves import read_episodes
from hd_agents.cli.errors import UsageError
from hd_agents.cli.facts import ReturnPrinter
from hd_agents.cli.resuming import repeat_command, resume_command
from hd_agents.cli.tasks import make_plan, new_run_folder, parse_setting
from hd_agents.envs.restarting import RestartingEnv
from hd_agents.films import filming
from tests.agents import Scripted, tiny

TINY = [
    f"--set={setting}"
    for setting in ("batch_size=2", "sequence_length=8", "train_ratio=1", "learning_starts=40", "pretrain_steps=3")
]


def exit_status(*words: str) -> int:
    """Of `hd-agents` with these words, whoever ends it."""
    try:
        return main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gamma=0.99", ("gamma", 0.99)),
        ("learning_rate=1e-4", ("learning_rate", 0.0001)),
        ("harmony=false", ("harmony", False)),
        ("buffer_size=None", ("buffer_size", None)),
        ("policy_kwargs={'units': 64}", ("policy_kwargs", {"units": 64})),
        ("backbone = dreamerv2", ("backbone", "dreamerv2")),
        ("note=a=b", ("note", "a=b")),
    ],
)
def test_parse_setting(text: str, expected: tuple[str, object]) -> None:
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["gamma", "=3"])
def test_setting_without_key_or_value(text: str) -> None:
    with pytest.raises(UsageError, match="key=value"):
        parse_setting(text)


def test_plan_takes_the_zoo_then_the_flags() -> None:
    known = zoo.hyperparameters("CartPole-v1")
    plan = make_plan("classic/cartpole")
    assert plan.task == "CartPole-v1"
    assert plan.steps == known["n_timesteps"]
    assert plan.arguments["policy"] == "MlpPolicy"
    assert "n_timesteps" not in plan.arguments
    assert "n_envs" not in plan.arguments
    changed = make_plan("CartPole-v1", 1e3, "small", "cpu", ["batch_size=3", "n_envs=2"])
    assert changed.steps == 1000
    assert changed.n_envs == 2
    assert changed.arguments == {**plan.arguments, "size": "small", "batch_size": 3, "buffer_size": 10_000}
    many = make_plan("CartPole-v1", steps=2_000, preset="nano", settings=["n_envs=320"])
    assert many.arguments["buffer_size"] >= 320 * many.arguments["sequence_length"]
    assert zoo.hyperparameters("CartPole-v1") == known


class Pair(gym.Env):
    """Observes an image and a vector."""

    observation_space = spaces.Dict({"eye": spaces.Box(0, 255, (16, 16, 1), np.uint8), "arm": spaces.Box(-1, 1, (3,))})
    action_space = spaces.Discrete(2)


class Words(gym.Env):
    """Observes text, which has no network."""

    observation_space = spaces.Text(5)
    action_space = spaces.Discrete(2)


@pytest.fixture
def own_tasks():
    gym.register("tests/Pair-v0", Pair)
    gym.register("tests/Words-v0", Words)
    yield
    del gym.registry["tests/Pair-v0"], gym.registry["tests/Words-v0"]


def test_policy_fits_the_space_of_an_unknown_task(own_tasks: None) -> None:
    on_cpu = make_plan("Acrobot-v1", device="cpu", steps=30_000)
    assert on_cpu.arguments.items() >= {"policy": "MlpPolicy", "size": "nano", "buffer_size": 60_000}.items()
    on_gpu = make_plan("Acrobot-v1", device="cuda:1")
    assert on_gpu.arguments.keys() == {"policy", "size", "buffer_size"}
    assert on_gpu.arguments["size"] == "small"
    assert make_plan("tests/Pair-v0").arguments["policy"] == "MultiInputPolicy"


def test_unsupported_space_is_told_in_one_line(
    own_tasks: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", "tests/Words-v0", "--folder", str(tmp_path / "runs")]) == 2
    assert "Text" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classic/CartPoel"], "Did you mean classic/CartPole"),
        (["NoSuchTask-v0"], "cannot make 'NoSuchTask-v0'"),
        (["./robots:Robot-v0"], "./robots is not the name of a module; write it as for import, my_module:Robot-v0."),
        (["no_robots.arms:Robot-v0"], "there is no module no_robots in this folder, and none is installed. Type the"),
        (["no_robots:Robot"], "there is no module no_robots in this folder, and none is installed. Type the"),
        (["tests.agents:Robot"], "cannot make 'tests.agents:Robot': Environment `Robot` doesn't exist."),
        (["Robot-v0"], "If it is your own, name the module that registers it: my_module:Robot-v0\n"),
        (["mine/Robot-v0"], "If it is your own, name the module that registers it: my_module:mine/Robot-v0\n"),
        (["CartPole-v1", "--set", "batchsize=3"], "Did you mean batch_size"),
        (["CartPole-v1", "--set", "lr=1"], "lr=1: no such setting. Did you mean learning_rate?"),
        (["CartPole-v1", "--set", "ent_coef=0"], "Did you mean entropy_coefficient?"),
        (["CartPole-v1", "--set", "net_arch=[64]"], "Did you mean policy_kwargs.units?"),
        (["CartPole-v1", "--set", "n_steps=9"], "n_steps=9: no such setting, and none stands for it here."),
        (["CartPole-v1", "--set", "xyz=9"], "xyz=9: no such setting. There are action_repeat, actor_learning_rate, "),
        (["CartPole-v1", "--set", "seed=3"], "no such setting. Use the argument seed; on the command line --seed"),
        (["CartPole-v1", "--set", "steps=600"], "on the command line --steps"),
        (["CartPole-v1", "--set", "n_timesteps=600"], "on the command line --steps"),
        (["CartPole-v1", "--steps", "10k"], "argument --steps: '10k' is not a number of steps, such as 10000 or 1e4"),
        (["CartPole-v1", "--steps", "0"], "use a whole number of at least 1"),
        (["CartPole-v1", "--steps", "inf"], "use a whole number of at least 1"),
        (["CartPole-v1", "--checkpoint-every", "nan"], "is not a whole number of at least 1"),
        (["NoSuchTask-v0", "--checkpoint-every", "0", "-i", "nothing.zip"], "is not a whole number of at least 1"),
        (["CartPole-v1", "--set", "policy_kwargs={[]:1}"], "policy_kwargs"),
        (["CartPole-v1", "--set", "n_envs=none"], "n_envs=None: use a whole number"),
        (["CartPole-v1", "--n-envs", "4"], "--n-envs 4. Use --set n_envs=4."),
        (["CartPole-v1", "--n-envs=3"], "--n-envs=3. Use --set n_envs=3."),
        (["CartPole-v1", "--set", "gamma=0.9", "horizon=5"], "horizon=5. Repeat --set for each: --set horizon=5."),
        (["CartPole-v1", "--env-kwargs", "a=b", "c=0.1"], "c=0.1. Repeat --env-kwargs for each: --env-kwargs c=0.1."),
        (["CartPole-v1", "--env-kwargs=a=b", "c=0.1"], "c=0.1. Repeat --env-kwargs for each: --env-kwargs c=0.1."),
        (["CartPole-v1", "--harmony", "off"], "arguments: --harmony off. Use --set harmony=False."),
        (["CartPole-v1", "--harmony=on"], "arguments: --harmony=on. Use --set harmony=True."),
        (["CartPole-v1", "--bogus", "horizon=5"], "unrecognized arguments: --bogus horizon=5.\n"),
        (["CartPole-v1", "--size", "tiny"], "tiny"),
        (["CartPole-v1", "--set", "policy=CnnPolicy"], "CnnPolicy"),
    ],
)
def test_mistakes_exit_with_2_and_leave_nothing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_status("train", *arguments, "--folder", str(tmp_path)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_run_folders_count_up_past_gaps(tmp_path: Path) -> None:
    (tmp_path / "A-b_7").mkdir(parents=True)
    (tmp_path / "A-b_old").mkdir()
    assert [new_run_folder(tmp_path, "A/b").name for _ in range(2)] == ["A-b_8", "A-b_9"]
    assert new_run_folder(tmp_path / "fresh", "A/b") == tmp_path / "fresh" / "A-b_1"


def test_train_leaves_agent_pictures_and_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "hd_agents/Catch-v0", "--steps", "160", "--folder", str(tmp_path), *TINY]) == 0
    folder = tmp_path / "hd_agents-Catch-v0_1"
    left = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
    silent = {"config.yml", "run.json", "0.monitor.csv"}
    named = {"agent.zip", "play.mp4", "curve.png", "dream.png", "tensorboard"}
    assert left == named | silent
    printed = capsys.readouterr().out
    assert all(str(folder / name) in printed for name in named)
    assert "logs, and the dream as it was learned: tensorboard" in printed
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert yaml.safe_load((folder / "config.yml").read_text())["hd_agents/Catch-v0"]["n_timesteps"] == 160
    video = cv2.VideoCapture(str(folder / "play.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) > 3
    video.release()
    assert HarmonyDreamAgent.load(folder / "agent.zip", device="cpu").num_timesteps == 160


@pytest.mark.parametrize(("before", "expected"), [(0, [44, 50, 60, 70, 80]), (40, [84, 90, 100, 110, 120])])
def test_a_first_episode_that_is_long_is_reported_once(
    before: int, expected: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Reports are due every 10 steps, from the first episode's end on; also where steps are counted on."""
    space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    agent = tiny(env=Scripted(space, spaces.Discrete(2), length=43), learning_starts=10_000)
    agent.num_timesteps = before
    written: list[int] = []
    facts: Any = SimpleNamespace(write=lambda: written.append(agent.num_timesteps))
    agent.learn(80, callback=ReturnPrinter(10, facts), reset_num_timesteps=False)
    lines = re.findall(r"(\d+) env steps: return +43.00 \(mean of last 1\)", capsys.readouterr().out)
    assert [int(line) for line in lines] == expected
    assert written == expected  # lest a run that is killed has no facts


def test_reports_are_of_the_latest_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    facts: Any = SimpleNamespace(write=lambda: None)
    tiny(env=Scripted(space, spaces.Discrete(2), length=3), learning_starts=10_000).learn(
        60, callback=ReturnPrinter(60, facts)
    )
    assert "60 env steps: return     3.00 (mean of last 10)\n" in capsys.readouterr().out


def test_ctrl_c_keeps_what_was_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(agent: HarmonyDreamAgent, *arguments: object, **options: object) -> None:
        assert agent.env.env_is_wrapped(RestartingEnv) == [True]
        raise KeyboardInterrupt

    told: list[str] = []
    monkeypatch.setattr(hints, "tell_machine", lambda plan, device: told.append(plan.task))
    monkeypatch.setattr(HarmonyDreamAgent, "learn", interrupted)
    monkeypatch.setattr(filming, "MAX_STEPS", 5)
    assert main(["train", "Pendulum-v1", "--folder", str(tmp_path), *TINY]) == 130
    assert told == ["Pendulum-v1"]
    assert (tmp_path / "Pendulum-v1_1" / "agent.zip").stat().st_size > 0


def test_episodes_of_several_environments_are_put_in_order_of_time(tmp_path: Path) -> None:
    head = '#{"t_start": 0.0}\nr,l,t\n'
    (tmp_path / "0.monitor.csv").write_text(head + "1.5,10,1.0\n2.5,20,4.0\n")
    (tmp_path / "1.monitor.csv").write_text(head + "-3,17,2.0\n")
    steps, totals = read_episodes(tmp_path)
    assert steps.tolist() == [20, 34, 60]
    assert totals.tolist() == [1.5, -3, 2.5]


def test_logs_of_a_run_that_goes_on_can_be_read(tmp_path: Path) -> None:
    for text in ("", "#{}\n", "#{}\nr,l,t\n"):
        (tmp_path / "0.monitor.csv").write_text(text)
        assert len(read_episodes(tmp_path)[0]) == 0
    (tmp_path / "0.monitor.csv").write_text("#{}\nr,l,t\n1.5,10,1.0\n2.5,2")
    assert read_episodes(tmp_path)[0].tolist() == [10]


def test_flags_are_written_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "CartPole-v1", "--pre", "nano"])
    assert "--pre" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--seed", "-1"], ["--seed", "1.5"], ["--device", "foo"], ["--device", "cuda"], ["--device", "cuda:1"]]
)
def test_seeds_and_devices_that_do_not_exist(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in ("train", "tune"):
        with pytest.raises(SystemExit, match="2"):
            main([command, "CartPole-v1", "--steps", "20", "--folder", str(tmp_path / "runs"), *flags])
        assert repr(flags[1]) in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("benchmark", ["--seeds", "--jobs", "--episodes"]),
        ("compare", ["--seeds", "--episodes"]),
        ("enjoy", ["--episodes"]),
        ("evaluate", ["--episodes", "--n-envs"]),
        ("zoo pack", ["--episodes"]),
        ("zoo verify", ["--episodes"]),
        ("tune", ["--trials", "--evaluations", "--episodes"]),
    ],
)
def test_there_is_no_less_than_one(command: str, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for flag in flags:
        for number in ("0", "-1", "1.5"):
            with pytest.raises(SystemExit, match="2"):
                main([*command.split(), "classic/CartPole", flag, number])
            assert f"argument {flag}: '{number}' is not a whole number of at least 1" in capsys.readouterr().err


def test_a_file_in_the_place_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["train", "CartPole-v1", "--folder", str(tmp_path / "file")]) == 2
    assert main(["plot", "classic", "--output", str(tmp_path / "file")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in first
    assert str(tmp_path / "file") in second
    assert (tmp_path / "file").read_text() == "mine"


def test_a_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert [flags._device(text) for text in ("cuda", "cuda:0", "auto", "cpu")] == ["cuda", "cuda:0", "auto", "cpu"]
    with pytest.raises(argparse.ArgumentTypeError, match="'cuda:1' is not there; PyTorch finds cuda:0: use auto"):
        flags._device("cuda:1")


def test_tasks_of_modules_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["import gymnasium", "from gymnasium.envs.classic_control import CartPoleEnv"]
    words += ["gymnasium.register('Mine-v0', CartPoleEnv, max_episode_steps=9)"]
    (tmp_path / "own_module_of_tests.py").write_text("\n".join(words))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(pictures, "leave", lambda *arguments: None)
    assert main(["train", "own_module_of_tests:Mine-v0", "--steps", "20", *TINY]) == 0
    del gym.registry["Mine-v0"]


def test_nothing_is_played_afterwards_where_that_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played: list[Any] = []
    monkeypatch.setattr("hd_agents.films.filming.play", lambda *arguments, **named: played.append(arguments))
    command = ["train", "CartPole-v1", "--steps", "30", "--no-video", "--folder", str(tmp_path)]
    assert main([*command, "--resume", *TINY]) == 0
    assert not played
    left = {path.name for path in tmp_path.iterdir()}
    assert "curve.png" in left and not left & {"play.mp4", "dream.png"}
    printed = capsys.readouterr().out
    assert "Playing" not in printed
    assert "logs: tensorboard" in printed  # no dream is there before anything was learned
    parser = build_parser()
    options = parser.parse_args(command)
    assert "--no-video" in resume_command(options, tmp_path)
    assert "--no-video" not in repeat_command("CartPole-v1", options)


def test_large_networks_on_the_cpu_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for size in (None, "xsmall"):
        hints.tell_machine(make_plan("CartPole-v1", size=size), "cpu")
        told.append(capsys.readouterr().err.count("--preset nano"))
    assert told == [0, 1]
    hints.hint_of_gpu([make_plan("CartPole-v1", size=size) for size in (None, "small", "xsmall", "small")], "cpu")
    assert capsys.readouterr().err.count("are meant for a GPU") == 2  # once for each size


def test_other_work_on_the_machine_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hints, "crowding", lambda threads: f"{threads} threads are too many")
    hints.tell_machine(make_plan("CartPole-v1"), "cpu")
    assert capsys.readouterr().err == f"hd-agents: {torch.get_num_threads()} threads are too many\n"


@pytest.mark.parametrize(("kind", "expected"), [("cpu", []), ("cuda", ["high"])])
def test_float32_products_are_made_by_tensor_cores_where_there_are_some(
    kind: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("torch.set_float32_matmul_precision", said.append)
    monkeypatch.setattr(tasks, "get_device", lambda _: SimpleNamespace(type=kind))
    assert tasks.allow_tensor_cores("auto") == (kind == "cuda")
    assert said == expected


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    parent = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "leave", lambda *arguments: None)
        assert main(["train", "CartPole-v1", "--steps", "20", "--folder", str(parent), "--device", "cpu", *TINY]) == 0
    return parent / "CartPole-v1_1"


def test_a_model_is_its_file_or_its_runs_folder(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (trained, trained / "agent", trained / "agent.zip"):
        assert main(["enjoy", str(model), "--episodes", "1"]) == 0
        assert main(["evaluate", "CartPole-v1", "--model", str(model), "--episodes", "1"]) == 0
        assert "seed 0: return" in capsys.readouterr().out


def test_what_is_near_a_model_that_is_not_there(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained.parent / "empty").mkdir(exist_ok=True)
    for model in (trained.parent, trained.with_name("CartPole-v1_7"), trained / "agnet.zip"):
        assert main(["enjoy", str(model)]) == 2
        assert f"Did you mean {trained / 'agent.zip'}?" in capsys.readouterr().err
    assert main(["enjoy", str(trained.parent / "empty")]) == 2
    assert "holds no agent.zip, and is not a package" in capsys.readouterr().err


def test_models_and_tasks_that_do_not_fit(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["enjoy", str(trained), "--task", "Acrobot-v1"], ["evaluate", "Acrobot-v1", "--model", str(trained)]):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert f"the model {trained} cannot play Acrobot-v1: Observation spaces do not match" in told
        assert "the agent's is Box(" in told and "that of the environment is Box(" in told


def test_nothing_typed_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    told = capsys.readouterr()
    assert not told.out and "train an agent on a task" in told.err


def test_help_says_what_is_taken_and_left(capsys: pytest.CaptureFixture[str]) -> None:
    told = {}
    for command in ("train", "enjoy", "evaluate"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        told[command] = " ".join(capsys.readouterr().out.split())
    assert "for tasks with images" not in told["train"]
    for command in ("enjoy", "evaluate"):
        assert "agent.zip, a run's or a package's folder, or org/repo of the Hub" in told[command]
