"""`hd-agents replay-nan`: make the gradient step again on which training stopped, and say where its numbers break."""

import argparse
from pathlib import Path

from hd_agents.cli.errors import checked
from hd_agents.cli.flags import add_class_flag, add_device_flag
from hd_agents.cli.loading import load_model
from hd_agents.saving.archive import read_archive
from hd_agents.training.recorder import explain, read_record


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `replay-nan` and its flags to the command line."""
    parser = commands.add_parser(
        "replay-nan",
        help="repeat the gradient step at which training stopped because of NaN",
        description="Repeat the gradient step that is recorded in a nonfinite-*.zip, and print which inputs, weights, "
        "layers and losses are not finite. Nothing in the file is executed and nothing is written. Exit status: 0 if "
        "the step fails again, 1 if it does not.",
    )
    parser.add_argument("file", type=Path, help="the file that the error named")
    add_device_flag(parser, "cpu")
    add_class_flag(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the explanation; 0 if the recorded step fails again, else 1."""
    agent = load_model(str(options.file), options.device, options.agent_class)
    batch, draws = checked(lambda: read_record(agent, read_archive(options.file)[1]))
    again, lines = explain(agent, batch, draws)
    print(f"Gradient step {agent._n_updates} of {options.file}:")
    print("\n".join(f"  {line}" for line in lines))
    print("The step fails again." if again else "The step does not fail on this machine.")
    return 0 if again else 1
