"""The models that ship with the zoo: load one by name, and check that it still scores what its card says."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from hd_agents import checks
from hd_agents.agent import HarmonyDreamAgent
from hd_agents.evaluation import Evaluation, evaluate, expected_range
from hd_agents.zoo import packages
from hd_agents.zoo.catalogue import env_id, folder

RUN = "run.json"  # what `hd-agents train` leaves beside its agent.zip
FACTS = ("command", "commit", "machine", "seed", "wall_seconds")  # of the run, which a card has to state
CONFIDENCE = 0.99


class Verification(NamedTuple):
    """A package's score of today against its card.

    :param low: and ``high``: where the mean return has to lie.
    """

    name: str
    evaluation: Evaluation
    mean: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Whether the mean is in the interval, up to rounding."""
        return within(self.mean, self.low, self.high)


def within(mean: float, low: float, high: float) -> bool:
    """Whether a mean return is in an interval, up to rounding."""
    slack = 1e-6 * max(1.0, abs(mean))
    return low - slack <= mean <= high + slack


def pretrained(suite: str | None = None) -> list[str]:
    """The names of all tasks that a trained model ships for, or of one suite's."""
    root = folder() / "pretrained"
    found = sorted("/".join(path.parts[-3:-1]) for path in root.glob(f"*/*/{packages.CARD}"))
    return [name for name in found if suite in (None, name.partition("/")[0])]


def load(name: str | Path, device: torch.device | str = "auto") -> HarmonyDreamAgent:
    """The trained model of a task, or of a package's folder. Its checksums are verified, and nothing in it is executed.

    Most packages hold what acting needs and no more: such an agent predicts, but it does not learn or dream.

    :param name: such as ``classic/CartPole``, or a path. :param device: as for the agent's constructor.
    :raises ValueError: for a name without a model, saying which there are, and for a damaged package.
    """
    return packages.read(_find(name), device)


def card(name: str | Path) -> dict[str, Any]:
    """The card of a model: task, command, commit, seed, steps, wall time, machine, evaluation and its interval."""
    return packages.read_card(_find(name))


def verify(name: str | Path, episodes: int | None = None, progress_bar: bool = False) -> Verification:
    """Play again what the card's evaluation played, from the same seed, and see whether the mean return is as stated.

    :param episodes: fewer than the card's are faster and find less: the interval is wider then; None for as many.
    :raises ArchiveError: where a file, those for people included, is not the one that the card describes.
    """
    packages.check(_find(name))
    stated = card(name)["evaluation"]
    episodes = checks.whole("episodes", episodes, 1, stated["episodes"])
    found = evaluate(
        load(name),
        stated["task"],
        episodes,
        stated["rule"],
        stated["seeds"][0],
        stated["n_envs"],
        progress_bar,
    )
    mean = sum(found.returns) / episodes
    return Verification(str(name), found, mean, *expected_range(stated["returns"], episodes, CONFIDENCE))


def _find(name: str | Path) -> Path:
    """The folder of a package."""
    if (Path(name) / packages.CARD).is_file():
        return Path(name)
    task = env_id(str(name))
    for known in pretrained():
        if env_id(known) == task:
            return folder() / "pretrained" / known
    raise ValueError(
        f"No trained model ships for {str(name)!r}; there is one for: {', '.join(pretrained()) or 'no task yet'}."
    )
