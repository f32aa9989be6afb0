"""The models that ship with the zoo: load one by name, and check that it still scores what its card says."""

import difflib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hd_agents import checks
from hd_agents.agent import HarmonyDreamAgent
from hd_agents.evaluation import Evaluation, evaluate
from hd_agents.evaluation.scores import CONFIDENCE, prediction_interval
from hd_agents.saving.jsonable import DamagedError
from hd_agents.zoo import hub, packages
from hd_agents.zoo.card_checks import check_stated
from hd_agents.zoo.catalogue import env_id, folder

# What `hd-agents train` leaves in a run's folder, beside logs and pictures: the agent, how it was trained, its settings
# and, where they were asked for, checkpoints to go on from.
AGENT_FILE, RUN, CONFIG, CHECKPOINTS, LOGS = "agent.zip", "run.json", "config.yml", "checkpoints", "tensorboard"


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


def load(name: str | Path, version: str | None = None, device: torch.device | str = "auto") -> HarmonyDreamAgent:
    """The trained model of a task, of a package's folder, or of a repository on the Hugging Face Hub.

    Its checksums are verified, and nothing in it is executed. It predicts, dreams and, once it has an environment
    (``set_env``), learns on, with new optimisers and an empty replay; unless the package holds what acting needs and no
    more.

    :param name: such as ``classic/CartPole``; a path; or ``org/repo``, ``hf://org/repo``, ``hf://org/repo/suite/task``,
        which need the `hub` extra and are kept in that library's cache.
    :param version: on the Hub a branch, tag or commit of the repository, None for its main branch. Elsewhere there is
        one version of a model, and this is the commit that its card says it was trained with, of at least 7 digits:
        any other is refused, None is not compared.
    :param device: as for the agent's constructor.
    :raises ValueError: for a name without a model, saying which there are, for an agent's file, which is read by
        :meth:`HarmonyDreamAgent.load`, for another version and for a damaged package.
    :raises ConnectionError: where the Hub cannot be reached.
    """
    return packages.read(locate(name, version), device)


def card(name: str | Path, version: str | None = None) -> dict[str, Any]:
    """The card of a model: task, command, commit, seed, steps, wall time, machine, evaluation and its interval.

    :param name: and ``version``: as for :func:`load`.
    """
    source = locate(name, version)
    found = packages.read_card(source)
    check_stated(found, source / packages.CARD)
    return found


def verify(name: str | Path, episodes: int | None = None, progress_bar: bool = False) -> Verification:
    """Play again what the card's evaluation played, from the same seed, and see whether the mean return is as stated.

    :param episodes: fewer than the card's are faster and find less: the interval is wider then; None for as many.
    :raises ArchiveError: where a file, those for people included, is not the one that the card describes.
    :raises ValueError: for a package of the Hub whose task would import a module.
    """
    source = locate(name, media=True)
    packages.check(source)
    stated = card(source)["evaluation"]
    check_import(name, stated["task"])
    episodes = checks.whole("episodes", episodes, 1, stated["episodes"])
    found = evaluate(
        load(source),
        stated["task"],
        episodes,
        stated["rule"],
        stated["seeds"][0],
        stated["n_envs"],
        progress_bar,
        stated.get("env_kwargs"),
    )
    mean = sum(found.returns) / episodes
    return Verification(str(name), found, mean, *prediction_interval(stated["returns"], episodes, CONFIDENCE))


def check_import(name: str | Path, task: str) -> None:
    """See that a package of the Hub does not choose a module to import, by a task such as ``my_module:MyEnv-v0``.

    :raises ValueError: unless the program has imported that module itself.
    """
    module, colon, _ = task.partition(":")
    if colon and module not in sys.modules and not is_package(name) and hub.repository(str(name)) is not None:
        raise ValueError(
            f"{name} is of {task}, and nothing from the Hub chooses what is imported: if you mean your own {module}, "
            "import it before, or on the command line pull the package first and give its folder."
        )


def locate(name: str | Path, version: str | None = None, media: bool = False) -> Path:
    """The folder of a model's package, fetched from the Hub where that is meant; arguments and errors of :func:`load`.

    :param media: fetch also what is for people, such as the video.
    """
    local = is_package(name)
    if (file := model_file(name)) is not None:
        raise ValueError(
            f"{name} is no package but an agent's file: HarmonyDreamAgent.load({str(file)!r}) reads it, zoo.pack "
            "(hd-agents zoo pack) makes a package of it."
        )
    if not local and (source := hub.repository(str(name))) is not None:
        return hub.download(source, version, media)
    found = Path(name) if local else _shipped(str(name))
    if version is not None:
        commit = str(packages.read_card(found).get("commit"))
        if not (len(str(version)) >= 7 and commit.startswith(str(version).lower())):
            told = f"{name} is there once, trained with commit {commit}; leave version out"
            raise ValueError(f"version={version!r}: {told}.")
    return found


def is_package(name: str | Path) -> bool:
    """Whether a package's folder is meant."""
    return (Path(name) / packages.CARD).is_file()


def find_agent(
    name: str | Path, device: torch.device | str = "auto", agent_class: type[HarmonyDreamAgent] = HarmonyDreamAgent
) -> HarmonyDreamAgent:
    """The agent of a file of ``save``, of a run's folder, or of what :func:`load` takes; errors as for those.

    :param agent_class: of an agent's file; packages hold agents of :class:`HarmonyDreamAgent` alone.
    """
    file = model_file(name)
    return load(name, device=device) if file is None else agent_class.load(file, device=device, verbose=0)


def model_file(name: str | Path) -> Path | None:
    """The agent's file that is meant, there or not; None where it is a package, here or on the Hub."""
    if is_package(name) or str(name) in pretrained():
        return None
    return agent_file(name) or (Path(name) if Path(name).suffix == ".zip" else None)


def agent_file(name: str | Path) -> Path | None:
    """The file of ``save`` that is meant: by its path, with or without ``.zip``, or by its run's folder; else None."""
    candidates = (Path(name), Path(f"{name}.zip"), Path(name) / AGENT_FILE)
    return next((path for path in candidates if path.is_file()), None)


def training_facts(folder: Path) -> dict[str, Any] | None:
    """What a run's folder says of how its agent was trained; None where it has no such file.

    :raises DamagedError: for a file that holds something else.
    """
    path = folder / RUN
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error


def _shipped(name: str) -> Path:
    """The folder of the package that ships for a task."""
    try:
        task = env_id(name)
    except ValueError as error:
        near = difflib.get_close_matches(name, pretrained(), n=3)
        hint = f"Did you mean {', '.join(near)}?" if near else "`hd-agents list --pretrained` shows those that ship."
        raise ValueError(
            f"There is no model {name!r}: no agent's file and no folder of a run or package here, and none that ships. "
            + hint
        ) from error
    for known in pretrained():
        if env_id(known) == task:
            return folder() / "pretrained" / known
    raise ValueError(
        f"No trained model ships for {name!r}; there is one for: {', '.join(pretrained()) or 'no task yet'}."
    )
