"""The protocols of verification, identification and retrieval, on embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crossres.core.files import encode_bits
from crossres.core.types import Bools, Float64s, Int64s
from crossres.data.faces import NOBODY, Search
from crossres.data.pairs import Pairs
from crossres.evaluation.identification import (
    Ranked,
    by_identity,
    cmc,
    draw_people,
    open_set,
    people_of,
    rank_probes,
    retrieve,
    unit_rows,
)
from crossres.evaluation.verification import (
    Roc,
    auc,
    best_threshold,
    bootstrap,
    eer,
    k_fold_accuracy,
    roc,
    tar_at_far,
)

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
FPIRS = (0.01, 0.1, 0.3)
#: Ranks that tables name.
RANKS = (1, 5, 10, 20)
#: Probes searched at a time: TinyFace's gallery has 158,000 images.
CHUNK = 256
#: Points of a drawn curve.
POINTS = 200


def similarities(left: npt.ArrayLike, right: npt.ArrayLike, pairs: Pairs) -> Float64s:
    """Return the cosine of each pair's embeddings, (N,); arguments and errors as of `verify`."""
    a, b = unit_rows(left, "set of images"), unit_rows(right, "set of images")
    scores: Float64s = (a[pairs.left] * b[pairs.right]).sum(1)
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
        threshold, as `encode_bits` writes them; tar_at_far: ``{far, tar, threshold, too_few, interval}``; roc: points
        of the curve.

    Raises:
        CrossresError: no genuine or no impostor pair, an embedding that is NaN, infinite or 0.
    """
    scores, same = similarities(left, right, pairs), pairs.same
    points = roc(scores, same)

    def measure(points: Roc) -> list[float]:
        at = [points.accuracy_at(threshold)] if threshold is not None else []
        shares = [points.accuracy.max(), auc(points), eer(points), *(tar_at_far(points, far).tar for far in fars)]
        return [100 * float(share) for share in [*shares, *at]]

    names = ["accuracy_best", "auc", "eer", *fars, *(["accuracy_chosen"] if threshold is not None else [])]
    numbers: dict[Any, float] = dict(zip(names, measure(points), strict=True))
    intervals: dict[Any, list[float]] = {}
    if resamples:
        intervals = dict(zip(names, bootstrap(scores, same, measure, resamples), strict=True))
    tars = []
    for far in fars:
        point = tar_at_far(points, far)
        row = {"far": far, "tar": numbers.pop(far), "threshold": _finite(point.threshold), "too_few": point.too_few}
        tars.append(row | ({"interval": intervals.pop(far)} if resamples else {}))
    return {
        "pairs": {"genuine": points.genuine, "impostor": points.impostors},
        **_over_folds(scores, pairs),
        "accuracy_chosen": None,
        "threshold_chosen": threshold,
        "threshold_best": best_threshold(scores, same),
        "right": None if threshold is None else encode_bits(torch.from_numpy((scores >= threshold) == same)),
        **numbers,
        "tar_at_far": tars,
        "roc": _roc_curve(points, fars),
        **({"intervals": intervals} if resamples else {}),
    }


def _over_folds(scores: Float64s, pairs: Pairs) -> dict[str, Any]:
    """Return accuracy, accuracy_error and folds of `verify`."""
    numbers = np.unique(pairs.fold).tolist()
    if len(numbers) < 2:
        return dict.fromkeys(("accuracy", "accuracy_error", "folds"))
    judged = k_fold_accuracy(scores, pairs.same, pairs.fold)
    folds = [
        {"fold": fold, "accuracy": accuracy, "threshold": threshold}
        for fold, accuracy, threshold in zip(numbers, judged.folds, judged.thresholds, strict=True)
    ]
    return {"accuracy": judged.mean, "accuracy_error": judged.error, "folds": folds}


def _roc_curve(points: Roc, fars: Sequence[float]) -> dict[str, list[float]]:
    """Return FAR and TAR of some points: evenly on a logarithmic axis, and where the table looks."""
    # of lists with many impostors, evenly spread operating points would leave the low FARs out
    far = np.concatenate([[0], np.geomspace(1 / points.impostors, 1, POINTS), fars])
    spread = np.unique(np.searchsorted(points.far, far, side="right") - 1)
    return {"far": points.far[spread].tolist(), "tar": points.tar[spread].tolist()}


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
        "open_set": None,
        "open_set_curve": None,
        "retrieval": {
            "map": 100 * float(np.mean(precisions)),
            **{f"rank{k}": 100 * float(np.mean(firsts <= k)) for k in RANKS},
            "probes": len(firsts),
            "gallery": len(search.gallery),
            "distractors": int((search.gallery_identity == NOBODY).sum()),
        },
    }
    if not mated.all():
        result["open_set"] = [
            {"fpir": fpir, "tpir": point.tpir, "threshold": _finite(point.threshold), "too_few": point.too_few}
            | {"tpir_rank20": open_set(ranked, fpir, 20).tpir}
            for fpir in fpirs
            for point in [open_set(ranked, fpir)]
        ]
        result["open_set_curve"] = _open_set_curve(ranked, result["strangers"], fpirs)
    if resamples:
        rank1, average, *tpirs = _intervals(ranked, precisions, search.probe_identity, resamples, fpirs)
        result["intervals"] = {"rank1": rank1, "map": average}
        for point, interval in zip(result["open_set"] or (), tpirs, strict=True):
            point["interval"] = interval
    return result


def _searched(gallery: npt.ArrayLike, probes: npt.ArrayLike, search: Search) -> tuple[Ranked, Float64s, Int64s]:
    """Return all probes, ranked, and average precision and rank of the first image of the mated ones."""
    enrolled = unit_rows(np.asarray(gallery)[search.gallery], "gallery")
    searched = unit_rows(np.asarray(probes)[search.probes], "set of probes")
    parts, precisions, firsts = [], [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for start in range(0, len(searched), CHUNK):
        identity = search.probe_identity[start : start + CHUNK]
        similarity = searched[start : start + CHUNK] @ enrolled.T
        parts.append(rank_probes(*by_identity(similarity, search.gallery_identity), identity))
        mated: Bools = parts[-1].rank > 0
        if mated.any():
            precision, first = retrieve(similarity[mated], search.gallery_identity, identity[mated])
            precisions.append(precision)
            firsts.append(first)
    return Ranked.joined(parts), np.concatenate(precisions), np.concatenate(firsts)


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
            part = ranked.of(np.append(mated[rows], strangers[draw_people(others, rng)]))
            numbers += [open_set(part, fpir).tpir for fpir in fpirs]
        measured.append(numbers)
    intervals: list[list[float]] = np.quantile(measured, [0.025, 0.975], axis=0).T.tolist()
    return intervals


def _open_set_curve(ranked: Ranked, strangers: int, fpirs: Sequence[float]) -> dict[str, list[float]]:
    """Return TPIR at rank 1, in percent, over FPIR: evenly on a logarithmic axis, and where the table looks."""
    let_in = np.concatenate([[0], np.geomspace(1, strangers, POINTS), strangers * np.array(fpirs)])
    shares = (np.unique((let_in + 1e-9).astype(int)) / strangers).tolist()
    return {"fpir": shares, "tpir": [open_set(ranked, share).tpir for share in shares]}


def _finite(value: float) -> float | None:
    """Return null for infinity, which JSON does not know: a threshold above or below all scores."""
    return value if np.isfinite(value) else None
