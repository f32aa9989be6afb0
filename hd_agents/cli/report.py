"""`hd-agents zoo report`: write the zoo's README and tables anew, from the cards and the results."""

import argparse
from typing import Any

from hd_agents import zoo
from hd_agents.cli.errors import checked
from hd_agents.files import write_text
from hd_agents.zoo import report


def add_parser(actions: Any) -> None:
    """Add `report` to the actions of `hd-agents zoo`."""
    parser = actions.add_parser(
        "report",
        help="write the zoo's README.md and the rows of its models in results/",
        description="Write the zoo's README.md anew, our runs beside the paper's numbers, and bring the rows of the "
        "models that ship in results/<suite>.csv up to date with their cards. For a checkout of the project.",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the files and name them; the exit status is 0."""
    tables = {f"results/{suite}.csv": text for suite, text in checked(report.tables).items()}
    for name, text in {**tables, "README.md": checked(report.readme)}.items():
        path = zoo.folder() / name
        write_text(path, text)
        print(path)
    return 0
