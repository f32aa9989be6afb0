"""What :mod:`hd_agents.nn.kernels` launches. One program has one row, so a row's norm is summed in registers.

Sums are of float32; what is stored has the dtype of where it is stored.
"""

# These are Triton's own language, and Triton is only there with PyTorch for CUDA.
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _read(start, columns, inside):
    return tl.load(start + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _add_up(x, added, columns, inside):
    """x + added, left in the place of x, as it is there."""
    total = (_read(x, columns, inside) + _read(added, columns, inside)).to(x.dtype.element_ty)
    tl.store(x + columns, total, mask=inside)
    return total.to(tl.float32)


@triton.jit
def _normed(x, inside, width, eps):
    """A row of mean 0 and variance 1, and the inverse of its deviation."""
    centred = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    return centred * rstd, rstd


@triton.jit
def _pull(grad, x, weight, bias, columns, inside, width, eps, NORM: tl.constexpr, SILU: tl.constexpr):
    """The gradients before the activation and before the norm, from the one after both."""
    value = _read(x, columns, inside)
    y = value
    if NORM:
        normed, rstd = _normed(value, inside, width, eps)
        scale = _read(weight, columns, inside)
        y = normed * scale + _read(bias, columns, inside)
    if SILU:
        share = tl.sigmoid(y)
        at = grad * share * (1.0 + y * (1.0 - share))
    else:
        at = grad * tl.exp(tl.minimum(y, 0.0))
    before = at
    if NORM:
        pulled = at * scale
        along = tl.sum(pulled * normed, 0) / width
        before = rstd * (pulled - tl.sum(pulled, 0) / width - normed * along)
    return at, before


@triton.jit
def norm_act(
    x, added, weight, bias, out, added_row, out_row, width, eps,
    ADD: tl.constexpr, NORM: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    if ADD:
        value = _add_up(x + row * width, added + row * added_row, columns, inside)
    else:
        value = _read(x + row * width, columns, inside)
    if NORM:
        value, _ = _normed(value, inside, width, eps)
        value = value * _read(weight, columns, inside) + _read(bias, columns, inside)
    value = value * tl.sigmoid(value) if SILU else tl.where(value > 0.0, value, tl.exp(tl.minimum(value, 0.0)) - 1.0)
    tl.store(out + row * out_row + columns, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def norm_act_backward(
    grad, x, weight, bias, at, before, width, eps, NORM: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    upper, lower = _pull(
        _read(grad + row, columns, inside), x + row, weight, bias, columns, inside, width, eps, NORM, SILU
    )
    tl.store(at + row + columns, upper, mask=inside)
    tl.store(before + row + columns, lower.to(before.dtype.element_ty), mask=inside)


@triton.jit
def enter_backward(
    joint, passed, outer, keep, x, weight, bias, at_before, memory, at, before, size, width, eps,
    NORM: tl.constexpr, SILU: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_SIZE)
    inside = columns < size
    joint += row * (size + width)
    total = _read(joint, columns, inside) + _read(passed + row * size, columns, inside)
    tl.store(at_before + row * size + columns, total, mask=inside)
    earlier = _read(outer + row * size, columns, inside) + total * tl.load(keep + row)
    tl.store(memory + row * size + columns, earlier, mask=inside)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    grad = _read(joint + size, columns, inside)
    upper, lower = _pull(grad, x + row * width, weight, bias, columns, inside, width, eps, NORM, SILU)
    tl.store(at + row * width + columns, upper, mask=inside)
    tl.store(before + row * width + columns, lower.to(before.dtype.element_ty), mask=inside)


@triton.jit
def _three_normed(x, inside, size, eps):
    """:func:`_normed` of three parts that are one row."""
    first, second, third = x
    mean = (tl.sum(first, 0) + tl.sum(second, 0) + tl.sum(third, 0)) / (3 * size)
    first, second, third = (
        tl.where(inside, first - mean, 0.0),
        tl.where(inside, second - mean, 0.0),
        tl.where(inside, third - mean, 0.0),
    )
    square = tl.sum(first * first, 0) + tl.sum(second * second, 0) + tl.sum(third * third, 0)
    rstd = 1.0 / tl.sqrt(square / (3 * size) + eps)
    return first * rstd, second * rstd, third * rstd, rstd


@triton.jit
def gates(
    x, added, weight, bias, before, initial, keep, deter, used, next_before, next_joint, used_row, joint_row, size, eps,
    ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x += row * 3 * size
    if ADD:
        reset = _add_up(x, added, columns, inside)
        candidate = _add_up(x + size, added + size, columns, inside)
        update = _add_up(x + 2 * size, added + 2 * size, columns, inside)
    else:
        reset, candidate, update = (
            _read(x, columns, inside),
            _read(x + size, columns, inside),
            _read(x + 2 * size, columns, inside),
        )
    reset, candidate, update, _ = _three_normed((reset, candidate, update), inside, size, eps)
    reset = reset * _read(weight, columns, inside) + _read(bias, columns, inside)
    candidate = candidate * _read(weight + size, columns, inside) + _read(bias + size, columns, inside)
    update = update * _read(weight + 2 * size, columns, inside) + _read(bias + 2 * size, columns, inside)
    memory = _read(before + row * size, columns, inside)
    memory += tl.sigmoid(update - 1.0) * (_tanh(tl.sigmoid(reset) * candidate) - memory)
    tl.store(deter + row * size + columns, memory, mask=inside)
    tl.store(used + row * used_row + columns, memory.to(used.dtype.element_ty), mask=inside)
    kept = tl.load(keep + row)
    memory = (1.0 - kept) * _read(initial + row * size, columns, inside) + memory * kept
    tl.store(next_before + row * size + columns, memory, mask=inside)
    tl.store(next_joint + row * joint_row + columns, memory.to(next_joint.dtype.element_ty), mask=inside)


@triton.jit
def gates_backward(memory, pulled, x, weight, bias, before, at, out, passed, size, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x += row * 3 * size
    parts = _read(x, columns, inside), _read(x + size, columns, inside), _read(x + 2 * size, columns, inside)
    normed_r, normed_c, normed_u, rstd = _three_normed(parts, inside, size, eps)
    scale_r, scale_c = _read(weight, columns, inside), _read(weight + size, columns, inside)
    scale_u = _read(weight + 2 * size, columns, inside)
    opened = tl.sigmoid(normed_r * scale_r + _read(bias, columns, inside))
    candidate = normed_c * scale_c + _read(bias + size, columns, inside)
    update = tl.sigmoid(normed_u * scale_u + _read(bias + 2 * size, columns, inside) - 1.0)
    reached = _tanh(opened * candidate)
    grad = _read(memory + row * size, columns, inside) + _read(pulled + row * size, columns, inside)
    tl.store(passed + row * size + columns, grad * (1.0 - update), mask=inside)
    at_c = grad * update * (1.0 - reached * reached) * opened
    at_r = at_c * candidate * (1.0 - opened)
    at_u = grad * (reached - _read(before + row * size, columns, inside)) * update * (1.0 - update)
    at += row * 3 * size + columns
    tl.store(at, at_r, mask=inside)
    tl.store(at + size, at_c, mask=inside)
    tl.store(at + 2 * size, at_u, mask=inside)
    at_r, at_c, at_u = at_r * scale_r, at_c * scale_c, at_u * scale_u
    level = (tl.sum(at_r, 0) + tl.sum(at_c, 0) + tl.sum(at_u, 0)) / (3 * size)
    along = tl.sum(at_r * normed_r, 0) + tl.sum(at_c * normed_c, 0) + tl.sum(at_u * normed_u, 0)
    along = along / (3 * size)
    out += row * 3 * size + columns
    tl.store(out, (rstd * (at_r - level - normed_r * along)).to(out.dtype.element_ty), mask=inside)
    tl.store(out + size, (rstd * (at_c - level - normed_c * along)).to(out.dtype.element_ty), mask=inside)
    tl.store(out + 2 * size, (rstd * (at_u - level - normed_u * along)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def draw(
    logits, added, draw, initial, keep, probs, stoch, start, stoch_row, start_row, groups, classes, share, scale,
    GROUPS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group, column = tl.arange(0, GROUPS)[:, None], tl.arange(0, CLASSES)[None, :]
    inside = (group < groups) & (column < classes)
    places = group * classes + column
    flat = row * groups * classes
    value = _add_up(logits + flat, added, places, inside)
    value = tl.where(column < classes, value, -float("inf"))
    value = tl.exp(value - tl.max(value, 1)[:, None])
    value = value / tl.sum(value, 1)[:, None]
    tl.store(probs + flat + places, value, mask=inside)
    # The class is the number of those whose distribution function does not exceed their bound; the last one's does.
    number = tl.load(draw + row * groups + group, mask=group < groups, other=0.0)
    reached = tl.cumsum(value, 1) > number * scale - (column + 1).to(tl.float32) * share
    reached = (reached | (column == classes - 1)) & (value == value)
    index = tl.sum(tl.where(inside & (reached == 0), 1, 0), 1)[:, None]
    sample = tl.where(column == index, 1.0, 0.0)
    tl.store(stoch + row * stoch_row + places, sample.to(stoch.dtype.element_ty), mask=inside)
    kept = tl.load(keep + row)
    sample = (1.0 - kept) * _read(initial + flat, places, inside) + sample * kept
    tl.store(start + row * start_row + places, sample.to(start.dtype.element_ty), mask=inside)


@triton.jit
def draw_backward(
    outer, pulled, keep, probs, outer_logits, out, groups, classes, scale, GROUPS: tl.constexpr, CLASSES: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * groups * classes
    group, column = tl.arange(0, GROUPS)[:, None], tl.arange(0, CLASSES)[None, :]
    inside = (group < groups) & (column < classes)
    places = group * classes + column
    grad = _read(outer + row, places, inside) + _read(pulled + row, places, inside) * tl.load(keep + tl.program_id(0))
    value = _read(probs + row, places, inside)
    grad = value * (grad - tl.sum(grad * value, 1)[:, None]) * scale + _read(outer_logits + row, places, inside)
    tl.store(out + row + places, grad.to(out.dtype.element_ty), mask=inside)
