"""The kernels of the recurrence give what PyTorch's operations give, and where they do not, they are not used.

Without Triton what calls them is tested alone, with ``plain_kernels.py`` in their place.
"""

import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hd_agents.behavior.imagination import Dream, FusedDreaming, imagine
from hd_agents.nn import fused
from hd_agents.world_model import rssm as rssm_module
from hd_agents.world_model.fused_filtering import FusedFilter
from hd_agents.world_model.rssm import State
from tests import plain_kernels
from tests.models import batch, filtered, learner, networks

CPU = torch.device("cpu")
FUNCTIONS = ["norm_act", "norm_act_backward", "enter_backward", "gates", "gates_backward", "draw", "draw_backward"]
BACKBONES = ["dreamerv3", "dreamerv2"]
TRITON = pytest.mark.skipif(not fused.has_triton(), reason="Triton is not installed.")
SIZES = {"deter": 20, "hidden": 24, "groups": 3, "classes": 5, "norm": True, "act": "silu", "unimix": 0.01}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Those in PyTorch, each of which a test may replace; used by every network that asks for them."""
    made = SimpleNamespace(**{name: getattr(plain_kernels, name) for name in FUNCTIONS})
    monkeypatch.setattr(fused, "kernels", lambda: made)
    monkeypatch.setattr(fused, "can_run", lambda device: True)
    fused.usable.cache_clear()
    yield made
    fused.usable.cache_clear()


def at_the_ends(numbers: Tensor) -> Tensor:
    """Random numbers that draw the first class or the last, which no rounding of the probabilities changes."""
    return 0.9999 * (numbers > 0.5)


def compare_filtering(backbone: str, device: torch.device, *, bfloat16: bool, seed: int = 0) -> None:
    """With the kernels and without: what is computed, and the gradients of every input and every weight."""
    torch.manual_seed(seed)
    rssm = networks(backbone).world_model.rssm
    for parameter in rssm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    rssm.to(device)
    first = torch.zeros(2, 7, dtype=torch.bool, device=device)
    first[0, 0] = first[1, 4] = True
    leaves = [torch.randn(2, 7, rssm.observe_in.linear.in_features - rssm.deter), 2.0 * torch.randn(2, 7, 5)]
    leaves += [torch.randn(2, rssm.deter), torch.randn(2, rssm.stoch_size)]
    leaves = [leaf.to(device).requires_grad_() for leaf in leaves]
    used = [*leaves, *(p for name, p in rssm.named_parameters() if not name.startswith(("prior_out", "image_out")))]
    draws = torch.rand(2, 7, rssm.stoch)
    draws = (at_the_ends(draws) if bfloat16 else draws).to(device)
    results = []
    for with_kernels in (False, True):
        rssm.fused = with_kernels
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            found = filtered(rssm, leaves, first, draws)
        is_fused = "FusedFilter" in type(found[0].grad_fn.next_functions[0][0]).__name__
        assert is_fused == with_kernels  # or the plain one would be compared with itself
        torch.manual_seed(1)
        pulls = [torch.randn_like(part) for part in found]
        results.append((found, torch.autograd.grad(found, used, pulls)))
    (plain, plain_gradients), (ours, our_gradients) = results
    assert torch.equal(ours[1], plain[1])
    close = {"rtol": 0.02, "atol": 0.1} if bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours, plain, **close)
    for found, expected in zip(our_gradients, plain_gradients, strict=True):
        share = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0.0, atol=(0.02 if bfloat16 else 1e-5) * share)


def compare_dreams(backbone: str, device: torch.device, *, bfloat16: bool, seed: int = 0) -> None:
    """With the kernels and without."""
    torch.manual_seed(seed)
    made = networks(backbone)
    rssm, actor = made.world_model.rssm, made.actor
    for parameter in rssm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    horizon, rows = 5, 6
    draws, action_draws = torch.rand(horizon, rows, rssm.stoch), actor.draw(horizon, rows, device="cpu")
    if bfloat16:
        draws, action_draws = at_the_ends(draws), at_the_ends(action_draws)
    classes = torch.randint(0, rssm.classes, (rows, rssm.stoch))
    stoch = torch.nn.functional.one_hot(classes, rssm.classes).float().flatten(1)
    start = State(torch.randn(rows, rssm.deter).to(device), stoch.to(device))
    made.to(device)
    dreams: list[Dream] = []
    for with_kernels in (False, True):
        rssm.fused = with_kernels
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            arguments = made.world_model, actor, start, draws.to(device), action_draws.to(device)
            dreams.append(imagine(*arguments, differentiable=False))
    plain, ours = dreams
    close = {"rtol": 0.02, "atol": 0.1} if bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours, plain, **close)


def updates(backbone: str, device: torch.device, *, with_kernels: bool) -> list[Tensor]:
    """All weights after twenty updates."""
    torch.manual_seed(0)
    made = networks(backbone).to(device)
    student = learner(made, backbone)
    made.world_model.rssm.fused = with_kernels
    data = batch()
    data.is_first[:, 6] = True
    data = type(data)(
        {key: part.to(device) for key, part in data.observation.items()}, *(x.to(device) for x in data[1:])
    )
    for _ in range(20):
        drawn = student.draw(batch())
        student.train_step(data, type(drawn)(*(part.to(device) for part in drawn)))
    return list(made.parameters())


@pytest.mark.parametrize("seed", [0, 2, 9])
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_filtering(backbone: str, bfloat16: bool, seed: int, kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rssm_module, "SMALL_PRODUCT", {})
    compare_filtering(backbone, CPU, bfloat16=bfloat16, seed=seed)


@pytest.mark.parametrize("seed", [0, 2, 9])
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_dreams(backbone: str, bfloat16: bool, seed: int, kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []
    step = FusedDreaming.step
    monkeypatch.setattr(FusedDreaming, "step", lambda *arguments: steps.append(1) or step(*arguments))
    compare_dreams(backbone, CPU, bfloat16=bfloat16, seed=seed)
    assert len(steps) == 5


@pytest.mark.parametrize("backbone", BACKBONES)
def test_twenty_updates(backbone: str, kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = FusedFilter.forward
    monkeypatch.setattr(FusedFilter, "forward", staticmethod(lambda *given: calls.append(1) or forward(*given)))
    plain, ours = (updates(backbone, CPU, with_kernels=kernels) for kernels in (False, True))
    assert len(calls) == 20
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_modes_and_recorded_classes_go_without(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rssm = networks("dreamerv3").world_model.rssm
    rssm.fused = True
    assert rssm.can_be_fused(torch.rand(2, 7, rssm.stoch), torch.float32)
    assert not rssm.can_be_fused(torch.zeros(2, 7, rssm.stoch, dtype=torch.int64), torch.float32)
    monkeypatch.setattr(FusedFilter, "forward", None)
    embed, action = torch.randn(2, 7, rssm.observe_in.linear.in_features - rssm.deter), torch.randn(2, 7, 5)
    rssm.observe(embed, action, torch.zeros(2, 7, dtype=torch.bool), None)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_kernel_that_is_wrong_is_found(name: str, kernels: Any) -> None:
    """Each of them, if the last of its results is off by a hundredth of itself."""
    right = getattr(kernels, name)
    assert fused.usable(CPU, torch.float32, **SIZES)

    def wrong(*arguments: Any) -> None:
        right(*arguments)
        arguments[-1].mul_(1.01)

    setattr(kernels, name, wrong)
    fused.usable.cache_clear()
    with pytest.warns(UserWarning, match=rf"kernels of the recurrence are not used.*{name} is off by"):
        assert not fused.usable(CPU, torch.float32, **SIZES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fused.usable(CPU, torch.float32, **SIZES)  # and is told once


def test_kernels_that_cannot_be_compiled_are_not_used(kernels: Any) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("no ptxas\nand more")

    kernels.gates = broken
    rssm = networks("dreamerv3").world_model.rssm
    rssm.fused = True
    with pytest.warns(UserWarning, match="RuntimeError: no ptxas$"):
        assert not rssm.can_be_fused(torch.rand(2, 7, rssm.stoch), torch.float32)


def test_without_triton_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fused.usable.cache_clear()
    monkeypatch.setattr(fused, "has_triton", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fused.usable(CPU, torch.float32, **SIZES)
    fused.usable.cache_clear()


def test_the_check_leaves_random_numbers_alone(kernels: Any) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert fused.usable(CPU, torch.bfloat16, **SIZES)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_launched_is_told_whether_to_multiply_and_add_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.9 warns where it is not, and announces that 3.10 will do otherwise then."""
    for name in ("triton", "hd_agents.nn.triton_kernels"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    launch = runpy.run_path(str(Path(fused.__file__).with_name("kernels.py")))["_launch"]
    told: list[Any] = []
    launch({(5,): lambda *given, **options: told.append(options)}, torch.zeros(5, 2), BLOCK=3)
    assert told == [{"BLOCK": 3, "enable_fp_fusion": True}]


INTERPRETED = """
import torch
from hd_agents.nn import fused
from hd_agents.world_model.rssm import SMALL_PRODUCT
from tests.test_fused import BACKBONES, CPU, compare_dreams, compare_filtering
SMALL_PRODUCT.clear()  # or small networks would filter in float32
for dtype in (torch.float32, torch.bfloat16):
    for norm, act in ((True, "silu"), (False, "elu"), (True, "elu"), (False, "silu")):
        fused.check_layer(CPU, dtype, width=24, size=20, norm=norm, act=act)
        fused.check_layer(CPU, dtype, width=64, size=128, norm=norm, act=act)
    for size, bias in ((20, True), (64, False), (1, False)):
        fused.check_gates(CPU, dtype, size=size, bias=bias)
    for groups, classes, unimix in ((4, 8, 0.01), (3, 5, 0.0), (32, 32, 0.01), (2, 1, 0.01), (1, 33, 0.2)):
        fused.check_samples(CPU, dtype, groups=groups, classes=classes, unimix=unimix)
for backbone in BACKBONES:
    for bfloat16 in (False, True):
        compare_filtering(backbone, CPU, bfloat16=bfloat16)
        compare_dreams(backbone, CPU, bfloat16=bfloat16)
print("all the same")
"""


@TRITON
@pytest.mark.slow
def test_the_kernels_in_tritons_interpreter() -> None:
    """On a CPU, by Triton's own imitation of a GPU."""
    words = [sys.executable, "-c", INTERPRETED]
    done = subprocess.run(
        words, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("all the same"), done.stderr


COMPILED = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hd_agents.nn import fused, kernels
from tests.test_fused import CPU
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
made = set()

def compile_it(kernel, *given, num_warps, **constants):
    types = [TYPES[x.dtype] if isinstance(x, torch.Tensor) else "i32" if isinstance(x, int) else "fp32" for x in given]
    signature = dict(zip(kernel.arg_names, types)) | dict.fromkeys(constants, "constexpr")
    for capability in (80, 90):
        source = ASTSource(kernel, signature=signature, constexprs=constants)
        target = GPUTarget("cuda", capability, 32)
        binary = triton.compile(source, target=target, options={"num_warps": num_warps, "enable_fp_fusion": True})
        assert ".local" not in binary.asm["ptx"], (kernel, "does not fit the registers")
    made.add(kernel.fn.__name__)

kernels._launch, fused._compare = compile_it, lambda *given: None
for dtype in TYPES:
    for size, width, norm, act in ((512, 512, True, "silu"), (1024, 1024, False, "elu"), (4096, 1024, True, "silu")):
        fused.check_layer(CPU, dtype, width=width, size=size, norm=norm, act=act)
        fused.check_gates(CPU, dtype, size=size, bias=not norm)
    fused.check_samples(CPU, dtype, groups=32, classes=32, unimix=0.01)
print(len(made), "kernels")
"""


@TRITON
@pytest.mark.slow
def test_the_kernels_compile_for_gpus() -> None:
    """For Ampere and Hopper, with all numbers of a row in registers. No GPU is needed for that."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    words = [sys.executable, "-c", COMPILED]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"{len(FUNCTIONS)} kernels", done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_kernels_on_a_gpu(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr(rssm_module, "SMALL_PRODUCT", {})  # or networks as small as these would filter in float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bfloat16 in (False, True):
            compare_filtering(backbone, device, bfloat16=bfloat16)
            compare_dreams(backbone, device, bfloat16=bfloat16)
        plain, ours = (updates(backbone, device, with_kernels=kernels) for kernels in (False, True))
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
