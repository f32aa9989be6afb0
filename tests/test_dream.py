"""`hd-agents dream`: a game beside the model's dream of it, in a terminal."""

import io
import os
import pty
import re
import signal
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from hd_agents.cli import main
from hd_agents.cli.dream import AGENT, ANEW, HELD, QUIT, Game, Hand, shown
from hd_agents.films.live_dream import LiveDream
from hd_agents.films.terminal import Terminal, blocks, palette, split
from tests.agents import Scripted, tiny

IMAGE = spaces.Box(0, 255, (32, 32, 3), np.uint8)


def pixels(lines: Sequence[str]) -> np.ndarray:
    """The picture that a terminal with 24 bits of colour shows for these lines: (2 * lines, signs, 3)."""
    rows: list[list[list[int]]] = []
    for line in lines:
        colours, pair = {38: [0, 0, 0], 48: [0, 0, 0]}, ([], [])
        for codes, sign in re.findall(r"\x1b\[([0-9;]*)m|(▀)", line):
            if sign:
                pair[0].append(colours[38])
                pair[1].append(colours[48])
            numbers = [int(number) for number in codes.split(";")] if codes else []
            while len(numbers) > 1:
                layer, kind, *colour = numbers[:5]
                assert kind == 2
                colours[layer], numbers = colour, numbers[5:]
        rows += pair
    return np.array(rows)


def test_pictures_are_drawn_two_pixels_a_sign() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (22, 14, 3), dtype=np.uint8)
    picture[4:8] = picture[4, 0]  # where nothing changes no colour is said again
    assert np.array_equal(pixels(blocks(picture, (14, 22), True)), picture & 0xF8)
    small = cv2.resize(picture, (7, 11), interpolation=cv2.INTER_AREA)
    assert np.array_equal(pixels(blocks(picture, (7, 11), True)), small[:10] & 0xF8)
    assert "38;5;" in blocks(picture, (14, 22), False)[0]


def test_the_nearest_of_the_palette_is_taken() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (1, 50, 3), dtype=np.uint8)
    steps = np.array([0, 95, 135, 175, 215, 255])
    table = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)  # of codes 16 to 231
    for colour, code in zip(colours[0], palette(colours)[0], strict=True):
        distances = ((table - colour.astype(int)) ** 2).sum(1)
        assert distances[code - 16] == distances.min()


def test_keys_are_told_apart() -> None:
    assert split("a\x1b[Dw\x1bOC \t\nq") == ["a", "left", "w", "right", " ", "\t", "\n", "q"]
    assert split("\x1b[1;5Da\x1b[3~\x1b[A\x1b[") == ["a", "up"]


def test_held_keys_become_actions() -> None:
    hand = Hand({(): 0, ("w",): 3, (ord("d"),): 2, "wd": 5}, spaces.Discrete(6))
    assert hand.keys == ["0", "1", "2", "3", "4", "5", "d", "w"]
    hand.press("x")
    assert not hand.plays
    hand.press("up")
    assert hand.plays
    assert hand.action() == 3
    hand.press("right")
    assert [hand.action() for _ in range(4)] == [5, 5, 2, 0]  # held together, until the first counts no more
    hand.press("4")
    assert [hand.action() for _ in range(HELD + 1)] == [4] * HELD + [0]
    shifted = Hand({}, spaces.Discrete(3, start=-1))
    shifted.press("2")
    assert [shifted.action() for _ in range(HELD + 1)] == [1] * HELD + [-1]
    assert Hand({("w",): 3}, spaces.Box(-1, 1, (2,))).keys == []


def test_keys_that_pygame_names_are_known() -> None:
    """As for ``gymnasium.utils.play``: arrows have numbers there that no character has, and so have function keys."""
    right, left, f1 = 1073741903, 1073741904, 1073741882
    hand = Hand({(left,): 1, (right,): 2, (right, ord("x")): 3, (f1,): 3}, spaces.Discrete(4))
    assert hand.keys == ["0", "1", "2", "3", "left", "right", "x"]
    assert shown(hand.keys) == "left right x 0-3"
    hand.press("right")
    assert hand.action() == 2
    hand.press("x")
    assert hand.action() == 3


def test_a_live_dream_is_what_the_agent_imagines() -> None:
    agent = tiny("CnnPolicy", Scripted(IMAGE, spaces.Discrete(4)))
    observation, actions = IMAGE.sample(), [3, 1, 2]
    _, state = agent.predict(observation, None, np.ones(1, dtype=bool), deterministic=True)
    imagined = agent.imagine(observation, np.array(actions))
    dream = LiveDream(agent)
    moments = [dream.begin(state), *(dream.step(action) for action in actions)]
    assert dream.steps == 3
    pictures = np.stack([moment.picture for moment in moments])
    assert np.abs(pictures.astype(int) - imagined.observations["observation"]).max() <= 1
    assert np.allclose([moment.reward for moment in moments], [0.0, *imagined.rewards], atol=1e-5)
    assert np.allclose([moment.goes_on for moment in moments[1:]], imagined.continues, atol=1e-5)
    assert dream.begin(state).reward == dream.steps == 0
    with pytest.raises(ValueError, match="numbers, and not of images"):
        LiveDream(tiny())
    with pytest.raises(ValueError, match="actions do not fit"):
        dream.step(4)


class FakeTerminal:
    """Gives the keys of one step after the other, and keeps the lines that are shown."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys: Iterator[str] = iter(keys)
        self.shown: list[Sequence[str]] = []

    def pressed(self, seconds: float) -> list[str]:
        return split(next(self._keys))

    def show(self, pictures: Sequence[Any], lines: Sequence[str]) -> None:
        assert [picture.shape for picture in pictures] == [(32, 32, 3)] * 2
        self.shown.append(lines)


class Driver(Scripted):
    """With keys of its own."""

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        return {("a",): 2, ("d",): 3}


def test_the_agent_plays_until_somebody_presses_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    env: gym.Env[Any, Any] = gym.wrappers.TimeLimit(Driver(IMAGE, spaces.Discrete(4), length=9), 100)
    agent = tiny("CnnPolicy", env)
    chosen, states, begun = [], [], []

    class Player:
        def predict(self, observation: Any, state: Any, start: Any) -> Any:
            states.append(state)
            action, state = agent.predict(observation, state, start)
            chosen.append(int(action))
            return action, state

    dream = LiveDream(agent)
    begin = dream.begin
    monkeypatch.setattr(dream, "begin", lambda state: begun.append(len(chosen) - 1) or begin(state))
    monkeypatch.setattr("hd_agents.cli.dream.LINGER", 1e-9)
    keys = ["", "", "a", "", "", "", AGENT, ANEW, "", "", "x", QUIT]
    terminal: Any = FakeTerminal(keys)
    game = Game(Player(), dream, env, terminal, horizon=3, fps=1e9)
    assert game.play(seed=5)
    taken = [int(action) for action in env.unwrapped.actions]
    assert taken == [*chosen[:2], *[2] * HELD, 0, *chosen[6:9]]
    for step, action in enumerate(taken[2:6], start=3):
        assert np.array_equal(states[step][2][0], np.eye(4)[action])  # the agent knows what was done
    assert begun == [0, 4, 8]  # anew where three steps are over, and by Enter; step 8 follows the key of step 7
    assert [" you play" in lines[1] for lines in terminal.shown] == [False] * 3 + [True] * 4 + [False] * 3
    assert terminal.shown[0][3].startswith("q: end   ")  # first, as a narrow terminal cuts the line
    assert "play: a d 0-3" in terminal.shown[0][3]
    assert game.told == ["episode of seed 5: return 9 in 9 steps, ended"]
    assert not game.play(seed=6)
    assert game.told[1] == "episode of seed 6: return 1 in 1 steps"


class Measured(Scripted):
    """Tells what its motors did, which was a little more than they were told."""

    def step(self, action: Any) -> Any:
        *result, info = super().step(action)
        return *result, {**info, "executed_action": np.array([1.05, 0.5], np.float32)}


def test_actions_that_were_measured_may_lie_beyond_their_bounds() -> None:
    env = Measured(IMAGE, spaces.Box(-1, 1, (2,)), length=3)
    agent, states = tiny("CnnPolicy", env), []

    class Player:
        def predict(self, observation: Any, state: Any, start: Any) -> Any:
            states.append(state)
            return agent.predict(observation, state, start)

    terminal: Any = FakeTerminal(["", "", QUIT])
    assert not Game(Player(), LiveDream(agent), env, terminal, horizon=9, fps=1e9).play(seed=5)
    assert states[-1][2].tolist() == [[1.0, 0.5]]


def run_in_terminal(
    monkeypatch: pytest.MonkeyPatch, typed: bytes, *words: str, encoding: str = "utf-8"
) -> tuple[int, str]:
    """Exit status and output of a command in a terminal in which ``typed`` was typed ahead."""
    ours, theirs = pty.openpty()
    shown = b""

    def read() -> None:
        nonlocal shown
        try:
            while True:
                shown += os.read(ours, 65_536)
        except OSError:  # closed
            pass

    with (
        open(theirs, closefd=False) as keys,
        open(theirs, "w", closefd=False, encoding=encoding) as screen,
        monkeypatch.context() as patch,
    ):
        patch.setattr("sys.stdin", keys)
        patch.setattr("sys.stdout", screen)
        patch.setenv("COLORTERM", "truecolor")
        patch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((70, 30)))
        usual = termios.tcgetattr(theirs)
        os.write(ours, typed)
        reader = Thread(target=read)
        reader.start()
        try:
            status: Any = main(["dream", *words])
        except SystemExit as ended:
            status = ended.code
        assert termios.tcgetattr(theirs) == usual
    os.close(theirs)
    reader.join()
    os.close(ours)
    return status, shown.decode()


def test_what_a_step_takes_is_not_waited_for_again() -> None:
    env, waits = Scripted(IMAGE, spaces.Discrete(4)), []
    agent = tiny("CnnPolicy", env)

    class Player:
        def predict(self, *arguments: Any) -> Any:
            time.sleep(0.05)
            return agent.predict(*arguments)

    class Patient(FakeTerminal):
        def pressed(self, seconds: float) -> list[str]:
            waits.append(seconds)
            time.sleep(seconds)
            return super().pressed(seconds)

    terminal: Any = Patient(["", "", "", QUIT])
    assert not Game(Player(), LiveDream(agent), env, terminal, horizon=9, fps=10).play(seed=5)
    assert max(waits) < 0.06, "at 10 steps per second, of which a step itself takes a half"


@contextmanager
def bare_terminal() -> Iterator[tuple[Terminal, int]]:
    """A terminal, and where to type into it."""
    ours, theirs = pty.openpty()
    with open(theirs) as keys, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", keys)
        patch.setattr("sys.stdout", io.StringIO())
        with Terminal() as terminal:
            yield terminal, ours


def test_keys_that_are_no_text_are_left_out() -> None:
    """Such as an e with an accent, from a terminal that does not speak UTF-8."""
    with bare_terminal() as (terminal, ours):
        os.write(ours, b"\xe9")
        assert terminal.pressed(1.0) == []
        os.write(ours, b"\xe9w")
        assert terminal.pressed(1.0) == ["w"]
        os.close(ours)
        with pytest.raises(KeyboardInterrupt):
            terminal.pressed(1.0)  # and afterwards there is no terminal to give back


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "agent.zip"
    tiny("CnnPolicy", "hd_agents/Catch-v0").save(path)
    return path


def test_a_game_in_a_terminal(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, shown = run_in_terminal(monkeypatch, b"aq", str(saved), "--task", "classic/Catch", "--seed", "3")
    assert status == 0
    _, shown = shown.split("\x1b[?1049h\x1b[?25l")  # before it the echo of what was typed ahead
    screen, left = shown.split("\x1b[?25h\x1b[?1049l")
    assert left.strip() == "episode of seed 3: return 0 in 0 steps"
    lines = screen.split("\x1b[H")[1].split("\r\n")
    picture = pixels(lines[:-4])
    assert picture.shape == (2 * 16, 2 * 33, 3)  # 64 x 64 pixels are made to fit 70 signs
    observation, _ = gym.make("hd_agents/Catch-v0").reset(seed=3)
    expected = cv2.resize(observation, (33, 33), interpolation=cv2.INTER_AREA)[:32]
    assert np.array_equal(picture[:, :33], expected & 0xF8)
    assert "dream of 0 steps, 30 at most" in lines[-2]


def test_a_terminal_that_lacks_the_sign_of_pictures(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = str(saved), "--task", "classic/Catch"
    assert run_in_terminal(monkeypatch, b"q", *words, encoding="iso8859-1")[0] == 2
    assert (
        "iso8859-1, the encoding of this output, lacks: in a terminal that shows UTF-8, set PYTHONIOENCODING=utf-8"
        in capsys.readouterr().err
    )


def test_sigterm_gives_the_terminal_back(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "show", lambda *arguments: signal.raise_signal(signal.SIGTERM))
    status, shown = run_in_terminal(monkeypatch, b"", str(saved), "--task", "classic/Catch")
    assert status == 143
    assert shown.endswith("\x1b[?25h\x1b[?1049l")


def test_what_cannot_be_shown_is_told(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dream", "classic/Catch"]) == 2
    assert "needs a terminal" in capsys.readouterr().err
    assert run_in_terminal(monkeypatch, b"", "classic/CartPole")[0] == 2
    assert "dreams of numbers, and not of images" in capsys.readouterr().err
    tiny("CnnPolicy", Scripted(IMAGE, spaces.Discrete(4))).save(tmp_path / "other.zip")
    assert run_in_terminal(monkeypatch, b"", str(tmp_path / "other.zip"), "--task", "classic/Catch")[0] == 2
    assert "cannot play classic/Catch" in capsys.readouterr().err


def test_keys_of_our_games() -> None:
    catch = gym.make("hd_agents/Catch-v0").unwrapped
    catch.reset(seed=0)
    for key, direction in (("a", -1), ("d", 1)):
        before = catch.paddle
        catch.step(catch.get_keys_to_action()[(key,)])
        assert np.sign(catch.paddle - before) == direction
    pytest.importorskip("ale_py")
    keys = gym.make("atari100k/Breakout-v0").unwrapped.get_keys_to_action()
    assert keys == {(): 0, (" ",): 1, ("d",): 2, ("a",): 3}
    assert gym.make("atari100k/Boxing-v0").unwrapped.get_keys_to_action()[("w", "d", " ")] == 14
