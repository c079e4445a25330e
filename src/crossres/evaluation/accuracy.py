"""Numbers of recognition as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from crossres.core.errors import CrossresError


def topk_accuracy(logits: Tensor, label: Tensor, k: int = 1) -> float:
    """Return the percentage of samples whose label is among the k largest logits.

    A tie at the k-th place counts against the sample, so that constant logits do not score.

    Args:
        logits: (N, C).
        label: (N,) int64 in 0..C-1.
        k: at least 1; at most C counts.

    Raises:
        CrossresError: no samples, shapes that do not fit, a label out of range.

    >>> topk_accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    50.0
    """
    if logits.ndim != 2 or label.shape != logits.shape[:1] or not len(label):
        raise CrossresError(
            f"accuracy: needs logits (N, C) and label (N,), got {tuple(logits.shape)}, {tuple(label.shape)}"
        )
    if int(label.min()) < 0 or int(label.max()) >= logits.shape[1]:
        wrong = int(label.min() if label.min() < 0 else label.max())
        raise CrossresError(f"accuracy: label {wrong} is out of range for {logits.shape[1]} classes")
    return 100.0 * int((_ahead(logits, label) < k).sum()) / len(label)


def right_at_1(logits: Tensor, label: Tensor) -> Tensor:
    """Return bool (N,): whether each sample counts in `topk_accuracy` with k = 1; the same arguments.

    >>> right_at_1(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])).tolist()
    [True, False]
    """
    return _ahead(logits, label) < 1


def _ahead(logits: Tensor, label: Tensor) -> Tensor:
    """Return how many other classes are not ranked behind the label, (N,)."""
    own = logits.gather(1, label[:, None])
    # NaN logits compare false: they must not count as ranked behind
    return (~(logits < own)).sum(1) - 1


def confusion_matrix(predicted: Tensor, label: Tensor, classes: int) -> Tensor:
    """Return counts (classes, classes): rows are true classes, columns predicted ones.

    >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return torch.bincount(label * classes + predicted, minlength=classes * classes).view(classes, classes)
