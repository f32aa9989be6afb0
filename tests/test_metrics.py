"""Metrics: means per key, one copy to the host."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hd_agents.training.metrics import Metrics


class CopyCounter(TorchDispatchMode):
    """Counts the operations that make the host wait for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.scalars += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_mean_of_every_key() -> None:
    metrics = Metrics()
    for value in (1.0, 2.0, 6.0):
        metrics.add({"loss": torch.tensor(value), "norm": torch.tensor(10 * value)})
    assert metrics.flush() == {"loss": 3.0, "norm": 30.0}


def test_key_of_some_steps_is_averaged_over_those() -> None:
    metrics = Metrics()
    metrics.add({"loss": torch.tensor(1.0)})
    metrics.add({"norm": torch.tensor(5.0), "loss": torch.tensor(3.0)})
    metrics.add({"loss": torch.tensor(5.0), "norm": torch.tensor(7.0)})
    metrics.add({})
    assert metrics.flush() == {"loss": 3.0, "norm": 6.0}


def test_flush_starts_anew() -> None:
    metrics = Metrics()
    metrics.add({"loss": torch.tensor(4.0)})
    metrics.flush()
    assert metrics.flush() == {}
    metrics.add({"loss": torch.tensor(8.0)})
    assert metrics.flush() == {"loss": 8.0}


def test_values_changed_in_place_afterwards_do_not_matter() -> None:
    metrics, buffer = Metrics(), torch.tensor(1.0)
    metrics.add({"loss": buffer})
    buffer.fill_(3.0)
    metrics.add({"loss": buffer})
    buffer.fill_(100.0)
    assert metrics.flush() == {"loss": 2.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_values_show_in_their_key_only(bad: float) -> None:
    metrics = Metrics()
    metrics.add({"loss": torch.tensor(bad), "norm": torch.tensor(1.0)})
    metrics.add({"loss": torch.tensor(1.0), "norm": torch.tensor(2.0)})
    found = metrics.flush()
    assert repr(found["loss"]) == repr(bad)
    assert found["norm"] == 1.5


def test_dtypes_mix_and_gradients_are_not_kept() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    metrics = Metrics()
    metrics.add({"half": torch.tensor(0.5, dtype=torch.bfloat16), "flag": torch.tensor(True), "loss": weight * 3})
    assert not any(sums.requires_grad for sums in metrics._sums.values())
    assert metrics.flush() == {"half": 0.5, "flag": 1.0, "loss": 6.0}


def test_adding_never_waits_for_the_device() -> None:
    metrics = Metrics()
    with CopyCounter() as counter:
        for _ in range(3):
            metrics.add({"loss": torch.tensor(1.0), "norm": torch.tensor(2.0)})
            metrics.add({"rare": torch.tensor(1.0)})
        metrics.flush()
    assert counter.scalars == 0  # .item() and float() would show; tolist() of the joined vector is the one copy


def test_a_vector_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'loss' has shape \(3,\): expected a 0-d tensor"):
        Metrics().add({"norm": torch.tensor(1.0), "loss": torch.ones(3)})
