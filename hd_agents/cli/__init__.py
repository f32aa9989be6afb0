"""The command line: `hd-agents COMMAND`, one module per command."""

import argparse
import os
import sys
from collections.abc import Sequence

import hd_agents
from hd_agents.cli import evaluate, train
from hd_agents.cli.tasks import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on `argv` (default: the process's own) and return the exit status.

    0: done; 2: a mistake in what was typed, told in one line; 130: stopped by Ctrl-C, after saving what there was.
    """
    parser = argparse.ArgumentParser(prog="hd-agents", description="World-model agents on Gymnasium tasks.")
    parser.add_argument("--version", action="version", version=f"hd-agents {hd_agents.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (train, evaluate):
        command.add_parser(commands)
    options = parser.parse_args(argv)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # CartPole and its like are drawn without looking for a screen
    try:
        return options.run(options)
    except UsageError as error:
        print(f"hd-agents: {error}", file=sys.stderr)
        return 2
