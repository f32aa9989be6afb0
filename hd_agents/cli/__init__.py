"""The command line: `hd-agents COMMAND`, one module per command."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import hd_agents
from hd_agents.cli import (
    benchmark,
    check,
    compare,
    completion,
    dream,
    enjoy,
    evaluate,
    export,
    hub,
    models,
    plot,
    replay_nan,
    train,
    tune,
)
from hd_agents.cli.errors import DISK_FULL, FAILED, NOT_ALLOWED, UsageError
from hd_agents.cli.output import lasting
from hd_agents.evaluation.episodes import EpisodeError
from hd_agents.saving.checkpoint import CheckpointError
from hd_agents.saving.jsonable import DamagedError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on `argv` (default: the process's own) and return the exit status.

    0: done; 1: a training that failed, a model that fails its verification, a benchmark or comparison with runs that
    failed, a checkpoint that cannot be written or read, an environment that `check` finds not sound or that fails in
    `evaluate`, `enjoy` or `dream`, a file of a run that is damaged, a `replay-nan` that found nothing, or a full disk;
    2: a mistake in what was typed, or a file that may not be read or written, told in one line; 130, 143, 129: stopped
    by Ctrl-C, SIGTERM or SIGHUP (a training saves what there is first).
    """
    parser, typed = build_parser(), sys.argv[1:] if argv is None else argv
    if not typed:
        parser.print_help(sys.stderr)
        return 2
    options, unknown = parser.parse_known_args(typed)
    if unknown:
        hint = _hint(unknown, typed, options)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # CartPole and its like are drawn without looking for a screen
    with lasting() as output:
        try:
            status = options.run(options)
            if output is not None:
                output.end()
                if output.lost is not None:
                    print(f"hd-agents: not all of the output could be written: {output.lost}", file=sys.stderr)
                    return status or FAILED
            return status
        except UsageError as error:
            print(f"hd-agents: {error}", file=sys.stderr)
            return 2
        except (CheckpointError, DamagedError, EpisodeError) as error:
            print(f"hd-agents: {error}", file=sys.stderr)
            return FAILED
        except OSError as error:
            refused = error.errno in NOT_ALLOWED and error.filename is not None
            if not refused and error.errno not in DISK_FULL:
                raise
            print(f"hd-agents: {error}", file=sys.stderr)
            return 2 if refused else FAILED
        except KeyboardInterrupt:
            print("\nhd-agents: stopped", file=sys.stderr)
            return 130


def _hint(unknown: Sequence[str], argv: Sequence[str], options: argparse.Namespace) -> str:
    """What to type instead of what no flag takes, if that can be told."""
    if unknown[0].partition("=")[0] == "--harmony" and hasattr(options, "settings"):
        return f" Use --set harmony={'on' in unknown or '--harmony=on' in unknown}."
    if unknown[0].partition("=")[0] == "--n-envs" and hasattr(options, "settings"):
        return f" Use --set n_envs={unknown[0].partition('=')[2] or (unknown[1:] or ['2'])[0]}."
    if all("=" in word and not word.startswith("-") for word in unknown):
        before = [word.partition("=")[0] for word in argv[: argv.index(unknown[0])] if word.startswith("--")]
        if before and before[-1] in ("--set", "--env-kwargs"):
            return f" Repeat {before[-1]} for each: {before[-1]} {unknown[0]}."
    return ""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="hd-agents",
        description="Train, watch and evaluate agents that learn a model of their environment and act by it.",
    )
    parser.add_argument("--version", action="version", version=f"hd-agents {hd_agents.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for command in (
        models,
        check,
        train,
        enjoy,
        dream,
        evaluate,
        compare,
        benchmark,
        plot,
        tune,
        export,
        hub,
        replay_nan,
        completion,
    ):
        command.add_parser(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Takes flags in full only: runs keep their command, and the preset is read out of it later."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False)
