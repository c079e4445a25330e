"""Contrast and clipping of images, and their extremes over many."""

from __future__ import annotations

import numpy as np

from crossres.data.look import extremes, look


def test_contrast_and_clipped_share() -> None:
    flat = np.full((4, 4, 3), 128)
    halves = np.zeros((4, 4, 3), dtype=np.int64)
    halves[2:] = 255
    quarter = flat.copy()
    quarter[0] = 255
    contrast, clipped = look(np.stack([flat, halves, quarter]).astype(np.uint8))
    np.testing.assert_allclose(contrast[:2], [0, 0.5])
    np.testing.assert_allclose(clipped, [0, 1, 0.25])


def test_extremes_leave_out_one_in_a_thousand() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(100, 150, (2000, 4, 4, 3), dtype=np.uint8)
    images[7], images[8], images[9] = 128, 255, 0
    bounds = extremes([images[:900], images[900:]])
    contrast, clipped = (np.sort(values) for values in look(images))
    assert bounds == {"contrast": contrast[1], "clipped": clipped[-2]}
    assert (bounds["contrast"], bounds["clipped"]) == (0, 1)
