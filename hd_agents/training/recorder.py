"""What happens when gradient steps keep failing on NaN or infinite numbers: float32, or a stop with a record of it.

The record is an ordinary archive of the agent with one more part, the last failing batch and its random numbers, so
that `hd-agents replay-nan` can make that step again and look inside.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hd_agents.restoring import NONFINITE
from hd_agents.saving.archive import write_archive
from hd_agents.saving.jsonable import ArchiveError
from hd_agents.saving.storing import archive_data
from hd_agents.training.learner import Draws
from hd_agents.training.nonfinite import PATIENCE
from hd_agents.world_model.batch import Batch


class NonFiniteError(FloatingPointError):
    """Training stopped because its numbers kept being NaN or infinite. Says which, and where the record is."""


def check(agent: Any) -> None:
    """Act on what the learner's guard has counted; waits for the device, so call it once in ``PATIENCE`` updates.

    :raises NonFiniteError: when that many updates in a row were skipped in float32; in bfloat16 it goes on in float32.
    """
    tally = agent.learner.guard.read()
    if tally.in_a_row < PATIENCE:
        return
    culprits = ", ".join(f"{name} ({count})" for name, count in tally.names.items())
    what = f"The last {tally.in_a_row} gradient steps were not finite and have been skipped. So far: {culprits}."
    if agent.learner.bfloat16:
        agent.learner.bfloat16 = False
        agent.learner.guard.restart()
        agent.precision = agent._made_with["precision"] = "float32"
        warnings.warn(f"{what} Going on in float32 instead of bfloat16.", RuntimeWarning, stacklevel=4)
        return
    logger = getattr(agent, "_logger", None)  # there is none before learn()
    path, kind = write_record(agent, Path((logger and logger.get_dir()) or ".")), type(agent)
    is_ours = kind.__module__.startswith("hd_agents.")
    own = "" if is_ours else f" --agent-class {kind.__module__}:{kind.__qualname__}"
    raise NonFiniteError(
        f"{what} `hd-agents replay-nan {path}{own}` repeats the last of them and shows where the numbers break. Usual "
        "causes are rewards or observations of huge size, or too high a learning rate."
    )


def write_record(agent: Any, folder: Path) -> Path:
    """Write the newest batch, its random numbers and the whole agent; gives the file's path."""
    batch, draws = agent.learner.newest
    parts = {**agent.get_parameters(), NONFINITE: {"batch": batch._asdict(), "draws": draws._asdict()}}
    path = folder / f"nonfinite-{agent._n_updates}.zip"
    write_archive(path, archive_data(agent, (), ()), parts)
    return path


def read_record(agent: Any, tensors: Mapping[str, Any]) -> tuple[Batch, Draws]:
    """The failing batch and its random numbers, on the device of the agent that was loaded from the same archive.

    :param tensors: the archive's, from :func:`hd_agents.saving.archive.read_archive`.
    :raises ArchiveError: if the archive is no record of a failure, or its parts do not fit the agent.
    """
    record = tensors.get(NONFINITE)
    if record is None:
        raise ArchiveError("The archive holds an agent but no failed step: expected a nonfinite-*.zip.")
    try:
        batch, draws = Batch(**record["batch"]), Draws(**record["draws"])
        found = _flat(batch, draws)
        described = {name: (value.dtype, tuple(value.shape)) for name, value in found.items()}
        expected = _expected(agent, *batch.reward.shape)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"The record of the failed step is damaged: {type(error).__name__}: {error}.") from error
    for name in sorted(expected.keys() | described.keys()):
        if described.get(name) != expected.get(name):
            raise ArchiveError(f"The record's {name} is {described.get(name)}: expected {expected.get(name)}.")
    if not batch.reward.numel():
        raise ArchiveError("The record of the failed step is empty.")
    observation = {key: value.to(agent.device) for key, value in batch.observation.items()}
    rest = (value.to(agent.device) for value in batch[1:])
    return Batch(observation, *rest), Draws(*(value.to(agent.device) for value in draws))


def explain(agent: Any, batch: Batch, draws: Draws) -> tuple[bool, list[str]]:
    """Make the recorded step again with all learning rates at zero: whether it fails, and what is wrong where."""
    lines = []
    for name, value in _flat(batch, draws).items():
        if name.startswith("batch") and value.is_floating_point():
            lines.append(f"{name}: largest size {value.abs().max().item():.3g}{_where(value)}")
    for name, value in agent.policy.networks.state_dict().items():
        if isinstance(value, Tensor) and not value.isfinite().all():  # a module's extra state is of any kind
            lines.append(f"weights {name} of shape {tuple(value.shape)}{_where(value)}")
    learner = agent.learner
    learner.set_learning_rates(0.0, 0.0, 0.0)
    with torch.no_grad(), _first_failures(learner.networks, lines):
        losses = learner.networks.world_model.losses(batch, draws.posterior).losses
    for name, loss in losses.items():
        if not loss.isfinite().all():
            lines.append(f"loss/{name}{_where(loss)}")
    metrics = learner.train_step(batch, draws)
    failed = [name for name in learner.guard.read().names if name.startswith(("loss/", "grad_norm/"))]
    lines.append(f"Not finite: {', '.join(failed) or 'nothing'}.")
    return bool(metrics["skipped"]), lines


def _flat(batch: Batch, draws: Draws) -> dict[str, Tensor]:
    found = {f"batch.observation[{key!r}]": value for key, value in batch.observation.items()}
    found |= {f"batch.{name}": value for name, value in batch._asdict().items() if name != "observation"}
    return found | {f"draws.{name}": value for name, value in draws._asdict().items()}


def _expected(agent: Any, sequences: int, steps: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of everything in a record of B sequences of T steps."""
    policy, size, number = agent.policy, (sequences, steps), torch.float32
    actor, stoch = policy.networks.actor, policy.networks.world_model.rssm.stoch
    dream = (agent.horizon, sequences * steps)
    found = {key: (torch.uint8, size + spec.shape) for key, spec in policy.observations.images.items()}
    found |= {key: (number, (*size, spec.size)) for key, spec in policy.observations.vectors.items()}
    return {
        **{f"batch.observation[{key!r}]": spec for key, spec in found.items()},
        "batch.action": (number, (*size, policy.actions.size)),
        "batch.reward": (number, size),
        "batch.is_first": (torch.bool, size),
        "batch.terminated": (torch.bool, size),
        "draws.posterior": (number, (*size, stoch)),
        "draws.prior": (number, (*dream, stoch)),
        "draws.action": (number, (*dream, len(actor.groups) or actor.action)),
    }


def _where(value: Tensor) -> str:
    """How much of a tensor is not finite, and where the first such number stands; empty if all is well."""
    bad = (~value.isfinite()).nonzero()
    if not len(bad):
        return ""
    axes = " (sequence, step, ...)" if value.dim() > 1 else ""
    return f"; {len(bad)} of {value.numel()} not finite, first at {tuple(bad[0].tolist())}{axes}"


@contextmanager
def _first_failures(networks: nn.Module, lines: list[str]) -> Iterator[None]:
    """Add a line for the first layer that turned finite numbers into others."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            given = [value for value in inputs if isinstance(value, Tensor) and value.is_floating_point()]
            sound = all(value.isfinite().all() for value in given)
            if isinstance(output, Tensor) and sound and not output.isfinite().all() and not found:
                largest = max((value.abs().max().item() for value in given if value.numel()), default=0.0)
                found.append(f"first failing layer: {name}; its input is finite, largest size {largest:.3g}")

        return look

    layers = [(name, layer) for name, layer in networks.named_modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    lines += found
