"""The statistics against figures worked out by hand or by brute force."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.evaluation.statistics import McNemar, bootstrap_interval, mcnemar, mean_ranks, wilson


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
