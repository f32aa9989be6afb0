"""`hd-agents completion`: the script is run by a real bash, as a person's Tab does it."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from hd_agents import presets, zoo
from hd_agents.cli import build_parser, main
from hd_agents.zoo.catalogue import suites
from hd_agents.zoo.training import VEC_ENVS

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    folder = tmp_path_factory.mktemp("completion")
    (folder / "agent.zip").touch()
    (folder / "runs").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", printed.append)
        assert main(["completion", "bash"]) == 0
    (folder / "script").write_text("\n".join(printed))
    return folder / "script"


def complete(script: Path, *words: str) -> set[str]:
    """What bash offers at the end of the last word."""
    program = f"""
source {shlex.quote(str(script))}
complete -p hd-agents > /dev/null || exit 1
COMP_WORDS=(hd-agents {shlex.join(words)})
COMP_CWORD={len(words)}
_shtab_hd_agents
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    found = subprocess.run(["bash", "-c", program], cwd=script.parent, capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_commands(script: Path) -> None:
    commands = {
        "list",
        "zoo",
        "train",
        "enjoy",
        "evaluate",
        "compare",
        "tune",
        "push",
        "pull",
        "replay-nan",
        "completion",
    }
    assert complete(script, "") >= commands
    assert complete(script, "tr") == {"train"}
    assert complete(script, "zoo", "") >= {"pack", "verify"}


def test_every_flag_of_a_command(script: Path) -> None:
    parser = build_parser()._subparsers._group_actions[0].choices["tune"]
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert {"--space", "--trials", "--set"} <= flags
    assert complete(script, "tune", "-") >= flags
    assert complete(script, "train", "classic/CartPole", "--preset", "") >= set(zoo.PRESETS)
    assert complete(script, "train", "classic/CartPole", "--preset", "age") == {"agent.zip"}


def test_names_of_tasks_and_models(script: Path) -> None:
    assert complete(script, "train", "metaworld/") == set(zoo.list("metaworld"))
    assert complete(script, "tune", "classic/C") == {"classic/CartPole", "classic/Catch"}
    models = set(zoo.pretrained("classic"))
    assert complete(script, "enjoy", "classic/") == models
    assert complete(script, "evaluate", "classic/Catch", "--model", "classic/") == models
    for flag in ("-i", "--trained-agent"):
        assert complete(script, "train", "classic/Catch", flag, "classic/") == models
    assert complete(script, "benchmark", "atari100k", "--tasks", "atari100k/pon") == {"atari100k/pong"}


def test_words_that_a_flag_or_command_takes(script: Path) -> None:
    assert complete(script, "train", "classic/Catch", "--size", "") == set(presets.SIZES["dreamerv3"])
    assert complete(script, "train", "classic/Catch", "--vec-env", "") == set(VEC_ENVS)
    assert complete(script, "benchmark", "") == set(suites())
    assert complete(script, "plot", "") >= {*suites(), "runs"}
    assert complete(script, "plot", "atari100k", "ru") == {"runs"}


def test_files_and_folders(script: Path) -> None:
    for words in (["enjoy"], ["push"], ["train", "-i"], ["evaluate", "classic/Catch", "--model"], ["zoo", "pack"]):
        assert "agent.zip" in complete(script, *words, "age")
    assert complete(script, "tune", "--folder", "") == {"runs"}


def test_zsh_and_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["completion", "zsh"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("#compdef hd-agents") and "metaworld/lever-pull" in printed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["completion", "zsh"]) == 2
    assert "hd_agents[completion]" in capsys.readouterr().err
