"""The command line: `hd-agents train TASK`, `hd-agents replay-nan FILE`."""

import argparse
import os
import sys
from collections.abc import Sequence

import hd_agents
from hd_agents.checkpoint import CheckpointError
from hd_agents.cli import replay_nan, train
from hd_agents.cli.tasks import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on `argv` (default: the process's own) and return the exit status.

    0: done; 1: a checkpoint that cannot be written or read, or `replay-nan` found nothing; 2: a mistake in what was
    typed, told in one line; 130, 143: stopped by Ctrl-C or SIGTERM, after saving what there was.
    """
    parser = argparse.ArgumentParser(prog="hd-agents", description="World-model agents on Gymnasium tasks.")
    parser.add_argument("--version", action="version", version=f"hd-agents {hd_agents.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train.add_parser(commands)
    replay_nan.add_parser(commands)
    options = parser.parse_args(argv)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # CartPole and its like are drawn without looking for a screen
    try:
        return replay_nan.run(options) if options.command == "replay-nan" else train.run(options)
    except UsageError as error:
        print(f"hd-agents: {error}", file=sys.stderr)
        return 2
    except CheckpointError as error:
        print(f"hd-agents: {error}", file=sys.stderr)
        return 1
