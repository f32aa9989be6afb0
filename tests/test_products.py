"""Matrix products by oneDNN are those of PyTorch, forwards and backwards, and are made where they should be."""

import pytest
import torch
import torch.nn.functional as F

from hd_agents.nn import products
from hd_agents.nn.products import Linear, apply_linear, product

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch has no oneDNN here")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes every product pay, and grows with each that oneDNN makes."""
    made: list[int] = []
    itself = products._onednn
    monkeypatch.setattr(products, "_onednn", lambda *arguments: made.append(1) or itself(*arguments))
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "LARGE", 0)
    return made


@pytest.mark.parametrize("added", [None, (23,), (17, 23)])
@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
@pytest.mark.parametrize("wide", [False, True])
def test_product(transposed: str, added: tuple[int, ...] | None, wide: bool, calls: list[int]) -> None:
    torch.manual_seed(0)
    rows, columns = (17, 23) if added or not wide else (23, 17)
    a = torch.randn(31, rows).t() if "a" in transposed else torch.randn(rows, 31)
    b = torch.randn(columns, 31).t() if "b" in transposed else torch.randn(31, columns)
    more = None if added is None else torch.randn(added)
    exact = a.double() @ b.double() + (0.0 if more is None else more.double())
    torch.testing.assert_close(product(a, b, more).double(), exact, rtol=1e-5, atol=1e-5)
    assert calls == [1]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pull", ["random", "expanded"])
@pytest.mark.parametrize("part", [False, True])
def test_gradients_of_a_linear_layer(bias: bool, pull: str, part: bool, calls: list[int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 17, 9, requires_grad=True)
    whole = torch.randn(5, 12 if part else 9, requires_grad=True)
    weight, offset = whole[:, :9], torch.randn(5, requires_grad=True) if bias else None
    leaves = [x, whole] if offset is None else [x, whole, offset]
    pulls = torch.randn(4, 17, 5) if pull == "random" else torch.ones(1, 1, 1).expand(4, 17, 5)
    expected = F.linear(x, weight, offset)
    found = apply_linear(x, weight, offset)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(out, leaves, pulls) for out in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert calls == [1] * (3 if pull == "random" else 1)  # what is not dense in memory is left to PyTorch


def test_only_the_gradients_that_are_wanted(calls: list[int]) -> None:
    layer = Linear(3, 5)
    layer.weight.requires_grad_(False)
    layer(torch.randn(2, 3)).sum().backward()
    assert calls == [1]
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((5,), 2.0))


def test_gradients_of_gradients(calls: list[int]) -> None:
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((2, 3), (5, 3), (5,))]
    found = []
    for layer in (apply_linear, F.linear):
        slopes = torch.autograd.grad(layer(*leaves).pow(3).mean(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), leaves))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert calls


@pytest.mark.parametrize("shape", [(9,), (1, 9), (2, 3, 1, 9)])
def test_any_leading_axes(shape: tuple[int, ...], calls: list[int]) -> None:
    layer, x = Linear(9, 5), torch.randn(shape)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    assert layer(x).shape == (*shape[:-1], 5)


def test_a_wrong_width_has_pytorchs_message(calls: list[int]) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Linear(3, 5)(torch.randn(2, 4))


def test_what_is_left_to_pytorch(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Linear(3, 5), torch.randn(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer.double()(x.double())
    layer.float()
    product(x[:, :2], torch.randn(2, 4))  # rows with gaps between them
    product(torch.randn(2, 3, requires_grad=True), torch.randn(3, 4)).sum().backward()
    product(x, torch.randn(3, 4), torch.randn(4, requires_grad=True)).sum().backward()
    product(x, torch.randn(3, 4), torch.randn(1))
    product(x, torch.randn(3, 4), torch.randn(4, 2)[:, 0])
    assert torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        layer(x)
    finally:
        torch.backends.mkldnn.enabled = True
    monkeypatch.setattr(products, "LARGE", 1_000)
    layer(x)
    assert not calls
    layer(x.repeat(100, 1))
    assert calls


def test_what_pays() -> None:
    square, faster = torch.empty(512, 512), products._onednn_is_faster()
    assert not products._pays(1, square)  # 0.3 million multiplications
    assert products._pays(1, torch.empty(512, 4096)) is faster
    assert not products._pays(8, square)
    assert products._pays(16, square) is faster
    assert not products._pays(16, square, apart=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert not products._pays(512, square)
