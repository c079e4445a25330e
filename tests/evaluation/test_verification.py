"""Verification against slow loops over thresholds, on random and on tied scores."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.data.faces import Pairs
from crossres.evaluation.verification import (
    auc,
    best_threshold,
    bootstrap,
    calibrate_pairs,
    eer,
    k_fold_accuracy,
    k_fold_tar,
    roc,
    tar_at_far,
    verify,
)


def draw(seed: int, tied: bool, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    same = rng.random(count) < 0.4
    same[:2] = [True, False]
    scores = rng.normal(same * 1.0, 1.0)
    return (np.round(scores * 2) / 2 if tied else scores), same


@pytest.mark.parametrize("far", [0.0, 0.01, 0.2])
def test_the_threshold_of_pairs_is_the_lowest_that_keeps_the_rate(far: float) -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 12, 60)
    embedding = rng.normal(size=(12, 8))[label] + 0.6 * rng.normal(size=(60, 8))
    (threshold,) = calibrate_pairs(embedding, label, [far])
    assert threshold.rate == far
    genuine, impostors = [], []
    for i in range(60):
        for j in range(i):
            a, b = embedding[i], embedding[j]
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            (genuine if label[i] == label[j] else impostors).append(cosine)
    assert (threshold.people, threshold.impostors) == (12, len(impostors))
    at = threshold.similarity - 1e-9
    assert np.mean(np.array(impostors) >= at) == pytest.approx(threshold.far)
    assert threshold.far <= far
    assert np.mean(np.array(genuine) >= at) == pytest.approx(threshold.tar)
    lower = max(score for score in impostors if score < at)
    assert np.mean(np.array(impostors) >= lower) > far


def test_no_threshold_of_pairs_where_none_can_be_known() -> None:
    rows = np.eye(4)
    assert calibrate_pairs(rows, [0, 0, 0, 0]) == []  # nobody else
    assert calibrate_pairs(rows, [0, 1, 2, 3]) == []  # nobody twice
    # the pair of one person is less alike than every other
    assert calibrate_pairs([[1, 0], [-1, 0.0], [0, 1]], [0, 0, 1], [0.0]) == []


def test_a_threshold_of_pairs_for_each_rate_that_the_people_allow() -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 30, 200)
    embedding = rng.normal(size=(30, 8))[label] + 0.6 * rng.normal(size=(200, 8))
    thresholds = calibrate_pairs(embedding, label)
    assert [each.rate for each in thresholds] == [0.001, 0.01, 0.1]
    assert [each.similarity for each in thresholds] == sorted((each.similarity for each in thresholds), reverse=True)
    for each in thresholds:
        assert [each] == calibrate_pairs(embedding, label, [each.rate])
    # of 8 pairs of two people none may be accepted at either of the first two rates, which then are one
    few = calibrate_pairs([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0.8, 0.6]], [0, 0, 1, 1, 1])
    assert [each.rate for each in few][:1] == [0.001]
    assert 0.01 not in [each.rate for each in few]


CASES = [(seed, tied) for seed in range(4) for tied in (False, True)]


def accepted(scores, same, threshold):
    """(false accept rate, true accept rate), a pair at a time."""
    fa = ta = impostors = genuine = 0
    for score, is_same in zip(scores, same, strict=True):
        if is_same:
            genuine += 1
            ta += score >= threshold
        else:
            impostors += 1
            fa += score >= threshold
    return fa / impostors, ta / genuine


@pytest.mark.parametrize(("seed", "tied"), CASES)
def test_every_point_of_the_roc_is_what_its_threshold_accepts(seed: int, tied: bool) -> None:
    scores, same = draw(seed, tied)
    points = roc(scores, same)
    assert len(points.threshold) == len(np.unique(scores)) + 1
    for threshold, far, tar in zip(points.threshold, points.far, points.tar, strict=True):
        assert (far, tar) == pytest.approx(accepted(scores, same, threshold))


@pytest.mark.parametrize(("seed", "tied"), CASES)
def test_auc_is_the_chance_of_a_right_order(seed: int, tied: bool) -> None:
    scores, same = draw(seed, tied)
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[same] for b in scores[~same]]
    assert auc(roc(scores, same)) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize(("seed", "tied"), CASES)
@pytest.mark.parametrize("far", [0.0, 0.05, 0.1, 0.5, 1.0])
def test_tar_at_far(seed: int, tied: bool, far: float) -> None:
    scores, same = draw(seed, tied)
    rates = [accepted(scores, same, t) for t in [*scores, np.inf]]
    expected = max(tar for its_far, tar in rates if its_far <= far)
    point = tar_at_far(roc(scores, same), far)
    assert point.share == pytest.approx(expected)
    assert accepted(scores, same, point.threshold)[1] == pytest.approx(expected)
    assert accepted(scores, same, point.threshold)[0] <= far
    assert point.too_few == (int((~same).sum()) * far < 10)


@pytest.mark.parametrize(("seed", "tied"), CASES)
def test_eer_lies_where_the_two_errors_cross(seed: int, tied: bool) -> None:
    scores, same = draw(seed, tied)
    points = sorted((accepted(scores, same, t) for t in {*scores, np.inf}), key=lambda p: (p[0], p[1]))
    for (far, tar), (next_far, next_tar) in pairwise(points):
        if next_far >= 1 - next_tar:
            steps = np.linspace(0, 1, 200_001)
            fars, frrs = far + steps * (next_far - far), 1 - (tar + steps * (next_tar - tar))
            expected = fars[np.argmin(abs(fars - frrs))]
            break
    assert eer(roc(scores, same)) == pytest.approx(expected, abs=1e-4)


def test_eer_of_perfect_and_of_reversed_scores() -> None:
    same = np.array([True, True, False, False])
    assert eer(roc([4.0, 3, 2, 1], same)) == 0
    assert eer(roc([1.0, 2, 3, 4], same)) == 1
    assert eer(roc([1.0, 1, 1, 1], same)) == 0.5


@pytest.mark.parametrize(("seed", "tied"), CASES)
def test_folds_are_judged_at_the_others_threshold(seed: int, tied: bool) -> None:
    scores, same = draw(seed, tied, 100)
    fold = np.arange(100) % 10
    results = k_fold_accuracy(scores, same, fold)
    for name, result in enumerate(results):
        inside = fold == name
        others, truth = scores[~inside], same[~inside]
        edges = sorted(set(others))
        candidates = [edges[0] - 1, *((a + b) / 2 for a, b in pairwise(edges)), edges[-1] + 1]
        right = [sum((s >= t) == bool(y) for s, y in zip(others, truth, strict=True)) for t in candidates]
        threshold = result["threshold"]
        assert sum((s >= threshold) == bool(y) for s, y in zip(others, truth, strict=True)) == max(right)
        hits = [(s >= threshold) == bool(y) for s, y in zip(scores[inside], same[inside], strict=True)]
        assert (result["fold"], result["accuracy"]) == (name, pytest.approx(100 * np.mean(hits)))
    assert len(results) == 10


@pytest.mark.parametrize(("seed", "tied"), CASES)
@pytest.mark.parametrize("far", [0.0, 0.1, 0.5])
def test_tar_over_folds_takes_the_others_threshold(seed: int, tied: bool, far: float) -> None:
    scores, same = draw(seed, tied, 100)
    fold = np.arange(100) % 4
    tars, fars = [], []
    for name in range(4):
        inside = fold == name
        others, truth = scores[~inside], same[~inside]
        allowed = [t for t in [*sorted(set(others)), np.inf] if accepted(others, truth, t)[0] <= far]
        tars.append(np.mean(scores[inside & same] >= min(allowed)))
        fars.append(np.mean(scores[inside & ~same] >= min(allowed)))
    (row,) = k_fold_tar(scores, same, fold, [far])
    expected = {"tar": 100 * np.mean(tars), "std": 100 * np.std(tars), "far": 100 * np.mean(fars)}
    assert row == pytest.approx(expected)
    # it stands beside the one over all pairs
    embeddings = np.stack([np.cos(scores), np.sin(scores)], 1)
    pairs = Pairs(np.zeros(100, int), np.arange(100), same, fold)
    point = verify(embeddings, embeddings, pairs, 0, fars=[far])["tar_at_far"][0]
    assert set(point["folds"]) == {"tar", "std", "far"}
    alone = Pairs(pairs.left, pairs.right, same, np.zeros(100, int))
    assert verify(embeddings, embeddings, alone, 0, fars=[far])["tar_at_far"][0]["folds"] is None


def test_a_fold_without_a_genuine_pair_counts_for_far_alone() -> None:
    same = np.array([True, False, True, False, False, False])
    rows = k_fold_tar([0.9, 0.1, 0.87, 0.2, 0.85, 0.0], same, [0, 0, 1, 1, 2, 2], [0.5])
    assert rows == [{"tar": 100.0, "std": 0.0, "far": pytest.approx(100 / 6)}]


def test_the_middle_one_of_the_best_thresholds_is_taken() -> None:
    assert best_threshold([0.9, 0.8, 0.2, 0.1], np.array([True, True, False, False])) == pytest.approx(0.5)


def test_an_interval_holds_the_measure() -> None:
    scores, same = draw(0, False, 300)
    low, high = bootstrap(scores, same, lambda points: {"auc": auc(points)}, resamples=200)["auc"]
    assert low < auc(roc(scores, same)) < high
    assert 0 < high - low < 0.2


@pytest.mark.parametrize(
    ("scores", "same", "line"),
    [
        ([0.5, float("nan")], [True, False], r"the score of pair 1 is nan; look for a NaN embedding"),
        ([0.5, 0.4], [True, True], r"there is no impostor pair among 2"),
        ([0.5, 0.4], [False, False], r"there is no genuine pair among 2"),
        ([0.5], [True, False], r"needs scores \(N,\) and same"),
        ([0.5, 0.4], [1, 0], r"needs scores \(N,\) and same \(N,\) bool"),
    ],
)
def test_what_is_no_protocol_is_said_in_one_line(scores, same, line: str) -> None:
    with pytest.raises(CrossresError, match=rf"^verification: {line}[^\n]*$"):
        roc(scores, np.asarray(same))


def test_rates_and_folds_out_of_range() -> None:
    scores, same = draw(0, False)
    with pytest.raises(CrossresError, match=r"^a false accept rate lies within 0..1, got 2$"):
        tar_at_far(roc(scores, same), 2)
    with pytest.raises(CrossresError, match=r"^accuracy over folds needs at least 2 folds"):
        k_fold_accuracy(scores, same, np.zeros(len(scores), int))


def test_the_best_threshold_separates_neighbouring_doubles() -> None:
    scores = np.array([np.nextafter(1.0, 2.0), 1.0])
    threshold = best_threshold(scores, np.array([True, False]))
    assert ((scores >= threshold) == [True, False]).all()


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)


def test_verify_takes_the_cosine_of_both_sides() -> None:
    left, right = np.random.default_rng(0).normal(size=(2, 20, 5))
    pairs = Pairs(np.arange(10), np.arange(10, 20), np.array([True] * 5 + [False] * 5), np.arange(10) % 5)
    scores = [unit(left[a]) @ unit(right[b]) for a, b in zip(pairs.left, pairs.right, strict=True)]
    result = verify(left, right, pairs, resamples=50)
    wins = [(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2 for i in range(5) for j in range(5, 10)]
    assert result["auc"] == pytest.approx(100 * np.mean(wins))
    best = max(np.mean([(s >= t) == same for s, same in zip(scores, pairs.same, strict=True)]) for t in [*scores, 2])
    assert result["accuracy_best"] == pytest.approx(100 * best)
    assert result["pairs"] == {"genuine": 5, "impostor": 5}
    for each, fold in zip(result["folds"], range(5), strict=True):
        at = np.flatnonzero(pairs.fold == fold)
        judged = [(scores[i] >= each["threshold"]) == pairs.same[i] for i in at]
        assert (each["fold"], each["accuracy"]) == (fold, pytest.approx(100 * np.mean(judged)))
    accuracies = [each["accuracy"] for each in result["folds"]]
    assert result["accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["accuracy_error"] == pytest.approx(np.std(accuracies, ddof=1) / 5**0.5)
    for name, (low, high) in result["intervals"].items():
        assert 0 <= low <= high <= 100, name
    assert [point["too_few"] for point in result["tar_at_far"]] == [True] * 4
    one_fold = Pairs(pairs.left, pairs.right, pairs.same, np.zeros(10, dtype=np.int64))
    unfolded = verify(left, right, one_fold, resamples=0)
    assert unfolded["accuracy"] is unfolded["accuracy_error"] is unfolded["folds"] is None
    other = verify(left, right, pairs, resamples=50, fars=(0.5, 0.2))["tar_at_far"]
    assert [(point["far"], point["too_few"]) for point in other] == [(0.5, True), (0.2, True)]
    impostors = np.array(scores)[~pairs.same]
    for point, allowed in zip(other, (2, 1), strict=True):
        lowest = min(t for t in scores if (impostors >= t).sum() <= allowed)
        assert point["tar"] == pytest.approx(100 * np.mean(np.array(scores)[pairs.same] >= lowest))
        assert point["interval"][0] <= point["tar"] <= point["interval"][1]
    chosen = verify(left, right, pairs, resamples=50, threshold=0.1)
    right_at = np.mean([(s >= 0.1) == same for s, same in zip(scores, pairs.same, strict=True)])
    assert chosen["accuracy_chosen"] == pytest.approx(100 * right_at)
    low, high = chosen["intervals"]["accuracy_chosen"]
    assert low < chosen["accuracy_chosen"] < high
    assert result["accuracy_chosen"] is None
    for point in result["tar_at_far"]:
        assert point["interval"][0] <= point["tar"] <= point["interval"][1]
    json.dumps(result, allow_nan=False)


def test_the_curve_says_what_the_table_says_at_low_far() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(size=(60, 8))
    embeddings = np.repeat(people, 20, axis=0) + 0.6 * rng.normal(size=(1200, 8))
    left, right = (side.ravel() for side in np.triu_indices(1200, 1))
    chosen = (left // 20 != right // 20) | (rng.random(len(left)) < 0.05)
    left, right = left[chosen][::3], right[chosen][::3]
    result = verify(
        embeddings, embeddings, Pairs(left, right, left // 20 == right // 20, np.zeros(len(left), int)), resamples=0
    )
    far, tar = (np.array(result["roc"][name]) for name in ("far", "tar"))
    for point in result["tar_at_far"]:
        drawn = tar[far <= point["far"]][-1]
        assert 100 * drawn == pytest.approx(point["tar"]), point["far"]
