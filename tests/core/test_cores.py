"""What a process keeps of the memory that it frees."""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from crossres.core.cores import MMAP_THRESHOLD, TRIM_THRESHOLD, keeping_freed_memory

PAGES = 2**26 // resource.getpagesize()


def faults(step: Callable[[], object]) -> int:
    """Pages that the system gives in a step, after one like it."""
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_taken_again() -> None:
    def step() -> object:
        return len(b"1" * 2**26)  # 64 MB, taken and freed

    assert faults(step) > PAGES / 2
    with keeping_freed_memory():
        assert faults(step) < PAGES / 10
    assert faults(step) > PAGES / 2


def test_where_a_large_threshold_is_refused_the_largest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def mallopt(option: int, size: int) -> int:
        asked.append((option, size))
        return int(option != MMAP_THRESHOLD or size <= 2**25)  # as glibc before 2.35

    library = SimpleNamespace(mallopt=mallopt, malloc_trim=lambda _: 1)
    monkeypatch.setattr("crossres.core.cores.ctypes.CDLL", lambda _: library)
    with keeping_freed_memory():
        assert asked == [(MMAP_THRESHOLD, 2**30), (MMAP_THRESHOLD, 2**25), (TRIM_THRESHOLD, 2**31 - 1)]
    assert asked[3:] == [(MMAP_THRESHOLD, 2**25), (TRIM_THRESHOLD, 2**26)]
