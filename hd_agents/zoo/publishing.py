"""Packages to and from the Hugging Face Hub: a repository per package, with a README that the Hub shows and indexes."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hd_agents.saving.jsonable import ArchiveError
from hd_agents.zoo import hub, packages
from hd_agents.zoo.card_checks import check_stated
from hd_agents.zoo.cards import readme
from hd_agents.zoo.models import locate


def push(name: str | Path, repository: str, private: bool = False) -> str:
    """Upload a package to a repository of the Hub, made if there is none, and give its address.

    The package is checked and read first, so a damaged one is not uploaded. Needs the `hub` extra, and a token with the
    right to write, as `hf auth login` leaves it.

    :param name: as for :func:`hd_agents.zoo.load`. :param repository: ``org/repo`` or ``hf://org/repo``.
    :param private: make the repository private; refused for one that everybody can read already.
    :raises ValueError: for a package or repository that cannot be used. :raises ConnectionError: if the upload fails.
    """
    source = locate(name, media=True)
    packages.check(source)
    packages.read(source, "cpu")
    try:
        target = hub.repository(hub.PREFIX + repository.removeprefix(hub.PREFIX))
    except ValueError:
        target = None
    if target is None or target.folder:
        raise ValueError(f"{repository!r}: a package has a repository of its own; write it as org/repo.")
    api = hub.library().HfApi()
    card = packages.read_card(source)
    check_stated(card, source / packages.CARD)
    try:
        text = page(card, target.id)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ArchiveError(f"{source / packages.CARD} does not state all that its page tells: {told}.") from error
    with tempfile.TemporaryDirectory() as folder:
        _copy(source, Path(folder))
        (Path(folder) / packages.README).write_text(text, encoding="utf-8")
        packages.seal(Path(folder), card)
        with hub.plain_errors(target.id):
            address = api.create_repo(target.id, private=private, exist_ok=True)
            if private and not api.repo_info(target.id).private:
                raise ValueError(f"{target.id} exists and is public: leave --private out, or give another repository.")
            api.upload_folder(
                repo_id=target.id,
                folder_path=folder,
                commit_message=f"hd_agents package {card['name']}",
                delete_patterns=list(packages.FILES),  # of an older package that this one does not have
            )
    return str(address)


def pull(repository: str, folder: str | Path | None = None, version: str | None = None) -> Path:
    """Fetch a package from the Hub, with its page and pictures, and give the folder where it is.

    Needs the `hub` extra.

    :param repository: and ``version``: as for :func:`hd_agents.zoo.load`.
    :param folder: to copy the package to, whole or not at all; None leaves it in the library's cache alone.
    :raises FileExistsError: where ``folder`` exists. :raises ValueError: as ``load`` does, and for a damaged package.
    """
    if folder is not None and Path(folder).exists():
        raise FileExistsError(f"{folder} exists already: give another folder.")
    place = hub.repository(hub.PREFIX + repository.removeprefix(hub.PREFIX))
    assert place is not None  # with the prefix it is a place on the Hub, or an error
    source = hub.download(place, version, media=True)
    packages.check(source)
    packages.read(source, "cpu")
    if folder is None:
        return source
    with packages.making(Path(folder)) as made:
        _copy(source, made)
    return Path(folder)


def page(card: Mapping[str, Any], repository: str) -> str:
    """The Hub's page of a package: a header in the Hub's own format, and the card in words."""
    hub.library()
    from huggingface_hub import EvalResult, ModelCardData

    played, task = card["evaluation"], card["task"]
    result = EvalResult(
        task_type="reinforcement-learning",
        task_name="reinforcement-learning",
        dataset_type=task,
        dataset_name=task,
        metric_type="mean_reward",
        metric_name="mean_reward",
        metric_value=f"{played['mean_return']:.2f} +/- {played['std_return']:.2f}",
    )
    header = ModelCardData(
        library_name="hd_agents",
        pipeline_tag="reinforcement-learning",
        tags=[task, "deep-reinforcement-learning", "reinforcement-learning", "hd_agents", "world-model"],
        model_name="harmonydream",
        eval_results=[result],
    )
    return f"---\n{header.to_yaml()}\n---\n\n{readme(card, hub.PREFIX + repository)}"


def _copy(source: Path, target: Path) -> None:
    """The files of a package. The cache's are links, and become files."""
    for name in (packages.CARD, *packages.FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
