"""The protocols of verification, identification and retrieval, on embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crossres.core.files import pack
from crossres.data.faces import Search
from crossres.data.pairs import Pairs
from crossres.evaluation.identification import (
    RANKS,
    Placed,
    cmc,
    draw_people,
    of_identities,
    open_set_of,
    people_of,
    placed,
    retrieval_of,
    retrieved,
    unit_rows,
)
from crossres.evaluation.verification import (
    Roc,
    auc_of,
    best_threshold,
    bootstrap,
    eer_of,
    k_fold_accuracy,
    roc,
    tar_of,
)

Floats = npt.NDArray[np.float64]
FARS = (1e-1, 1e-2, 1e-3, 1e-4)
FPIRS = (0.01, 0.1, 0.3)
#: Probes looked for at a time: TinyFace's gallery has 158,000 images.
CHUNK = 256
#: Points of a drawn curve.
POINTS = 200


def similarities(left: npt.ArrayLike, right: npt.ArrayLike, pairs: Pairs) -> Floats:
    """Return the cosine of each pair's embeddings, (N,); arguments and errors as of `verify`."""
    a, b = unit_rows(left, "set of images"), unit_rows(right, "set of images")
    scores: Floats = (a[pairs.left] * b[pairs.right]).sum(1)
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
        threshold, as `pack` writes them; tar_at_far: ``{far, tar, threshold, too_few, interval}``; roc: points of the
        curve.

    Raises:
        CrossresError: no genuine or no impostor pair, an embedding that is NaN, infinite or 0.
    """
    scores = similarities(left, right, pairs)
    same = pairs.same
    folds = k_fold_accuracy(scores, same, pairs.fold) if len(np.unique(pairs.fold)) > 1 else None
    by_fold = zip(np.unique(pairs.fold).tolist(), folds.folds, folds.thresholds, strict=True) if folds else ()
    points = roc(scores, same)
    # of lists with many impostors, evenly spread operating points would leave the low FARs out
    far = np.concatenate([[0], np.geomspace(1 / points.impostors, 1, POINTS), fars])
    spread = np.unique(np.searchsorted(points.far, far, side="right") - 1)

    def measured(points: Roc) -> list[float]:
        at = [points.accuracy_at(threshold)] if threshold is not None else []
        shares = [points.accuracy.max(), auc_of(points), eer_of(points), *(tar_of(points, far).tar for far in fars)]
        return [100 * float(share) for share in [*shares, *at]]

    names = ["accuracy_best", "auc", "eer", *fars, *(["accuracy_chosen"] if threshold is not None else [])]
    numbers = dict(zip(names, measured(points), strict=True))
    result: dict[str, Any] = {
        "pairs": {"genuine": int(same.sum()), "impostor": int((~same).sum())},
        "accuracy": folds.mean if folds else None,
        "accuracy_error": folds.error if folds else None,
        "folds": folds and [dict(zip(("fold", "accuracy", "threshold"), of, strict=True)) for of in by_fold],
        "accuracy_chosen": None,
        "threshold_chosen": threshold,
        "threshold_best": best_threshold(scores, same),
        "right": None if threshold is None else pack(torch.from_numpy((scores >= threshold) == same)),
        **{name: number for name, number in numbers.items() if isinstance(name, str)},
        "tar_at_far": [
            {"far": far, "tar": 100 * found.tar, "threshold": _finite(found.threshold), "too_few": found.too_few}
            for far in fars
            for found in [tar_of(points, far)]
        ],
        "roc": {"far": points.far[spread].tolist(), "tar": points.tar[spread].tolist()},
    }
    if resamples:
        intervals = dict(zip(names, map(list, bootstrap(scores, same, measured, resamples)), strict=True))
        for point in result["tar_at_far"]:
            point["interval"] = intervals.pop(point["far"])
        result["intervals"] = intervals
    return result


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
        search: which positions are enrolled and looked for.
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
    enrolled = unit_rows(np.asarray(gallery)[search.gallery], "gallery")
    looked_for = unit_rows(np.asarray(probes)[search.probes], "set of probes")
    parts, precisions, firsts = [], [], []
    for start in range(0, len(looked_for), CHUNK):
        identity = search.probe_identity[start : start + CHUNK]
        similarity = looked_for[start : start + CHUNK] @ enrolled.T
        scores, names = of_identities(similarity, search.gallery_identity)
        parts.append(placed(scores, names, identity))
        of_these = parts[-1].rank > 0
        if of_these.any():
            precision, first = retrieved(similarity[of_these], search.gallery_identity, identity[of_these])
            precisions.append(precision)
            firsts.append(first)
    found = Placed.joined(parts)
    rank, mated = found.rank, found.rank > 0
    curve = cmc(rank, min(len(names), 50))
    result: dict[str, Any] = {
        "gallery": len(search.gallery),
        "identities": len(names),
        "mated_probes": int(mated.sum()),
        "strangers": int((~mated).sum()),
        **{f"rank{k}": float(cmc(rank, k)[-1]) for k in RANKS},
        "cmc": curve.tolist(),
        "open_set": None,
        "open_set_curve": None,
        "retrieval": retrieval_of(np.concatenate(precisions), np.concatenate(firsts), search.gallery_identity),
    }
    if not mated.all():
        result["open_set"] = [
            {"fpir": fpir, "tpir": point.tpir, "threshold": _finite(point.threshold), "too_few": point.too_few}
            | {"tpir_rank20": open_set_of(found, fpir, 20).tpir}
            for fpir in fpirs
            for point in [open_set_of(found, fpir)]
        ]
        result["open_set_curve"] = _open_set_curve(found, result["strangers"], fpirs)
    if resamples:
        rng, first, precision = np.random.default_rng(0), rank[mated] == 1, np.concatenate(precisions)
        # strangers are drawn apart: their number decides the threshold
        own, strangers = np.flatnonzero(mated), np.flatnonzero(~mated)
        of_own, of_strangers = (people_of(search.probe_identity[rows]) for rows in (own, strangers))
        measured = []
        for _ in range(resamples):
            rows = draw_people(of_own, rng)
            numbers = [100 * float(of[rows].mean()) for of in (first, precision)]
            if len(strangers):
                part = found.of(np.append(own[rows], strangers[draw_people(of_strangers, rng)]))
                numbers += [open_set_of(part, fpir).tpir for fpir in fpirs]
            measured.append(numbers)
        rank1, average, *points = np.quantile(measured, [0.025, 0.975], axis=0).T.tolist()
        result["intervals"] = {"rank1": rank1, "map": average}
        for point, interval in zip(result["open_set"] or (), points, strict=True):
            point["interval"] = interval
    return result


def _open_set_curve(found: Placed, strangers: int, fpirs: Sequence[float]) -> dict[str, list[float]]:
    """Return TPIR at rank 1, in percent, over FPIR: evenly on a logarithmic axis, and where the table looks."""
    let_in = np.concatenate([[0], np.geomspace(1, strangers, POINTS), strangers * np.array(fpirs)])
    shares = (np.unique((let_in + 1e-9).astype(int)) / strangers).tolist()
    return {"fpir": shares, "tpir": [open_set_of(found, share).tpir for share in shares]}


def _finite(value: float) -> float | None:
    """JSON knows no infinity: a threshold above or below all scores is null."""
    return value if np.isfinite(value) else None
