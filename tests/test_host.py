"""What the program asks of the machine: the processor's instructions, and memory that stays with the process."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hd_agents import host
from hd_agents.nn import products
from tests.agents import tiny

FLAGS = {"avx512_bf16": True, "amx_bf16": True, "avx512f": False}


@pytest.mark.parametrize(("flag", "expected"), FLAGS.items())
def test_bfloat16_is_read_from_the_flags(
    flag: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags : fpu sse2 {flag}\n\nprocessor : 1\nflags : fpu\n")
    monkeypatch.setattr(host, "CPUINFO", cpuinfo)
    assert host.cpu_has_bfloat16() is expected
    monkeypatch.setattr(host, "CPUINFO", tmp_path / "nothing")
    assert not host.cpu_has_bfloat16()


def test_of_a_container_what_its_limit_leaves_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   16000 kB\n")
    monkeypatch.setattr(host, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(host, "CONTAINER", tmp_path)
    assert host.available_memory() == 16_384_000  # no container
    (tmp_path / "memory.max").write_text("8000000\n")
    (tmp_path / "memory.current").write_text("7900000\n")
    (tmp_path / "memory.stat").write_text("anon 7000000\nactive_file 30000\ninactive_file 50000\n")
    assert host.available_memory() == 150_000  # files that nobody has read lately give way
    (tmp_path / "memory.current").write_text("8100000\n")
    assert host.available_memory() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert host.available_memory() == 16_384_000


def test_the_processors_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: Desk  9: @ 3 GHz\n")
    monkeypatch.setattr(host, "CPUINFO", tmp_path / "cpuinfo")
    assert host.cpu_name() == "Desk  9: @ 3 GHz"
    monkeypatch.setattr(host, "CPUINFO", tmp_path / "nothing")
    assert host.cpu_name() == (platform.processor() or platform.machine())


@pytest.mark.parametrize(
    ("vendor", "flag", "expected"),
    [("AuthenticAMD", "avx512f", True), ("AuthenticAMD", "avx2", False), ("GenuineIntel", "avx512f", False)],
)
def test_what_mkl_leaves_unused(
    vendor: str, flag: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flag}\nbugs\t\t:\n\npower management:\n"
    )
    monkeypatch.setattr(host, "CPUINFO", cpuinfo)
    assert host.cpu_beyond_mkl() is expected
    monkeypatch.setattr(host, "CPUINFO", tmp_path / "nothing")
    assert not host.cpu_beyond_mkl()


@pytest.mark.parametrize(("able", "pays", "expected"), [(True, 1, True), (False, 1, False), (True, 1 << 30, False)])
def test_auto_takes_bfloat16_where_it_pays(
    able: bool, pays: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "cpu_has_bfloat16", lambda: able)
    monkeypatch.setattr(products, "FEWEST_WEIGHTS", pays)
    assert tiny().learner.bfloat16 is expected
    assert tiny(precision="bfloat16").learner.bfloat16
    assert not tiny(precision="float32").learner.bfloat16


@pytest.mark.parametrize(
    ("capability", "hip", "pays"), [((7, 5), None, False), ((8, 0), None, True), ((9, 0), "6", True)]
)
def test_gpus_without_instructions_stay_in_float32(
    capability: tuple[int, int], hip: str | None, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert products.bfloat16_pays(torch.device("cuda"), 1) is pays


SCRIPT = """
import resource, sys
from hd_agents.host import keep_freed_memory
print(keep_freed_memory())
def claim():
    bytearray(b"x") * 40_000_000  # not NumPy, which asks for huge pages
claim()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    claim()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc")
@pytest.mark.parametrize("own_setting", [False, True])
def test_freed_memory_is_used_again(own_setting: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {"MALLOC_TRIM_THRESHOLD_": "131072"} if own_setting else {}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    kept, faults = done.stdout.split()
    assert kept == str(not own_setting), done.stderr
    pages = 40_000_000 // os.sysconf("SC_PAGE_SIZE")
    assert (int(faults) < pages // 10) is not own_setting


@pytest.mark.parametrize(
    ("running", "threads", "cores", "free"),
    [(1, 2, 2, None), (2, 2, 2, 1), (3, 2, 2, 1), (9, 2, 2, 1), (2, 1, 2, None), (4, 8, 8, 5), (4, 4, 8, None)],
)
def test_other_work_is_told(
    running: int, threads: int, cores: int, free: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loadavg").write_text(f"0.52 0.58 0.59 {running}/467 12345\n")
    monkeypatch.setattr(host, "RUNNING", tmp_path / "loadavg")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    hint = host.crowding(threads)
    assert (hint is None) == (free is None)
    if hint is not None:
        assert hint.endswith(f"set OMP_NUM_THREADS={free}.")
        assert f"{min(running - 1, cores)} of {cores} cores busy. {threads} threads" in hint


def test_nothing_is_said_where_nothing_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "RUNNING", tmp_path / "nowhere")
    assert host.crowding(2) is None
