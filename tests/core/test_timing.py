"""Timing: what is counted, in which order, and how it is written."""

from __future__ import annotations

import time

import pytest

from crossres.core.timing import LEAST, WARM, duration, significant, timed


def test_calls_take_turns_and_the_first_are_not_counted() -> None:
    calls: list[str] = []

    def slow_at_first() -> None:
        time.sleep(0.2 if calls.count("slow") < WARM else 0.002)
        calls.append("slow")

    def quick() -> None:
        time.sleep(0.001)
        calls.append("quick")

    timings = timed({"slow": (slow_at_first, 1), "quick": (quick, 4)}, seconds=0)
    assert calls == ["slow", "quick"] * (WARM + LEAST)
    assert timings["slow"].repeats == timings["quick"].repeats == LEAST
    assert 2 <= timings["slow"].median < 100
    # an image's share of a call
    assert 0.25 <= timings["quick"].low <= timings["quick"].median <= timings["quick"].high
    assert timings["quick"].low < 1


def test_a_call_is_repeated_for_so_many_seconds() -> None:
    started = time.perf_counter()
    (timing,) = timed({"one": (lambda: time.sleep(0.001), 1)}, seconds=0.2).values()
    assert time.perf_counter() - started >= 0.2
    assert timing.repeats > LEAST


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0825, "0.0825"),
        (1.3, "1.30"),
        (9.996, "10.0"),
        (99.96, "100"),
        (42.25, "42.2"),
        (999.6, "1,000"),
        (12_345, "12,300"),
        (1_234_567, "1,230,000"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.0825, "82.5 µs"),
        (0.0004, "0.400 µs"),
        (0.9994, "999 µs"),
        (0.9996, "1.00 ms"),
        (1.336, "1.34 ms"),
        (42.3, "42.3 ms"),
        (999.4, "999 ms"),
        (999.7, "1.00 s"),
        (61_000, "61.0 s"),
    ],
)
def test_a_duration_has_the_unit_that_fits(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text
