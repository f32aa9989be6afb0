"""Trained models as packages: files that a person can read or that hold nothing but numbers and pictures.

A package is a folder ``<suite>/<task>``:

- ``card.json``: what it is, how it was trained, how good it is, and the checksums of the others;
- ``agent.json``: the constructor's arguments, the spaces and the counters;
- ``weights.safetensors``: the networks, in half precision unless other bits were asked for: all of them, or only those
  that acting needs, the encoder, the recurrent state-space model and the actor;
- ``README.md``, ``video.mp4`` and ``dream.png``, for people: the card in words, the model playing, its dream beside
  the truth. A model loads without them.

Reading one runs nothing that is in it.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.extras import needing
from hd_agents.files import sha256_of
from hd_agents.restoring import restore, stored_arguments
from hd_agents.saving.jsonable import ArchiveError, from_json, to_json
from hd_agents.saving.storing import archive_data
from hd_agents.saving.vetting import blamed_on, check_values, check_weights
from hd_agents.zoo.card_checks import check_env_kwargs
from hd_agents.zoo.cards import WHOLE
from hd_agents.zoo.precision import BITS, reduced, restored

CARD, AGENT, WEIGHTS = "card.json", "agent.json", "weights.safetensors"
README, VIDEO, DREAM = "README.md", "video.mp4", "dream.png"
FILES = (AGENT, WEIGHTS, README, VIDEO, DREAM)  # that the card has checksums of; the first two are always there
FORMAT, FORMAT_VERSION = "hd_agents package", 2
ACTING = tuple(f"networks.{part}." for part in ("world_model.encoder", "world_model.rssm", "actor"))
FULL = "Ask for a package that was made with full=True (without --acting-only), or train: `hd-agents train TASK`."
# Where the agent ran, which is nobody else's business, and its seed, which would reseed whoever loads it.
PRIVATE = ("ep_info_buffer", "ep_success_buffer", "system_info", "tensorboard_log", "verbose", "seed")


class DamagedPackageError(ArchiveError):
    """A file of a package that is missing, not JSON, or not the one that the card describes."""


class ActingAgent(HarmonyDreamAgent):
    """An agent out of a package that has only what acting needs; the weights that it lacks are NaN."""

    def learn(self, *arguments: Any, **named: Any) -> NoReturn:
        """Refused: critic, decoder and reward head are not in the package."""
        raise ValueError(f"This model was packed for acting only, and cannot learn on. {FULL}")

    def train(self, *arguments: Any, **named: Any) -> NoReturn:
        """Refused, as :meth:`learn` is."""
        self.learn()

    def add_episode(self, *arguments: Any, **named: Any) -> NoReturn:
        """Refused, as :meth:`learn` is."""
        self.learn()

    def imagine(self, *arguments: Any, **named: Any) -> NoReturn:
        """Refused: decoder, reward head and critic are not in the package."""
        raise ValueError(f"This model was packed for acting only, and cannot dream. {FULL}")

    def save(self, *arguments: Any, **named: Any) -> NoReturn:
        """Refused: an archive holds all networks, and would be read as an agent that is NaN."""
        raise ValueError(
            "This model was packed for acting only, and an agent's file needs all networks. To keep it, copy "
            f"the folder of the package, which is all there is of it. {FULL}"
        )


def write(agent: HarmonyDreamAgent, target: Path, full: bool = True, bits: int = 16) -> dict[str, Any]:
    """Write ``agent.json`` and ``weights.safetensors`` into the folder ``target`` and give what the card says of them.

    :param full: keep all networks, to learn on and to dream; False keeps what acting needs.
    :param bits: of a weight: 16, 32 for as it is, or 8 for matrices in 8 bits (see :mod:`hd_agents.zoo.precision`).
    :raises ValueError: for weights beyond the range of half precision.
    """
    from safetensors.torch import save

    state = {key: tensor.detach().cpu().contiguous() for key, tensor in agent.policy.state_dict().items()}
    if not full:
        state = {key: tensor for key, tensor in state.items() if key.startswith(ACTING)}
    data = to_json(archive_data(agent, exclude=PRIVATE, include=()))
    target.mkdir(parents=True, exist_ok=True)
    (target / AGENT).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (target / WEIGHTS).write_bytes(save(reduced(state, bits)))
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "holds": WHOLE if full else "what acting needs",
        "precision": BITS[bits],
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "bytes": (target / WEIGHTS).stat().st_size,
    }


def seal(target: Path, card: Mapping[str, Any]) -> None:
    """Write the card of the files in the folder ``target``, with their checksums."""
    sums = {name: sha256_of(target / name) for name in FILES if (target / name).is_file()}
    text = json.dumps({**card, "sha256": sums}, indent=1, allow_nan=False)
    (target / CARD).write_text(text + "\n", encoding="utf-8")


def read(source: Path, device: torch.device | str = "auto") -> HarmonyDreamAgent:
    """The agent of a package, with its checksums verified.

    :raises ArchiveError: for a folder that is no intact package, saying what is wrong.
    :raises ImportError: where safetensors is not installed, naming the extra.
    """
    with needing("A package", "train"):
        from safetensors import SafetensorError
        from safetensors.torch import load
    card = read_card(source)
    for name in (AGENT, WEIGHTS):
        _check_file(source, card, name)
    try:
        stored = load((source / WEIGHTS).read_bytes())
        data = from_json(_read_json(source / AGENT))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ArchiveError(f"{source} holds damaged files: {error}") from error
    if not isinstance(data, dict):
        raise ArchiveError(f"{source / AGENT} holds a {type(data).__name__} where an object is expected.")
    data = {name: value for name, value in data.items() if name not in PRIVATE}  # also where somebody has added it
    check_values(data)
    stored = restored(stored)
    whole = card.get("holds") == WHOLE
    kind: type[HarmonyDreamAgent] = HarmonyDreamAgent if whole else ActingAgent
    agent = kind(**stored_arguments(kind, data, {}), env=None, device=device, _init_setup_model=False)
    with blamed_on(f"The package {source}"):
        restore(agent, data, {})
        check_weights(agent._make_policy, stored, agent.policy_kwargs, "" if whole else ACTING)
        agent._setup_model()
        agent.policy.load_state_dict(_complete(stored, agent.policy.state_dict()))
    return agent


def read_card(source: Path) -> dict[str, Any]:
    """A package's card.

    :raises ArchiveError: for a folder without one, or with one of another format.
    """
    path = source / CARD
    if not path.is_file():
        raise ArchiveError(f"{source} is no package: it has no {CARD}.")
    card = _read_json(path)
    if card.get("format") != FORMAT or card.get("format_version") != FORMAT_VERSION:
        raise ArchiveError(
            f"{path} has the format {card.get('format')!r} {card.get('format_version')!r}, and this release of "
            f"hd_agents reads {FORMAT!r} {FORMAT_VERSION} only: install the release that wrote it or a newer one."
        )
    if not isinstance(card.get("sha256"), dict):
        raise ArchiveError(f"{path} has no checksums.")
    played = card.get("evaluation")
    for part in (card, played if isinstance(played, dict) else {}):
        check_env_kwargs(part.get("env_kwargs", {}), str(path))
    return card


def check(source: Path, names: Sequence[str] = FILES) -> None:
    """See whether files of a package, by default all and those for people too, are the ones that its card describes.

    :raises ArchiveError: naming the first that is not.
    """
    card = read_card(source)
    for name in names:
        if name in (AGENT, WEIGHTS) or name in card["sha256"] or (source / name).exists():
            _check_file(source, card, name)


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """A folder to make a package in, which becomes ``target`` at the end, and is removed if something goes wrong.

    :raises FileExistsError: where there is something already.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already: remove it to pack the model anew.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
        made = Path(folder) / target.name
        made.mkdir()
        try:
            yield made
        except OSError as error:
            if error.errno is not None and error.filename is None:  # as where the disk is full
                error.filename = str(target)
            raise
        made.rename(target)


def _check_file(source: Path, card: Mapping[str, Any], name: str) -> None:
    if not (source / name).is_file():
        raise DamagedPackageError(f"{source / name} is missing: the card describes it.")
    if sha256_of(source / name) != card["sha256"].get(name):
        raise DamagedPackageError(f"{source / name} is not the file that the card describes: its checksum differs.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedPackageError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ArchiveError(f"{path} holds a {type(document).__name__} where a JSON object is expected.")
    return document


def _complete(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored weights in the networks' own precision, and NaN for those that a package for acting leaves out."""
    return {
        key: stored[key].to(tensor.dtype) if key in stored else torch.full_like(tensor, torch.nan)
        for key, tensor in wanted.items()
    }
