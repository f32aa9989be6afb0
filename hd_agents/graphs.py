"""Work of the same shape again and again as one CUDA graph. Kernel by kernel the host would be slower than the GPU."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

WARMUP = 2  # calls without a graph first, in which libraries claim what they need; an update's very first comes on top
FEWEST_REPLAYS = 20  # of each graph, on average: with fewer, it is not worth what it takes to record it
PLAIN = (bool, int, float, str, tuple, np.generic)

# A function and a stream to record it on -> what runs it again, and where its results will be.
Capture = Callable[[Callable[[], Any], Any], tuple[Callable[[], None], Any]]


def capture_on_cuda(function: Callable[[], Any], stream: torch.cuda.Stream) -> tuple[Callable[[], None], Any]:
    """Record what ``function`` launches, without running it: what runs it, and where its results will be.

    Not by ``torch.cuda.graph``, which records on a stream of the current device, and leaves it current after a failure.
    """
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    gc.collect()
    torch.cuda.synchronize(stream.device)
    torch.cuda.empty_cache()
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=pool)
            try:
                results = function()
            finally:
                graph.capture_end()
    except RuntimeError:
        try:
            graph.pool()  # refused until a capture has ended; from then on the graph gives its pool back by itself
        except RuntimeError:
            _clean_up(stream.device, pool)
        raise
    return graph.replay, results


def _clean_up(device: torch.device, pool: Any) -> None:
    """What ``capture_end`` leaves undone where a capture has become invalid: its memory is still set aside for it, and
    the device's random numbers are still taken to be recorded. Done as far as this version of torch lets it be.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    steps = (
        lambda: torch._C._cuda_endAllocateToPool(generator.device.index, pool),
        lambda: torch._C._cuda_releasePool(generator.device.index, pool),
        lambda: generator.graphsafe_set_state(generator.clone_state()),
    )
    for step in steps:
        with contextlib.suppress(RuntimeError, AttributeError):
            step()


class Graphed:
    """A function of tensors as a graph.

    A graph is bound to the tensors it was recorded with. Arguments are copied to where it expects them; for other
    shapes, or where something else that it is bound to has changed, a new one is recorded, after ``WARMUP`` calls
    without. Where that fails (if memory is short: twice), one warning is given and the function is called as it is.

    :param function: takes and returns tensors, or tuples and dictionaries of them; what it returns is good until the
        next call. :param bound_to: the rest that a graph of it depends on: tensors, which must stay the same ones, and
        other values, which must stay equal.
    :param name: of the function, for the warning. :param capture: records it; another one in tests without a GPU.
    :param changed: names what made ``bound_to`` another last, for the warning; empty if that is not known.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        bound_to: Callable[[], list[Any]],
        name: str,
        capture: Capture = capture_on_cuda,
        changed: Callable[[], str] = str,
    ) -> None:
        self._function, self._bound_to, self._name, self._capture = function, bound_to, name, capture
        self._changed = changed
        self._calls = 0  # with the present key
        self._failed = False
        self._lacked_memory = False  # of memory, once
        self._changes = self._replays = 0  # of the key, and of graphs, since it was made
        self._has_warned = False  # that it is hardly of use
        self._key: Any = None
        self._held: list[Any] = []  # what the key has the addresses of: nothing else can come to lie there
        self._stream: torch.cuda.Stream | None = None  # for all calls but replays
        self._replay: Callable[[], None] | None = None
        self._inputs: Any = None
        self._results: Any = None

    def __call__(self, *inputs: Any) -> Any:
        """What the function returns for ``inputs``."""
        if self._failed:
            return self._function(*inputs)
        owners = self._bound_to()
        key = [(id(one), one.data_ptr()) if isinstance(one, Tensor) else one for one in owners]
        key += [(tensor.shape, tensor.dtype, tensor.device) for tensor in _tensors(inputs)]
        if key != self._key:
            self._count_change()
            self._replay = self._results = self._inputs = None
            self._calls, self._key, self._held = 0, key, owners
        self._calls += 1
        if self._calls <= WARMUP:
            return self._aside(inputs)
        if self._replay is None and not self._record(inputs):
            return self._function(*inputs)
        for target, source in zip(_tensors(self._inputs), _tensors(inputs), strict=True):
            target.copy_(source, non_blocking=True)
        assert self._replay is not None
        try:
            self._replay()
        except RuntimeError as error:
            self._give_up("replayed", str(error), 4)
            return self._function(*inputs)
        self._replays += 1
        return self._results

    def __getstate__(self) -> dict[str, Any]:
        """Without the graph, which belongs to this object: a copy makes its own."""
        nothing = dict.fromkeys(("_key", "_stream", "_replay", "_inputs", "_results"))
        return {**self.__dict__, **nothing, "_calls": 0, "_held": []}

    def _count_change(self) -> None:
        self._changes += 1
        if self._changes > FEWEST_REPLAYS and self._replays < FEWEST_REPLAYS * self._changes and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"CUDA graphs of {self._name} are hardly of use: what they depend on changed {self._changes} times and "
                f"{self._replays} calls were replayed. Change settings and parts less often, once in a thousand calls."
                + (f" The last change was of {changed}." if (changed := self._changed()) else ""),
                stacklevel=4,
            )

    def _aside(self, inputs: tuple[Any, ...]) -> Any:
        """A call on a stream of its own, as CUDA wants it before a capture."""
        device = next(_tensors(inputs)).device
        if device.type != "cuda":
            return self._function(*inputs)
        if self._stream is None or self._stream.device != device:
            self._stream = torch.cuda.Stream(device)
        main, aside = torch.cuda.current_stream(device), self._stream
        aside.wait_stream(main)
        try:
            with torch.cuda.stream(aside):
                return self._function(*inputs)
        finally:
            main.wait_stream(aside)

    def _record(self, inputs: tuple[Any, ...]) -> bool:
        """Make the graph; False, with a warning, where that fails. All that the attempt has left is gone then."""
        try:
            self._inputs = _cloned(inputs)
            self._replay, self._results = self._capture(lambda: self._function(*self._inputs), self._stream)
        except RuntimeError as error:
            # The end of a capture complains as well, and later; what went wrong in it came before.
            first = error.__context__ or error
            cause, short = str(first), isinstance(first, torch.OutOfMemoryError)
            del first  # with its traceback, which holds what the attempt has made
        else:
            return True
        if short and not self._lacked_memory:
            self._lacked_memory, self._calls, self._inputs = True, 0, None  # once more, when others may have made room
            return False
        self._give_up("made", cause, 5)
        return False

    def _give_up(self, what: str, cause: str, level: int) -> None:
        self._failed = True
        self._replay = self._inputs = self._results = None
        warnings.warn(f"No CUDA graph of {self._name} could be {what}; it goes on without: {cause}", stacklevel=level)


class Parts:
    """All that a graph of some modules depends on as it is now: what they hold, and where their tensors lie.

    It watches these very modules: copies need one of their own.

    :param modules: with all modules within them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = [(module, type(module)) for module in modules]
        self._holders = [
            (type(module).__name__, holder)
            for module, _ in self._modules
            for holder in (vars(module), module._modules, module._parameters, module._buffers, *_tables(module))
        ]
        self._then = [list(holder.items()) for _, holder in self._holders]
        values = [value for items in self._then for _, value in items if isinstance(value, Tensor)]
        self._tensors = [(value, value.data_ptr(), value.requires_grad) for value in values]

    def change(self) -> str:
        """What has changed since then, in words; empty if nothing has."""
        for module, kind in self._modules:
            if type(module) is not kind:
                return f"the class {kind.__name__}"
        for place, (name, holder) in enumerate(self._holders):
            then = self._then[place]
            if len(holder) == len(then) and all(map(is_, holder.values(), (value for _, value in then))):
                continue
            for (key, value), now in zip_longest(then, holder.items(), fillvalue=(None, None)):
                if now[0] != key or not _alike(value, now[1]):
                    return f"{name}.{key or now[0]}"
            self._then[place] = list(holder.items())
        for tensor, pointer, learns in self._tensors:
            if tensor.data_ptr() != pointer or tensor.requires_grad != learns:
                return f"a tensor of shape {tuple(tensor.shape)}"
        return ""


def _tables(module: nn.Module) -> list[dict[Any, Any]]:
    """Public attributes that are dicts: their entries can change without an attribute being set."""
    return [value for name, value in vars(module).items() if type(value) is dict and not name.startswith("_")]


def _alike(left: Any, right: Any) -> bool:
    """Whether two values are the same, or equal where these are plain."""
    if left is right:
        return True
    return type(left) is type(right) and isinstance(left, PLAIN) and bool(left == right)


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
