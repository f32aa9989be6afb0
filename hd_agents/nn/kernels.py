"""Kernels of the recurrence on a GPU: all that lies between two of its matrix products in one launch.

Only :mod:`hd_agents.nn.fused` imports this, where there is Triton. The same operations one by one are those of
:mod:`hd_agents.world_model.filtering` and :mod:`hd_agents.nn.functional`, whose names for things these have too.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from hd_agents.nn import triton_kernels
from hd_agents.nn.layers import NORM_EPS, Activation

WIDE = 2048  # numbers of a row from which more threads share it

Norm = tuple[Tensor | None, Tensor | None]


def norm_act(x: Tensor, added: Tensor | None, norm: Norm, act: Activation, out: Tensor) -> None:
    """``out`` = act(norm(x + added)), and x becomes the sum; all (N, U), where rows may lie apart but those of x."""
    constants = _layer(x, norm, act) | {"ADD": added is not None}
    added = x if added is None else added
    sizes = added.stride(0), out.stride(0), x.shape[1], NORM_EPS
    _launch(triton_kernels.norm_act, x, added, *_given(norm, x), out, *sizes, **constants)


def norm_act_backward(grad: Tensor, x: Tensor, norm: Norm, act: Activation, at: Tensor, before: Tensor) -> None:
    """Gradients (N, U) before the activation to ``at``, before the norm to ``before``, from the one after both."""
    constants = _layer(x, norm, act)
    _launch(triton_kernels.norm_act_backward, grad, x, *_given(norm, x), at, before, x.shape[1], NORM_EPS, **constants)


def enter_backward(
    joint: Tensor,
    passed: Tensor,
    outer: Tensor,
    keep: Tensor,
    x: Tensor,
    norm: Norm,
    act: Activation,
    at_before: Tensor,
    memory: Tensor,
    at: Tensor,
    before: Tensor,
) -> None:
    """:func:`norm_act_backward` of what ``joint`` (N, D + U) has behind its first D columns. With these it becomes
    ``at_before`` = joint + passed and ``memory`` = outer + keep at_before; (N, D), and keep (N,).
    """
    size, constants = passed.shape[1], _layer(x, norm, act)
    sizes = size, x.shape[1], NORM_EPS
    constants["BLOCK_SIZE"] = triton.next_power_of_2(size)
    given = _given(norm, x)
    _launch(
        triton_kernels.enter_backward,
        joint,
        passed,
        outer,
        keep,
        x,
        *given,
        at_before,
        memory,
        at,
        before,
        *sizes,
        **constants,
    )


def gates(
    x: Tensor,
    added: Tensor | None,
    norm: Norm,
    before: Tensor,
    initial: Tensor,
    keep: Tensor,
    deter: Tensor,
    used: Tensor,
    next_before: Tensor,
    next_joint: Tensor,
) -> None:
    """The GRU's gates ``x`` (N, 3 D), to which ``added`` (3 D,) is added, and the memory ``before`` them (N, D) give
    ``deter``, the same as ``used`` in another dtype, and what the next step begins with: where ``keep`` (N,) is 1 the
    same, ``initial`` elsewhere, as ``next_before`` and ``next_joint``. Rows of ``used`` and ``next_joint`` may lie
    apart, and ``before``, ``initial``, ``deter`` and ``next_before`` be one tensor.
    """
    size = before.shape[1]
    constants = {"ADD": added is not None, "BLOCK": triton.next_power_of_2(size), "num_warps": _warps(3 * size)}
    of_next = next_before, next_joint, used.stride(0), next_joint.stride(0), size, NORM_EPS
    _launch(
        triton_kernels.gates,
        x,
        x if added is None else added,
        *norm,
        before,
        initial,
        keep,
        deter,
        used,
        *of_next,
        **constants,
    )


def gates_backward(
    memory: Tensor, pulled: Tensor, x: Tensor, norm: Norm, before: Tensor, at: Tensor, out: Tensor, passed: Tensor
) -> None:
    """The gradient of the memory after the gates, ``memory + pulled`` (N, D), becomes ``at`` (N, 3 D) behind the norm,
    ``out`` before it, and ``passed`` (N, D), past the gates.
    """
    size = before.shape[1]
    constants = {"BLOCK": triton.next_power_of_2(size), "num_warps": _warps(3 * size)}
    _launch(
        triton_kernels.gates_backward, memory, pulled, x, *norm, before, at, out, passed, size, NORM_EPS, **constants
    )


def draw(
    logits: Tensor,
    added: Tensor,
    numbers: Tensor,
    unimix: float,
    initial: Tensor,
    keep: Tensor,
    probs: Tensor,
    stoch: Tensor,
    start: Tensor,
) -> None:
    """``logits`` (N, S K) + ``added`` (S K,), which they become, and ``numbers`` (N, S) in [0, 1) give ``probs``, their
    one-hot samples ``stoch``, and ``start``, what the next step begins with: the same where ``keep`` (N,) is 1,
    ``initial`` elsewhere. Rows of ``stoch`` and ``start`` may lie apart.
    """
    groups = numbers.shape[1]
    classes = logits.shape[1] // groups
    scale = 1.0 / (1.0 - unimix)
    sizes = stoch.stride(0), start.stride(0), groups, classes, unimix * scale / classes, scale
    _launch(
        triton_kernels.draw,
        logits,
        added,
        numbers,
        initial,
        keep,
        probs,
        stoch,
        start,
        *sizes,
        **_tile(groups, classes),
    )


def draw_backward(
    outer: Tensor, pulled: Tensor, keep: Tensor, probs: Tensor, outer_logits: Tensor, unimix: float, out: Tensor
) -> None:
    """The gradient of samples (N, S K), outer + keep pulled, straight through to the logits, and ``outer_logits``
    beside it: ``out``. ``probs`` are (N, S, K).
    """
    sizes = *probs.shape[1:], 1.0 - unimix
    _launch(
        triton_kernels.draw_backward, outer, pulled, keep, probs, outer_logits, out, *sizes, **_tile(*probs.shape[1:])
    )


def _launch(kernel: Any, x: Tensor, *arguments: Any, **constants: Any) -> None:
    """A program for each row of ``x``, on its device. Triton 3.9 wants to be told whether to fuse products and sums."""
    with torch.cuda.device_of(x):
        kernel[(len(x),)](x, *arguments, enable_fp_fusion=True, **constants)


def _given(norm: Norm, x: Tensor) -> tuple[Tensor, ...]:
    """The norm's weight and bias; ``x`` where there is none, as kernels need something to point at."""
    return tuple(x if part is None else part for part in norm)


def _layer(x: Tensor, norm: Norm, act: Activation) -> dict[str, Any]:
    block = triton.next_power_of_2(x.shape[1])
    return {"NORM": norm[0] is not None, "SILU": act == "silu", "BLOCK": block, "num_warps": _warps(block)}


def _tile(groups: int, classes: int) -> dict[str, Any]:
    sides = triton.next_power_of_2(groups), triton.next_power_of_2(classes)
    return {"GROUPS": sides[0], "CLASSES": sides[1], "num_warps": _warps(sides[0] * sides[1])}


def _warps(width: int) -> int:
    return 4 if width <= WIDE else 8
