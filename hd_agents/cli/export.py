"""`hd-agents export`: a trained agent as a program for other machines."""

import argparse
from pathlib import Path

from hd_agents.cli.errors import checked
from hd_agents.cli.flags import add_class_flag, count
from hd_agents.cli.loading import MODEL, load_model


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export` and its flags to the command line."""
    parser = commands.add_parser(
        "export",
        help="export a trained agent (to ONNX or torch.export) for machines without this package",
        description="Write one step of acting as a program, and print what goes in and what comes out.",
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="file to write: .onnx, or .pt2 for torch.export"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="no random numbers: the mode of latent state and action"
    )
    parser.add_argument(
        "--n-envs", type=count, default=1, help="number of environments to act for at once (default: %(default)s)"
    )
    add_class_flag(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export as asked and return 0."""
    player = load_model(options.model, "cpu", options.agent_class).player(options.deterministic)
    ports = checked(lambda: player.export(options.output, options.n_envs))
    for kind, found in ports._asdict().items():
        print(f"{kind} of {options.output}:")
        for port in found:
            shape = " x ".join(map(str, port.shape))
            print(f"  {port.name:<20} {port.dtype:<8} {shape:<16} {port.meaning}")
    return 0
