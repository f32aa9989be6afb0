"""`hd-agents push` and `hd-agents pull`: packages to and from the Hugging Face Hub."""

import argparse
from pathlib import Path

from hd_agents import zoo
from hd_agents.cli.errors import checked


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `push` and `pull` and their flags to the command line."""
    parser = commands.add_parser(
        "push",
        help="upload a package to the Hugging Face Hub",
        description="Upload the package of a trained model to a repository of the Hugging Face Hub, with a page "
        "written from its card. The repository is made if there is none. Log in with `hf auth login` first.",
    )
    parser.add_argument("model", metavar="NAME|FOLDER", help="the name of a model that ships, or a package's folder")
    parser.add_argument("repository", metavar="REPO", help="org/repo")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.set_defaults(run=run_push)
    parser = commands.add_parser(
        "pull",
        help="fetch a package from the Hugging Face Hub",
        description="Fetch a package from the Hugging Face Hub, verify its checksums, and say what it scores.",
    )
    parser.add_argument("repository", metavar="REPO", help="org/repo, or hf://org/repo/suite/task within one")
    parser.add_argument("--version", help="a branch, tag or commit of the repository (default: its main branch)")
    parser.add_argument("--folder", type=Path, help="copy the package there (default: it stays in the Hub's cache)")
    parser.set_defaults(run=run_pull)


def run_push(options: argparse.Namespace) -> int:
    """Upload, and print the address."""
    print(checked(lambda: zoo.push(options.model, options.repository, options.private)))
    return 0


def run_pull(options: argparse.Namespace) -> int:
    """Fetch, and print where the package is and what its card says it scores."""
    found = checked(lambda: zoo.pull(options.repository, options.folder, options.version))
    card = zoo.card(found)
    low, high = card["interval"]
    print(f"{found}: {card['task']}, return {card['evaluation']['mean_return']:.2f} (interval {low:.2f} to {high:.2f})")
    return 0
