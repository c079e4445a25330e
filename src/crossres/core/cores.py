"""Which of the machine's cores are this process's, and its free memory."""

import ctypes
import os
from contextlib import suppress


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on, as taskset or a container leaves it."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def give_back_memory() -> None:
    """Return freed memory to the system, under glibc: else what lies between lasting objects stays."""
    with suppress(OSError, AttributeError, TypeError):  # where the C library is another
        ctypes.CDLL(None).malloc_trim(0)
