"""Identification: whose face is it? Closed set (rank-k, CMC), open set (TPIR at FPIR) and retrieval (mAP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.data.faces import NOBODY

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
#: Ranks that tables name.
RANKS = (1, 5, 10, 20)


def unit_rows(embedding: npt.ArrayLike, what: str) -> Floats:
    """Return embeddings (N, d) at unit length, float64.

    Raises:
        CrossresError: none, another shape, NaN, infinity or an embedding of length 0, by its row.
    """
    rows = np.asarray(embedding, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise CrossresError(
            f"the {what} is empty" if rows.size == 0 else f"the {what} is {rows.shape}, expected (N, d)"
        )
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(length[:, 0]) | (length[:, 0] == 0))
    if len(bad):
        raise CrossresError(
            f"the {what}'s embedding {int(bad[0])} is NaN, infinite or 0; {len(bad)} such rows in all"
        )
    normal: Floats = rows / length
    return normal


def _finite(similarity: npt.ArrayLike) -> Floats:
    """Return similarities as float64; NaN is below nothing, so it would pass for the first of a ranking.

    Raises:
        CrossresError: NaN or infinity.
    """
    values = np.asarray(similarity, dtype=np.float64)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise CrossresError(f"{bad} of {values.size} similarities are NaN or infinite; look for a NaN embedding")
    return values


def of_identities(
    similarity: npt.ArrayLike, gallery_identity: npt.ArrayLike, several: Literal["max", "mean"] = "max"
) -> tuple[Floats, Ints]:
    """Return each probe's similarity to each identity of the gallery, (P, I), and the identities, (I,).

    Args:
        similarity: (P, G) of each probe to each gallery image.
        gallery_identity: (G,) integers; each `NOBODY` is an identity of its own.
        several: an identity of several images has the similarity of the nearest one, or their mean.
    """
    scores, owner = _finite(similarity), np.asarray(gallery_identity, dtype=np.int64)
    if scores.ndim != 2 or owner.shape != (scores.shape[1],) or not len(owner):
        raise CrossresError(f"the gallery is empty or has {owner.shape} identities for similarities {scores.shape}")
    owner = _apart(owner)
    by_owner = np.argsort(owner, kind="stable")
    names, start = np.unique(owner[by_owner], return_index=True)
    gather = np.add if several == "mean" else np.maximum
    joined: Floats = gather.reduceat(scores[:, by_owner], start, axis=1)
    return joined / np.diff(np.append(start, len(owner))) if several == "mean" else joined, names


def _apart(identity: Ints) -> Ints:
    """Return the identities with a number of its own for each `NOBODY`."""
    nobody = identity == NOBODY
    owner: Ints = identity.copy()
    owner[nobody] = NOBODY - 1 - np.arange(nobody.sum())
    return owner


def people_of(identity: npt.ArrayLike) -> Ints:
    """Return whose each image is, (N,) from 0 without gaps; each `NOBODY` is a person of their own."""
    person: Ints = np.unique(_apart(np.asarray(identity, dtype=np.int64)), return_inverse=True)[1]
    return person


def draw_people(person: Ints, rng: np.random.Generator) -> Ints:
    """Return the images of as many people as there are, drawn with replacement: one resample of the bootstrap.

    All images of a drawn person go along, as often as the person is drawn: they are alike, so drawing images one by
    one would make intervals too narrow.

    Args:
        person: (N,), N > 0, as `people_of` gives it.
        rng: draws.

    Source: Field & Welsh, Bootstrapping clustered data (2007).
    """
    people = int(person.max()) + 1
    times = np.bincount(rng.integers(0, people, people), minlength=people)
    return np.repeat(np.arange(len(person)), times[person])


def ranks(scores: npt.ArrayLike, names: npt.ArrayLike, probe_identity: npt.ArrayLike) -> Ints:
    """Return the rank of each probe's own identity, from 1; 0 for a probe whose identity is not in the gallery.

    Another identity of equal similarity counts as ranked before it: ties never help.
    """
    return placed(scores, names, probe_identity).rank


@dataclass(frozen=True)
class Placed:
    """Where a search puts each probe; parts of a large search can be joined.

    Attributes:
        rank: (P,) as `ranks` gives it.
        own: (P,) similarity to the probe's own identity; -infinity where it is not in the gallery.
        best: (P,) largest similarity to any identity.
    """

    rank: Ints
    own: Floats
    best: Floats

    def of(self, positions: Ints) -> Placed:
        """Return some of the probes, which may repeat."""
        return Placed(self.rank[positions], self.own[positions], self.best[positions])

    @staticmethod
    def joined(parts: Sequence[Placed]) -> Placed:
        """Return the parts' probes one after the other."""
        return Placed(*(np.concatenate([getattr(part, key) for part in parts]) for key in ("rank", "own", "best")))


def placed(scores: npt.ArrayLike, names: npt.ArrayLike, probe_identity: npt.ArrayLike) -> Placed:
    """Return rank, own and best similarity of each probe; the arguments are those of `ranks`."""
    values, columns, wanted = _finite(scores), np.asarray(names), np.asarray(probe_identity)
    mine = columns[None] == wanted[:, None]
    own = np.where(mine, values, -np.inf).max(1)
    before = ((values >= own[:, None]) & ~mine).sum(1)
    return Placed(np.where(mine.any(1), before + 1, 0).astype(np.int64), own, values.max(1))


def cmc(rank: npt.ArrayLike, upto: int) -> Floats:
    """Return the cumulative match characteristic in percent: the share of mated probes at rank 1, 2, ... ``upto``.

    Raises:
        CrossresError: no probe has its identity in the gallery.
    """
    found = np.asarray(rank)
    found = found[found > 0]
    if not len(found):
        raise CrossresError("no probe has its identity in the gallery; give a person one number in both")
    shares: Floats = 100 * (found[:, None] <= np.arange(1, upto + 1)).mean(0)
    return shares


@dataclass(frozen=True)
class OpenSet:
    """One working point of a search that may find nobody.

    Attributes:
        fpir: asked for: share of strangers for whom somebody is returned.
        tpir: share of mated probes found within the rank and at or above the threshold, in percent.
        threshold: lowest similarity with no more false positives than asked for.
        strangers: probes without an identity in the gallery.
        too_few: fewer than ten false positives are expected among them at this FPIR.
    """

    fpir: float
    tpir: float
    threshold: float
    strangers: int
    too_few: bool


def open_set(
    scores: npt.ArrayLike, names: npt.ArrayLike, probe_identity: npt.ArrayLike, fpir: float, rank: int = 1
) -> OpenSet:
    """Return the true positive identification rate at a false positive identification rate (DIR at rank 1).

    Args:
        scores: (P, I) similarity to each identity.
        names: (I,) identities.
        probe_identity: (P,); those not in ``names`` are strangers.
        fpir: 0..1.
        rank: the probe's identity must be among this many best.

    Raises:
        CrossresError: an FPIR outside 0..1, no strangers or no mated probe, NaN or infinity.

    Source: Grother & Ngan, NIST FRVT 1:N; Phillips et al., detection and identification rate.
    """
    return open_set_of(placed(scores, names, probe_identity), fpir, rank)


def open_set_of(found: Placed, fpir: float, rank: int = 1) -> OpenSet:
    """Return what `open_set` does, of probes that are placed already."""
    if not 0 <= fpir <= 1:
        raise CrossresError(f"a false positive identification rate lies within 0..1, got {fpir:g}")
    mated = found.rank > 0
    if mated.all() or not mated.any():
        lacking = "stranger" if mated.all() else "probe whose identity is in the gallery"
        raise CrossresError(f"open-set identification: there is no {lacking} among {len(mated)} probes")
    of_strangers = np.sort(found.best[~mated])[::-1]
    allowed = int(np.floor(fpir * len(of_strangers) + 1e-9))
    # at or above the threshold is returned: it has to lie above the first stranger too many, and equal ones with it
    threshold = -np.inf if allowed >= len(of_strangers) else np.nextafter(of_strangers[allowed], np.inf)
    hits = mated & (found.rank <= rank) & (found.own >= threshold)
    few = bool(len(of_strangers) * fpir < 10)
    return OpenSet(fpir, 100 * float(hits.sum() / mated.sum()), float(threshold), len(of_strangers), few)


def average_precision(
    similarity: npt.ArrayLike, relevant: npt.ArrayLike, area: Literal["trapezoid", "step"] = "trapezoid"
) -> float:
    """Return the average precision of one probe's ranking, 0..1.

    Args:
        similarity: (G,) to each gallery image; among equal ones the relevant images are ranked last.
        relevant: (G,) bool, images of the probe's identity.
        area: under the precision-recall curve by trapezoids, as the re-identification benchmarks and TinyFace take
            it, or by steps (mean precision at each relevant image).

    Raises:
        CrossresError: no relevant image, NaN or infinity.
    """
    scores, truth = _finite(similarity), np.asarray(relevant, bool)
    return _average_precision(_places(scores, _checked(truth)), area)


def _checked(relevant: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    if not relevant.any():
        raise CrossresError("retrieval: a probe has no image of its identity in the gallery")
    return relevant


def _places(scores: Floats, relevant: npt.NDArray[np.bool_]) -> Ints:
    """Return where the relevant images are in a ranking, from 0, rising; of equal ones they come last."""
    own, others = -np.sort(-scores[relevant]), scores[~relevant]
    # a probe has few images of its own: counting is less than sorting a gallery
    return np.array([(others >= score).sum() for score in own], dtype=np.int64) + np.arange(len(own))


def _average_precision(at: Ints, area: str) -> float:
    count = np.arange(1, len(at) + 1)
    precision = count / (at + 1)
    if area == "step":
        return float(precision.mean())
    # the point before each hit: as many found, one image fewer looked at
    before = np.where(at > 0, (count - 1) / np.maximum(at, 1), 1.0)
    return float(((precision + before) / 2).mean())


def retrieval(
    similarity: npt.ArrayLike,
    gallery_identity: npt.ArrayLike,
    probe_identity: npt.ArrayLike,
    area: Literal["trapezoid", "step"] = "trapezoid",
) -> dict[str, Any]:
    """Return mAP and rank-1, 5, 10, 20 in percent over a gallery of many images and distractors.

    Rank-k counts images, not identities: any image of the probe's identity among the k nearest.

    Args:
        similarity: (P, G).
        gallery_identity: (G,); `NOBODY` for distractors.
        probe_identity: (P,), each in the gallery.
        area: as in `average_precision`.

    Raises:
        CrossresError: shapes that do not fit, NaN or infinity, or a probe without an image in the gallery.

    Source: Cheng, Zhu & Gong, TinyFace (2018); Zheng et al., Market-1501 (2015).
    """
    found = retrieved(similarity, gallery_identity, probe_identity, area)
    return retrieval_of(*found, gallery_identity)


def retrieval_of(precisions: Floats, first: Ints, gallery_identity: npt.ArrayLike) -> dict[str, Any]:
    """Return what `retrieval` does, of probes that `retrieved` has looked for already."""
    owner = np.asarray(gallery_identity)
    return {
        "map": 100 * float(np.mean(precisions)),
        **{f"rank{k}": 100 * float(np.mean(first <= k)) for k in RANKS},
        "probes": len(first),
        "gallery": len(owner),
        "distractors": int((owner == NOBODY).sum()),
    }


def retrieved(
    similarity: npt.ArrayLike,
    gallery_identity: npt.ArrayLike,
    probe_identity: npt.ArrayLike,
    area: Literal["trapezoid", "step"] = "trapezoid",
) -> tuple[Floats, Ints]:
    """Return each probe's average precision, 0..1, and the place of its first image; arguments as of `retrieval`."""
    scores, owner = _finite(similarity), np.asarray(gallery_identity)
    wanted = np.asarray(probe_identity)
    if scores.shape != (len(wanted), len(owner)) or not scores.size:
        raise CrossresError(
            f"retrieval: similarities {scores.shape} for {len(wanted)} probes and {len(owner)} images"
        )
    precisions, first = [], []
    for row, identity in zip(scores, wanted, strict=True):
        relevant = (owner == identity) & (owner != NOBODY)
        at = _places(row, _checked(relevant))
        precisions.append(_average_precision(at, area))
        first.append(int(at[0]) + 1)
    return np.array(precisions), np.array(first, dtype=np.int64)
