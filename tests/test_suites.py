"""What holds for every suite: registration, missing packages, child processes, seeds, and the interface itself."""

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from suites import FAMILIES, make, require, trajectory

import hd_agents.envs
from hd_agents.envs import tasks

PONG = "atari100k/Pong-v0"


def test_every_task_is_registered() -> None:
    found = [env_id.split("/")[0] for env_id in gymnasium.registry if "/" in env_id]
    assert len(tasks.ATARI_100K) == 26
    assert found.count("atari100k") == len(tasks.ATARI_100K) + len(tasks.ATARI_OTHERS)
    for family in ("dmc_vision", "dmc_proprio", "dmc_natural"):
        assert found.count(family) == len(tasks.CONTROL)
    assert found.count("metaworld") == len(tasks.META_WORLD) == 50
    assert tasks.game_name("up_n_down") == "UpNDown"


def test_lists_are_the_suites_own() -> None:
    for family in ("atari100k", "dmc_proprio", "metaworld"):
        require(f"{family}/", drawing=False)
    from ale_py import registration, roms
    from dm_control import suite
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    for_two = {"combat", "joust", "maze_craze", "warlords"}  # ALE registers no environment for these either
    games = tasks.ATARI_100K + tasks.ATARI_OTHERS
    assert sorted(games) == sorted(set(roms.get_all_rom_ids()) - for_two)
    assert [tasks.game_name(rom) for rom in games] == [registration.rom_id_to_name(rom) for rom in games]
    assert {tuple(task.split("-", 1)) for task in tasks.CONTROL} == set(suite.ALL_TASKS)
    assert {f"{task}-v3" for task in tasks.META_WORLD} == set(ALL_V3_ENVIRONMENTS)


@pytest.mark.parametrize(
    ("module", "env_id", "extra"),
    [
        ("ale_py", PONG, "atari"),
        ("cv2", PONG, "atari"),
        ("dm_control", "dmc_vision/walker-walk-v0", "dmc"),
        ("dm_control", "dmc_natural/walker-walk-v0", "dmc"),
        ("shimmy.dm_control_compatibility", "dmc_proprio/walker-walk-v0", "dmc"),
        ("metaworld.env_dict", "metaworld/reach-v0", "metaworld"),
    ],
)
def test_missing_suite_names_its_extra(module: str, env_id: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require(env_id, drawing=False)  # for the other packages of the extra
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "hd_agents.envs.atari", raising=False)
    monkeypatch.setenv("HD_AGENTS_VIDEOS", "generated")
    with pytest.raises(ImportError, match=rf"pip install \"hd_agents\[{extra}\]\""):
        gymnasium.make(env_id)


@pytest.mark.parametrize(
    ("module", "env_id", "extra"),
    [
        ("ale_py", "ALE/Pong-v5", "atari"),
        ("dm_control", "dm_control/walker-walk-v0", "dmc"),
        ("shimmy", "dm_control/walker-walk-v0", "dmc"),
        ("metaworld", "Meta-World/MT1", "metaworld"),
    ],
)
def test_a_suites_own_ids_name_its_extra(module: str, env_id: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for other in ("dm_control", "shimmy"):  # may be missing here
        if other != module:
            monkeypatch.setitem(sys.modules, other, sys)
    monkeypatch.setattr("hd_agents.envs.rendering.choose_backend", lambda: None)
    needed = module.replace("_", "-")
    with pytest.raises(ImportError, match=rf"needs {needed}: .*pip install \"hd_agents\[{extra}\]\""):
        hd_agents.envs.make(env_id, {})


@pytest.mark.parametrize("env_id", FAMILIES)
def test_same_seed_same_trajectory(env_id: str) -> None:
    steps = 40 if env_id == PONG else 4  # until Pong's ball is in play
    env = make(env_id)
    first, other = trajectory(env, 7, steps), trajectory(env, 8, steps)
    again = trajectory(env, 7, steps)  # in an environment that has been in use
    unseeded = trajectory(env, None, steps)
    env.close()
    fresh = make(env_id)
    assert np.array_equal(first, trajectory(fresh, 7, steps))
    assert np.array_equal(unseeded, trajectory(fresh, None, steps))  # the next episode follows from the seed as well
    fresh.close()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, unseeded)


# Box observations without bounds are meant; Gymnasium advises against them. Frames are small here.
@pytest.mark.filterwarnings("ignore:.*observation space (minimum|maximum) value is")
@pytest.mark.filterwarnings("ignore:The minimal resolution")
@pytest.mark.parametrize("env_id", FAMILIES)
def test_interface_is_clean(env_id: str) -> None:
    env = make(env_id, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=True)
    env.close()
    env = make(env_id, render_mode="rgb_array")
    check_env_sb3(env.unwrapped, skip_render_check=False)
    env.close()


def vec_trajectory(env: VecEnv) -> np.ndarray:
    """Observations of a few steps of a Stable-Baselines3 vector environment, which is closed."""
    rows = [env.reset(), *(env.step(np.full(env.num_envs, action))[0] for action in (2, 3, 3))]
    env.close()
    return np.stack(rows)


def test_ids_of_the_suites_own_packages_are_known() -> None:
    """In a process of its own, where nothing has imported them yet."""
    pytest.importorskip("dm_control")
    pytest.importorskip("shimmy")
    pytest.importorskip("metaworld")
    script = """
from hd_agents.cli.tasks import checked_env
for task, arguments in (("dm_control/walker-walk-v0", {}), ("Meta-World/MT1", {"env_name": "reach-v3"})):
    print(checked_env(task, arguments).spec.id)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["dm_control/walker-walk-v0", "Meta-World/MT1"], result.stderr


def test_seeds_reach_child_processes() -> None:
    """With the package's name before the id a fresh process registers the tasks by itself."""
    require(PONG)
    here = vec_trajectory(make_vec_env(PONG, n_envs=1, seed=3))
    assert np.array_equal(here, vec_trajectory(make_vec_env(f"hd_agents:{PONG}", seed=3, vec_env_cls=SubprocVecEnv)))
    vector = gymnasium.make_vec(PONG, num_envs=2, vectorization_mode="async")
    observations, _ = vector.reset(seed=3)
    vector.close()
    assert np.array_equal(observations[:1], here[0])


def test_script_that_imports_the_package_spawns_plain_ids(tmp_path: Path) -> None:
    require(PONG)
    script = tmp_path / "script.py"
    script.write_text(f"""
import hd_agents
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
if __name__ == "__main__":
    env = make_vec_env("{PONG}", n_envs=1, vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="spawn"))
    print(env.reset().shape)
    env.close()
""")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert "(1, 64, 64, 3)" in result.stdout, result.stderr
