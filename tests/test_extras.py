"""What is said where an extra is not installed: by commands one line that names it, and no traceback."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from hd_agents import extras
from hd_agents.cli import main
from hd_agents.zoo import catalogue


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The zoo's files are read anew, before and after."""
    for cached in (catalogue._suites, catalogue._ids):
        cached.cache_clear()
    yield
    for cached in (catalogue._suites, catalogue._ids):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("yaml", ["list"]),
        ("yaml", ["list", "--pretrained"]),
        ("yaml", ["train", "CartPole-v1"]),
        ("yaml", ["check", "classic/CartPole"]),
        ("yaml", ["plot"]),
        ("yaml", ["benchmark", "classic"]),
        ("yaml", ["compare", "CartPole-v1"]),
        ("yaml", ["evaluate", "classic/CartPole", "--model", "classic/CartPole"]),
        ("yaml", ["enjoy", "classic/CartPole"]),
        ("yaml", ["zoo", "verify", "classic/CartPole"]),
        ("yaml", ["tune", "classic/CartPole"]),
        ("matplotlib", ["plot", "classic"]),
        ("rliable", ["plot", "atari100k"]),
        ("matplotlib", ["compare", "CartPole-v1"]),
        ("matplotlib", ["enjoy", "classic/CartPole", "--dream", "dream.png"]),
        ("cv2", ["enjoy", "classic/CartPole", "--video", "play.mp4"]),
        ("tqdm", ["benchmark", "classic"]),
        ("tqdm", ["compare", "CartPole-v1"]),
        ("safetensors", ["enjoy", "classic/CartPole"]),
        ("onnx", ["export", "classic/CartPole", "--output", "policy.onnx"]),
        ("optuna", ["tune", "classic/CartPole"]),
        ("shtab", ["completion", "bash"]),
        ("huggingface_hub", ["pull", "org/repo"]),
    ],
)
def test_one_line_names_what_is_missing(
    module: str,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(command) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hd-agents: ")]
    assert any("hd_agents[" in line for line in told), told
    assert not list(tmp_path.rglob("*.zip"))


def test_what_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.require("This", "train", "json", "os")
    for name in ("yaml", "cv2", "rl_zoo3", "rl_zoo3.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'^This needs PyYAML: install it with `pip install "hd_agents\[train\]"`\.$'):
        extras.require("This", "train", "json", "yaml")
    with pytest.raises(ImportError, match=r"^This needs OpenCV, rl-zoo3: install them with"):
        extras.require("This", "train", "cv2", "rl_zoo3")
    with pytest.raises(ImportError, match=r"^This needs rl-zoo3: install it with"), extras.needing("This", "rl_zoo3"):
        import_module("rl_zoo3.utils")
    with (
        pytest.raises(ImportError, match=r"^This needs json \(cannot import name .*\): install"),
        extras.needing("This", "x"),
    ):
        exec("from json import nothing")
