"""Which of the machine's cores are this process's."""

import os


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on, as taskset or a container leaves it."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
