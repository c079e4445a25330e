"""What a comparison of methods can and cannot say: intervals, paired tests, ranks. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.core.types import Float64s

#: Resamples of a bootstrap.
RESAMPLES = 9999
#: Resamples of groups of images.
DRAWS = 2000
#: With fewer false positives expected than this, a rate of them is not known well.
FEW = 10
#: Points of a drawn curve, evenly on a logarithmic axis; the rates of the table are added.
POINTS = 200


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold reaches at a requested rate of false positives, FAR or FPIR.

    Attributes:
        share: the highest TAR or TPIR at that rate or a lower one, 0..1.
        threshold: its similarity; infinite where all or none may be at or above it.
        too_few: fewer than `FEW` false positives are expected at this rate: too few to know it.
    """

    share: float
    threshold: float
    too_few: bool

    def facts(self) -> dict[str, Any]:
        """Return threshold and too_few for JSON, which knows no infinity: null stands for it."""
        return {"threshold": self.threshold if np.isfinite(self.threshold) else None, "too_few": self.too_few}


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval of a mean: the percentiles of the means of resampled values.

    Args:
        values: at least 2, such as one accuracy a seed. With few values the interval is too narrow: of 3 seeds
            it can at most span their range.
        confidence: share of the resampled means inside.
        seed: of the resampling.

    Raises:
        CrossresError: fewer than 2 values.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        raise CrossresError(f"a bootstrap needs at least 2 values, got {len(array)}")
    rng = np.random.default_rng(seed)
    means = array[rng.integers(len(array), size=(RESAMPLES, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def interval(measured: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the 95 % interval, [low, high], of each number of a bootstrap's resamples (R, numbers)."""
    ends: list[list[float]] = np.quantile(measured, [0.025, 0.975], axis=0).T.tolist()
    return ends


def resampled_shares(
    right: npt.ArrayLike, groups: npt.ArrayLike | None, among: npt.ArrayLike | None = None, seed: int = 0
) -> Float64s:
    """Return the share of right answers, 0..1, in each of `DRAWS` resamples of whole groups, float64 (DRAWS,).

    NaN where a resample has none of the images.

    Args:
        right: bool (N,), whether each image is right; or numbers, whose means are returned.
        groups: (N,), what each image belongs to, such as a track: its images are not independent; None if they are.
        among: (G,), all groups that are drawn from, those of other images too; those of these images if left out.
        seed: of the resampling; with one seed, results of images of the same groups are resampled alike.

    Source: Davison & Hinkley, Bootstrap Methods and their Application (1997), section 3.8.
    """
    correct = np.asarray(right, dtype=np.float64)
    own = np.arange(len(correct)) if groups is None else np.asarray(groups)
    names = np.unique(own if among is None else among)
    member_of = np.searchsorted(names, own)
    hits = np.bincount(member_of, correct, len(names))
    sizes = np.bincount(member_of, minlength=len(names)).astype(np.float64)
    rng = np.random.default_rng(seed)
    shares = np.empty(DRAWS)
    for i in range(DRAWS):
        drawn = rng.integers(len(sizes), size=len(sizes))
        count = sizes[drawn].sum()
        shares[i] = hits[drawn].sum() / count if count else np.nan
    return shares


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``count`` independent tests, in percent.

    Raises:
        CrossresError: no tests.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927).
    """
    if count < 1:
        raise CrossresError("an interval needs at least 1 test")
    z, share = 1.959964, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return float(100 * (middle - half)), float(100 * (middle + half))


@dataclass(frozen=True)
class Confidence:
    """Which answers of a classifier are sure; ValueError or TypeError where a number is out of bounds.

    Attributes:
        accuracy: of sure answers at least so many are right, in percent.
        images: that it was calibrated on.
        threshold: an answer of this probability or a lower one is unsure: at 0 none is, at 1 all are. None where the
            images are too few to show the accuracy, even if all answers are right, or although all answers have it.
    """

    accuracy: float
    images: int
    threshold: float | None

    def __post_init__(self) -> None:
        bounded = 0 <= self.accuracy <= 100 and (self.threshold is None or 0 <= self.threshold <= 1)
        if not (bounded and type(self.images) is int and self.images > 0):
            raise ValueError("not a calibrated confidence")

    def doubt(self, probability: float) -> str:
        """Return why an answer of this probability is unsure; nothing where it is not."""
        if self.threshold is None:
            return uncalibrated_doubt(probability)
        if probability > self.threshold:
            return ""
        shown = f"unsure: {self.images:,} validation images show {self.accuracy:g} % right answers"
        if self.threshold == 1:
            return f"{shown} at no probability"
        # rounded down, so that an unsure answer never seems to be above it
        return f"{shown} only above a probability of {np.floor(1000 * self.threshold) / 10:g} %"

    @property
    def note(self) -> str:
        """A line where the images were too few; else nothing."""
        if self.threshold is not None:
            return ""
        few = f"{self.images:,} validation images are too few to show {self.accuracy:g} % right answers"
        return f"no calibrated confidence: {few}"


@dataclass(frozen=True)
class PairThreshold:
    """Which similarity shows one person, calibrated on people held out; ValueError or TypeError where out of bounds.

    Attributes:
        similarity: two photos at or above it show one person.
        far: share of the pairs of two people that reach it, 0..1, at most as was requested.
        tar: share of the pairs of one person that do, 0..1.
        people: that it was calibrated on.
        impostors: pairs of two people among their images.
        rate: false accept rate that was requested, 0..1.
    """

    similarity: float
    far: float
    tar: float
    people: int
    impostors: int
    rate: float = 0.001  # of an earlier version, which had no other

    def __post_init__(self) -> None:
        counted = type(self.people) is int and type(self.impostors) is int and min(self.people, self.impostors) > 0
        if not (
            counted
            and -1 <= self.similarity <= 1
            and all(0 <= share <= 1 for share in (self.far, self.tar, self.rate))
        ):
            raise ValueError("not a threshold of pairs")

    @property
    def note(self) -> str:
        """What it does, in a line."""
        return (
            f"calibrated on {self.people:,} people: it takes {100 * self.far:.2g} % of the pairs of two people for "
            f"one person, and misses {100 * (1 - self.tar):.0f} % of the pairs of one"
        )


def beyond_chance(best: float, last: float, cases: int) -> bool:
    """Return whether the best of several shares is more than two standard errors above the last one.

    The error is that of a share as large as the last, which is also the largest that an area under the ROC curve has
    (Birnbaum and Klose 1957).

    Args:
        best: in percent.
        last: in percent.
        cases: independent ones, at least 1.
    """
    share = last / 100
    return bool(best / 100 - share > 2 * (share * (1 - share) / cases) ** 0.5)


def uncalibrated_doubt(probability: float) -> str:
    """Return why an answer is unsure where nothing is calibrated: to the network it is no likelier than not."""
    return "unsure: its probability is no higher than 50 %" if probability <= 0.5 else ""


def calibrate(probability: npt.ArrayLike, right: npt.ArrayLike, accuracy: float = 95.0) -> Confidence:
    """Calibrate which answers of a classifier are sure, on independent images that it was not trained on.

    The threshold is the lowest above which the accuracy is reached by the lower end of Wilson's interval, half-way
    between two answers.

    Args:
        probability: (N,), of each answer, 0..1; N at least 1.
        right: bool (N,), whether each answer is right.
        accuracy: of sure answers, in percent.

    Source: Geifman & El-Yaniv, Selective Classification for Deep Neural Networks (NeurIPS 2017), with that interval
    in place of their binomial bound.
    """
    shares, correct = np.asarray(probability, dtype=np.float64), np.asarray(right, dtype=bool)
    count = len(shares)
    order = np.argsort(-shares)
    falling, hits = shares[order], np.cumsum(correct[order])
    # answers of one probability are sure together
    cuts = [k for k in range(1, count) if falling[k - 1] > falling[k]] + [count]
    sure = max((k for k in cuts if wilson(int(hits[k - 1]), k)[0] >= accuracy), default=0)
    if wilson(count, count)[0] < accuracy or (not sure and 100 * correct.mean() >= accuracy):
        return Confidence(accuracy, count, None)
    if sure in (0, count):
        return Confidence(accuracy, count, 0.0 if sure else 1.0)
    return Confidence(accuracy, count, float(falling[sure - 1 : sure + 1].mean()))


@dataclass(frozen=True)
class McNemar:
    """Two models on the same test images.

    Attributes:
        gained: images that only the first has right.
        lost: images that only the second has right.
        p: exact two-sided probability of a split at least as uneven if both were equally good.
    """

    gained: int
    lost: int
    p: float


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> McNemar:
    """Return McNemar's exact test of two models on the same images.

    It says how sure the difference of these two trained models is, not how another seed would have come out.

    Args:
        first: bool (N,), whether the first model has each image right.
        second: bool (N,), the second model's.

    Raises:
        CrossresError: two different numbers of images.

    Source: McNemar, Psychometrika 12 (1947), in the exact binomial form.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise CrossresError(f"one model has {a.size} answers and the other {b.size}; compare them on the same images")
    gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return McNemar(gained, lost, float(p))


def mean_ranks(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return each method's mean rank over settings, 1 for the best; ties share their mean rank.

    Args:
        scores: for each setting (pair, size, degradation) the accuracy of each method.

    Returns:
        The mean rank of the methods that every setting has, best first.
    """
    from scipy.stats import rankdata

    common = set.intersection(*(set(row) for row in scores.values())) if scores else set()
    methods = sorted(common)
    if not methods:
        return {}
    ranks = np.mean([rankdata([-row[method] for method in methods]) for row in scores.values()], axis=0)
    return dict(sorted(zip(methods, ranks.tolist(), strict=True), key=lambda item: (item[1], item[0])))
