"""Trained models as packages: three files that a person can read or that hold nothing but numbers.

A package is a folder ``<suite>/<task>``:

- ``card.json``: what it is, how it was trained, how good it is, and the checksums of the other two;
- ``agent.json``: the constructor's arguments, the spaces and the counters;
- ``weights.safetensors``: the networks. By default in half precision, and only those that acting needs: the encoder,
  the recurrent state-space model and the actor.

Reading one runs nothing that is in it.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from hd_agents.agent import HarmonyDreamAgent
from hd_agents.jsonable import ArchiveError, from_json, to_json
from hd_agents.restoring import archive_data, restore, stored_arguments
from hd_agents.vetting import blamed_on, check_values, check_weights

CARD, AGENT, WEIGHTS = "card.json", "agent.json", "weights.safetensors"
FORMAT, FORMAT_VERSION = "hd_agents package", 1
ACTING = tuple(f"networks.{part}." for part in ("world_model.encoder", "world_model.rssm", "actor"))
# Where the agent ran, which is nobody else's business, and its seed, which would reseed whoever loads it.
PRIVATE = ("ep_info_buffer", "ep_success_buffer", "system_info", "tensorboard_log", "verbose", "seed")


class ActingAgent(HarmonyDreamAgent):
    """An agent out of a package that has only what acting needs. What it lacks is NaN, lest it pass for something."""

    def learn(self, *arguments: Any, **named: Any) -> NoReturn:
        """Refused: critic, decoder and reward head are not in the package."""
        raise ValueError("This model was packed for acting only, and cannot learn on. Pack it with full=True (--full).")

    def imagine(self, *arguments: Any, **named: Any) -> NoReturn:
        """Refused: decoder, reward head and critic are not in the package."""
        raise ValueError("This model was packed for acting only, and cannot dream. Pack it with full=True (--full).")


def write(agent: HarmonyDreamAgent, target: Path, full: bool = False) -> dict[str, Any]:
    """Write ``agent.json`` and ``weights.safetensors`` into the folder ``target`` and give what the card says of them.

    :param full: keep all networks, in single precision: to learn on, and to dream.
    :raises ValueError: for weights beyond the range of half precision.
    """
    from safetensors.torch import save

    state = {key: tensor.detach().cpu().contiguous() for key, tensor in agent.policy.state_dict().items()}
    if not full:
        state = {key: _half(key, tensor) for key, tensor in state.items() if key.startswith(ACTING)}
    data = to_json(archive_data(agent, exclude=PRIVATE, include=()))
    target.mkdir(parents=True, exist_ok=True)
    (target / AGENT).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (target / WEIGHTS).write_bytes(save(state))
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "holds": "all networks" if full else "what acting needs",
        "precision": "as trained" if full else "float16",
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "bytes": (target / WEIGHTS).stat().st_size,
        "sha256": {name: _checksum(target / name) for name in (AGENT, WEIGHTS)},
    }


def read(source: Path, device: torch.device | str = "auto") -> HarmonyDreamAgent:
    """The agent of a package, with its checksums verified.

    :raises ArchiveError: for a folder that is no intact package, saying what is wrong.
    :raises ImportError: where safetensors is not installed, naming the extra.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise ImportError('Packages need safetensors: install it with `pip install "hd_agents[train]"`.') from error
    card = read_card(source)
    for name in (AGENT, WEIGHTS):
        if not (source / name).is_file() or _checksum(source / name) != card.get("sha256", {}).get(name):
            raise ArchiveError(f"{source / name} is not the file that the card describes: its checksum differs.")
    try:
        stored = load((source / WEIGHTS).read_bytes())
        data = from_json(_read_json(source / AGENT))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ArchiveError(f"{source} holds damaged files: {error}") from error
    if not isinstance(data, dict):
        raise ArchiveError(f"{source / AGENT} holds a {type(data).__name__} where an object is expected.")
    check_values(data)
    whole = card.get("holds") == "all networks"
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
    if (card.get("format"), card.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise ArchiveError(
            f"{path} has the format {card.get('format')!r} {card.get('format_version')!r}, and this release of "
            f"hd_agents reads {FORMAT!r} {FORMAT_VERSION} only: install the release that wrote it or a newer one."
        )
    return card


def pack(
    agent: HarmonyDreamAgent,
    target: Path,
    facts: Mapping[str, Any],
    judge: Callable[[HarmonyDreamAgent], Mapping[str, Any]],
    full: bool = False,
) -> dict[str, Any]:
    """Write a package, whole or not at all, and give its card.

    :param facts: for the card. :param judge: given the agent as the package holds it, says what else is for the card.
    :param full: as for :func:`write`.
    :raises FileExistsError: where there is something already.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already: remove it to pack the model anew.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
        made = Path(folder) / target.name
        card = {**facts, **write(agent, made, full)}
        _write_card(made, card)
        card |= judge(read(made, agent.device))
        _write_card(made, card)
        made.rename(target)
    return card


def _write_card(target: Path, card: Mapping[str, Any]) -> None:
    (target / CARD).write_text(json.dumps(card, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ArchiveError(f"{path} holds a {type(document).__name__} where a JSON object is expected.")
    return document


def _complete(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored weights in the networks' own precision, and NaN for those that a package for acting leaves out."""
    return {
        key: stored[key].to(tensor.dtype) if key in stored else torch.full_like(tensor, torch.nan)
        for key, tensor in wanted.items()
    }


def _half(key: str, tensor: Tensor) -> Tensor:
    half = tensor.half()
    if not half.isfinite().all():
        raise ValueError(f"{key} holds numbers beyond half precision's range (or no numbers): pack it with full=True.")
    return half


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
