"""Verification: do two images show one identity? Accuracy over folds, ROC, AUC, EER and TAR at FAR, exactly.

All functions take similarities: the larger, the more alike. A pair is accepted where its similarity is at or above
the threshold; pairs of equal similarity are accepted or refused together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.core.types import Bools, Float64s

#: With fewer false positives expected than this, a rate of them is not known well.
FEW = 10


@dataclass(frozen=True)
class Roc:
    """Operating points, from accepting nothing to accepting everything.

    Attributes:
        threshold: (T,), falling; the first is infinity.
        far: (T,) share of the impostor pairs accepted.
        tar: (T,) share of the genuine pairs accepted.
        genuine: how many genuine pairs there are.
        impostors: how many impostor pairs there are.
    """

    threshold: Float64s
    far: Float64s
    tar: Float64s
    genuine: int
    impostors: int

    @property
    def accuracy(self) -> Float64s:
        """Share of all pairs that each threshold judges right, (T,)."""
        right: Float64s = self.tar * self.genuine + (1 - self.far) * self.impostors
        return right / (self.genuine + self.impostors)

    def accuracy_at(self, threshold: float) -> float:
        """Return the share of all pairs that any threshold judges right."""
        return float(self.accuracy[np.flatnonzero(self.threshold >= threshold)[-1]])


def roc(scores: npt.ArrayLike, same: npt.ArrayLike) -> Roc:
    """Return every operating point that the scores allow, one for each distinct score and one above all.

    Args:
        scores: similarities (N,).
        same: bool (N,), whether a pair is genuine.

    Raises:
        CrossresError: shapes that do not fit, NaN or infinity, no genuine or no impostor pair.
    """
    values, truth = _as_arrays(scores, same)
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    # the last of each run of equal scores
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    genuine, impostor = np.cumsum(truth)[last], np.cumsum(~truth)[last]
    return Roc(
        np.append(np.inf, values[last]),
        np.append(0.0, impostor / impostor[-1]),
        np.append(0.0, genuine / genuine[-1]),
        int(genuine[-1]),
        int(impostor[-1]),
    )


def _as_arrays(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Float64s, Bools]:
    """Return similarities and truth as arrays; the errors are those of `roc`."""
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(same)
    if values.ndim != 1 or truth.shape != values.shape or truth.dtype != np.bool_:
        raise CrossresError(
            f"verification: needs scores (N,) and same (N,) bool, got {values.shape} and {truth.shape} {truth.dtype}"
        )
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise CrossresError(f"verification: the score of pair {bad} is {values[bad]}; look for a NaN embedding")
    if not truth.any() or truth.all():
        kind = "impostor" if truth.all() else "genuine"
        raise CrossresError(f"verification: there is no {kind} pair among {len(truth)}")
    return values, truth


def auc(points: Roc) -> float:
    """Return the area under the ROC: the chance that a genuine pair beats an impostor pair, ties counting half."""
    return float(np.sum(np.diff(points.far) * (points.tar[1:] + points.tar[:-1]) / 2))


def eer(points: Roc) -> float:
    """Return the equal error rate, where FAR = 1 - TAR, on the straight line between the two points around it."""
    gap = points.far - (1 - points.tar)  # rises from -1 to 1
    right = int(np.argmax(gap >= 0))
    left = right - 1
    share = -gap[left] / (gap[right] - gap[left])
    return float(points.far[left] + share * (points.far[right] - points.far[left]))


@dataclass(frozen=True)
class TarAtFar:
    """One operating point.

    Attributes:
        far: the requested FAR.
        tar: the highest share of genuine pairs accepted at that FAR or a lower one.
        threshold: its similarity; infinity where even one false accept is too many and impostors score highest.
        too_few: the impostor pairs are too few to know this FAR: fewer than `FEW` false accepts are expected.
    """

    far: float
    tar: float
    threshold: float
    too_few: bool


def tar_at_far(points: Roc, far: float) -> TarAtFar:
    """Return the operating point at a FAR.

    Raises:
        CrossresError: a FAR outside 0..1.
    """
    if not 0 <= far <= 1:
        raise CrossresError(f"a false accept rate lies within 0..1, got {far:g}")
    at = int(np.flatnonzero(points.far <= far)[-1])
    return TarAtFar(far, float(points.tar[at]), float(points.threshold[at]), bool(points.impostors * far < FEW))


def best_threshold(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Return the threshold of the highest accuracy: half-way between two neighbouring scores.

    Of several equally good ones the middle one counts, so that it does not sit at an edge.
    """
    points = roc(scores, same)
    # a threshold between this distinct score and the next lower one
    distinct = points.threshold[1:]
    middle = (distinct[:-1] + distinct[1:]) / 2
    # of neighbouring doubles the middle is rounded to one of them
    middle = np.where(middle > distinct[1:], middle, distinct[:-1])
    between = np.concatenate([[distinct[0] + 1], middle, [distinct[-1] - 1]])
    half_a_pair = 0.5 / (points.genuine + points.impostors)
    best = np.flatnonzero(points.accuracy > points.accuracy.max() - half_a_pair)
    return float(between[best[len(best) // 2]])


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy of each fold at a threshold from the other folds.

    Attributes:
        mean: over the folds, in percent.
        error: standard error of that mean over the folds.
        folds: accuracy of each, in the order of their numbers.
        thresholds: of each, chosen on the other folds.
    """

    mean: float
    error: float
    folds: tuple[float, ...]
    thresholds: tuple[float, ...]


def k_fold_accuracy(scores: npt.ArrayLike, same: npt.ArrayLike, fold: npt.ArrayLike) -> FoldAccuracy:
    """Return the accuracy of each fold at the threshold that is best on all the others (LFW's View 2).

    Args:
        scores: (N,).
        same: (N,) bool.
        fold: (N,) integers.

    Raises:
        CrossresError: fewer than two folds.

    Source: Huang et al., Labeled Faces in the Wild (2007): mean and standard error over the ten folds.
    """
    values, truth = _as_arrays(scores, same)
    folds = np.asarray(fold)
    names = np.unique(folds)
    if folds.shape != values.shape or len(names) < 2:
        raise CrossresError(f"accuracy over folds needs at least 2 folds and one for each pair, got {len(names)}")
    accuracies, thresholds = [], []
    for name in names:
        inside = folds == name
        threshold = best_threshold(values[~inside], truth[~inside])
        thresholds.append(threshold)
        accuracies.append(100 * float(((values[inside] >= threshold) == truth[inside]).mean()))
    error = float(np.std(accuracies, ddof=1) / np.sqrt(len(accuracies)))
    return FoldAccuracy(float(np.mean(accuracies)), error, tuple(accuracies), tuple(thresholds))


def bootstrap(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    measure: Callable[[Roc], Sequence[float]],
    resamples: int = 1000,
    seed: int = 0,
) -> list[list[float]]:
    """Return the 95 % interval of each of the measure's numbers over resampled pairs, genuine and impostor apart."""
    values, truth = _as_arrays(scores, same)
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(truth), np.flatnonzero(~truth)]
    measured = []
    for _ in range(resamples):
        drawn = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        measured.append(measure(roc(values[drawn], truth[drawn])))
    intervals: list[list[float]] = np.quantile(measured, [0.025, 0.975], axis=0).T.tolist()
    return intervals
