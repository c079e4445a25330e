"""Which device and precision a config means on this machine."""

from __future__ import annotations

import builtins
import io
import re
from typing import Any

import pytest
import torch

from crossres import CrossresError
from crossres.core.devices import (
    Device,
    commit,
    fast_bfloat16,
    machine,
    peak_memory_mb,
    resolve_device,
    sharing_cores,
    versions,
)


@pytest.fixture(autouse=True)
def _not_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that pretends that torch finds so many GPUs, with bfloat16 in hardware or not."""

    def pretend(count: int, bfloat16: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)  # noqa: ARG005

    return pretend


def cpuinfo(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    real = builtins.open

    def fake(path: Any, *more: Any, **options: Any) -> Any:
        if path != "/proc/cpuinfo":
            return real(path, *more, **options)
        if text is None:
            raise FileNotFoundError(path)
        return io.StringIO(text)

    monkeypatch.setattr(builtins, "open", fake)


def shared(kept: int | None = None, given: int = 4) -> tuple[int, list[str]]:
    """The number of threads that a job takes where torch has as many as are given, and what is said."""
    own, lines = torch.get_num_threads(), list[str]()
    torch.set_num_threads(given)
    try:
        with sharing_cores(lines.append, kept):
            threads = torch.get_num_threads()
        assert torch.get_num_threads() == given
    finally:
        torch.set_num_threads(own)
    return threads, lines


#: user, nice, system, idle, iowait; the first line is of all cores, the last of another's
STAT = "cpu 9 9 9 9 9 9\ncpu0 5 0 0 5 0\ncpu1 {} 0 0 {} {}\ncpu2 {} 0 0 {} 0\ncpu3 0 0 0 9 9\nintr 1 2\n"
START = STAT.format(*[100] * 5)
FREE, BUSY = STAT.format(100, 105, 105, 100, 110), STAT.format(110, 100, 100, 110, 100)
ONE_FREE = STAT.format(110, 100, 100, 100, 110)


@pytest.mark.parametrize(
    ("looks", "threads"),
    [
        ([START, FREE], 4),
        ([START, ONE_FREE], 2),  # 1 of 2 cores
        ([START, BUSY], 2),
        ([START, START], 4),  # a system that counts nothing
        (["cpu 1 2 3 4 5\n"] * 2, 4),
        ([None], 4),
    ],
)
def test_a_job_beside_others_computes_on_half_of_the_threads(
    proc_stat: Any, looks: list[str | None], threads: int
) -> None:
    proc_stat(*looks)
    busy = "the cores are busy: computing on 2 of 4 threads (OMP_NUM_THREADS=N takes N)"
    assert shared() == (threads, [busy] if threads == 2 else [])


@pytest.mark.parametrize(("busy", "threads"), [(0, 16), (0.4, 16), (1, 15), (2, 14), (6, 10), (8, 8), (16, 8)])
def test_a_job_takes_the_idle_cores_and_at_least_half(
    monkeypatch: pytest.MonkeyPatch, busy: float, threads: int
) -> None:
    monkeypatch.setattr("crossres.core.devices._idle_share", lambda: 1 - busy / 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    said = f"the cores are busy: computing on {threads} of 16 threads (OMP_NUM_THREADS=N takes N)"
    assert shared(given=16) == (threads, [said] if threads < 16 else [])


def test_two_threads_beside_a_job_on_one_of_two_cores(proc_stat: Any) -> None:
    proc_stat(START, ONE_FREE)
    assert shared(given=2)[0] == 1
    proc_stat(START, FREE)
    assert shared(given=2)[0] == 2


def test_threads_that_are_chosen_stay(proc_stat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proc_stat(START, BUSY)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert shared() == (4, [])
    assert shared(kept=1) == (4, [])


@pytest.mark.parametrize(("now", "kept", "threads", "slow"), [(FREE, 3, 3, 0), (FREE, 32, 4, 0), (BUSY, 3, 3, 1)])
def test_a_resumed_run_keeps_its_threads(proc_stat: Any, now: str, kept: int, threads: int, slow: int) -> None:
    proc_stat(START, now)
    line = "the cores are busy, and a resumed run keeps its 3 threads: slow beside other jobs"
    assert shared(kept) == (threads, slow * [line])


def test_cpu() -> None:
    device = resolve_device("cpu", precision="float32")
    assert device == Device(torch.device("cpu"), "float32")
    assert device.world_size == 1


def test_auto_takes_a_gpu_where_there_is_one(gpus: Any) -> None:
    gpus(0)
    assert resolve_device("auto").torch == torch.device("cpu")
    gpus(2)
    assert resolve_device("auto").torch == torch.device("cuda", 0)
    assert resolve_device("auto").local_devices == 1
    assert resolve_device("cuda", devices=2).world_size == 2
    assert resolve_device("cpu").torch == torch.device("cpu")


def test_a_gpu_that_is_not_there(gpus: Any) -> None:
    gpus(0)
    with pytest.raises(CrossresError, match=r"^device cuda: torch finds no GPU here; choose cpu or auto$"):
        resolve_device("cuda")
    gpus(2)
    with pytest.raises(CrossresError, match=r"^train\.devices 3: torch finds 2 GPUs here$"):
        resolve_device("cuda", devices=3)


def test_torchrun_says_how_many_and_which(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(4)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    device = resolve_device("cuda", precision="float32")
    assert device == Device(torch.device("cuda", 3), "float32", local_devices=4, nodes=2)
    assert device.world_size == 8
    assert resolve_device("cpu").torch == torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("processor : 0\nflags : fpu avx2 avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("flags : fpu avx2\n", False),
        ("processor : 0\n", False),
        (None, False),
    ],
)
def test_auto_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch, text: str | None, fast: bool) -> None:
    cpuinfo(monkeypatch, text)
    assert fast_bfloat16("cpu") is fast
    expected = "bfloat16" if fast else "float32"
    assert resolve_device("cpu", precision="auto").precision == expected
    assert resolve_device("cpu", precision="bfloat16").precision == "bfloat16"
    assert resolve_device("cpu", precision="float32").precision == "float32"


@pytest.mark.parametrize(("bfloat16", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_of_a_gpu(gpus: Any, bfloat16: bool, precision: str) -> None:
    gpus(1, bfloat16)
    assert resolve_device("auto", precision="auto").precision == precision


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast(precision: str, dtype: torch.dtype) -> None:
    device = Device(torch.device("cpu"), precision)
    for _ in range(2):  # it can be entered again and again
        with device.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_what_a_run_was_measured_on(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(torch.device("cpu"), "float32", local_devices=2, nodes=3)
    cpuinfo(monkeypatch, "processor : 0\nmodel name\t: Chip: 3000\n")
    facts = machine(device)
    assert (facts["device"], facts["processor"], facts["processes"]) == ("cpu", "Chip: 3000", 6)
    cpuinfo(monkeypatch, None)
    assert machine(device)["processor"]
    assert {"python", "crossres", "torch", "numpy"} <= set(versions())
    assert (peak_memory_mb() or 100) > 50
    assert re.fullmatch(r"[0-9a-f]{40}\+?", commit() or "0" * 40)
