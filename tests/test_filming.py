"""Videos and film strips of agents at work."""

import resource
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from matplotlib.figure import Figure

from hd_agents.evaluation import ActorsMode
from hd_agents.films import filming
from hd_agents.films.filming import CONTEXT, CURVE_HORIZON, HORIZON, MIN_SIDE, draw_dream, play, write_video
from hd_agents.randomness import seeded
from tests.agents import Scripted, tiny

IMAGE = spaces.Box(0, 255, (16, 20, 3), np.uint8)
NUMBERS = spaces.Dict({"arm": spaces.Box(-1, 1, (2, 3)), "hand": spaces.Box(-1, 1, (5,)), "mode": spaces.Discrete(3)})


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved; their files are still written."""
    kept: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **named: Any) -> None:
        kept.append(figure)
        save(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


@pytest.mark.parametrize(("channels", "shown"), [(1, (9, 9, 9)), (2, (8, 8, 8)), (3, (9, 8, 7)), (4, (9, 8, 7))])
def test_any_image_becomes_rgb(channels: int, shown: tuple[int, ...]) -> None:
    image = np.broadcast_to(np.array([9, 8, 7, 6], np.uint8)[:channels], (2, 3, channels))
    assert np.array_equal(filming.to_rgb(image), np.broadcast_to(np.array(shown), (2, 3, 3)))


def read_video(path: Path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(path)), []
    while (found := video.read())[0]:
        frames.append(found[1])
    return frames


def test_video_holds_every_frame_enlarged(tmp_path: Path) -> None:
    frames = [np.full((5, 7, 3), shade, np.uint8) for shade in (0, 100, 200)]
    write_video(tmp_path / "a.mp4", frames, fps=10)
    read = read_video(tmp_path / "a.mp4")
    assert min(read[0].shape[:2]) >= MIN_SIDE
    assert [round(frame.mean() / 100) for frame in read] == [0, 1, 2]


def test_captions_stand_below_the_frames_and_fit(tmp_path: Path) -> None:
    frames = [np.full((64, 64, 3), 128, np.uint8)] * 2
    write_video(tmp_path / "a.mp4", frames, 10, ["a\nb", "a very long line indeed " * 5 + "\n"])
    short, long = read_video(tmp_path / "a.mp4")
    assert short.shape == (256 + 2 * filming.LINE, 256, 3)
    assert abs(short[:250].mean() - 128) < 4
    bars = [frame[258:, :, :].astype(int) for frame in (short, long)]
    assert all(bar.max() > 150 for bar in bars)  # text
    assert bars[0][:, 100:].max() < 60  # "a" and "b" are short
    assert bars[1][:16, -60:-8].max() > 60  # the long line reaches the right
    assert bars[1][:, -3:].max() < 60  # and ends there


def test_an_episode_repeats_and_leaves_the_random_numbers_alone() -> None:
    agent = tiny()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (play(agent, gym.make("CartPole-v1"), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert first.actions == again.actions
    assert np.array_equal(first.observations, again.observations)
    assert not np.array_equal(first.observations[0], other.observations[0])
    assert (first.seed, first.whole, len(first.observations)) == (1, True, len(first.actions) + 1)
    short = play(agent, gym.make("CartPole-v1"), 1, steps=3)
    assert short.actions == first.actions[:3]
    assert not short.whole


def test_an_episode_of_another_player() -> None:
    agent = tiny()
    player = ActorsMode(agent.policy)
    episode = play(agent, gym.make("CartPole-v1"), 1, player=player)
    with seeded(1, agent.device):
        action, state = player.predict(episode.observations[0])
        assert action.shape == ()
        assert action == episode.actions[0]
        second, _ = player.predict(episode.observations[1][None], state, np.zeros(1, dtype=bool))
    assert second.shape == (1,)
    assert second[0] == episode.actions[1]


def test_a_strip_shows_truth_dream_and_their_difference(tmp_path: Path, figures: list[Figure]) -> None:
    env = Scripted(IMAGE, spaces.Discrete(2), length=40)
    agent = tiny("CnnPolicy", env)
    episode = play(agent, env, seed=7)
    found = draw_dream(tmp_path / "a.png", agent, episode, "some/task")
    assert found == {"seed": 7, "context": CONTEXT + 1, "horizon": HORIZON}
    assert (tmp_path / "a.png").stat().st_size > 1_000
    title = figures[0].get_suptitle()
    assert title.startswith("some/task, episode of seed 7: the agent saw 10 observations, and dreamt the next 14 steps")
    rows = [np.asarray(axes.images[0].get_array(), dtype=int) for axes in figures[0].axes]
    width = IMAGE.shape[1]
    starts = range(0, rows[0].shape[1], width + max(1, width // 16))
    truth, dream, error = ([row[:, start : start + width] for start in starts] for row in rows)
    assert np.array_equal(truth[0], episode.observations[CONTEXT])
    assert np.array_equal(truth[-1], episode.observations[CONTEXT + HORIZON])
    assert all(np.array_equal(abs(a - b), c) for a, b, c in zip(truth, dream, error, strict=True))
    dreamt = agent.imagine(
        episode.observations[CONTEXT],
        np.array(episode.actions[CONTEXT : CONTEXT + HORIZON]),
        state=episode.states[CONTEXT],
    )
    assert np.array_equal(dream[-1], dreamt.observations["observation"][-1])


def test_numbers_are_drawn_as_curves_under_their_names(tmp_path: Path, figures: list[Figure]) -> None:
    env = Scripted(NUMBERS, spaces.Box(-1, 1, (2,)), length=80)
    agent = tiny("MultiInputPolicy", env)
    episode = play(agent, env, seed=3)
    found = draw_dream(tmp_path / "a.png", agent, episode, "t")
    assert found == {"seed": 3, "context": CONTEXT + 1, "horizon": CURVE_HORIZON}
    panels = {axes.get_title(): axes for axes in figures[0].axes if axes.get_title()}
    names = [*(f"arm[{n}]" for n in range(6)), "hand[0]", "hand[1]", "reward"]
    assert sorted(panels) == sorted(names)
    assert "4 more numbers are not shown" in figures[0].get_supxlabel()
    truth, dream = panels["arm[4]"].lines[:2]
    assert truth.get_xdata().tolist() == list(range(CONTEXT + CURVE_HORIZON + 1))
    assert dream.get_xdata().tolist() == list(range(CONTEXT, CONTEXT + CURVE_HORIZON + 1))
    assert truth.get_ydata()[30] == pytest.approx(episode.observations[30]["arm"].ravel()[4])
    rewards = panels["reward"].lines[0]
    assert (rewards.get_xdata()[0], set(rewards.get_ydata())) == (1, {1.0})


@pytest.mark.parametrize(
    ("drawn", "told"),
    [
        (RuntimeError("no display"), "RuntimeError('no display')"),
        (None, "render() gave NoneType, expected an array (H, W, 3) of uint8"),
        ([[1]], "render() gave list"),
        (np.zeros((4, 4, 3)), "render() gave float64 of shape (4, 4, 3)"),
        (np.zeros((4, 4), np.uint8), "render() gave uint8 of shape (4, 4)"),
    ],
)
def test_what_cannot_be_drawn_is_told_once_and_played_all_the_same(
    drawn: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Drawn(Scripted):
        render_mode = "rgb_array"

        def render(self) -> Any:
            if isinstance(drawn, Exception):
                raise drawn
            return drawn

    env = Drawn(spaces.Discrete(3), spaces.Discrete(2), length=4)
    episode = play(tiny("MlpPolicy", env), env, seed=0)
    assert (len(episode.actions), episode.frames) == (4, [])
    assert capsys.readouterr().out.count("Cannot draw") == 1
    env.render_mode = "rgb_array"
    play(tiny("MlpPolicy", env), env, seed=0)
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("length", [1, 5, 12])
@pytest.mark.parametrize("space", [IMAGE, spaces.Discrete(4)])
def test_episodes_shorter_than_a_strip_are_drawn_whole(space: Any, length: int, tmp_path: Path) -> None:
    env = Scripted(space, spaces.Discrete(2), length=length)
    agent = tiny("CnnPolicy" if space is IMAGE else "MlpPolicy", env)
    found = draw_dream(tmp_path / "a.png", agent, play(agent, env, seed=0), "t")
    assert found == {"seed": 0, "context": 1, "horizon": length}


def test_tables_of_states_can_be_played() -> None:
    env = gym.make("FrozenLake-v1")
    assert play(tiny("MlpPolicy", env), env, seed=1, steps=3).rewards


@pytest.mark.parametrize("name", ["v.gif", "v", "v.mov"])
def test_a_videos_name_says_what_it_is(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.mp4, .*; use v\.mp4"):
        write_video(tmp_path / name, [np.zeros((8, 8, 3), np.uint8)], 10.0)


def test_a_video_without_room_is_told_and_removed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # a third of it
    try:
        with pytest.raises(OSError, match=r"a\.mp4 could not be written to its end"):
            write_video(tmp_path / "a.mp4", list(noise), 10.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", filming.ENDINGS)
def test_every_ending_can_be_read_again(ending: str, tmp_path: Path) -> None:
    write_video(tmp_path / f"v{ending}", [np.zeros((8, 8, 3), np.uint8)] * 3, 10.0)
    assert len(read_video(tmp_path / f"v{ending}")) == 3
