"""Packages in repositories of the Hugging Face Hub: which names mean one, and fetching them into the library's cache.

Only the files that a package consists of are asked for, by name. What arrives is read by
:mod:`hd_agents.zoo.packages`, which executes nothing.
"""

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import gymnasium as gym

import hd_agents
from hd_agents.envs import PACKAGES
from hd_agents.extras import needing
from hd_agents.zoo.card_checks import check_stated
from hd_agents.zoo.catalogue import key_of, names
from hd_agents.zoo.packages import AGENT, CARD, FILES, WEIGHTS, DamagedPackageError, check, read_card

PREFIX = "hf://"
OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)  # what goes wrong with files here

UNAUTHORIZED = 401  # of HTTP


class Repository(NamedTuple):
    """A place on the Hub.

    :param id: ``organisation/repository``. :param folder: of the package in it; empty for the repository's own root.
    """

    id: str
    folder: str = ""


def repository(name: str) -> Repository | None:
    """What a name means on the Hub; None if it means something else.

    ``hf://org/repo`` and ``hf://org/repo/suite/task`` always mean the Hub. ``org/repo`` does, unless ``org`` is a
    suite, a namespace of Gymnasium ids or a folder here: a mistyped task or path is no reason to ask the network.

    :raises ValueError: for ``hf://`` before anything else.
    """
    part = r"[A-Za-z0-9][\w.-]*"
    found = re.fullmatch(rf"({part}/{part})((?:/{part})*)", name.removeprefix(PREFIX))
    if name.startswith(PREFIX):
        if found is None:
            raise ValueError(f"{name!r} is no place on the Hub: write {PREFIX}org/repo or {PREFIX}org/repo/suite/task.")
        return Repository(found[1], found[2].removeprefix("/"))
    if found is None or found[2]:
        return None
    owner = name.partition("/")[0]
    known = (task.partition("/")[0] for task in (*names(), *gym.registry) if "/" in task)
    taken = {key_of(space) for space in (*PACKAGES, "hd_agents", *known)}
    return None if key_of(owner) in taken or Path(owner).exists() else Repository(name)


def download(source: Repository, version: str | None = None, media: bool = False) -> Path:
    """The folder of a package in the Hub library's cache, fetched where it is not there yet. Needs the `hub` extra.

    :param version: a branch, a tag or a commit of the repository; None for its main branch.
    :param media: also fetch what is for people: the page, the video, the dream.
    :raises ValueError: where there is no such repository, version or package.
    :raises ConnectionError: where the Hub cannot be reached and the cache does not have it.
    """
    prefix = f"{source.folder}/" if source.folder else ""
    wanted = [prefix + name for name in (CARD, *(FILES if media else (AGENT, WEIGHTS)))]
    hub = library()
    with plain_errors(source.id, version):
        root = hub.snapshot_download(
            source.id,
            revision=version,
            allow_patterns=wanted,
            library_name="hd_agents",
            library_version=hd_agents.__version__,
        )
    folder = Path(root) / source.folder
    place = f"{source.id}/{source.folder}" if source.folder else source.id
    if not (folder / CARD).is_file():
        raise ValueError(f"{place} holds no package: it has no {CARD}.")
    try:
        check_stated(read_card(folder), folder / CARD)
        check(folder, FILES if media else (AGENT, WEIGHTS))
    except DamagedPackageError as error:  # perhaps here alone: the library keeps what it has
        again = f"If it is whole on the Hub, delete {Path(root).parents[1]}, where it was fetched to, and try again."
        raise DamagedPackageError(f"{error} {again}") from error
    return folder


def library() -> ModuleType:
    """huggingface_hub.

    :raises ImportError: where it is not installed, naming the extra.
    """
    with needing("The Hugging Face Hub", "hub"):
        import huggingface_hub
    return huggingface_hub


@contextmanager
def plain_errors(place: str, version: str | None = None) -> Iterator[None]:
    """Turn the library's errors, which fill half a screen, into one line each."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # OSError, and what the library's HTTP client raises; which client that is differs between its versions.
    network: tuple[type[Exception], ...] = HfHubHTTPError.__bases__
    try:
        yield
    except GatedRepoError as error:  # a RepositoryNotFoundError for the library, but it is there
        raise ValueError(
            f"{place} is open only to those whom its owner admits: ask for access on its page of the Hub, and log in "
            "with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        message = (
            f"The Hub has no repository {place!r} that you may use: check its name, or log in with `hf auth login`."
        )
        raise ValueError(message) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{place} has no version {version!r}: give a branch, tag or commit of it.") from error
    except json.JSONDecodeError as error:
        told = "the answer is not JSON: a proxy or a log-in page may have given it, or HF_ENDPOINT names something else"
        raise ConnectionError(f"The Hub did not give or take {place}: {told}.") from error
    except network as error:
        if isinstance(error, OSError) and error.errno in OF_THIS_MACHINE:
            error.filename = error.filename or library().constants.HF_HUB_CACHE
            raise
        if getattr(getattr(error, "response", None), "status_code", None) == UNAUTHORIZED:
            raise ValueError(
                f"The Hub does not take the token that was sent for {place}: log in anew with `hf auth login`, or "
                "remove the token (`hf auth logout`, HF_TOKEN)."
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConnectionError(f"The Hub did not give or take {place}: {reason}") from error
