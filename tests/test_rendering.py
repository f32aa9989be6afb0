"""Which OpenGL draws: the user's choice, else the first that works, else an error that says what to install."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from hd_agents.envs import rendering


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """No backend works, and none has been looked for; the list fills with those that are tried."""
    names: list[str] = []

    def trial(command: list[str], *, env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        names.append(env["MUJOCO_GL"])
        if env["MUJOCO_GL"] == "egl":
            raise subprocess.TimeoutExpired(command, 0.0)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", trial)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    rendering.find_backend.cache_clear()
    yield names
    rendering.find_backend.cache_clear()


def test_users_choice_is_kept(tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    rendering.choose_backend()
    assert os.environ["MUJOCO_GL"] == "osmesa"
    assert not tried


def test_first_that_works_is_set_for_the_children(tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    usual = subprocess.run

    def second_works(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        failed = usual(command, **options)
        return subprocess.CompletedProcess(command, 0) if options["env"]["MUJOCO_GL"] == "osmesa" else failed

    monkeypatch.setattr(subprocess, "run", second_works)
    rendering.choose_backend()
    assert os.environ["MUJOCO_GL"] == "osmesa"
    assert tried == ["egl", "osmesa"]


def test_none_says_what_to_install(tried: list[str]) -> None:
    with pytest.raises(RuntimeError, match=r"apt-get install .*libegl1"):
        rendering._gl_context(8)
    assert tried == ["egl", "osmesa", "glfw"]
    assert "MUJOCO_GL" not in os.environ


def test_wrong_choice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(RuntimeError, match="MUJOCO_GL=vulkan draws nothing"):
        rendering._gl_context(8)
