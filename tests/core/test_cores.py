"""What a process keeps of the memory that it frees."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from crossres.core.cores import MMAP_THRESHOLD, TRIM_THRESHOLD, keeping_freed_memory

PAGES = 2**26 // resource.getpagesize()
#: Prints the pages that the system gives in a step that takes and frees 64 MB, after one like it: before, while and
#: after freed memory is kept.
STEPS = """
import resource
from crossres.core.cores import keeping_freed_memory

def step():
    return len(b"1" * size)

def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

size = 2**26
first = faults()
with keeping_freed_memory():
    kept = faults()
print([first, kept, faults()])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_taken_again() -> None:
    # in a process of its own: what other tests left free in this one would be taken
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run([sys.executable, "-c", STEPS], env=plain, capture_output=True, text=True, check=True)
    first, kept, after = json.loads(run.stdout)
    assert first > PAGES / 2
    assert kept < PAGES / 10
    assert after > PAGES / 2


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
