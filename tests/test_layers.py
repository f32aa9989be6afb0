"""What layers do by other means on a CPU is what PyTorch's own operations do."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hd_agents.nn import convolution
from hd_agents.nn.convolution import Conv, _ByProducts, _FewOutputs
from hd_agents.nn.flat import FlatLayer
from hd_agents.nn.layers import Dense, norm_activate


def gradients(make: Callable[[], Tensor], leaves: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    out = make()
    torch.manual_seed(1)
    return out, torch.autograd.grad((out * torch.randn(out.shape).to(out.dtype)).sum(), leaves)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("kernel", "padding", "sides"), [(4, 1, (8, 12)), (4, 0, (9, 10)), (5, 0, (5, 7))])
def test_a_convolution_learns_by_products_what_it_learns_else(
    kernel: int, padding: int, sides: tuple[int, int], transposed: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, *sides, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    shape = (2, 5, kernel, kernel) if transposed else (5, 2, kernel, kernel)
    weight = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    bias, plain = torch.randn(5, dtype=torch.float64), F.conv_transpose2d if transposed else F.conv2d
    found = gradients(lambda: _ByProducts.apply(x, weight, bias, padding, transposed, torch.float64), [x, weight])
    torch.testing.assert_close(found, gradients(lambda: plain(x, weight, bias, 2, padding), [x, weight]))


@pytest.mark.parametrize("outputs", [1, 3])
def test_few_outputs_are_those_of_the_transposed_convolution(outputs: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, outputs, 4, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(outputs, dtype=torch.float64)
    found = gradients(lambda: _FewOutputs.apply(x, weight, bias, torch.float64), [x, weight])
    torch.testing.assert_close(found, gradients(lambda: F.conv_transpose2d(x, weight, bias, 2, 1), [x, weight]))


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("outputs", [4, 8])
@pytest.mark.parametrize(("norm", "channels", "side"), [(True, 2, 8), (False, 1, 16), (False, 3, 5), (True, 3, 32)])
def test_gradients_of_a_whole_layer(
    norm: bool, channels: int, side: int, outputs: int, transposed: bool, bfloat16: bool
) -> None:
    """Beside the modules alone, in float32."""
    torch.manual_seed(0)
    layer = Conv(channels, outputs, transposed=transposed, norm=norm, act="elu" if side == 5 else "silu")
    for weight in layer.parameters():
        nn.init.normal_(weight)
    x = torch.randn(16, channels, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    leaves = [x, *layer.parameters()]
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        out, found = gradients(lambda: layer(x), leaves)
    assert out.dtype == (torch.bfloat16 if bfloat16 else torch.float32)

    def plain() -> Tensor:
        y = layer.conv(x)
        if layer.norm is not None:
            y = layer.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.elu(y) if layer.act == "elu" else F.silu(y)

    expected, wanted = gradients(plain, leaves)
    tolerance = 0.06 if bfloat16 else 1e-5  # PyTorch 2.8 on a processor without bfloat16 is off by 0.0502
    for one, other in zip([out, *found], [expected, *wanted], strict=True):
        assert (one.float() - other).norm() < tolerance * other.norm()


def test_products_are_for_small_grids_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Conv(2, 4, norm=False, act=None)
    monkeypatch.setattr(convolution, "SMALL_GRID", 16)
    used: list[int] = []
    monkeypatch.setattr(_ByProducts, "apply", lambda *arguments: used.append(1) or layer.conv(arguments[0]))
    for enabled, side, times in ((True, 8, 1), (True, 10, 0), (False, 8, 0)):
        used.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            layer(torch.randn(1, 2, side, side))
        assert len(used) == times


@pytest.mark.parametrize("act", ["silu", "elu"])
def test_norms_of_bfloat16_sum_their_gradients_in_float32(act: str) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(16, eps=1e-3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(40_000, 16).bfloat16().requires_grad_()
    leaves = [x, norm.weight, norm.bias]
    out, found = gradients(lambda: norm_activate(x, norm, act), leaves)
    assert out.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(norm_activate(x, norm, act), out)
    wanted = gradients(lambda: (F.silu if act == "silu" else F.elu)(norm(x.float())), leaves)
    torch.testing.assert_close(out.float(), wanted[0], rtol=0.01, atol=0.01)
    for one, other in zip(found, wanted[1], strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() < 0.01 * other.norm()


def test_a_flat_layer_without_norm_keeps_its_input() -> None:
    """In place is what no one else holds: dreams keep what the actor's linear layers gave."""
    x = torch.randn(3, 4)
    before = x.clone()
    FlatLayer.of(Dense(4, 4, norm=False, act="elu")).finish(x)
    assert torch.equal(x, before)
