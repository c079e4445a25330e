"""What a process keeps of the memory that it frees."""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable

import pytest

from crossres.core.cores import keeping_freed_memory

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
