"""Frames per second of the suites' environments, and where the time goes.

``python benchmarks/envs.py --json envs.json`` prints a table and writes the same numbers. A frame is one step of the
simulator. Everything that is compared takes turns in one process, and each number is the median over the turns, so that
other work on the machine disturbs a ratio less than the numbers.

Rows of Atari (Pong, random actions, repeat 4):
    environment: ``gymnasium.make("atari100k/Pong-v0")`` as it comes, all of Gymnasium's wrappers included;
    emulator, same picture: a bare loop around ale-py, 4 times ``act``, 2 screens into buffers, their maximum, OpenCV's
        area interpolation to 64 x 64, and no environment: the fastest way to the same pixels;
    emulator, full screen: the same loop without maximum and interpolation, 1 screen;
    ALE/Pong-v5: ale-py's own Gymnasium environment at frameskip 4: 1 full screen, no maximum, no interpolation.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from report import write_json

import hd_agents.envs
from hd_agents.envs import rendering
from hd_agents.host import cpu_name

Step = Callable[[], Any]
REPEAT = 4


def main() -> None:
    """Measure what was asked for, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suites", nargs="+", default=["atari", "dmc", "metaworld"])
    parser.add_argument("--turns", type=int, default=15, help="of every row (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    hd_agents.envs.register()
    rendering.choose_backend()
    report: dict[str, Any] = {
        "date": date.today().isoformat(),
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "backend": os.environ.get("MUJOCO_GL"),
        "rows": [],
    }
    for suite in options.suites:
        rows = {"atari": atari, "dmc": dmc, "metaworld": metaworld}[suite](options.turns)
        first = rows[0]["frames_per_second"]
        for row in rows:
            row["of_first"] = round(row["frames_per_second"] / first, 3)
            print(f"{row['name']:<58} {row['frames_per_second']:>9.1f} frames/s {row['of_first']:>7.2f}", flush=True)
        report["rows"] += rows
    write_json(options.json, report)


def measure(steps: dict[str, tuple[Step, int, int]], turns: int) -> list[dict[str, Any]]:
    """Run every step function in turns.

    :param steps: name -> function, how many frames a call makes, how many calls a turn has.
    :return: one dict per name: the median of its turns as milliseconds per call and as frames per second.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, (step, _, calls) in steps.items():
            start = time.perf_counter()
            for _ in range(calls):
                step()
            if turn:  # the first one warms up
                times[name].append((time.perf_counter() - start) / calls)
    rows = []
    for name, (_, frames, _) in steps.items():
        seconds = statistics.median(times[name])
        rows.append({"name": name, "milliseconds": round(1e3 * seconds, 4), "frames_per_second": frames / seconds})
    return rows


def stepper(env: gymnasium.Env[Any, Any]) -> Step:
    """A function that plays one step with a random action, and starts a new episode where one ends."""
    env.action_space.seed(0)
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(64)]
    index = 0

    def step() -> None:
        nonlocal index
        index = (index + 1) % 64
        *_, terminated, truncated, _ = env.step(actions[index])
        if terminated or truncated:
            env.reset()

    return step


def atari(turns: int) -> list[dict[str, Any]]:
    """Pong, against the emulator alone."""
    import ale_py
    import cv2

    gymnasium.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path("pong"))
    actions = ale.getMinimalActionSet()
    chosen = [actions[index] for index in np.random.default_rng(0).integers(len(actions), size=64)]
    screens = np.zeros((2, *ale.getScreenDims(), 3), np.uint8)
    index = 0

    def play(pictures: bool) -> None:
        nonlocal index
        index = (index + 1) % 64
        for frame in range(REPEAT):
            ale.act(chosen[index])
            if pictures and frame == REPEAT - 2:
                ale.getScreenRGB(screens[1])
        ale.getScreenRGB(screens[0])
        if pictures:
            cv2.resize(np.maximum(screens[0], screens[1]), (64, 64), interpolation=cv2.INTER_AREA)
        if ale.game_over():
            ale.reset_game()

    def one_frame() -> None:
        ale.act(actions[0])
        if ale.game_over():
            ale.reset_game()

    ours = stepper(gymnasium.make("atari100k/Pong-v0"))
    theirs = stepper(gymnasium.make("ALE/Pong-v5", repeat_action_probability=0.0))
    steps: dict[str, tuple[Step, int, int]] = {
        "atari100k/Pong-v0, environment": (ours, REPEAT, 200),
        "atari100k/Pong-v0, emulator, same picture": (lambda: play(True), REPEAT, 200),
        "atari100k/Pong-v0, emulator, full screen": (lambda: play(False), REPEAT, 200),
        "ALE/Pong-v5, ale-py's environment": (theirs, REPEAT, 200),
        "  part: one frame of the emulator": (one_frame, 1, 800),
        "  part: fetch a screen": (lambda: ale.getScreenRGB(screens[0]), 1, 400),
        "  part: interpolation": (lambda: cv2.resize(screens[0], (64, 64), interpolation=cv2.INTER_AREA), 1, 400),
    }
    return measure(steps, turns)


def dmc(turns: int) -> list[dict[str, Any]]:
    """Walker-walk from pixels, with and without shadows, from its state, and dm_control's own drawing."""
    usual = gymnasium.make("dmc_vision/walker-walk-v0")
    physics: Any = usual.unwrapped
    steps: dict[str, tuple[Step, int, int]] = {
        "dmc_vision/walker-walk-v0": (stepper(usual), 2, 5),
        "dmc_vision/walker-walk-v0, shadows=False": (
            stepper(gymnasium.make("dmc_vision/walker-walk-v0", shadows=False)), 2, 10),
        "dmc_natural/walker-walk-v0, videos='generated'": (
            stepper(gymnasium.make("dmc_natural/walker-walk-v0", videos="generated")), 2, 5),
        "dmc_proprio/walker-walk-v0": (stepper(gymnasium.make("dmc_proprio/walker-walk-v0")), 2, 100),
        "  part: draw": (lambda: physics._draw(physics._eye), 2, 5),
    }  # fmt: skip
    return measure(steps, turns)


def metaworld(turns: int) -> list[dict[str, Any]]:
    """Lever-pull from pixels, with and without shadows, and from its state."""
    name = "metaworld/lever-pull-v0"
    usual = gymnasium.make(name)
    bare: Any = usual.unwrapped
    steps: dict[str, tuple[Step, int, int]] = {
        name: (stepper(usual), 1, 2),
        f"{name}, shadows=False": (stepper(gymnasium.make(name, shadows=False)), 1, 5),
        f"{name}, observation='state'": (stepper(gymnasium.make(name, observation="state")), 1, 50),
        "  part: draw": (lambda: bare._eye.draw(bare._env.data), 1, 2),
    }
    return measure(steps, turns)


if __name__ == "__main__":
    main()
