"""A whole update as one CUDA graph: launched at once. Kernel by kernel the host would be slower than the GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hd_agents.learner import Draws, Learner
from hd_agents.world_model.batch import Batch

WARMUP = 3  # updates made without a graph first, in which optimisers and libraries claim what they need

Metrics = Mapping[str, Tensor]
Capture = Callable[[Callable[[], Metrics]], tuple[Callable[[], None], Metrics]]


def capture_on_cuda(function: Callable[[], Metrics]) -> tuple[Callable[[], None], Metrics]:
    """Record what ``function`` launches, without running it: what runs it, and where its results will be."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        metrics = function()
    return graph.replay, metrics


class GraphedUpdates:
    """``learner.train_step`` as a graph: the same updates, from the same random numbers.

    A graph is bound to the tensors it was recorded with. Batches and random numbers are copied to where it expects
    them; for another shape of the batch, another precision, or tensors exchanged by loading a file, a new one is
    recorded. Where that fails, one warning is given and the updates go on without.

    :param learner: on a CUDA device. :param capture: records a function; another one in tests without a GPU.
    """

    def __init__(self, learner: Learner, capture: Capture = capture_on_cuda) -> None:
        self._learner, self._capture = learner, capture
        self._updates = 0
        self._failed = False
        self._key: Any = None
        self._replay: Callable[[], None] | None = None
        self._metrics: Metrics = {}
        self._inputs: tuple[Batch, Draws]

    def __call__(self, batch: Batch) -> Metrics:
        """One update; its metrics (0-d tensors on the device) are good until the next."""
        learner = self._learner
        inputs = batch, learner.draw(batch)
        self._updates += 1
        if self._failed:
            return learner.train_step(*inputs)
        if self._updates <= WARMUP:
            return self._aside(inputs)
        key = _bound_to(learner, inputs)
        if self._replay is None or key != self._key:
            try:
                self._record(inputs)
            except RuntimeError as error:
                self._failed, self._replay = True, None
                warnings.warn(f"No CUDA graph of the update could be made; it goes on without: {error}", stacklevel=2)
                return learner.train_step(*inputs)
            self._key = key
        for target, source in zip(_tensors(self._inputs), _tensors(inputs), strict=True):
            target.copy_(source, non_blocking=True)
        assert self._replay is not None
        self._replay()
        learner.newest = self._inputs
        learner.finish_step()
        return self._metrics

    def _aside(self, inputs: tuple[Batch, Draws]) -> Metrics:
        """An update on a stream of its own, as CUDA wants it before a capture."""
        if self._learner.device.type != "cuda":
            return self._learner.train_step(*inputs)
        main, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            metrics = self._learner.train_step(*inputs)
        main.wait_stream(aside)
        return metrics

    def _record(self, inputs: tuple[Batch, Draws]) -> None:
        self._replay, self._metrics = None, {}  # an older graph's memory first
        batch, draws = inputs
        observation = {key: value.clone() for key, value in batch.observation.items()}
        self._inputs = (
            Batch(observation, *(part.clone() for part in batch[1:])),
            Draws(*(part.clone() for part in draws)),
        )
        self._replay, self._metrics = self._capture(lambda: self._learner.gradient_step(*self._inputs))


def _tensors(inputs: tuple[Batch, Draws]) -> Iterator[Tensor]:
    """All tensors of an update's input, in a fixed order."""
    (observation, *others), draws = inputs
    yield from (observation[key] for key in sorted(observation))
    yield from others
    yield from draws


def _bound_to(learner: Learner, inputs: tuple[Batch, Draws]) -> Any:
    """What a graph of the update depends on besides the values in its tensors."""
    owners = []
    for optimizer in (learner.model_optimizer, learner.actor_optimizer, learner.critic_optimizer):
        weight = optimizer.param_groups[0]["params"][0]
        owners += [weight.data_ptr(), optimizer.state[weight]["exp_avg"].data_ptr()]
    return learner.bfloat16, [(tensor.shape, tensor.dtype) for tensor in _tensors(inputs)], owners
