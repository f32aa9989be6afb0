"""Work of the same shape again and again as one CUDA graph. Kernel by kernel the host would be slower than the GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hd_agents.learner import Learner
from hd_agents.policies import DreamPolicy, Latent
from hd_agents.world_model.batch import Batch

WARMUP = 3  # calls made without a graph first, in which optimisers and libraries claim what they need

Capture = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]


def capture_on_cuda(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Record what ``function`` launches, without running it: what runs it, and where its results will be."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph.replay, results


class Graphed:
    """A function of tensors as a graph.

    A graph is bound to the tensors it was recorded with. Arguments are copied to where it expects them; for other
    shapes, or where something else that it is bound to has changed, a new one is recorded. Where that fails, one
    warning is given and the function is called as it is.

    :param function: takes and returns tensors, or tuples and dictionaries of them; what it returns is good until the
        next call. :param bound_to: the rest that a graph of it depends on, to be compared.
    :param name: of the function, for the warning. :param capture: records it; another one in tests without a GPU.
    """

    def __init__(
        self, function: Callable[..., Any], bound_to: Callable[[], Any], name: str, capture: Capture = capture_on_cuda
    ) -> None:
        self._function, self._bound_to, self._name, self._capture = function, bound_to, name, capture
        self._calls = 0
        self._failed = False
        self._key: Any = None
        self._replay: Callable[[], None] | None = None
        self._inputs: Any = None
        self._results: Any = None

    def __call__(self, *inputs: Any) -> Any:
        """What the function returns for ``inputs``."""
        self._calls += 1
        if self._failed:
            return self._function(*inputs)
        if self._calls <= WARMUP:
            return self._aside(inputs)
        key = self._bound_to(), [(tensor.shape, tensor.dtype) for tensor in _tensors(inputs)]
        if self._replay is None or key != self._key:
            try:
                self._record(inputs)
            except RuntimeError as error:
                self._failed, self._replay, self._results = True, None, None
                warnings.warn(f"No CUDA graph of {self._name} could be made; it goes on without: {error}", stacklevel=3)
                return self._function(*inputs)
            self._key = key
        for target, source in zip(_tensors(self._inputs), _tensors(inputs), strict=True):
            target.copy_(source, non_blocking=True)
        assert self._replay is not None
        self._replay()
        return self._results

    def _aside(self, inputs: tuple[Any, ...]) -> Any:
        """A call on a stream of its own, as CUDA wants it before a capture."""
        if next(_tensors(inputs)).device.type != "cuda":
            return self._function(*inputs)
        main, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            results = self._function(*inputs)
        main.wait_stream(aside)
        return results

    def _record(self, inputs: tuple[Any, ...]) -> None:
        self._replay = self._results = None  # an older graph's memory first
        self._inputs = _cloned(inputs)
        self._replay, self._results = self._capture(lambda: self._function(*self._inputs))


class GraphedUpdates:
    """``learner.train_step`` as a graph: the same updates, from the same random numbers.

    :param learner: on a CUDA device. :param capture: records a function; another one in tests without a GPU.
    """

    def __init__(self, learner: Learner, capture: Capture = capture_on_cuda) -> None:
        self._learner = learner
        self._step = Graphed(learner.gradient_step, self._bound_to, "the update", capture)

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        """One update; its metrics (0-d tensors on the device) are good until the next."""
        learner = self._learner
        learner.newest = inputs = batch, learner.draw(batch)
        metrics = self._step(*inputs)
        learner.finish_step()
        return metrics

    def _bound_to(self) -> Any:
        """Precision, weights and moments; loading a file exchanges the latter."""
        learner, owners = self._learner, []
        for optimizer in (learner.model_optimizer, learner.actor_optimizer, learner.critic_optimizer):
            weight = optimizer.param_groups[0]["params"][0]
            owners += [weight.data_ptr(), optimizer.state[weight]["exp_avg"].data_ptr()]
        return learner.bfloat16, owners


class GraphedActing:
    """``policy.step`` with sampled actions as a graph: the same latents and actions, from the same random numbers.

    :param policy: on a CUDA device. :param capture: records a function; another one in tests without a GPU.
    """

    def __init__(self, policy: DreamPolicy, capture: Capture = capture_on_cuda) -> None:
        self._policy = policy
        self._step = Graphed(policy.step_on_device, self._bound_to, "acting", capture)

    @torch.no_grad()
    def __call__(self, encoded: Mapping[str, NDArray[Any]], latent: Latent, is_first: NDArray[np.bool_]) -> Latent:
        """The next latent, good until the next call; arguments as for :meth:`DreamPolicy.step`."""
        policy = self._policy
        first = torch.as_tensor(is_first, device=policy.device)
        return self._step(policy.to_device(encoded), latent, first, policy.draw(len(is_first)))

    def _bound_to(self) -> Any:
        return [next(part.parameters()).data_ptr() for part in (self._policy.networks.actor, self._policy.networks)]


def _tensors(tree: Any) -> Iterator[Tensor]:
    """All tensors in tuples and dictionaries, in a fixed order."""
    if isinstance(tree, Tensor):
        yield tree
        return
    for branch in [tree[key] for key in sorted(tree)] if isinstance(tree, Mapping) else tree:
        yield from _tensors(branch)


def _cloned(tree: Any) -> Any:
    """The same tuples and dictionaries, with copies of the tensors."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, Mapping):
        return {key: _cloned(branch) for key, branch in tree.items()}
    copies = [_cloned(branch) for branch in tree]
    return type(tree)(*copies) if hasattr(tree, "_fields") else tuple(copies)
