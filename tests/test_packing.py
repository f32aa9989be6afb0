"""What `zoo pack` adds to the weights: pictures, a card for people, 8 bits; and what verification says of it."""

import errno
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import main
from hd_agents.evaluation import ActorsMode, Evaluation
from hd_agents.films.filming import Episode
from hd_agents.saving.jsonable import ArchiveError
from hd_agents.zoo import cards, packages, packing
from tests.agents import Scripted, tiny
from tests.test_pretrained import RUN

SHIPPED = zoo.folder() / "pretrained"


def save(folder: Path, **changes: Any) -> Path:
    """An untrained agent as a run leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny(seed=3, **changes).save(folder / "agent.zip")
    (folder / "run.json").write_text(json.dumps(RUN))
    return folder / "agent.zip"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def eight(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("zoo") / "CartPole"
    return zoo.pack(saved, "CartPole-v1", episodes=5, target=target, device="cpu", bits=8)


def test_video_and_strip_are_what_the_card_says(eight: Path) -> None:
    card = zoo.card(eight)
    assert set(card["sha256"]) == set(packages.FILES)
    assert card["confidence"] == 0.99
    video = card["video"]
    assert (video["seed"], video["whole"]) == (10_000, True)
    assert video["return"] == video["steps"] > 5  # CartPole pays 1 a step
    film = cv2.VideoCapture(str(eight / "video.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == video["steps"] + 1
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(50)  # CartPole's own
    assert card["dream"]["seed"] == 10_000
    assert cv2.imread(str(eight / "dream.png")).shape[1] > 500


def test_the_readme_states_the_card_in_words(eight: Path) -> None:
    card, text = zoo.card(eight), (eight / "README.md").read_text(encoding="utf-8")
    assert text == cards.readme(card, cards.HERE)
    low, high = card["interval"]
    for part in (
        "# classic/CartPole",
        f"**{card['evaluation']['mean_return']:.2f}**",
        f"{low:.2f} to {high:.2f}",
        "5, seeds 10000 to 10004",
        "`hd-agents train`",
        'zoo.load("path/of/this/folder"), zoo.make_env("classic/CartPole")',
        "`hd-agents train classic/CartPole --trained-agent path/of/this/folder`",
        "`hd-agents zoo verify path/of/this/folder`",
        "`abc`",
        "a desk",
        "| seed | 3 |",
        "2 s",
        "int8 matrices, float16 vectors",
        f"{card['half_precision']['mean_return']:.2f}, interval",
        "](video.mp4)",
        "](dream.png)",
        f"playing with sampled actions, a whole episode of {card['video']['steps']} steps, seed 10000",
    ):
        assert part in text, part
    assert "\n\n\n" not in text
    assert "before packing" not in text


def test_the_readme_tells_how_this_model_learns_on(eight: Path) -> None:
    card = zoo.card(eight)
    card |= {"command": "hd-agents train classic/CartPole --preset nano", "env_kwargs": {"a": 2, "b": "big game"}}
    text = cards.readme(card, "me/cart")
    assert 'zoo.load("me/cart"), zoo.make_env("classic/CartPole", a=2, b=\'big game\')' in text
    found = re.search(r"or `(hd-agents train .*)`", text)
    assert found is not None
    words = shlex.split(found[1])
    usual = ["hd-agents", "train", "classic/CartPole", "--preset", "nano"]
    assert words == [*usual, "--env-kwargs=a=2", "--env-kwargs=b='big game'", "--trained-agent", "me/cart"]
    began = {"model": "me/before", "env_steps": 1_000, "gradient_steps": 2_000}
    for trained, row in (
        (began, "| began with | `me/before`, after 1,000 environment and 2,000 gradient steps |"),
        ("me/before", "| began with | `me/before` |"),
    ):
        assert row in cards.readme({**card, "trained_agent": trained})
    assert "began with" not in text and "changed" not in text
    changes = [{"env_steps": 1_800, "changed": "gamma 0.99 -> 0.9"}, {"env_steps": 1_900, "changed": "seed 3 -> 4"}]
    row = "| changed on the way | at step 1,800 gamma 0.99 -> 0.9; at step 1,900 seed 3 -> 4 |"
    assert row in cards.readme({**card, "changes": changes})


def test_the_readme_of_a_task_that_draws_nothing_and_of_a_suite() -> None:
    card = json.loads((SHIPPED / "classic" / "CartPole" / packages.CARD).read_text())
    found = {**card["evaluation"], "success_rate": 0.5, "human_normalized_score": 1.25}
    changes = {"video": None, "dream": {"seed": 1, "context": 10, "horizon": 14}, "evaluation": found, "commit": None}
    text = cards.readme({**card, **changes, "command": "a | b", "wall_seconds": 7205, "holds": "a part"})
    for part in ("no video: `CartPole-v1` draws no pictures", "| 50% |", "1.250", r"`a \| b`", "2 h 0 min 5 s"):
        assert part in text
    assert f"| date | {card['trained']} |" in text
    assert "Drawn with all networks of the trained agent, before packing." in text
    assert "imagine" not in text  # it is packed for acting only
    assert "video.mp4" not in text and "half" not in text
    assert "| commit | unknown |" in text


def test_eight_bits_are_smaller_and_judged_by_half_precision(saved: Path, eight: Path, tmp_path: Path) -> None:
    half = zoo.card(zoo.pack(saved, "CartPole-v1", episodes=5, target=tmp_path / "half", device="cpu"))
    card = zoo.card(eight)
    assert card["half_precision"] == {
        "mean_return": half["evaluation"]["mean_return"],
        "interval": half["interval"],
    }
    assert card["parameters"] == half["parameters"]
    assert card["bytes"] < 0.85 * half["bytes"]  # much of a tiny agent's file is names
    assert zoo.verify(eight).passed


def test_eight_bits_that_cost_too_much_are_refused(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = iter([[10.0, 11.0, 12.0], [1.0, 2.0, 3.0]])

    def played(agent: Any, task: str, *_: Any) -> Evaluation:
        return Evaluation(task, "paper", "sampled", 1, [0, 1, 2], next(scores), [1, 1, 1], None, {})

    monkeypatch.setattr(packing, "evaluate", played)
    arguments = ["zoo", "pack", str(saved), "CartPole-v1", "--bits", "8", "--folder", str(tmp_path / "a")]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "In 8 bits the model's return is 2.00, and in half precision 11.00 on the same 3 episodes" in message
    assert "--bits 16" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_packed_is_what_is_judged(
    bits: int, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what was saved, whose weights have more digits; and by the papers' rule."""
    judged: list[tuple[Any, str, int, int, int]] = []

    def played(agent: Any, task: str, episodes: int, rule: str, seed: int, n_envs: int, *_: Any) -> Evaluation:
        judged.append((agent, rule, seed, episodes, n_envs))
        return Evaluation(task, rule, "sampled", 1, [0, 1, 2], [1.0, 2.0, 3.0], [1, 1, 1], None, {})

    players: list[Any] = []
    play = packing.play
    monkeypatch.setattr(packing, "play", lambda *rest: players.append(rest[3:]) or play(*rest))
    monkeypatch.setattr(packing, "acting", lambda task, rule: {"paper": "mode"}[rule])
    monkeypatch.setattr(packing, "evaluate", played)
    target = zoo.pack(saved, "CartPole-v1", target=tmp_path / "a", device="cpu", bits=bits, n_envs=3)
    steps, player = players[0]  # of the video
    assert steps == 500 and type(player) is ActorsMode
    assert [tuple(rest) for _, *rest in judged] == [("paper", 10_000, 100, 3)] * (2 if bits == 8 else 1)
    weights = judged[-1][0].policy.parameters_to_vector()
    assert np.array_equal(weights, zoo.load(target, device="cpu").policy.parameters_to_vector())
    before = HarmonyDreamAgent.load(saved, device="cpu").policy.parameters_to_vector()
    assert 0 < abs(weights - before).max() < 0.1


def test_an_agent_is_found_as_load_finds_it(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "zoo",
        "pack",
        str(saved.with_suffix("")),
        "CartPole-v1",
        "--episodes",
        "1",
        "--folder",
        str(tmp_path / "a"),
    ]
    assert main(words) == 0
    assert main(["zoo", "pack", str(tmp_path / "none.zip"), "CartPole-v1", "--folder", str(tmp_path / "b")]) == 2
    assert "There is no saved agent" in capsys.readouterr().err  # and not that its facts are missing


def test_the_folder_of_a_run_in_the_place_of_its_agent_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.zip").touch()
    assert main(["zoo", "pack", str(tmp_path), "classic/Catch"]) == 2
    assert f"{tmp_path} is a folder or a device: pass {tmp_path}/agent.zip." in capsys.readouterr().err


def test_bits_that_cannot_be(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bits=4: use one of \[32, 16, 8\]"):
        zoo.pack(saved, "CartPole-v1", bits=4, target=tmp_path / "a")


def test_missing_libraries_are_named(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cv2" else name)
    with pytest.raises(ImportError, match=r'needs OpenCV: install it with `pip install "hd_agents\[train\]"`'):
        zoo.pack(saved, "CartPole-v1", target=tmp_path / "a")


def test_a_task_that_draws_nothing_has_no_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gym.registry, "Blind-v0", gym.envs.registration.EnvSpec("Blind-v0", entry_point=blind))
    file = save(tmp_path / "run", env=blind())
    assert main(["zoo", "pack", str(file), "Blind-v0", "--episodes", "2", "--folder", str(tmp_path / "a")]) == 0
    assert "No video: Blind-v0 draws no pictures." in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "a").iterdir()} == {packages.CARD, *packages.FILES} - {packages.VIDEO}
    assert zoo.card(tmp_path / "a")["video"] is None
    assert zoo.verify(tmp_path / "a").passed


def blind(**_: Any) -> gym.Env[Any, Any]:
    return Scripted(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), length=6)


def test_long_videos_are_cut_to_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(6)]
    episode = Episode(5, [], [], [2.0] * 5, [], noise, True)
    told: list[list[str]] = []
    write = packing.write_video
    monkeypatch.setattr(packing, "write_video", lambda *rest: told.append(rest[3]) or write(*rest))
    whole = packing._write_video(tmp_path / "a.mp4", episode, "t", 30)
    assert whole == {"seed": 5, "steps": 5, "return": 10.0, "whole": True}
    assert told == [[f"t\nseed 5, step {step}, return {2 * step:.2f}" for step in range(6)]]
    monkeypatch.setattr(packing, "VIDEO_BYTES", (tmp_path / "a.mp4").stat().st_size * 3 // 4)
    card = packing._write_video(tmp_path / "a.mp4", episode, "t", 30)
    assert (tmp_path / "a.mp4").stat().st_size <= packing.VIDEO_BYTES
    assert card["steps"] in (1, 2)
    assert card == {"seed": 5, "steps": card["steps"], "return": 2.0 * card["steps"], "whole": False}
    film = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == card["steps"] + 1


@pytest.mark.parametrize("name", packages.FILES)
def test_verification_finds_a_changed_file(
    name: str, eight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "a"
    shutil.copytree(eight, broken)
    with (broken / name).open("ab") as file:
        file.write(b"\n")
    assert main(["zoo", "verify", str(broken)]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"{broken}: FAILED: ")
    assert f"{name} is not the file that the card describes" in printed
    (broken / name).unlink()
    with pytest.raises(ArchiveError, match=name):
        zoo.verify(broken)
    if name not in (packages.AGENT, packages.WEIGHTS):
        zoo.load(broken)  # acting needs no pictures


def test_a_picture_that_the_card_does_not_know_is_refused(eight: Path, tmp_path: Path) -> None:
    shutil.copytree(eight, tmp_path / "a")
    card = zoo.card(eight)
    del card["sha256"][packages.VIDEO]
    (tmp_path / "a" / packages.CARD).write_text(json.dumps(card))
    with pytest.raises(ArchiveError, match=packages.VIDEO):
        packages.check(tmp_path / "a")


@pytest.mark.parametrize(
    ("task", "told"),
    [("none_such:None-v0", "No module named 'none_such'"), ("None-v0", "Environment `None` doesn't exist")],
)
def test_tasks_that_nobody_knows_are_told(
    task: str, told: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["zoo", "pack", str(saved), task, "--folder", str(tmp_path / "a")]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("sums", [None, [], "x", {"agent.json": 3}])
def test_cards_without_checksums_are_refused(sums: Any, eight: Path, tmp_path: Path) -> None:
    shutil.copytree(eight, tmp_path / "a")
    (tmp_path / "a" / packages.CARD).write_text(json.dumps({**zoo.card(eight), "sha256": sums}))
    with pytest.raises(ArchiveError, match="checksum"):
        zoo.load(tmp_path / "a")


def test_what_ships_is_small_and_complete() -> None:
    sizes = {path: path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 40e6
    for name in zoo.pretrained():
        folder = SHIPPED / name
        assert sum(size for path, size in sizes.items() if path.parent == folder) <= 16e6
        card = zoo.card(name)
        packages.check(folder)
        assert (folder / packages.README).read_text(encoding="utf-8") == cards.readme(card)
        assert (folder / packages.DREAM).is_file()
        assert (folder / packages.VIDEO).is_file() == (card["video"] is not None)
        if card["video"] is not None:
            assert (folder / packages.VIDEO).stat().st_size <= packing.VIDEO_BYTES


def test_the_card_states_the_task_that_was_packed(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gym.spec("CartPole-v1")
    monkeypatch.setitem(gym.registry, "Pole-v0", EnvSpec("Pole-v0", entry_point=spec.entry_point, max_episode_steps=9))
    run = {"command": "c", "commit": "d", "machine": "m", "seed": 1, "wall_seconds": 2.0, "task": "Another-v0"}
    target = zoo.pack(saved, "Pole-v0", run, episodes=1, target=tmp_path / "a", device="cpu")
    assert zoo.card(target)["task"] == zoo.card(target)["evaluation"]["task"] == "Pole-v0"
    assert zoo.card(target)["command"] == "c"  # and not that of the run.json beside the agent
    with pytest.raises(ValueError, match=r"'Pole-v0' is no task of the zoo.* pass target \(--folder\)"):
        zoo.pack(saved, "Pole-v0", run, episodes=1, device="cpu")


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (5, "run=5 is no object of names and values: command, commit, machine, seed, wall_seconds"),
        (
            {"seed": 1},
            "The card has to state command, commit, machine, wall_seconds, as the run.json of a training run",
        ),
        ({"seed": "1"}, "The run's seed is '1': expected a number"),
        ({"wall_seconds": None}, "The run's wall_seconds is None: expected a number"),
        ({"command": 3}, "The run's command is 3: expected text"),
        ({"machine": None}, "The run's machine is None: expected text"),
    ],
)
def test_facts_of_another_kind_are_refused_before_anything_is_played(
    run: Any, told: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hd_agents.zoo.packing.evaluate", None)
    usual = {"command": "x", "commit": "y", "machine": "z", "seed": 0, "wall_seconds": 1.5}
    given = run if not isinstance(run, dict) or len(run) != 1 or run == {"seed": 1} else {**usual, **run}
    with pytest.raises(ValueError, match=re.escape(told)):
        zoo.pack(saved, "classic/CartPole", given, target=tmp_path / "made")


def test_what_to_type_where_there_is_no_card_to_write(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone.zip"
    shutil.copy(saved, alone)
    assert main(["zoo", "pack", str(alone), "classic/CartPole", "--folder", str(tmp_path / "made")]) == 2
    assert "(--run JSON)" in capsys.readouterr().err
    for command in (["zoo", "verify", str(alone)], ["push", str(alone), "me/model"]):
        assert main(command) == 2
        assert "(hd-agents zoo pack) makes a package of it" in capsys.readouterr().err


def test_a_run_of_no_repository_can_be_packed(saved: Path, tmp_path: Path) -> None:
    """As of an installed package: it has no commit."""
    given = {"command": "x", "commit": None, "machine": "z", "seed": 0, "wall_seconds": 1.5}
    made = zoo.pack(saved, "classic/CartPole", given, 2, target=tmp_path / "made")
    assert zoo.card(made)["commit"] is None


@pytest.mark.parametrize(
    ("task", "norm_obs"), [("CartPole-v1", True), ("CartPole-v1", False), ("hd_agents/Catch-v0", False)]
)
def test_an_agent_that_sees_normalized_observations_is_refused(task: str, norm_obs: bool, tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make(task)]), norm_obs=norm_obs)
    tiny("MlpPolicy" if task == "CartPole-v1" else "CnnPolicy", env).learn(20).save(tmp_path / "agent.zip")
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    target = tmp_path / "packed"
    if norm_obs:
        with pytest.raises(ValueError, match=r"agent\.zip was trained behind a VecNormalize, whose statistics"):
            zoo.pack(tmp_path / "agent.zip", task, episodes=1, target=target, device="cpu")
    else:
        zoo.pack(tmp_path / "agent.zip", task, episodes=1, target=target, device="cpu")
    assert target.exists() is not norm_obs


def test_a_full_disk_names_the_package(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", no_room)
    target = tmp_path / "made" / "CartPole"
    assert main(["zoo", "pack", str(saved), "CartPole-v1", "--folder", str(target)]) == 1
    assert capsys.readouterr().err == f"hd-agents: [Errno 28] No space left on device: '{target}'\n"
    assert not list(target.parent.iterdir())


def test_a_stop_leaves_nothing_half_made(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any) -> None:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(packing, "evaluate", stopped)
    with pytest.raises(SystemExit) as left:
        main(["zoo", "pack", str(saved), "CartPole-v1", "--folder", str(tmp_path / "made" / "CartPole")])
    assert left.value.code == 143
    assert not list((tmp_path / "made").iterdir())
