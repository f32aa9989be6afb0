"""Graphed updates are the plain updates; what runs on CUDA alone is marked so."""

import copy
import warnings
from typing import Any

import pytest
import torch

from hd_agents.compilation import compiled_or_plain
from hd_agents.graphs import WARMUP, GraphedUpdates
from tests.models import batch, learner, networks

UPDATES = 20


class Recorder:
    """Stands for a graph: records nothing, and runs the function again at every replay."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, function: Any) -> Any:
        self.recorded += 1
        metrics: dict[str, torch.Tensor] = {}
        return lambda: metrics.update(function()), metrics


def batches(device: str = "cpu") -> list[Any]:
    """Data of one shape, different in every update."""
    made = []
    for index in range(UPDATES):
        torch.manual_seed(index)
        data = batch()
        moved = {key: value.to(device) for key, value in data.observation.items()}
        made.append(
            type(data)(moved, *(part.to(device) for part in data[1:]))._replace(reward=data.reward.to(device) + index)
        )
    return made


def learn(backbone: str, capture: Any = None, device: str = "cpu") -> tuple[Any, list[float]]:
    """A learner after the updates with rates that change, and what it said of its losses."""
    torch.manual_seed(0)
    student = learner(networks(backbone).to(device), backbone)
    update = student.train_step if capture is None else GraphedUpdates(student, **capture)
    said = []
    torch.manual_seed(1)
    for index, data in enumerate(batches(device)):
        student.set_learning_rates(1e-3 / (index + 1), 1e-3, 2e-3)
        said.append(float(update(data)["loss/model"]))
    return student, said


def agree(left: Any, right: Any, **tolerance: float) -> None:
    for (name, a), b in zip(left.networks.state_dict().items(), right.networks.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_replayed_updates_are_the_plain_ones(backbone: str) -> None:
    plain, expected = learn(backbone)
    recorder = Recorder()
    graphed, said = learn(backbone, {"capture": recorder})
    agree(plain, graphed, rtol=0.0, atol=0.0)
    assert said == expected
    assert graphed.updates == plain.updates == UPDATES
    assert recorder.recorded == 1
    torch.testing.assert_close(graphed.newest[0].reward, batches()[-1].reward)


def test_what_a_graph_is_bound_to_makes_a_new_one() -> None:
    recorder = Recorder()
    student = learner(networks())
    update = GraphedUpdates(student, recorder)
    data = batch()
    for _ in range(WARMUP + 2):
        update(data)
    assert recorder.recorded == 1
    longer = type(data)(
        {key: torch.cat([value, value], 1) for key, value in data.observation.items()},
        *(torch.cat([part, part], 1) for part in data[1:]),
    )
    update(longer)
    assert recorder.recorded == 2
    student.use_float32()
    update(longer)
    assert recorder.recorded == 2  # it was float32 already
    student.actor_optimizer.load_state_dict(copy.deepcopy(student.actor_optimizer.state_dict()))
    update(longer)
    assert recorder.recorded == 3


def test_a_capture_that_fails_costs_a_warning_and_no_update() -> None:
    def fail(function: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    plain, expected = learn("dreamerv3")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graphed, said = learn("dreamerv3", {"capture": fail})
    agree(plain, graphed, rtol=0.0, atol=0.0)
    assert said == expected
    assert [str(one.message)[:30] for one in caught if "CUDA graph" in str(one.message)] == [
        "No CUDA graph of the update co"
    ]


def test_rates_are_stored_as_numbers() -> None:
    """On CUDA the optimisers hold tensors, which a file for another device must not."""
    student = learner(networks())
    student.train_step(batch())
    for group in student.model_optimizer.param_groups:
        group["lr"] = torch.tensor(0.25)
    assert [group["lr"] for group in student.model_optimizer.state_dict()["param_groups"]] == [0.25, 0.25]


def test_a_failing_compiler_is_replaced_by_the_plain_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any) -> Any:
        def call(*values: Any) -> Any:
            raise FileNotFoundError("no C++ compiler")

        return call

    monkeypatch.setattr("torch.compile", broken)
    double = compiled_or_plain(lambda x: 2 * x)
    with pytest.warns(UserWarning, match="FileNotFoundError: no C\\+\\+ compiler"):
        assert double(2) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(3) == 6
    with pytest.raises(ZeroDivisionError):  # its own fault, and not the compiler's
        compiled_or_plain(lambda x: 1 // x)(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch.compile's own
@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_nothing_is_compiled_again_after_the_first_updates(backbone: str) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    student = learner(networks(backbone), backbone, compiled=True)
    data = batches()
    for one in data[:2]:
        student.train_step(one)
    with torch.compiler.set_stance("fail_on_recompile"):
        for one in data[2:6]:
            student.train_step(one)


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_the_graph_gives_what_the_kernels_give(backbone: str) -> None:
    plain, expected = learn(backbone, device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # or it would go on without a graph
        graphed, said = learn(backbone, {}, "cuda")
    assert said == pytest.approx(expected, rel=1e-3)
    agree(plain, graphed, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_a_replayed_update_does_not_wait_for_the_device() -> None:
    student = learner(networks().cuda())
    update = GraphedUpdates(student)
    data = batches("cuda")
    for one in data[: WARMUP + 2]:
        update(one)
    torch.cuda.set_sync_debug_mode("error")
    try:
        update(data[-1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
