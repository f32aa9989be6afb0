"""`hd-agents list` and `hd-agents zoo`: what there is to learn, and the models that were trained on it."""

import argparse
import json
from pathlib import Path

import gymnasium as gym

from hd_agents import zoo
from hd_agents.cli import report
from hd_agents.cli.errors import FAILED, UsageError, checked
from hd_agents.cli.flags import count
from hd_agents.cli.running import sigterm_as_exit
from hd_agents.cli.tasks import find_own_modules
from hd_agents.progress import bar_is_seen
from hd_agents.saving.jsonable import ArchiveError
from hd_agents.zoo.precision import BITS


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `list`, `zoo pack`, `zoo verify` and `zoo report` and their flags to the command line."""
    parser = commands.add_parser("list", help="list the tasks of the zoo, and for which of them a trained model ships")
    parser.add_argument("words", nargs="*", metavar="WORD", help="show only names that hold all of these")
    parser.add_argument("--pretrained", action="store_true", help="only tasks with a trained model that ships")
    parser.set_defaults(run=run_list)

    group = commands.add_parser("zoo", help="pack, verify and report trained models")
    actions = group.add_subparsers(required=True, metavar="ACTION")
    parser = actions.add_parser(
        "pack",
        help="make a package of a trained agent",
        description="Make a package of a trained agent: JSON, weights, a video of it playing and a "
        "film strip of its dream. It is evaluated as packed, and its card says how it was trained (from the run.json "
        "beside the agent) and what it scores.",
    )
    parser.add_argument("file", help="agent.zip of a training run")
    parser.add_argument("name", help="a name of `hd-agents list`, or a Gymnasium id")
    parser.add_argument("--episodes", type=count, default=100, help="episodes of the evaluation (default: %(default)s)")
    less = "leave out what further learning and dreaming need, more than half of the model"
    parser.add_argument("--acting-only", action="store_true", help=less)
    parser.add_argument(
        "--bits",
        type=int,
        choices=BITS,
        default=16,
        help="bits per weight: 32 is as trained; 8 is refused if it scores outside the interval of 16 (default: 16)",
    )
    parser.add_argument(
        "--run", dest="facts", type=Path, metavar="JSON", help="how it was trained (default: run.json beside FILE)"
    )
    parser.add_argument("--folder", type=Path, help="the folder to make (default: zoo/pretrained/NAME)")
    parser.set_defaults(run=run_pack)
    parser = actions.add_parser(
        "verify",
        help="play a model's evaluation again; fail if the score has left the interval on its card",
        description="Compare a model's files with the checksums on its card, and play the card's evaluation again, "
        "from the same seed. Exit status 1 if a file differs or the mean return has left the stated interval.",
    )
    parser.add_argument(
        "name", help="a name of `hd-agents list --pretrained`, a package's folder, or org/repo of the Hub"
    )
    parser.add_argument("--episodes", type=count, help="fewer are faster, with a wider interval (default: the card's)")
    parser.set_defaults(run=run_verify)
    report.add_parser(actions)


def run_list(options: argparse.Namespace) -> int:
    """Print one task per line: its name, its Gymnasium id, and the score of the model that ships for it."""
    scores = {row["name"]: f"model: {row['mean_return']:.1f}" for row in checked(zoo.results) if row["model"]}
    names = checked(lambda: zoo.list(*options.words))
    if options.pretrained:
        names = [name for name in names if name in scores]
    if not names:
        raise UsageError(f"no task with a trained model has {' and '.join(options.words)} in its name.")
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {zoo.env_id(name)}  {scores.get(name, '')}".rstrip())
    return 0


def run_pack(options: argparse.Namespace) -> int:
    """Pack a model and say where it is and what it scores."""
    find_own_modules()
    facts = None
    if options.facts is not None:
        facts = checked(lambda: json.loads(options.facts.read_text(encoding="utf-8")))
    with sigterm_as_exit():  # what is half made is removed then
        target = checked(
            lambda: zoo.pack(
                options.file,
                options.name,
                facts,
                options.episodes,
                full=not options.acting_only,
                bits=options.bits,
                target=options.folder,
                progress_bar=bar_is_seen(),
            )
        )
    card = zoo.card(target)
    low, high = card["interval"]
    print(f"{target}: {card['bytes'] / 1e6:.2f} MB, holds {card['holds']}, {card['precision']}")
    print(f"return {card['evaluation']['mean_return']:.2f}, interval [{low:.2f}, {high:.2f}]")
    if card["video"] is None:
        print(f"No video: {card['task']} draws no pictures.")
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Verify a model and print the verdict; the exit status is FAILED if it does not hold."""
    find_own_modules()
    try:
        stated = zoo.card(options.name)["evaluation"]
        if "env_kwargs" in stated:
            print(f"{stated['task']} is made with {stated['env_kwargs']}, as the card says.", flush=True)
        found = zoo.verify(options.name, options.episodes, bar_is_seen())
    except ArchiveError as error:
        print(f"{options.name}: FAILED: {error}")
        return FAILED
    except (OSError, ValueError, ImportError, gym.error.Error) as error:
        raise UsageError(str(error)) from error
    verdict = "verified" if found.passed else "FAILED"
    played = f"return {found.mean:.2f} over {len(found.evaluation.returns)} episodes"
    print(f"{found.name}: {verdict}: {played}, stated {found.low:.2f} to {found.high:.2f}")
    return 0 if found.passed else FAILED
