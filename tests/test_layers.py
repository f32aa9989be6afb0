"""Layers: shortcuts that give what the plain way gives."""

import pytest
import torch

from hd_agents.nn.layers import Conv


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 17])
def test_one_image_is_convolved_as_many_are(
    channels: int, padding: int, norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = Conv(channels, 5, padding=padding, norm=norm, act="silu")
    images = torch.randn(3, channels, 14, 22).contiguous(memory_format=torch.channels_last)
    by_product, calls = layer._by_product, []
    monkeypatch.setattr(layer, "_by_product", lambda x: calls.append(len(x)) or by_product(x))
    if layer.conv.bias is not None:
        torch.nn.init.normal_(layer.conv.bias)
    with torch.no_grad():
        many = layer(images)
        each = torch.cat([layer(image.unsqueeze(0)) for image in images])
    assert calls == [1, 1, 1]
    torch.testing.assert_close(each, many, rtol=1e-5, atol=1e-5)
    assert layer(images[:1]).requires_grad  # learning, on a batch of one, takes the convolution
    assert calls == [1, 1, 1]
