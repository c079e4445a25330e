"""Verification: do two images show one identity? Accuracy over folds, ROC, AUC, EER and TAR at FAR, exactly.

All functions take similarities: the larger, the more alike. A pair is accepted where its similarity is at or above
the threshold; pairs of equal similarity are accepted or refused together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.core.files import encode_bits
from crossres.core.types import Bools, Float64s
from crossres.data.faces import Pairs
from crossres.evaluation.identification import unit_rows
from crossres.evaluation.statistics import FEW, POINTS, OperatingPoint, PairThreshold, interval

#: False accept rates that TAR is given at.
FARS = (1e-1, 1e-2, 1e-3, 1e-4)
#: False accept rates of the thresholds that travel with a model, rising.
OWN_FARS = (1e-3, 1e-2, 1e-1)
#: Pairs compared at a time: IJB-C lists 15.7 million.
CHUNK = 100_000


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
    genuine, impostors = np.cumsum(truth)[last], np.cumsum(~truth)[last]
    far, tar = (np.append(0.0, counts / counts[-1]) for counts in (impostors, genuine))
    return Roc(np.append(np.inf, values[last]), far, tar, int(genuine[-1]), int(impostors[-1]))


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


def tar_at_far(points: Roc, far: float) -> OperatingPoint:
    """Return the highest share of genuine pairs accepted at a FAR or a lower one.

    Raises:
        CrossresError: a FAR outside 0..1.
    """
    if not 0 <= far <= 1:
        raise CrossresError(f"a false accept rate lies within 0..1, got {far:g}")
    at = _at_far(points, far)
    return OperatingPoint(float(points.tar[at]), float(points.threshold[at]), bool(points.impostors * far < FEW))


def _at_far(points: Roc, far: float) -> int:
    """Return the position of the lowest threshold at a FAR or a lower one."""
    return int(np.flatnonzero(points.far <= far)[-1])


def calibrate_pairs(
    embedding: npt.ArrayLike, label: npt.ArrayLike, fars: Sequence[float] = OWN_FARS
) -> list[PairThreshold]:
    """Return for each rate the lowest similarity at which at most that share of the pairs of two people is accepted.

    All pairs of the images count. A rate is left out where no threshold accepts a pair of one person, or where a
    stricter one has the same threshold; all are where there is no pair of one person or of two.

    Args:
        embedding: (N, d).
        label: (N,), numbers of the people.
        fars: false accept rates, 0..1, rising.
    """
    rows, people = unit_rows(embedding, "image"), np.asarray(label)
    left, right = np.triu_indices(len(rows), 1)
    same = people[left] == people[right]
    if same.all() or not same.any():
        return []
    points = roc((rows @ rows.T)[left, right].clip(-1, 1), same)
    strictest = {_at_far(points, far): far for far in reversed(fars)}
    counts = len(np.unique(people)), points.impostors
    thresholds = []
    for at, far in sorted(strictest.items()):
        reached = float(points.threshold[at]), float(points.far[at]), float(points.tar[at])
        if points.tar[at]:
            thresholds.append(PairThreshold(*reached, *counts, far))
    return thresholds


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


def k_fold_accuracy(scores: npt.ArrayLike, same: npt.ArrayLike, fold: npt.ArrayLike) -> list[dict[str, Any]]:
    """Return ``{fold, accuracy, threshold}`` of each fold: in percent, at the threshold that is best on the others.

    Args:
        scores: (N,).
        same: (N,) bool.
        fold: (N,) integers.

    Raises:
        CrossresError: fewer than two folds.

    Source: Huang et al., Labeled Faces in the Wild (2007), View 2.
    """
    values, truth = _as_arrays(scores, same)
    results = []
    for name, inside in _folds(fold, values):
        threshold = best_threshold(values[~inside], truth[~inside])
        accuracy = 100 * float(((values[inside] >= threshold) == truth[inside]).mean())
        results.append({"fold": name, "accuracy": accuracy, "threshold": threshold})
    return results


def k_fold_tar(
    scores: npt.ArrayLike, same: npt.ArrayLike, fold: npt.ArrayLike, fars: Sequence[float]
) -> list[dict[str, float]]:
    """Return ``{tar, std, far}`` for each FAR, in percent: mean and standard deviation of TAR, mean FAR, over folds.

    Each fold is judged at the threshold that `tar_at_far` gives on the others; a fold without a genuine pair counts
    for FAR alone, one without an impostor pair for TAR alone. Arguments and errors as of `k_fold_accuracy`.

    Source: insightface's ``verification.py``, ``calculate_val``; there thresholds lie on a grid.
    """
    values, truth = _as_arrays(scores, same)
    parts = [(roc(values[~inside], truth[~inside]), inside) for _, inside in _folds(fold, values)]
    results = []
    for far in fars:
        limits = [(tar_at_far(others, far).threshold, inside) for others, inside in parts]
        tars, fars_reached = (
            [float((values[part] >= limit).mean()) for limit, inside in limits if (part := inside & kind).any()]
            for kind in (truth, ~truth)
        )
        shares = {"tar": np.mean(tars), "std": np.std(tars), "far": np.mean(fars_reached)}
        results.append({name: 100 * float(share) for name, share in shares.items()})
    return results


def _folds(fold: npt.ArrayLike, values: Float64s) -> list[tuple[int, Bools]]:
    """Return each fold and which pairs are in it; refuse fewer than two."""
    folds = np.asarray(fold)
    names = np.unique(folds).tolist()
    if folds.shape != values.shape or len(names) < 2:
        raise CrossresError(f"accuracy over folds needs at least 2 folds and one for each pair, got {len(names)}")
    return [(name, folds == name) for name in names]


def bootstrap(
    scores: npt.ArrayLike, same: npt.ArrayLike, measure: Callable[[Roc], dict[Any, float]], resamples: int = 1000
) -> dict[Any, list[float]]:
    """Return the 95 % interval of each of the measure's numbers over resampled pairs, genuine and impostor apart."""
    values, truth = _as_arrays(scores, same)
    rng = np.random.default_rng(0)
    kinds = [np.flatnonzero(truth), np.flatnonzero(~truth)]
    measured = []
    for _ in range(resamples):
        drawn = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        measured.append(measure(roc(values[drawn], truth[drawn])))
    return dict(zip(measured[0], interval([list(numbers.values()) for numbers in measured]), strict=True))


def similarities(left: npt.ArrayLike, right: npt.ArrayLike, pairs: Pairs) -> Float64s:
    """Return the cosine of each pair's embeddings, (N,); arguments and errors as of `verify`."""
    a, b = unit_rows(left, "images"), unit_rows(right, "images")
    scores: Float64s = np.empty(len(pairs))
    for start in range(0, len(pairs), CHUNK):
        rows = slice(start, start + CHUNK)
        scores[rows] = (a[pairs.left[rows]] * b[pairs.right[rows]]).sum(1)
    return scores


def verify(
    left: npt.ArrayLike,
    right: npt.ArrayLike,
    pairs: Pairs,
    resamples: int = 1000,
    threshold: float | None = None,
    fars: Sequence[float] = FARS,
) -> dict[str, Any]:
    """Judge verification by the cosine of embeddings.

    Args:
        left: embeddings (N, d) of one side, by position.
        right: of the other side; the same array where both are read alike.
        pairs: positions in these.
        resamples: of the pairs, for the intervals; 0 leaves them out.
        threshold: chosen on other pairs.
        fars: false accept rates that TAR is given at, each once.

    Returns:
        accuracy (mean over folds, each at the threshold of the others, with its standard error; null without folds),
        folds (``{fold, accuracy, threshold}`` of each; null without folds),
        accuracy_chosen (at the given threshold; null without one), accuracy_best (at the threshold that is best on
        these very pairs), auc, eer, all in percent, with 95 % intervals; right: which pairs are at the given
        threshold, as `encode_bits` writes them; tar_at_far: ``{far, tar, threshold, too_few, interval}``, over the
        pairs of all folds together, and folds: what `k_fold_tar` returns (null without folds); roc: points of the
        curve.

    Raises:
        CrossresError: no genuine or no impostor pair, an embedding that is NaN, infinite or 0.
    """
    scores, same = similarities(left, right, pairs), pairs.same
    points = roc(scores, same)

    def measure(points: Roc) -> dict[Any, float]:
        best = float(points.accuracy.max())
        shares: dict[Any, float] = {"accuracy_best": best, "auc": auc(points), "eer": eer(points)}
        shares |= {far: tar_at_far(points, far).share for far in fars}
        shares |= {} if threshold is None else {"accuracy_chosen": points.accuracy_at(threshold)}
        return {name: 100 * share for name, share in shares.items()}

    numbers = measure(points)
    intervals = bootstrap(scores, same, measure, resamples) if resamples else {}
    over_folds = _over_folds(scores, pairs, fars)
    tars = [{"far": far, "tar": numbers.pop(far), **tar_at_far(points, far).facts()} for far in fars]
    for row, folds in zip(tars, over_folds.pop("tars"), strict=True):
        row |= {"folds": folds} | ({"interval": intervals.pop(row["far"])} if resamples else {})
    return {
        "pairs": {"genuine": points.genuine, "impostor": points.impostors},
        **over_folds,
        "accuracy_chosen": None,
        "threshold_chosen": threshold,
        "threshold_best": best_threshold(scores, same),
        "right": None if threshold is None else encode_bits((scores >= threshold) == same),
        **numbers,
        "tar_at_far": tars,
        "roc": _roc_curve(points, fars),
        **({"intervals": intervals} if resamples else {}),
    }


def _over_folds(scores: Float64s, pairs: Pairs, fars: Sequence[float]) -> dict[str, Any]:
    """Return the mean accuracy over folds, its standard error, the folds and TAR over them; null without folds."""
    if len(np.unique(pairs.fold)) < 2:
        return {**dict.fromkeys(("accuracy", "accuracy_error", "folds")), "tars": [None] * len(fars)}
    folds = k_fold_accuracy(scores, pairs.same, pairs.fold)
    accuracies = np.array([fold["accuracy"] for fold in folds])
    error = float(accuracies.std(ddof=1) / np.sqrt(len(folds)))
    tars = k_fold_tar(scores, pairs.same, pairs.fold, fars)
    return {"accuracy": float(accuracies.mean()), "accuracy_error": error, "folds": folds, "tars": tars}


def _roc_curve(points: Roc, fars: Sequence[float]) -> dict[str, list[float]]:
    # of lists with many impostors, evenly spread operating points would leave the low FARs out
    shown = np.concatenate([[0], np.geomspace(1 / points.impostors, 1, POINTS), fars])
    spread = np.unique(np.searchsorted(points.far, shown, side="right") - 1)
    return {"far": points.far[spread].tolist(), "tar": points.tar[spread].tolist()}
