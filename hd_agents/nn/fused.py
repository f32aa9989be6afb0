"""Whether :mod:`hd_agents.nn.kernels` can be used: there is Triton, and on this device what they give is right."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hd_agents.nn.functional import gru_update
from hd_agents.nn.layers import NORM_EPS, Activation, activate

ROWS = 5
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of differences, as a share of the largest number


@cache
def kernels() -> ModuleType:
    """:mod:`hd_agents.nn.kernels`.

    :raises ImportError: without Triton.
    """
    return importlib.import_module("hd_agents.nn.kernels")


def has_triton() -> bool:
    """Whether Triton is installed, as it is with PyTorch for CUDA on Linux."""
    return importlib.util.find_spec("triton") is not None


def can_run(device: torch.device) -> bool:
    """Whether Triton runs on a device: a GPU, or a CPU that its interpreter imitates one on."""
    return has_triton() and (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")


@cache
def usable(
    device: torch.device,
    dtype: torch.dtype,
    deter: int,
    hidden: int,
    groups: int,
    classes: int,
    norm: bool,
    act: Activation,
    unimix: float,
) -> bool:
    """Whether the kernels give what PyTorch gives for layers of these sizes; if not, one warning.

    They are compiled for it, which takes seconds.
    """
    if not can_run(device):
        return False
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            check_layer(device, dtype, width=hidden, size=deter, norm=norm, act=act)
            check_gates(device, dtype, size=deter, bias=not norm)
            check_samples(device, dtype, groups=groups, classes=classes, unimix=unimix)
    except Exception as error:  # compilers fail in many ways
        what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        warnings.warn(f"The kernels of the recurrence are not used, PyTorch's own are instead. {what}", stacklevel=4)
        return False
    return True


def check_layer(
    device: torch.device, dtype: torch.dtype, *, width: int, size: int, norm: bool, act: Activation
) -> None:
    """``norm_act``, ``norm_act_backward`` and ``enter_backward`` against PyTorch.

    :raises ArithmeticError: where they differ.
    """
    make = _Maker(device)
    x, added, grad = make(ROWS, width, of=dtype), make(ROWS, 2 * width, of=dtype)[:, width:], make(ROWS, width)
    weights = (1.0 + make(width), make(width)) if norm else (None, None)
    total = (x + added).detach()
    inner = total.float().requires_grad_()
    y = F.layer_norm(inner, (width,), weights[0], weights[1], NORM_EPS) if norm else inner * 1.0
    out = activate(y, act)
    at, before = torch.autograd.grad(out, [y, inner], grad)

    found = make(ROWS, size + width, of=dtype)
    ours = x.clone()
    kernels().norm_act(ours, added, weights, act, found[:, size:])
    alone = make(ROWS, width, of=dtype)
    kernels().norm_act(total, None, weights, act, alone)
    _compare("norm_act", dtype, [(ours, total), (found[:, size:], out), (alone, out)])
    found_at, found_before = torch.empty_like(at), torch.empty_like(before, dtype=dtype)
    kernels().norm_act_backward(grad, total, weights, act, found_at, found_before)
    _compare("norm_act_backward", dtype, [(found_at, at), (found_before, before)])

    passed, outer, keep = make(ROWS, size), make(ROWS, size), (make(ROWS) > 0).float()
    joint = torch.cat([make(ROWS, size), grad], 1)
    at_before, memory = torch.empty_like(passed), torch.empty_like(passed)
    places = at_before, memory, found_at.zero_(), found_before.zero_()
    kernels().enter_backward(joint, passed, outer, keep, total, weights, act, *places)
    reached = joint[:, :size] + passed
    earlier = outer + keep.unsqueeze(1) * reached
    pairs = [(at_before, reached), (memory, earlier), (found_at, at), (found_before, before)]
    _compare("enter_backward", dtype, pairs)


def check_gates(device: torch.device, dtype: torch.dtype, *, size: int, bias: bool) -> None:
    """``gates`` and ``gates_backward`` against PyTorch.

    :raises ArithmeticError: where they differ.
    """
    make = _Maker(device)
    x, added = make(ROWS, 3 * size, of=dtype), make(3 * size) if bias else None
    weights = 1.0 + make(3 * size), make(3 * size)
    before, initial, keep = make(ROWS, size), make(ROWS, size), (make(ROWS) > 0).float()
    total = x if added is None else (x.float() + added).to(dtype)
    inner = total.float().requires_grad_()
    y = F.layer_norm(inner, (3 * size,), *weights, NORM_EPS)
    start = before.clone().requires_grad_()
    deter = gru_update(y, start)
    grads = make(ROWS, size), make(ROWS, size)
    at, pulled, passed = torch.autograd.grad(deter, [y, inner, start], grads[0] + grads[1])

    ours, kept = x.clone(), keep.unsqueeze(1)
    found, used, after = torch.empty_like(before), make(ROWS, size, of=dtype), torch.empty_like(before)
    joint = make(ROWS, 2 * size, of=dtype)[:, :size]
    kernels().gates(ours, added, weights, before, initial, keep, found, used, after, joint)
    then = (1.0 - kept) * initial + kept * deter
    _compare("gates", dtype, [(ours, total), (found, deter), (used, deter), (after, then), (joint, then)])
    places = torch.empty_like(at), torch.empty_like(at, dtype=dtype), torch.empty_like(before)
    kernels().gates_backward(*grads, total, weights, before, *places)
    _compare("gates_backward", dtype, zip(places, (at, pulled, passed), strict=True))


def check_samples(device: torch.device, dtype: torch.dtype, *, groups: int, classes: int, unimix: float) -> None:
    """``draw`` and ``draw_backward`` against PyTorch, but for samples that rounding decides.

    :raises ArithmeticError: where they differ.
    """
    make = _Maker(device)
    flat = groups * classes
    x, added, initial, keep = make(ROWS, flat, of=dtype), make(flat), make(ROWS, flat), (make(ROWS) > 0).float()
    logits = (x.float() + added).to(dtype)
    numbers = torch.rand(ROWS, groups, generator=make.generator, device=device)
    ours, found, start = x.clone(), torch.empty_like(logits), torch.empty_like(logits)
    found_probs = logits.new_empty(ROWS, groups, classes, dtype=torch.float32)
    kernels().draw(ours, added, numbers, unimix, initial, keep, found_probs, found, start)
    _compare("draw", dtype, [(ours, logits)])

    inner = ours.float().view(ROWS, groups, classes).requires_grad_()  # in bfloat16 they may be rounded otherwise
    probs = torch.softmax(inner, -1)
    mixed = ((1.0 - unimix) * probs + unimix / classes).cumsum(-1)
    near = (mixed[..., :-1] - numbers.unsqueeze(-1)).abs().amin(-1) if classes > 1 else torch.ones_like(numbers)
    index = (mixed <= numbers.unsqueeze(-1)).sum(-1, keepdim=True).clamp(max=classes - 1)
    expected = torch.zeros_like(probs).scatter_(-1, index, 1.0)
    clear = (near > 1e-5).unsqueeze(-1)

    kept = keep.unsqueeze(1)
    then = ((1.0 - kept) * initial + kept * expected.flatten(1)).view_as(probs)
    pairs = [(found.view_as(probs) * clear, expected * clear), (start.view_as(probs) * clear, then * clear)]
    _compare("draw", dtype, [(found_probs, probs), *pairs, (found.view_as(probs).sum(-1), torch.ones_like(numbers))])

    outer, pulled, outer_logits = make(ROWS, flat), make(ROWS, flat), make(ROWS, groups, classes)
    grad = (outer + kept * pulled).view_as(probs)
    (through,) = torch.autograd.grad(probs, inner, grad)
    out = torch.empty_like(logits)
    kernels().draw_backward(outer, pulled, keep, found_probs, outer_logits, unimix, out)
    _compare("draw_backward", dtype, [(out.view_as(probs), (1.0 - unimix) * through + outer_logits)])


class _Maker:
    """Normal numbers from a generator of its own, so that those of training stay what they are."""

    def __init__(self, device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(0)

    def __call__(self, *shape: int, of: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.generator.device).to(of)


def _compare(name: str, dtype: torch.dtype, pairs: Any) -> None:
    for place, (found, expected) in enumerate(pairs):
        found, expected = found.detach().float(), expected.detach().float()
        difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1.0)
        if not difference <= TOLERANCE[dtype]:  # NaN is not
            raise ArithmeticError(f"{name} is off by {float(difference):.1e} in its result {place}, in {dtype}.")
