"""Weights in 8 bits: how close they stay, and that damaged ones are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hd_agents.saving.jsonable import ArchiveError
from hd_agents.zoo import packages
from hd_agents.zoo.precision import reduced, restored
from tests.agents import tiny


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    spread = torch.logspace(-3, 2, 7)  # channels of very different size
    return {
        "a.weight": torch.randn(7, 11) * spread[:, None],
        "conv": torch.randn(5, 3, 2, 2),
        "a.bias": torch.randn(13),
        "zero": torch.zeros(3, 2),
        "one": torch.tensor(2.5),
    }


def test_eight_bits_keep_each_channel_to_half_a_step() -> None:
    state = weights()
    stored = reduced(state, 8)
    assert stored["a.weight"].dtype == stored["conv"].dtype == torch.int8
    assert stored["a.bias"].dtype == torch.float16
    assert torch.equal(stored["one"], state["one"])
    assert stored["conv.scale"].shape == (5,)
    assert stored["a.weight"].abs().amax(1).tolist() == [127] * 7
    found = restored(stored)
    assert found.keys() == state.keys()
    for key in ("a.weight", "conv", "zero"):
        largest = state[key].flatten(1).abs().amax(1).reshape(-1, *[1] * (state[key].ndim - 1))
        assert found[key].dtype == torch.float32
        assert ((found[key] - state[key]).abs() <= largest * (0.5 / 127 + 1e-6)).all()
    assert (found["a.weight"] != state["a.weight"]).any()


def test_sixteen_bits_are_half_precision() -> None:
    state = weights()
    stored = reduced(state, 16)
    assert all(torch.equal(stored[key], tensor.half() if tensor.ndim else tensor) for key, tensor in state.items())
    assert stored["one"].dtype == torch.float32
    assert restored(stored) == stored
    assert reduced(state, 32) == state


@pytest.mark.parametrize("bits", [8, 16])
def test_numbers_that_cannot_be_stored_are_refused(bits: int) -> None:
    state = {"conv": torch.full((2, 2), 1e6)}
    with pytest.raises(ValueError, match=r"conv holds numbers beyond half precision.*bits=32"):
        reduced(state, bits)
    assert reduced(state, 32) == state


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_agent_is_refused(bits: int, value: float) -> None:
    with pytest.raises(ValueError, match="conv holds NaN or infinite numbers: such an agent is broken"):
        reduced({"conv": torch.full((2, 2), value)}, bits)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eight")
    packages.seal(folder, packages.write(tiny(), folder, bits=8))
    return folder


def set_scale(change: Callable[[Tensor], Any]) -> Callable[[dict[str, Tensor], str], Any]:
    def apply(state: dict[str, Tensor], key: str) -> None:
        state[f"{key}.scale"] = change(state[f"{key}.scale"])

    return apply


DAMAGE: dict[str, tuple[Callable[[dict[str, Tensor], str], Any], str]] = {
    "no scale": (lambda state, key: state.pop(f"{key}.scale"), "its scale is missing"),
    "short scale": (set_scale(lambda scale: scale[:-1].clone()), "its scale is torch.float32 of shape"),
    "scale for each number": (set_scale(lambda scale: scale[:, None].repeat(1, 4)), "expected torch.float32 of shape"),
    "one scale": (set_scale(lambda scale: scale[0].clone()), r"of shape \(\)"),
    "half scale": (set_scale(lambda scale: scale.half()), "its scale is torch.float16"),
    "whole scale": (set_scale(lambda scale: scale.to(torch.int64)), "its scale is torch.int64"),
    "NaN": (set_scale(lambda scale: scale * float("nan")), "not finite, or negative"),
    "infinite": (set_scale(lambda scale: scale / 0), "not finite, or negative"),
    "negative": (set_scale(lambda scale: -scale), "not finite, or negative"),
    "short matrix": (lambda state, key: state.update({key: state[key][1:].clone()}), "expected torch.float32 of shape"),
    "thin matrix": (lambda state, key: state.update({key: state[key][:, 1:].clone()}), "do not match its settings"),
    "flat matrix": (lambda state, key: state.update({key: state[key].flatten()}), "no matrix"),
    "other integers": (lambda state, key: state.update({key: state[key].to(torch.int16)}), "only in the"),
    "scale of nothing": (lambda state, key: state.update({"x.scale": torch.ones(3)}), "x.scale is only in the archive"),
    "vector in 8 bits": (
        lambda state, key: state.update({"networks.actor.out.bias": torch.zeros(2, dtype=torch.int8)}),
        "no matrix",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_tensors_are_refused(name: str, package: Path, tmp_path: Path) -> None:
    damage, message = DAMAGE[name]
    state = load_file(package / packages.WEIGHTS)
    damage(state, "networks.actor.out.weight")
    save_file(state, tmp_path / packages.WEIGHTS)
    (tmp_path / packages.AGENT).write_bytes((package / packages.AGENT).read_bytes())
    packages.seal(tmp_path, packages.read_card(package))
    with pytest.raises(ArchiveError, match=message):
        packages.read(tmp_path, "cpu")


def test_a_package_in_eight_bits_acts_nearly_alike(package: Path) -> None:
    found = packages.read(package, "cpu").policy.state_dict()
    torch.manual_seed(0)
    card = packages.read_card(package)
    assert card["precision"] == "int8 matrices, float16 vectors"
    assert card["parameters"] == sum(tensor.numel() for tensor in found.values())
    assert not found["networks.actor.out.weight"].isnan().any()
