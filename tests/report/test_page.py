"""Drawings of a page: what can be read of them."""

from __future__ import annotations

import re

import numpy as np

from crossres.report.page import Cell, Drawing, draw_confusion, draw_intervals


def texts(drawing: Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>(.*?)</text>", drawing.svg)


def confusion(classes: int, count: int) -> Drawing:
    counts = np.diag(np.full(classes, count))
    counts[0, 1] = 7
    share = 100 * counts / counts.sum(1, keepdims=True)
    return draw_confusion(counts, share, [f"n{number}" for number in range(classes)])


def test_counts_stand_in_cells_that_are_large_enough() -> None:
    drawn = texts(confusion(10, 31))
    assert (drawn.count("31"), drawn.count("7"), drawn.count("0")) == (10, 1, 0)
    assert confusion(10, 31).caption.startswith("Counts of test images; ")
    # too many classes, too long a count
    for many, left_out in ((confusion(43, 31), "names and counts"), (confusion(20, 100_000), "counts")):
        assert "7" not in texts(many)
        assert f"classes are too small for {left_out}; " in many.caption


def test_intervals_share_a_scale() -> None:
    rows = [("a", Cell("", "", 71.0, (65.0, 75.0))), ("b", Cell("", "", 40.0, (35.0, 45.0)))]
    (drawing,) = draw_intervals([*rows, ("unknown", Cell(""))], "top-1")
    assert drawing.title == "Top-1 with 95 % intervals"
    assert {"a", "b", "top-1, %", "40", "60"} <= {*texts(drawing)}
    assert "unknown" not in drawing.svg
    assert draw_intervals(rows[:1], "top-1") == []
