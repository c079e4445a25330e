"""Metrics against plain loops, on scores that are random, tied and not numbers at all."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch

from crossres import CrossresError
from crossres.evaluation import accuracy as metrics
from crossres.evaluation.accuracy import METRICS, confusion_matrix, measure, right_at_k, topk_accuracy


def naive_topk(logits: np.ndarray, label: np.ndarray, k: int) -> float:
    """The percentage of rows where fewer than k other logits are larger than the label's, or equal and before it."""
    right = 0
    for row, true in zip(logits.tolist(), label.tolist(), strict=True):
        rivals = 0
        for c, score in enumerate(row):
            # NaN is comparable to nothing and so never beaten
            larger = score > row[true] or (score == row[true] and c < true)
            rivals += larger or math.isnan(score) or math.isnan(row[true])
        right += rivals < k
    return 100 * right / len(label)


@pytest.mark.parametrize("kind", ["random", "tied", "constant", "nan", "infinite"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_topk_against_a_loop(kind: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    for classes in (1, 2, 3, 10):
        logits = rng.normal(size=(57, classes))
        if kind == "tied":
            logits = rng.integers(0, 3, (57, classes)).astype(float)
        if kind == "constant":
            logits[:] = 1.5
        if kind == "nan":
            logits[rng.random(logits.shape) < 0.3] = np.nan
        if kind == "infinite":
            logits[rng.random(logits.shape) < 0.3] = np.inf
            logits[rng.random(logits.shape) < 0.3] = -np.inf
        tensor = torch.from_numpy(logits).to(dtype)
        label = rng.integers(0, classes, 57)
        for k in (1, 2, 5, 100):
            measured = topk_accuracy(tensor, torch.from_numpy(label), k)
            assert isinstance(measured, float)
            assert measured == pytest.approx(naive_topk(tensor.double().numpy(), label, k), abs=1e-12)
            right = right_at_k(tensor, torch.from_numpy(label), k)
            assert right.dtype == torch.bool
            one_by_one = [naive_topk(tensor[i : i + 1].double().numpy(), label[i : i + 1], k) for i in range(57)]
            assert right.tolist() == [percent == 100 for percent in one_by_one]


def test_topk_is_what_sorting_says_where_nothing_is_tied() -> None:
    rng = np.random.default_rng(1)
    logits, label = rng.permutation(400).reshape(40, 10).astype(np.float32), rng.integers(0, 10, 40)
    for k in (1, 3, 5):
        best = np.argsort(-logits, axis=1)[:, :k]
        expected = 100 * (best == label[:, None]).any(1).mean()
        assert topk_accuracy(torch.from_numpy(logits), torch.from_numpy(label), k) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["random", "tied", "constant"])
def test_one_rule_breaks_ties_in_accuracy_confusion_and_answers(kind: str) -> None:
    rng = np.random.default_rng(3)
    values = {"random": rng.normal(size=(97, 6)), "tied": rng.integers(0, 3, (97, 6)), "constant": np.ones((97, 6))}
    logits, label = torch.from_numpy(values[kind].astype(np.float32)), torch.from_numpy(rng.integers(0, 6, 97))
    right = right_at_k(logits, label)
    assert right.tolist() == (logits.argmax(1) == label).tolist()
    assert np.array_equal(logits.argmax(1).numpy(), logits.numpy().argmax(1))  # as a recognizer takes it
    assert int(confusion_matrix(logits.argmax(1), label, 6).trace()) == int(right.sum())


def test_what_is_not_a_number_scores_nothing() -> None:
    for k in (1, 5):
        assert topk_accuracy(torch.full((4, 10), float("nan")), torch.arange(4), k) == 0.0


def test_topk_of_no_more_classes_than_k_is_full() -> None:
    assert topk_accuracy(torch.zeros(3, 4), torch.tensor([0, 1, 3]), 5) == 100.0


@pytest.mark.parametrize(
    ("logits", "label", "message"),
    [
        (
            torch.zeros(0, 3),
            torch.zeros(0, dtype=torch.long),
            r"needs logits \(N, C\) and label \(N,\), got \(0, 3\)",
        ),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), r"got \(3,\), \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.long), r"got \(3, 2\), \(2,\)"),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.long), r"got \(3, 2\), \(3, 1\)"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "label 2 is out of range for 2 classes"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -1]), "label -1 is out of range for 2 classes"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_a_line(logits: torch.Tensor, label: torch.Tensor, message: str) -> None:
    with pytest.raises(CrossresError, match=rf"^accuracy: [^\n]*{message}[^\n]*$"):
        topk_accuracy(logits, label)


def test_a_metric_of_your_own_is_measured_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, label = torch.eye(8)[[0, 1, 2, 0]], torch.tensor([0, 1, 3, 3])
    before = measure(logits, label)
    assert (before["top1"], before["top5"]) == (50.0, 100.0)
    monkeypatch.setitem(METRICS, "wrong", lambda logits, label: float((logits.argmax(1) != label).sum()))
    assert measure(logits, label) == {**before, "wrong": 2.0}


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_confusion_matrix_against_a_loop(classes: int) -> None:
    rng = np.random.default_rng(2)
    predicted, label = rng.integers(0, classes, (2, 91))
    expected = np.zeros((classes, classes), dtype=int)
    for p, t in zip(predicted, label, strict=True):
        expected[t, p] += 1
    counts = confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(label), classes)
    assert counts.dtype == torch.int64
    assert np.array_equal(counts.numpy(), expected)


def test_the_confusion_matrix_has_rows_for_classes_that_never_come() -> None:
    assert confusion_matrix(torch.tensor([0]), torch.tensor([0]), 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    empty = torch.zeros(0, dtype=torch.long)
    assert confusion_matrix(empty, empty, 2).tolist() == [[0, 0], [0, 0]]


def test_the_examples_in_the_docstrings_run() -> None:
    done = doctest.testmod(metrics)
    assert done.attempted >= 3
    assert done.failed == 0
