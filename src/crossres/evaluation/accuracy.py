"""Numbers of classification as pure functions."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from crossres.core.errors import CrossresError


def right_at_k(logits: Tensor, label: Tensor, k: int = 1) -> Tensor:
    """Return bool (N,): whether each sample's label is among its k largest logits.

    Of equal logits the first is the larger, as ``argmax`` takes it: one rule for accuracy, confusion and answers.

    Args:
        logits: (N, C).
        label: (N,) int64 in 0..C-1.
        k: at least 1; at most C counts.

    Raises:
        CrossresError: no samples, shapes that do not fit, a label out of range.

    >>> right_at_k(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])).tolist()
    [True, False]
    """
    shapes = tuple(logits.shape), tuple(label.shape)
    if logits.ndim != 2 or label.shape != logits.shape[:1] or not len(label):
        raise CrossresError(f"accuracy: needs logits (N, C) and label (N,), got {shapes[0]}, {shapes[1]}")
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= logits.shape[1]:
        wrong = low if low < 0 else high
        raise CrossresError(f"accuracy: label {wrong} is out of range for {logits.shape[1]} classes")
    column = label[:, None]
    own, before = logits.gather(1, column), torch.arange(logits.shape[1], device=logits.device) < column
    # NaN compares false: it must not count as ranked behind
    return (~(logits <= own) | ((logits == own) & before)).sum(1) < k


def topk_accuracy(logits: Tensor, label: Tensor, k: int = 1) -> float:
    """Return the percentage of the samples that `right_at_k` says are right; the same arguments and errors.

    >>> topk_accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    50.0
    """
    return 100.0 * int(right_at_k(logits, label, k).sum()) / len(label)


def class_mean_accuracy(logits: Tensor, label: Tensor) -> float:
    """Return the mean over the classes that have samples of each one's accuracy, in percent (balanced accuracy).

    >>> class_mean_accuracy(torch.tensor([[2.0, 1.0], [2.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 0, 1]))
    50.0
    """
    right = right_at_k(logits, label).double()
    samples = torch.bincount(label)
    shares = torch.bincount(label, right) / samples
    return 100.0 * float(shares[samples > 0].mean())


def commonest_share(label: Tensor) -> float:
    """Return the share of the samples in the class that has most, in percent: what naming it always would score.

    >>> commonest_share(torch.tensor([0, 0, 0, 1]))
    75.0
    """
    return 100.0 * int(torch.bincount(label).max()) / len(label)


#: What is measured of classifiers, for ``result.json`` and by ``crossres evaluate``: functions of logits (N, C) and
#: label (N,); put your own in.
METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "top1": topk_accuracy,
    "top5": partial(topk_accuracy, k=5),
    "class_mean": class_mean_accuracy,
}


def measure(logits: Tensor, label: Tensor) -> dict[str, float]:
    """Return every number of `METRICS`, by name."""
    return {name: metric(logits, label) for name, metric in METRICS.items()}


def beside_top1(numbers: Mapping[str, float], suffix: str = "") -> str:
    """Return what classes of unequal size call for beside top-1, where that is a point off the mean over classes.

    Args:
        numbers: `measure`'s and the share ``commonest``, their names followed by ``suffix``; earlier versions
            recorded neither that nor the mean over classes.
    """
    mean = numbers.get(f"class_mean{suffix}")
    if mean is None or abs(mean - numbers[f"top1{suffix}"]) < 1:
        return ""
    return f"mean over classes {mean:.2f} %, commonest class {numbers[f'commonest{suffix}']:.2f} % of the images"


def confusion_matrix(predicted: Tensor, label: Tensor, classes: int) -> Tensor:
    """Return counts (classes, classes): rows are true classes, columns predicted ones.

    >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return torch.bincount(label * classes + predicted, minlength=classes * classes).view(classes, classes)
