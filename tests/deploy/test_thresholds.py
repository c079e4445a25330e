"""Thresholds: one that equals a similarity counts, however that is rounded, and keeps its rate."""

from __future__ import annotations

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.deploy.thresholds import (
    TOLERANCE,
    Threshold,
    above,
    at_least,
    check_similarity,
    for_side,
    pair_threshold,
    search_threshold,
    too_small,
    usable,
)

#: what the cosine of a photo with itself is on one processor or another
ROUNDED = (1.0, 0.99999998, 1.0000001)


def test_a_threshold_that_equals_a_similarity_is_reached_on_every_processor() -> None:
    for threshold in ROUNDED:
        for similarity in ROUNDED:
            assert at_least(similarity, threshold)
            assert not at_least(similarity, above(threshold))
    assert not at_least(0.99999, 1.0)


@pytest.mark.parametrize("fpir", [0.0, 0.1, 0.25])
def test_the_rate_of_strangers_holds_when_they_are_read_again(fpir: float) -> None:
    rng = np.random.default_rng(0)
    nearest = rng.uniform(0, 1, 100)
    nearest[:5] = nearest.max()  # equal ones match together or not at all
    threshold = search_threshold(nearest, fpir, 3, None)
    again = nearest + rng.uniform(-TOLERANCE / 2, TOLERANCE / 2, 100)
    matched = sum(at_least(value, threshold.similarity) for value in again)
    assert matched <= 100 * fpir
    assert matched == (100 * fpir if fpir else 0)


def test_impostors_that_are_lower_by_rounding_alone_are_refused_with_the_others() -> None:
    genuine, impostors = [0.9, 0.8, 0.5], [0.5 - 1e-7, 0.2]
    scores, same = np.array(genuine + impostors), np.array([True] * 3 + [False] * 2)
    threshold = pair_threshold(scores, same, 0.0, None)
    assert [at_least(score, threshold.similarity) for score in scores] == [True, True, False, False, False]
    # apart by more than rounding, the lowest genuine pair sets it
    assert pair_threshold([0.9, 0.5, 0.2], [True, True, False], 0.0, None).similarity == 0.5
    with pytest.raises(CrossresError, match="more alike than all genuine ones: no pair would be accepted"):
        pair_threshold([0.9, 0.9 - 1e-7], [True, False], 0.0, None)


def test_a_probe_has_the_threshold_of_the_largest_size_at_or_below_its_own() -> None:
    by_size = [search_threshold([0.1 * size], 0.5, 3, None, size) for size in (8, 2, 5)]
    held = [for_side(by_size, side) for side in (1, 2, 4, 5, 7, 8, 100)]
    assert [each and each.size for each in held] == [None, 2, 2, 5, 5, 8, 8]
    assert too_small(by_size, 1) == "too small: 1 pixels, thresholds begin at 2"
    assert too_small(by_size, 2) == too_small([], 1) == ""
    assert for_side([Threshold(0.5, 0.1, 9, True, 3, None)], 0) == Threshold(0.5, 0.1, 9, True, 3, None)


def test_when_it_holds_and_what_is_unsure() -> None:
    threshold = Threshold(0.5, 0.01, 24, True, 40, "a")
    assert threshold.unsure_note() == "uncertain threshold: a rate of 0.01 needs at least 1,000 strangers, got 24"
    assert Threshold(0.5, 0.1, 300, False, 0, None).unsure_note() == ""
    assert threshold.outgrown_note(44) == ""
    assert threshold.outgrown_note(45).startswith("the threshold was set with 40 identities and there are 45 now")
    assert usable(threshold, "a", "") == (threshold, "")
    remedy = "so similarities only; crossres enroll g --strangers FOLDER sets one"
    assert usable(None, "a", "g --strangers FOLDER") == (None, f"no threshold is set, {remedy}")
    held, why = usable(threshold, "b", "g --strangers FOLDER")
    assert held is None
    assert why == f"the threshold was set with photos read by another model, {remedy}"


@pytest.mark.parametrize("threshold", [float("nan"), 1.1, -2])
def test_what_cannot_be_a_similarity(threshold: float) -> None:
    with pytest.raises(CrossresError, match=r"a similarity lies within -1\.\.1"):
        check_similarity(threshold)


def test_what_cannot_be_a_threshold() -> None:
    sound = {"similarity": 0.5, "rate": 0.1, "count": 9, "too_few": True, "identities": 3, "model": "a"}
    assert Threshold(**sound) == Threshold(0.5, 0.1, 9, True, 3, "a")
    for change in ({"similarity": float("nan")}, {"too_few": 1}, {"model": ""}, {"count": "9"}, {"more": 1}):
        with pytest.raises((TypeError, ValueError)):
            Threshold(**{**sound, **change})
