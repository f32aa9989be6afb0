"""`--track`: what a run writes for TensorBoard, sent to Weights & Biases as well."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hd_agents.cli.errors import UsageError, checked
from hd_agents.extras import require
from hd_agents.files import write_text

PROJECT = "hd_agents"
RUN_ID = "wandb-id.txt"  # in a run's folder: what to go on with when the run is resumed


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--track` and `--track-project`."""
    parser.add_argument("--track", action="store_true", help="also log to Weights & Biases; needs the extra `track`")
    parser.add_argument(
        "--track-project", default=PROJECT, metavar="NAME", help="the project there (default: %(default)s)"
    )


def check_installed() -> None:
    """Raises UsageError where wandb is not installed."""
    checked(lambda: require("--track", "track", "wandb"))


@contextmanager
def tracked(options: argparse.Namespace, folder: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Inside, TensorBoard's writers send what they write to a run of Weights & Biases too, if ``options.track``.

    A run that is resumed in its folder goes on there too. Enter this before the writers are made.

    :raises UsageError: where Weights & Biases refuses, for want of a login or for an unknown WANDB_MODE, say.
    """
    if not options.track:
        yield
        return
    import wandb

    note = folder / RUN_ID
    known = note.read_text(encoding="utf-8").strip() if note.exists() else None
    try:
        run = wandb.init(
            project=options.track_project,
            name="/".join(folder.resolve().parts[-2:]),
            config=settings,
            dir=str(folder),
            id=known,
            resume="allow" if known else None,
            sync_tensorboard=True,
        )
    except (wandb.Error, ValueError) as error:  # ValueError: for settings of the environment, such as WANDB_MODE=ofline
        raise UsageError(f"--track: {error} `wandb login` logs in; WANDB_MODE=offline keeps it all here.") from error
    with run:
        write_text(note, run.id + "\n")
        yield
