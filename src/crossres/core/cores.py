"""Which of the machine's cores are this process's, and its free memory."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Options of glibc's mallopt, in bytes: so much freed memory at the heap's end goes back to the system, and blocks of
#: such a size are the system's own and go back at once.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
#: What they rise to by themselves. Older versions refuse a larger threshold for blocks: those go back at once.
USUAL_TRIM, USUAL_MMAP = 2**26, 2**25


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on, as taskset or a container leaves it."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def give_back_memory() -> None:
    """Return freed memory to the system, under glibc: else what lies between lasting objects stays."""
    with suppress(OSError, AttributeError, TypeError):  # where the C library is another
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within the context, freed memory stays with the process, under glibc; what is free before and after goes back.

    After it the process keeps what programs usually do.

    Each step of a training frees and takes the same hundreds of MB. Fresh from the system they come page by page:
    a quarter of the time of a step of review at 16x16.
    """
    give_back_memory()
    _set_thresholds(trim=2**31 - 1, mmap=2**30)
    try:
        yield
    finally:
        _set_thresholds(USUAL_TRIM, USUAL_MMAP)
        give_back_memory()


def _set_thresholds(trim: int, mmap: int) -> None:
    with suppress(OSError, AttributeError, TypeError):
        set_option = ctypes.CDLL(None).mallopt
        if not set_option(MMAP_THRESHOLD, mmap):
            set_option(MMAP_THRESHOLD, USUAL_MMAP)
        set_option(TRIM_THRESHOLD, trim)
