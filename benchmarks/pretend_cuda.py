"""A CUDA device for machines without one, whose tensors are PyTorch's fakes: they have shapes and a place, no numbers.

What only works with numbers stops on it, as it would make a real device's queue run empty: reading one (``item``,
``float``), and whatever depends on one. So does an operation on tensors of two devices. Loaded before PyTorch is, in
its build without CUDA, which then takes the device to be there; nothing can be computed on it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

using namespace c10;
static const Device here(DeviceType::CUDA, 0);
static const Stream only(Stream::DEFAULT, here);

// One device with one stream, on which everything has happened already.
struct Guard : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Device exchangeDevice(Device) const override { return here; }
  Device getDevice() const override { return here; }
  Stream getStream(Device) const noexcept override { return only; }
  Stream exchangeStream(Stream) const noexcept override { return only; }
  void record(void** event, const Stream&, const DeviceIndex, const EventFlag) const override { *event = this_(); }
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void* this_() const { return const_cast<Guard*>(this); }
};
static impl::DeviceGuardImplRegistrar guard(DeviceType::CUDA, new Guard());

namespace at {
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}
"""


def unavailable() -> str:
    """Why there can be no such device here; empty if there can."""
    if shutil.which("g++") is None:
        return "it needs the compiler g++"
    if list(_torch().glob("lib/libtorch_cuda*")):
        return "this PyTorch is built for CUDA"
    return ""


def load() -> None:
    """Make the device, and with it load PyTorch.

    :raises RuntimeError: if it is :func:`unavailable`, or too late.
    :raises subprocess.CalledProcessError: if it cannot be compiled.
    """
    if reason := "PyTorch is loaded already" if "torch" in sys.modules else unavailable():
        raise RuntimeError(f"No CUDA device can be pretended: {reason}.")
    torch = _torch()
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "pretend.cpp"), Path(folder, "pretend.so")
        source.write_text(SOURCE, encoding="utf-8")
        words = ["g++", "-std=c++20", "-shared", "-fPIC", f"-I{torch / 'include'}", str(source), "-o", str(library)]
        subprocess.run([*words, f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu"], check=True)
        for part in (torch / "lib/libc10.so", torch / "lib/libtorch_cpu.so", library):
            ctypes.CDLL(str(part), mode=ctypes.RTLD_GLOBAL)
    _complete()


def _torch() -> Path:
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("PyTorch is not installed.")
    return Path(found.submodule_search_locations[0])


def _complete() -> None:
    """What a build without CUDA does not know of the operations there."""
    import torch

    def alike(grad: Any, x: Any) -> Any:
        return torch.empty_like(x)

    for key in ("CUDA", "Meta"):
        library = torch.library.Library("aten", "IMPL", key)
        library.m.impl("silu_backward", key, alike, False)  # one kernel there, seven operations where it is unknown
        _KEPT.append(library)
    for name in ("_fused_adam_", "_fused_adam_.tensor_lr"):
        library.impl(name, lambda *tensors, **options: None)
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_: True


_KEPT: list[Any] = []


def move(module: Any, mode: Any) -> Any:
    """Put a module's parameters and buffers on the device, in the mode; the module."""
    import torch

    moved: dict[Any, Any] = {}

    def there(tensor: Any) -> Any:
        if tensor not in moved:
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            moved[tensor] = torch.nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
        return moved[tensor]

    with mode:
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                tensors.update({name: there(tensor) for name, tensor in tensors.items() if tensor is not None})
    return module
