"""`hd-agents completion`: a script for the shell, so that Tab completes commands, flags, tasks and models."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from hd_agents import zoo
from hd_agents.cli.errors import checked, require
from hd_agents.presets import SIZES
from hd_agents.zoo.catalogue import suites
from hd_agents.zoo.training import VEC_ENVS

SHELLS = ("bash", "zsh")
TASKS = ("task", "tasks", "name")  # arguments that name a task
# Arguments that take one of some words, or a file or folder.
WORDS = {"agent": "models", "model": "models", "trained_agent": "models", "preset": "presets", "what": "suites"}
FILES = ("file",)
WORD_OR_FILE = {
    "bash": '_hd_agents_{kind}() {{ compgen -W "{words}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": '_hd_agents_{kind}() {{ _alternative "{kind}:{kind}:({words})" "files:file:_files" }}',
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `completion` to the command line."""
    parser = commands.add_parser(
        "completion",
        help="print a script for tab completion of commands, flags and task names",
        description='Print a script for tab completion. For bash: eval "$(hd-agents completion bash)" in ~/.bashrc; '
        "for zsh: hd-agents completion zsh > _hd-agents in a folder of $fpath. Print it again after an update.",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the script and return the exit status, 0."""
    require("completion", "shtab")
    import shtab

    from hd_agents.cli import build_parser

    parser, found = build_parser(), checked(suites)
    choices = dict.fromkeys(TASKS, checked(zoo.list)) | {
        "suite": found,
        "size": list(SIZES["dreamerv3"]),
        "vec_env": VEC_ENVS,
    }
    for action in _actions(parser):
        name = "vec_env" if "--vec-env" in action.option_strings else action.dest
        if name in choices:
            action.choices = choices[name]
        elif name in WORDS:
            action.complete = dict.fromkeys(SHELLS, f"_hd_agents_{WORDS[name]}")  # type: ignore[attr-defined]
        elif action.dest in FILES or action.type is Path:
            action.complete = shtab.DIRECTORY if action.dest == "folder" else shtab.FILE  # type: ignore[attr-defined]
    words = {"models": zoo.pretrained(), "presets": zoo.PRESETS, "suites": found}
    functions = [WORD_OR_FILE[options.shell].format(kind=kind, words=" ".join(words[kind])) for kind in words]
    print(shtab.complete(parser, options.shell, preamble="\n".join(functions)))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of all commands in it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
