"""The statistics against figures worked out by hand or by brute force."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.evaluation.statistics import (
    Confidence,
    McNemar,
    beyond_chance,
    bootstrap_interval,
    calibrate,
    mcnemar,
    mean_ranks,
    wilson,
)


def test_the_bootstrap_equals_the_enumeration_of_all_resamples() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    means = sorted(sum(pick) / 4 for pick in product(values, repeat=4))
    expected = np.quantile(means, [0.05, 0.95])
    assert bootstrap_interval(values, confidence=0.9) == pytest.approx(tuple(expected), abs=0.3)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval([3.0, 3.0]) == (3.0, 3.0)
    with pytest.raises(CrossresError, match="at least 2 values, got 1"):
        bootstrap_interval([1.0])


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (8, 2), (5, 5), (30, 12)])
def test_mcnemar_is_the_binomial_test_of_what_differs(gained: int, lost: int) -> None:
    first = np.array([True] * gained + [False] * lost + [True] * 20 + [False] * 7)
    second = np.array([False] * gained + [True] * lost + [True] * 20 + [False] * 7)
    n = gained + lost
    tail = sum(comb(n, k) for k in range(max(gained, lost), n + 1)) / 2**n
    assert mcnemar(first, second) == McNemar(gained, lost, pytest.approx(min(1.0, 2 * tail)))


def test_mcnemar_refuses_other_images() -> None:
    with pytest.raises(CrossresError, match="one model has 3 answers and the other 4"):
        mcnemar([True] * 3, [True] * 4)


def test_mean_ranks_count_ties_half_and_leave_out_what_is_missing() -> None:
    scores = {
        "8x8": {"ce": 50.0, "kd": 51.0, "crd": 51.0, "at": 49.0},
        "16x16": {"ce": 60.0, "kd": 64.0, "crd": 65.0},
    }
    assert mean_ranks(scores) == {"crd": 1.25, "kd": 1.75, "ce": 3.0}
    assert list(mean_ranks(scores)) == ["crd", "kd", "ce"]
    assert mean_ranks({}) == {}


def test_wilson_covers_what_it_says() -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.97):
        intervals = [wilson(int(right), 400) for right in rng.binomial(400, share, 2000)]
        assert 0.93 < np.mean([low <= 100 * share <= high for low, high in intervals]) < 0.975
    assert wilson(0, 10)[0] == pytest.approx(0, abs=1e-9)
    assert wilson(10, 10)[1] == pytest.approx(100)
    with pytest.raises(CrossresError, match="at least 1 test"):
        wilson(0, 0)


def test_which_answers_are_sure() -> None:
    """Half-way between the last answer that keeps the accuracy and the next; those of one probability together."""
    sure, poor = [0.9] * 200, [0.6] * 200
    right = np.array([True] * 200 + [False] * 200)
    assert calibrate(sure + poor, right).threshold == pytest.approx(0.75)
    assert calibrate(sure + sure, right).threshold == 1.0
    assert calibrate(sure + poor, ~right).threshold == 1.0
    assert calibrate(sure + poor, right | True).threshold == 0.0
    assert calibrate(sure + poor, right, accuracy=40.0).threshold == 0.0


def test_few_images_give_no_confidence() -> None:
    assert wilson(72, 72)[0] < 95 < wilson(73, 73)[0]
    few = calibrate([1.0] * 72, [True] * 72)
    assert few == Confidence(95.0, 72, None)
    assert few.doubt(0.5) == "unsure: its probability is no higher than 50 %"
    assert few.doubt(0.51) == ""
    assert few.note == "no calibrated confidence: 72 validation images are too few to show 95 % right answers"
    assert calibrate([1.0] * 73, [True] * 73).threshold == 0.0
    # one of them is wrong, and the surest: no part of so few shows what all of them have
    assert calibrate([1.0] + [0.9] * 73, [False] + [True] * 73) == Confidence(95.0, 74, None)
    assert calibrate([1.0] * 10 + [0.9] * 64, [False] * 10 + [True] * 64).threshold == 1.0


def test_another_epoch_is_better_beyond_two_standard_errors() -> None:
    assert beyond_chance(88.1, 80.0, 100)  # the standard error is 4 points
    assert not beyond_chance(87.9, 80.0, 100)
    assert beyond_chance(80.9, 80.0, 10_000)
    assert not beyond_chance(100.0, 100.0, 10)


def test_the_threshold_is_the_lowest_of_all_that_keep_the_accuracy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        probability = rng.integers(40, 100, 300) / 100  # many are equal
        right = rng.random(300) < probability**0.2
        keep = [
            cut
            for cut in np.unique(probability)
            if wilson(int(right[probability >= cut].sum()), int((probability >= cut).sum()))[0] >= 90
        ]
        confidence = calibrate(probability, right, accuracy=90.0)
        unsure = np.array([bool(confidence.doubt(one)) for one in probability])
        np.testing.assert_array_equal(unsure, probability < min(keep, default=2.0))


def test_sure_answers_keep_the_accuracy_on_other_images() -> None:
    """Of a network that is too sure of itself: among a hundred trainings hardly any is calibrated below it."""
    rng = np.random.default_rng(0)

    def answers(count: int) -> tuple[np.ndarray, np.ndarray]:
        probability = 1 / (1 + np.exp(-rng.normal(3, 2, count)))
        return probability, rng.random(count) < 1 - 1.5 * (1 - probability)

    below = 0
    for _ in range(100):
        threshold = calibrate(*answers(400)).threshold
        probability, right = answers(20_000)
        sure = probability > (1.0 if threshold is None else threshold)
        below += bool(sure.any()) and right[sure].mean() < 0.95
    assert below <= 8


def test_why_an_answer_is_unsure() -> None:
    some = Confidence(95.0, 4000, 0.83499)
    assert some.doubt(0.8349) == (
        "unsure: 4,000 validation images show 95 % right answers only above a probability of 83.4 %"
    )
    assert some.doubt(0.84) == some.note == ""
    assert Confidence(95.0, 400, 1.0).doubt(1.0).endswith("right answers at no probability")
    assert Confidence(95.0, 400, 0.0).doubt(0.1) == ""
    for broken in ((95.0, 0, 0.5), (101.0, 9, 0.5), (95.0, 9, 1.5), (95.0, 9, float("nan")), (95.0, 9.0, 0.5)):
        with pytest.raises(ValueError, match="not a calibrated confidence"):
            Confidence(*broken)
