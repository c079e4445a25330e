"""Identification: whose face is it? Closed set (rank-k, CMC), open set (TPIR at FPIR) and retrieval (mAP)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.core.types import Float64s, Int64s
from crossres.data.faces import NOBODY, Search
from crossres.evaluation.statistics import FEW, POINTS, OperatingPoint, interval

#: False positive identification rates that TPIR is given at.
FPIRS = (0.01, 0.1, 0.3)
#: Ranks that tables name.
RANKS = (1, 5, 10, 20)
#: Probes searched at a time: TinyFace's gallery has 158,000 images.
CHUNK = 256


def unit_rows(embedding: npt.ArrayLike, what: str) -> Float64s:
    """Return embeddings (N, d) at unit length, float64.

    Raises:
        CrossresError: none, another shape, NaN, infinity or an embedding of length 0, by its row.
    """
    rows = np.asarray(embedding, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise CrossresError(f"the {what}: {f'{rows.shape}, expected (N, d)' if rows.size else 'no embeddings'}")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(length) | (length == 0))
    if len(bad):
        raise CrossresError(f"embedding {bad[0]} of the {what} is NaN, infinite or 0; {len(bad)} such rows in all")
    normal: Float64s = rows / length
    return normal


def _finite(similarity: npt.ArrayLike) -> Float64s:
    """Refuse NaN, which is below nothing and would rank first."""
    values = np.asarray(similarity, dtype=np.float64)
    if bad := int((~np.isfinite(values)).sum()):
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


class Ranked(NamedTuple):
    """Where a search ranks each probe's identity.

    Attributes:
        rank: (P,) of the probe's own identity, from 1; 0 where it is not in the gallery.
        own: (P,) similarity to the probe's own identity; -infinity where it is not in the gallery.
        best: (P,) largest similarity to any identity.
    """

    rank: Int64s
    own: Float64s
    best: Float64s


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
        raise CrossresError("no probe shows a person of the gallery; use the same name in both")
    shares: Float64s = 100 * (mated[:, None] <= np.arange(1, upto + 1)).mean(0)
    return shares


def open_set(ranked: Ranked, fpir: float, rank: int = 1) -> OperatingPoint:
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
    too_few = bool(len(of_strangers) * fpir < FEW)
    return OperatingPoint(float(hits.sum() / mated.sum()), float(threshold), too_few)


def retrieve(
    similarity: npt.ArrayLike, gallery_identity: npt.ArrayLike, probe_identity: npt.ArrayLike
) -> tuple[Float64s, Int64s]:
    """Return each probe's average precision, 0..1, and the rank of its first image, from 1.

    Ranks are over images, not identities: any image of the probe's identity counts. The average precision is the area
    under the precision-recall curve by trapezoids.

    Args:
        similarity: (P, G); among equal ones the images of the probe's identity are ranked last.
        gallery_identity: (G,), G > 0; `NOBODY` for distractors.
        probe_identity: (P,), each in the gallery.

    Raises:
        CrossresError: shapes that do not fit, NaN or infinity, or a probe without an image in the gallery.

    Source: Zheng et al., Market-1501 (2015), as the re-identification benchmarks and Cheng, Zhu & Gong, TinyFace
    (2018) take it.
    """
    scores, owner, identity = _finite(similarity), np.asarray(gallery_identity), np.asarray(probe_identity)
    counts = len(identity), len(owner)
    if scores.shape != counts or not len(owner):
        raise CrossresError(f"retrieval: similarities {scores.shape} for {counts[0]} probes and {counts[1]} images")
    precisions, firsts = np.empty(len(scores)), np.empty(len(scores), dtype=np.int64)
    for probe, (row, person) in enumerate(zip(scores, identity, strict=True)):
        relevant = (owner == person) & (owner != NOBODY)
        if not relevant.any():
            raise CrossresError("retrieval: a probe has no image of its identity in the gallery")
        own, others = -np.sort(-row[relevant]), row[~relevant]
        # a probe has few images of its own: counting is less than sorting a gallery
        place = np.array([(others >= score).sum() for score in own]) + np.arange(len(own))
        count = np.arange(1, len(own) + 1)
        # the point before each hit: one hit and one image fewer
        before = np.where(place > 0, (count - 1) / np.maximum(place, 1), 1.0)
        precisions[probe], firsts[probe] = ((count / (place + 1) + before) / 2).mean(), place[0] + 1
    return precisions, firsts


def identify(
    gallery: npt.ArrayLike,
    probes: npt.ArrayLike,
    search: Search,
    resamples: int = 1000,
    fpirs: Sequence[float] = FPIRS,
) -> dict[str, Any]:
    """Judge identification, closed and open set, and retrieval, by the cosine of embeddings.

    Args:
        gallery: embeddings (N, d) by position, as the gallery's images are read.
        probes: embeddings (N, d) by position, as the probes are read.
        search: which positions are enrolled and which are searched for.
        resamples: for the intervals; 0 leaves them out. What is drawn is people, not probes: mated people and
            strangers apart, and all probes of a drawn person go along. A stranger who is `NOBODY` is drawn alone, one
            with an identity that the gallery lacks as a person. One mated person alone leaves an interval no width.
        fpirs: false positive identification rates that TPIR is given at.

    Returns:
        rank1, rank5, rank10, rank20 and cmc, over identities, in percent of the mated probes; open_set: ``{fpir,
        tpir, tpir_rank20, threshold, too_few, interval}`` (tpir at rank 1, as UCCS's DIR; at rank 20 as QMUL-SurvFace
        has it) and open_set_curve: points of TPIR at rank 1 over FPIR, both null without strangers; retrieval: map
        and ranks over images; counts; 95 % intervals of rank1 (the same over identities and over images) and map.

    Raises:
        CrossresError: an empty gallery, no mated probe, an embedding that is NaN, infinite or 0.
    """
    ranked, precisions, firsts = _searched(gallery, probes, search)
    mated = ranked.rank > 0
    identities = int(people_of(search.gallery_identity).max()) + 1
    result: dict[str, Any] = {
        "gallery": len(search.gallery),
        "identities": identities,
        "mated_probes": int(mated.sum()),
        "strangers": int((~mated).sum()),
        **{f"rank{k}": float(cmc(ranked.rank, k)[-1]) for k in RANKS},
        "cmc": cmc(ranked.rank, min(identities, 50)).tolist(),
        **_open_set(ranked, fpirs),
        "retrieval": {
            "map": 100 * float(np.mean(precisions)),
            **{f"rank{k}": 100 * float(np.mean(firsts <= k)) for k in RANKS},
            "probes": len(firsts),
            "gallery": len(search.gallery),
            "distractors": int((search.gallery_identity == NOBODY).sum()),
        },
    }
    if resamples:
        rank1, average, *tpirs = _intervals(ranked, precisions, search.probe_identity, resamples, fpirs)
        result["intervals"] = {"rank1": rank1, "map": average}
        for point, ends in zip(result["open_set"] or (), tpirs, strict=True):
            point["interval"] = ends
    return result


def _searched(gallery: npt.ArrayLike, probes: npt.ArrayLike, search: Search) -> tuple[Ranked, Float64s, Int64s]:
    """Return all probes, ranked, and average precision and rank of the first image of the mated ones."""
    enrolled = unit_rows(np.asarray(gallery)[search.gallery], "gallery")
    searched = unit_rows(np.asarray(probes)[search.probes], "probes")
    parts = []
    for start in range(0, len(searched), CHUNK):
        identity = search.probe_identity[start : start + CHUNK]
        similarity = searched[start : start + CHUNK] @ enrolled.T
        ranked = rank_probes(*by_identity(similarity, search.gallery_identity), identity)
        mated = ranked.rank > 0
        parts.append((*ranked, *retrieve(similarity[mated], search.gallery_identity, identity[mated])))
    rank, own, best, precisions, firsts = map(np.concatenate, zip(*parts, strict=True))
    return Ranked(rank, own, best), precisions, firsts


def _open_set(ranked: Ranked, fpirs: Sequence[float]) -> dict[str, Any]:
    """Return open_set and open_set_curve of `identify`."""
    strangers = int((ranked.rank == 0).sum())
    if not strangers:
        return {"open_set": None, "open_set_curve": None}
    points = []
    for fpir in fpirs:
        first, rank20 = open_set(ranked, fpir), 100 * open_set(ranked, fpir, 20).share
        points.append({"fpir": fpir, "tpir": 100 * first.share, "tpir_rank20": rank20, **first.facts()})
    let_in = np.concatenate([[0], np.geomspace(1, strangers, POINTS), strangers * np.array(fpirs)])
    rates = (np.unique((let_in + 1e-9).astype(int)) / strangers).tolist()
    curve = {"fpir": rates, "tpir": [100 * open_set(ranked, rate).share for rate in rates]}
    return {"open_set": points, "open_set_curve": curve}


def _intervals(
    ranked: Ranked, precisions: Float64s, identity: Int64s, resamples: int, fpirs: Sequence[float]
) -> list[list[float]]:
    """Return the 95 % intervals of rank-1, of mAP and, with strangers, of TPIR at each FPIR."""
    rng = np.random.default_rng(0)
    # strangers are drawn apart: their number decides the threshold
    mated, strangers = np.flatnonzero(ranked.rank > 0), np.flatnonzero(ranked.rank == 0)
    people, others = (people_of(identity[rows]) for rows in (mated, strangers))
    first = ranked.rank[mated] == 1
    measured = []
    for _ in range(resamples):
        rows = draw_people(people, rng)
        numbers = [100 * float(of[rows].mean()) for of in (first, precisions)]
        if len(strangers):
            both = np.append(mated[rows], strangers[draw_people(others, rng)])
            part = Ranked(ranked.rank[both], ranked.own[both], ranked.best[both])
            numbers += [100 * open_set(part, fpir).share for fpir in fpirs]
        measured.append(numbers)
    return interval(measured)
