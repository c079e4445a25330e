"""Which similarity is enough: thresholds of searches and of pairs, and how they are calibrated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.deploy.gallery_file import is_name
from crossres.deploy.photos import TOO_SMALL
from crossres.deploy.recognizer import Answer
from crossres.evaluation.statistics import FEW
from crossres.evaluation.verification import roc, tar_at_far

#: Cosines that differ by less are equal: rounding depends on the processor and on which photos are read together, so
#: that a photo compared with itself may have 0.9999999.
TOLERANCE = 1e-6
#: A threshold of a search is outgrown when the number of identities has changed by a larger share.
OUTGROWN = 0.1


def at_least(similarity: float, threshold: float) -> bool:
    """Return whether a similarity reaches a threshold; one that is lower by rounding alone (`TOLERANCE`) does."""
    return similarity >= threshold - TOLERANCE


def above(similarity: float) -> float:
    """Return the lowest threshold that a similarity does not reach, however it is rounded."""
    return similarity + 2 * TOLERANCE


@dataclass(frozen=True)
class Threshold:
    """Which similarity is enough; ValueError where one of these is of another type or not finite.

    Attributes:
        similarity: a match has `at_least` this one.
        rate: requested share of false positives: of strangers (FPIR), or of impostor pairs (FAR).
        count: strangers or impostor pairs that it was measured on.
        too_few: fewer than ten false positives are expected among them, so the rate is unsure.
        identities: in the gallery at that time; 0 for pairs, whose threshold does not depend on them.
        model: digest of the model of the probes; None where embeddings were given without one.
        size: side in pixels of the smallest probes that it holds for; 0: for any.
        min_quality: lowest quality of the photos that it was measured on, and that it holds for.
    """

    similarity: float
    rate: float
    count: int
    too_few: bool
    identities: int
    model: str | None
    size: int = 0
    min_quality: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.similarity, self.rate, self.count, self.identities, self.size, self.min_quality)
        sound = all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers)
        if not (sound and isinstance(self.too_few, bool) and (self.model is None or is_name(self.model))):
            raise ValueError("not a threshold")

    def unsure_note(self) -> str:
        """Return a line where it was measured on too few; else nothing."""
        kind = "strangers" if self.identities else "impostor pairs"
        required = f"at least {math.ceil(FEW / self.rate):,}" if self.rate else "infinitely many"
        requires = f"a rate of {self.rate:g} needs {required} {kind}, got {self.count:,}"
        return f"uncertain threshold{at_size(self.size)}: {requires}" if self.too_few else ""

    def outgrown_note(self, identities: int) -> str:
        """Return a line where identities changed by over `OUTGROWN` (more match more strangers); else nothing."""
        change = f"the threshold was set with {self.identities:,} identities and there are {identities:,} now"
        outgrown = abs(identities - self.identities) > OUTGROWN * self.identities > 0
        return f"{change}; set it again with crossres enroll --strangers" if outgrown else ""


class Limit(NamedTuple):
    """The similarity from which on two are the same; None where none is set. ``note`` says why, or what it does.

    It holds for photos of at least ``side`` pixels and of at least a ``min_quality``.
    """

    similarity: float | None
    note: str
    side: int = 0
    min_quality: float = 0.0

    def passed(self, similarity: float, *answers: Answer) -> bool | None:
        """Return whether it is reached; None where none is set, or it does not hold for the photos of the answers."""
        held = not any(answer.side < self.side or poor(answer, self.min_quality) for answer in answers)
        return at_least(similarity, self.similarity) if self.similarity is not None and held else None

    def note_on(self, *answers: Answer) -> str:
        """Return its note or, where a photo is too small for it, that."""
        smallest = min(answer.side for answer in answers)
        if smallest >= self.side:
            return self.note
        holds = f"too small for the model's threshold: {smallest} pixels, it holds from {self.side} on"
        return f"no verdict, {holds}; --threshold decides anyway"


def poor(answer: Answer, min_quality: float) -> str:
    """Return why a photo's quality is too low to be judged, or an empty string."""
    if answer.quality is None or answer.quality >= min_quality:
        return ""
    # as many digits as tell them apart
    texts = ((f"{answer.quality:.{digits}g}", f"{min_quality:.{digits}g}") for digits in range(3, 18))
    quality, least = next(pair for pair in texts if pair[0] != pair[1])
    return f"quality {quality} is below {least}"


def at_size(size: int) -> str:
    """Return `` at 8 pixels``; nothing for a threshold of any size."""
    return f" at {size} pixels" if size else ""


def for_side(thresholds: Sequence[Threshold], side: int) -> Threshold | None:
    """Return the threshold of the largest size at or below a probe's side in pixels; None where all are above."""
    return max((each for each in thresholds if each.size <= side), key=lambda each: each.size, default=None)


def too_small(thresholds: Sequence[Threshold], side: int) -> str:
    """Return why a probe of a side in pixels is not judged; nothing where a threshold holds for it or none is set."""
    judged = not thresholds or for_side(thresholds, side)
    return "" if judged else f"{TOO_SMALL}{side} pixels, thresholds begin at {min(each.size for each in thresholds)}"


def usable(threshold: Threshold | None, model: str, options: str) -> tuple[Threshold | None, str]:
    """Return a gallery's threshold where it holds for the photos that a model, by its digest, reads.

    Else None, and a line that says why, and with which options ``crossres enroll`` sets one.
    """
    remedy = f"similarities only; crossres enroll {options} sets one"
    if threshold is None:
        return None, f"no threshold is set, so {remedy}"
    if threshold.model not in (None, model):
        return None, f"the threshold was set with photos read by another model, so {remedy}"
    return threshold, ""


def in_place_of(threshold: Threshold | None) -> str:
    """Return how the note on a model's own threshold begins that is taken in the place of a gallery's."""
    return "the gallery's threshold was set with another model; the model's own: " if threshold else ""


def usable_by_size(thresholds: Sequence[Threshold], model: str, options: str) -> tuple[Sequence[Threshold], str]:
    """Return a gallery's thresholds of a search, which are set together, or none of them and why; see `usable`."""
    held, why = usable(next(iter(thresholds), None), model, options)
    return (thresholds if held else []), why


def check_similarity(threshold: float) -> None:
    """Raise CrossresError for what cannot be a similarity of two embeddings: outside -1..1."""
    if not -1 <= threshold <= 1:
        raise CrossresError(f"--threshold: a similarity lies within -1..1, got {threshold:g}")


def search_threshold(
    nearest: npt.ArrayLike, fpir: float, identities: int, model: str | None, size: int = 0
) -> Threshold:
    """Return what `Gallery.calibrate` sets, from each stranger's similarity to the nearest identity, (S,)."""
    if not 0 <= fpir <= 1:
        raise CrossresError(f"a false positive identification rate lies within 0..1, got {fpir:g}")
    falling = np.sort(np.asarray(nearest, np.float64))[::-1]
    if not len(falling):
        raise CrossresError("no strangers to calibrate on")
    allowed = int(fpir * len(falling) + 1e-9)
    # above the first stranger too many, and with it above all that are as similar
    similarity = above(float(falling[allowed])) if allowed < len(falling) else -1.0
    return Threshold(similarity, fpir, len(falling), bool(len(falling) * fpir < FEW), identities, model, size)


def pair_threshold(similarity: npt.ArrayLike, same: npt.ArrayLike, far: float, model: str | None) -> Threshold:
    """Return what `Gallery.calibrate_pairs` sets."""
    point = tar_at_far(roc(similarity, same), far)
    scores = np.asarray(similarity, np.float64)
    impostors = scores[~np.asarray(same)]
    # the next lower impostors are too many, even where they are lower by rounding alone
    refused = impostors[impostors < point.threshold]
    threshold = max(point.threshold, above(float(refused.max()))) if len(refused) else point.threshold
    if not at_least(float(scores.max()), threshold):
        worse = f"one of {len(impostors)} impostor pairs is more alike than all genuine ones"
        refused_all = f"no pair would be accepted at a FAR of {far:g}"
        raise CrossresError(f"{worse}: {refused_all}; give more pairs or a higher rate")
    return Threshold(threshold, far, len(impostors), point.too_few, 0, model)
