"""One short real run per suite: learn, evaluate, film, save, load. Not a test of what is learnt."""

from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from suites import require

from hd_agents import HarmonyDreamAgent
from hd_agents.films import filming

# Shadows take most of the time without a GPU; Pong's episodes are cut so that evaluation and film stay short.
TASKS: dict[str, dict[str, Any]] = {
    "atari100k/Pong-v0": {"max_frames": 2_000},
    "dmc_vision/walker-walk-v0": {"shadows": False},
    "metaworld/lever-pull-v0": {"shadows": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_nano_agent_learns_for_2000_steps(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(task)
    monkeypatch.setattr(filming, "MAX_STEPS", 60)  # of the film
    env = Monitor(gymnasium.make(task, render_mode="rgb_array", **TASKS[task]))
    small = {"size": "nano", "batch_size": 8, "sequence_length": 16, "train_ratio": 8, "device": "cpu"}
    agent = HarmonyDreamAgent("CnnPolicy", env, seed=0, learning_starts=500, buffer_size=5_000, **small)
    agent.learn(2_000)
    assert agent.num_timesteps == 2_000
    mean, spread = evaluate_policy(agent, env, n_eval_episodes=1)
    assert np.isfinite(mean) and spread == 0.0
    agent.save(tmp_path / "agent.zip")
    loaded = HarmonyDreamAgent.load(tmp_path / "agent.zip", device="cpu")
    episode = filming.play(loaded, env, seed=1)
    filming.write_video(tmp_path / "play.mp4", episode.frames, fps=25)
    video = cv2.VideoCapture(str(tmp_path / "play.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == len(episode.actions) + 1
    video.release()
    env.close()
