"""`hd-agents completion`: a script for the shell, so that Tab completes commands, flags, tasks and models."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from hd_agents import zoo
from hd_agents.cli.errors import checked, require

SHELLS = ("bash", "zsh")
TASKS = ("task", "name")  # arguments that name a task
MODELS = ("agent", "model")  # arguments that name a model, or its file or folder
FILES = ("file",)
PRESETS = ("preset",)
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

    parser, tasks = build_parser(), checked(zoo.list)
    for action in _actions(parser):
        if action.dest in TASKS:
            action.choices = tasks
        elif action.dest in MODELS:
            action.complete = dict.fromkeys(SHELLS, "_hd_agents_models")  # type: ignore[attr-defined]
        elif action.dest in PRESETS:
            action.complete = dict.fromkeys(SHELLS, "_hd_agents_presets")  # type: ignore[attr-defined]
        elif action.dest in FILES or action.type is Path:
            action.complete = shtab.DIRECTORY if action.dest == "folder" else shtab.FILE  # type: ignore[attr-defined]
    words = {"models": zoo.pretrained(), "presets": zoo.PRESETS}
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
