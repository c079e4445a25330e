"""How long calls take, in numbers and in words."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)
#: Calls that are not counted, as they allocate; and the fewest that are.
WARM, LEAST = 2, 10


@dataclass(frozen=True)
class Timing:
    """Milliseconds that each of a call's images takes.

    Attributes:
        median: over the repetitions.
        low: a quarter of them is at or below it.
        high: a quarter of them is at or above it.
        repeats: how many there are.
    """

    median: float
    low: float
    high: float
    repeats: int


def timed(calls: Mapping[Key, tuple[Callable[[], object], int]], seconds: float = 1.0) -> dict[Key, Timing]:
    """Time calls that take turns, so that a load beside them disturbs all alike.

    Args:
        calls: by name, each with the number of images that it handles.
        seconds: for which each is repeated, but at least `LEAST` times.
    """
    taken: dict[Key, list[float]] = {key: [] for key in calls}
    left = dict(calls)
    while left:
        for key, (call, _) in tuple(left.items()):
            started = time.perf_counter()
            call()
            taken[key].append(time.perf_counter() - started)
            if len(taken[key]) >= WARM + LEAST and sum(taken[key]) >= seconds:
                del left[key]
    timings = {}
    for key, (_, images) in calls.items():
        counted = 1000 * np.array(taken[key][WARM:]) / images
        low, median, high = np.quantile(counted, [0.25, 0.5, 0.75]).tolist()
        timings[key] = Timing(median, low, high, len(counted))
    return timings


def significant(value: float) -> str:
    """Return a number above 0 with three significant digits, without an exponent."""
    rounded = float(f"{value:.3g}")
    decimals = 2 - int(np.floor(np.log10(rounded)))
    return f"{rounded:,.{max(0, decimals)}f}"


def duration(milliseconds: float) -> str:
    """Return a time above 0 with three significant digits, in µs, ms or s."""
    for unit, size in (("µs", 1e-3), ("ms", 1.0)):
        if float(f"{milliseconds / size:.3g}") < 1000:
            return f"{significant(milliseconds / size)} {unit}"
    return f"{significant(milliseconds / 1000)} s"
