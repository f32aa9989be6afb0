"""Acting as a program for machines without this package: of ``torch.export`` (``.pt2``) or in ONNX (``.onnx``)."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from hd_agents import checks
from hd_agents.backbones import Networks
from hd_agents.extras import require
from hd_agents.files import atomic_write
from hd_agents.spaces import ActionCodec, ObservationCodec
from hd_agents.spaces.one_hot import one_hot_groups
from hd_agents.world_model.rssm import State
from hd_agents.world_model.world_model import WorldModel

Part = TypeVar("Part", bound=nn.Module)
CARRIED = ("deter", "stoch", "last_action")  # from one step to the next
ABOUT = "hd_agents"  # under this name the program tells its ports: in ONNX's metadata, and as an extra file of a .pt2


class Port(NamedTuple):
    """An input or output of a program.

    :param dtype: as NumPy calls it. :param meaning: what is to be put in, or what comes out.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str

    @classmethod
    def of(cls, name: str, value: Tensor, meaning: str) -> Port:
        """The one that takes or gives such values."""
        return cls(name, tuple(value.shape), str(value.dtype).removeprefix("torch."), meaning)


class Ports(NamedTuple):
    """All inputs and outputs of a program, in its order."""

    inputs: list[Port]
    outputs: list[Port]

    def to_json(self) -> str:
        """As it stands in the file."""
        return json.dumps({kind: [port._asdict() for port in ports] for kind, ports in self._asdict().items()})


class Step(nn.Module):
    """One step of acting for ``n`` environments, in tensors of fixed shapes, by a copy of the networks on the CPU.

    :param deterministic: the mode of the latent and of the action; else random numbers for both are inputs too.
    """

    def __init__(
        self, networks: Networks, observations: ObservationCodec, actions: ActionCodec, deterministic: bool, n: int
    ) -> None:
        super().__init__()
        model = networks.world_model
        for name in ("encode", "features"):  # what acting calls of it, and the program does by itself
            if getattr(getattr(model, name), "__func__", None) is not getattr(WorldModel, name):
                raise ValueError(f"This {type(model).__name__} cannot be exported: it has its own {name}.")
        self.encoder, self.rssm = _copied(networks.world_model.encoder), _copied(networks.world_model.rssm)
        self.actor = _copied(networks.actor)
        self.observations, self.actions = observations, actions
        self.deterministic, self.n = deterministic, n
        self.action_dtype = _dtype(actions.space)
        if isinstance(actions.space, spaces.Box):
            for name, bound in (("low", actions.space.low), ("high", actions.space.high)):
                self.register_buffer(name, torch.from_numpy(bound.astype(np.float64).ravel()))

    def inputs(self) -> dict[str, tuple[Tensor, str]]:
        """An example of each input of :meth:`forward`, and its meaning, by name and in order."""
        n, prefix = self.n, "observation." if self.observations.is_dict else ""
        found = {f"{prefix}{key}": self._example(key, space) for key, space in self.observations.spaces.items()}
        for name, size in zip(CARRIED, (self.rssm.deter, self.rssm.stoch_size, self.actions.size), strict=True):
            found[name] = torch.zeros(n, size), f"zeros at the start, then next_{name}"
        found["episode_start"] = torch.ones(n, dtype=torch.bool), "whether the observation is an episode's first"
        if not self.deterministic:
            found["latent_draw"] = torch.full((n, self.rssm.stoch), 0.5), "random numbers, uniform in [0, 1)"
            continuous = "uniform in (0, 1)" if self.actor.bounded else "standard normal"
            kind = "uniform in [0, 1)" if self.actions.groups else continuous
            size = len(self.actions.groups) or self.actions.size
            found["action_draw"] = torch.full((n, size), 0.5), f"random numbers, {kind}"
        return found

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Observation, what is carried, where episodes start, draws -> action, and what is carried to the next step."""
        observed = zip(self.observations.spaces.items(), inputs, strict=False)
        observation = {key: self._encoded(key, space, rows) for (key, space), rows in observed}
        deter, stoch, action, start, *draws = inputs[len(observation) :]
        of_latent, of_action = draws or (None, None)
        embed = self.encoder(self.encoder.prepare(observation))
        state = self.rssm.observe_step(State(deter, stoch), action, embed, start, of_latent)
        policy = self.actor.distribution(self.actor.parameters_of(torch.cat([state.deter, state.stoch], -1)))
        chosen = policy.mode() if of_action is None else policy.sample(of_action)
        chosen = chosen if self.actions.groups else chosen.clamp(-1.0, 1.0)
        return self._decoded(chosen), state.deter, state.stoch, chosen

    def _example(self, key: str, space: spaces.Space[Any]) -> tuple[Tensor, str]:
        """Zeros, or the first of integers, and what they stand for."""
        if key in self.observations.images:
            return torch.zeros(
                self.n, *self.observations.images[key].shape, dtype=torch.uint8
            ), "height, width, channels"
        shape, meaning = space.shape or (), "as the environment gives it"
        if groups := one_hot_groups(space):
            firsts = torch.from_numpy(groups[1]).reshape(shape).expand(self.n, *shape)
            return firsts.to(_dtype(space), copy=True), meaning
        return torch.zeros(self.n, *shape, dtype=_dtype(space)), meaning

    def _encoded(self, key: str, space: spaces.Space[Any], rows: Tensor) -> Tensor:
        """As :meth:`ObservationCodec.encode` does it."""
        if key in self.observations.images:
            return rows
        if (groups := one_hot_groups(space)) is None:
            return rows.reshape(self.n, -1).float()
        index = rows.reshape(self.n, -1) - torch.from_numpy(groups[1])
        return torch.cat([index[:, [i]] == torch.arange(size) for i, size in enumerate(groups[0])], -1).float()

    def _decoded(self, chosen: Tensor) -> Tensor:
        """As :meth:`ActionCodec.decode` does it."""
        space = self.actions.space
        shape = (self.n, *(space.shape or ()))
        if groups := one_hot_groups(space):
            parts = [part.argmax(-1) for part in chosen.split(list(groups[0]), -1)]
            return (torch.stack(parts, -1) + torch.from_numpy(groups[1])).reshape(shape).to(self.action_dtype)
        low, high = self.get_buffer("low"), self.get_buffer("high")
        scaled = (low + 0.5 * (chosen.double() + 1.0) * (high - low)).clamp(low, high)
        scaled = scaled.round() if np.issubdtype(space.dtype, np.integer) else scaled
        return scaled.to(self.action_dtype).reshape(shape)


def export(
    networks: Networks,
    observations: ObservationCodec,
    actions: ActionCodec,
    path: str | Path,
    deterministic: bool,
    n_envs: int,
) -> Ports:
    """Write one step of acting, see :meth:`hd_agents.player.Player.export`."""
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"{path}: name the file .onnx (ONNX) or .pt2 (of torch.export).")
    step = Step(networks, observations, actions, deterministic, checks.whole("n_envs", n_envs, 1))
    if path.suffix == ".onnx":
        require("ONNX", "export", "onnx", "onnxscript")
        if step.actor.bounded and not actions.groups and not deterministic:
            raise ValueError(
                f"{path}: ONNX lacks what DreamerV2 samples numbers by: use a deterministic player, or .pt2."
            )
    inputs = step.inputs()
    examples = tuple(example for example, _ in inputs.values())
    with _silence(), torch.no_grad():
        results = step(*examples)  # also makes what is kept for later calls, which a trace must not make
        program = torch.export.export(step, examples, strict=False)
    meanings = ["as the environment takes it", *(f"the next {name}" for name in CARRIED)]
    names = ["action", *(f"next_{name}" for name in CARRIED)]
    ports = Ports(
        [Port.of(name, *about) for name, about in inputs.items()],
        [Port.of(*about) for about in zip(names, results, meanings, strict=True)],
    )
    with atomic_write(path) as file, _silence():
        if path.suffix == ".pt2":
            torch.export.save(program, file, extra_files={ABOUT: ports.to_json()})
        else:
            made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=list(inputs), output_names=names)
            assert made is not None
            made.model.metadata_props[ABOUT] = ports.to_json()
            file.write(made.model_proto.SerializeToString())
    return ports


def _copied(part: Part) -> Part:
    return copy.deepcopy(part).cpu().eval().requires_grad_(False)


def _dtype(space: spaces.Space[Any]) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, space.dtype)).dtype


@contextmanager
def _silence() -> Iterator[None]:
    """Without PyTorch's warnings of deprecations, and what it and onnxscript say of what they do without."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
