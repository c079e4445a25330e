"""Identification: whose face is it? Closed set (rank-k, CMC), open set (TPIR at FPIR) and retrieval (mAP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.core.types import Bools, Float64s, Int64s
from crossres.data.faces import NOBODY
from crossres.evaluation.verification import FEW


def unit_rows(embedding: npt.ArrayLike, what: str) -> Float64s:
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
    normal: Float64s = rows / length
    return normal


def _finite(similarity: npt.ArrayLike) -> Float64s:
    """Return similarities as float64; refuse NaN, which is below nothing and would rank first."""
    values = np.asarray(similarity, dtype=np.float64)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise CrossresError(f"{bad} of {values.size} similarities are NaN or infinite; look for a NaN embedding")
    return values


def by_identity(similarity: npt.ArrayLike, gallery_identity: npt.ArrayLike) -> tuple[Float64s, Int64s]:
    """Return each probe's similarity to each identity's nearest image, (P, I), and the identities, (I,).

    Args:
        similarity: (P, G) of each probe to each gallery image.
        gallery_identity: (G,) integers; each `NOBODY` is an identity of its own.

    Raises:
        CrossresError: an empty gallery, shapes that do not fit, NaN or infinity.
    """
    scores, owner = _finite(similarity), np.asarray(gallery_identity, dtype=np.int64)
    if scores.ndim != 2 or owner.shape != (scores.shape[1],) or not len(owner):
        raise CrossresError(f"the gallery is empty or has {owner.shape} identities for similarities {scores.shape}")
    owner = _apart(owner)
    by_owner = np.argsort(owner, kind="stable")
    names, start = np.unique(owner[by_owner], return_index=True)
    nearest: Float64s = np.maximum.reduceat(scores[:, by_owner], start, axis=1)
    return nearest, names


def _apart(identity: Int64s) -> Int64s:
    """Return the identities with a number of its own for each `NOBODY`."""
    nobody = identity == NOBODY
    owner: Int64s = identity.copy()
    owner[nobody] = NOBODY - 1 - np.arange(nobody.sum())
    return owner


def people_of(identity: npt.ArrayLike) -> Int64s:
    """Return whose each image is, (N,) from 0 without gaps; each `NOBODY` is a person of their own."""
    person: Int64s = np.unique(_apart(np.asarray(identity, dtype=np.int64)), return_inverse=True)[1]
    return person


def draw_people(person: Int64s, rng: np.random.Generator) -> Int64s:
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


@dataclass(frozen=True)
class Ranked:
    """Where a search ranks each probe's identity; parts of a large search can be joined.

    Attributes:
        rank: (P,) of the probe's own identity, from 1; 0 where it is not in the gallery.
        own: (P,) similarity to the probe's own identity; -infinity where it is not in the gallery.
        best: (P,) largest similarity to any identity.
    """

    rank: Int64s
    own: Float64s
    best: Float64s

    def of(self, positions: Int64s) -> Ranked:
        """Return some of the probes, which may repeat."""
        return Ranked(self.rank[positions], self.own[positions], self.best[positions])

    @staticmethod
    def joined(parts: Sequence[Ranked]) -> Ranked:
        """Return the parts' probes one after the other."""
        return Ranked(*(np.concatenate([getattr(part, key) for part in parts]) for key in ("rank", "own", "best")))


def rank_probes(scores: npt.ArrayLike, names: npt.ArrayLike, probe_identity: npt.ArrayLike) -> Ranked:
    """Return the rank, own and best similarity of each probe.

    Another identity of equal similarity is ranked before the probe's own: ties never help.

    Args:
        scores: (P, I) similarity to each identity, as `by_identity` gives it.
        names: (I,) identities.
        probe_identity: (P,); those not in ``names`` are strangers.

    Raises:
        CrossresError: NaN or infinity.
    """
    values, columns, identity = _finite(scores), np.asarray(names), np.asarray(probe_identity)
    mine = columns[None] == identity[:, None]
    own = np.where(mine, values, -np.inf).max(1)
    before = ((values >= own[:, None]) & ~mine).sum(1)
    return Ranked(np.where(mine.any(1), before + 1, 0).astype(np.int64), own, values.max(1))


def cmc(rank: npt.ArrayLike, upto: int) -> Float64s:
    """Return the cumulative match characteristic in percent: the share of mated probes at rank 1, 2, ... ``upto``.

    Raises:
        CrossresError: no probe has its identity in the gallery.
    """
    ranks = np.asarray(rank)
    mated = ranks[ranks > 0]
    if not len(mated):
        raise CrossresError("no probe has its identity in the gallery; give a person one number in both")
    shares: Float64s = 100 * (mated[:, None] <= np.arange(1, upto + 1)).mean(0)
    return shares


@dataclass(frozen=True)
class OpenSet:
    """One operating point of a search that may return nobody.

    Attributes:
        fpir: the requested share of strangers for whom somebody is returned.
        tpir: share of mated probes within the rank and at or above the threshold, in percent.
        threshold: the lowest similarity at that FPIR or a lower one.
        strangers: probes without an identity in the gallery.
        too_few: fewer than `FEW` false positives are expected among them at this FPIR.
    """

    fpir: float
    tpir: float
    threshold: float
    strangers: int
    too_few: bool


def open_set(ranked: Ranked, fpir: float, rank: int = 1) -> OpenSet:
    """Return the true positive identification rate at a false positive identification rate (DIR at rank 1).

    Args:
        ranked: the probes; those of rank 0 are strangers.
        fpir: 0..1.
        rank: the probe's identity must be among this many best.

    Raises:
        CrossresError: an FPIR outside 0..1, no strangers or no mated probe.

    Source: Grother & Ngan, NIST FRVT 1:N; Phillips et al., detection and identification rate.
    """
    if not 0 <= fpir <= 1:
        raise CrossresError(f"a false positive identification rate lies within 0..1, got {fpir:g}")
    mated = ranked.rank > 0
    if mated.all() or not mated.any():
        lacking = "stranger" if mated.all() else "probe whose identity is in the gallery"
        raise CrossresError(f"open-set identification: there is no {lacking} among {len(mated)} probes")
    of_strangers = np.sort(ranked.best[~mated])[::-1]
    allowed = int(np.floor(fpir * len(of_strangers) + 1e-9))
    # at or above the threshold is returned: it has to lie above the first stranger too many, and equal ones with it
    threshold = -np.inf if allowed >= len(of_strangers) else np.nextafter(of_strangers[allowed], np.inf)
    hits = mated & (ranked.rank <= rank) & (ranked.own >= threshold)
    few = bool(len(of_strangers) * fpir < FEW)
    return OpenSet(fpir, 100 * float(hits.sum() / mated.sum()), float(threshold), len(of_strangers), few)


def places(similarity: npt.ArrayLike, relevant: Bools) -> Int64s:
    """Return where the relevant images are in one probe's ranking, from 0, rising; of equal ones they come last.

    Args:
        similarity: (G,) to each gallery image.
        relevant: (G,), images of the probe's identity.

    Raises:
        CrossresError: no relevant image, NaN or infinity.
    """
    if not relevant.any():
        raise CrossresError("retrieval: a probe has no image of its identity in the gallery")
    scores = _finite(similarity)
    own, others = -np.sort(-scores[relevant]), scores[~relevant]
    # a probe has few images of its own: counting is less than sorting a gallery
    return np.array([(others >= score).sum() for score in own], dtype=np.int64) + np.arange(len(own))


def average_precision(places: Int64s) -> float:
    """Return the average precision of one ranking, 0..1: the area under its precision-recall curve by trapezoids.

    Args:
        places: of the relevant images in the ranking, from 0, rising.

    Source: Zheng et al., Market-1501 (2015), whose evaluation the re-identification benchmarks and TinyFace share.
    """
    count = np.arange(1, len(places) + 1)
    precision = count / (places + 1)
    # the point before each hit: one hit and one image fewer
    before = np.where(places > 0, (count - 1) / np.maximum(places, 1), 1.0)
    return float(((precision + before) / 2).mean())


def retrieve(
    similarity: npt.ArrayLike, gallery_identity: npt.ArrayLike, probe_identity: npt.ArrayLike
) -> tuple[Float64s, Int64s]:
    """Return each probe's average precision, 0..1, and the rank of its first image, from 1.

    Ranks are over images, not identities: any image of the probe's identity counts.

    Args:
        similarity: (P, G).
        gallery_identity: (G,); `NOBODY` for distractors.
        probe_identity: (P,), each in the gallery.

    Raises:
        CrossresError: shapes that do not fit, NaN or infinity, or a probe without an image in the gallery.

    Source: Cheng, Zhu & Gong, TinyFace (2018).
    """
    scores, owner, identities = (np.asarray(each) for each in (similarity, gallery_identity, probe_identity))
    if scores.shape != (len(identities), len(owner)) or not scores.size:
        raise CrossresError(
            f"retrieval: similarities {scores.shape} for {len(identities)} probes and {len(owner)} images"
        )
    of_probes = [
        places(row, (owner == identity) & (owner != NOBODY)) for row, identity in zip(scores, identities, strict=True)
    ]
    precisions = np.array([average_precision(at) for at in of_probes])
    return precisions, np.array([at[0] + 1 for at in of_probes], dtype=np.int64)
