"""Faces: the protocols of verification, identification and retrieval on an encoder's embeddings, per LR size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crossres.data.faces import Search
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.data.pairs import Pairs
from crossres.degrade import Degradation, Size
from crossres.errors import CrossresError
from crossres.evaluate.classification import sizes_of
from crossres.evaluate.identification import (
    RANKS,
    Placed,
    cmc,
    of_identities,
    open_set_of,
    placed,
    retrieval_of,
    retrieved,
    unit_rows,
)
from crossres.evaluate.transfer import embed
from crossres.evaluate.verification import auc, best_threshold, bootstrap, eer, k_fold_accuracy, roc, tar_at_far
from crossres.models.encoder import Encoder

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


def verify(left: npt.ArrayLike, right: npt.ArrayLike, pairs: Pairs, resamples: int = 1000) -> dict[str, Any]:
    """Judge verification by the cosine of embeddings.

    Args:
        left: embeddings (N, d) of one side, by position.
        right: of the other side; the same array where both are read alike.
        pairs: positions in these.
        resamples: of the pairs, for the intervals; 0 leaves them out.

    Returns:
        accuracy (mean over folds, each at the threshold of the others, with its standard error; null without folds),
        accuracy_best (at the threshold that is best on these very pairs), auc, eer, all in percent, with 95 %
        intervals; tar_at_far: ``{far, tar, threshold, too_few}``; roc: points of the curve.

    Raises:
        CrossresError: no genuine or no impostor pair, an embedding that is NaN, infinite or 0.
    """
    scores = similarities(left, right, pairs)
    same = pairs.same
    folds = k_fold_accuracy(scores, same, pairs.fold) if len(np.unique(pairs.fold)) > 1 else None
    threshold = best_threshold(scores, same)
    points = roc(scores, same)
    spread = np.unique(np.linspace(0, len(points.far) - 1, POINTS).astype(int))

    def best_accuracy(values: Floats, truth: npt.NDArray[np.bool_]) -> float:
        return 100 * float(((values >= best_threshold(values, truth)) == truth).mean())

    measures: dict[str, Callable[..., float]] = {
        "accuracy_best": best_accuracy,
        "auc": lambda values, truth: 100 * auc(values, truth),
        "eer": lambda values, truth: 100 * eer(values, truth),
    }
    result: dict[str, Any] = {
        "pairs": {"genuine": int(same.sum()), "impostor": int((~same).sum())},
        "accuracy": folds.mean if folds else None,
        "accuracy_error": folds.error if folds else None,
        "threshold": threshold,
        **{name: measure(scores, same) for name, measure in measures.items()},
        "tar_at_far": [
            {"far": far, "tar": 100 * found.tar, "threshold": _finite(found.threshold), "too_few": found.too_few}
            for far in FARS
            for found in [tar_at_far(scores, same, far)]
        ],
        "roc": {"far": points.far[spread].tolist(), "tar": points.tar[spread].tolist()},
    }
    if resamples:
        result["intervals"] = {
            name: list(bootstrap(scores, same, measure, resamples)) for name, measure in measures.items()
        }
    return result


def identify(gallery: npt.ArrayLike, probes: npt.ArrayLike, search: Search, resamples: int = 1000) -> dict[str, Any]:
    """Judge identification, closed and open set, and retrieval, by the cosine of embeddings.

    Args:
        gallery: embeddings (N, d) by position, as the gallery's images are read.
        probes: embeddings (N, d) by position, as the probes are read.
        search: which positions are enrolled and looked for.
        resamples: of the probes, for the interval of rank-1; 0 leaves it out.

    Returns:
        rank1, rank5, rank10, rank20 and cmc in percent over the mated probes; open_set: ``{fpir, tpir, threshold,
        too_few}``, null without strangers; retrieval: map and ranks over images; counts.

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
        "retrieval": retrieval_of(np.concatenate(precisions), np.concatenate(firsts), search.gallery_identity),
    }
    if not mated.all():
        result["open_set"] = [
            {"fpir": fpir, "tpir": point.tpir, "threshold": _finite(point.threshold), "too_few": point.too_few}
            for fpir in FPIRS
            for point in [open_set_of(found, fpir)]
        ]
    if resamples:
        first = rank[mated] == 1
        drawn = np.random.default_rng(0).integers(0, len(first), (resamples, len(first)))
        low, high = np.quantile(100 * first[drawn].mean(1), [0.025, 0.975])
        result["intervals"] = {"rank1": [float(low), float(high)]}
    return result


def evaluate_faces(
    encoder: Encoder,
    images: ImageSet,
    *,
    hr_size: int,
    sizes: Sequence[int],
    pairs: Pairs | None = None,
    search: Search | None = None,
    gallery: Encoder | None = None,
    native: bool = False,
    degradation: Degradation | None = None,
    fit: Any = "crop",
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    memory_mb: int = 4096,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Judge an encoder on faces at HR-HR, HR-LR and LR-LR, for each low-resolution size.

    Args:
        encoder: reads the probes (of a pair the right image); at HR-HR and LR-LR both sides.
        images: of people.
        hr_size: side that the images are read at, in pixels.
        sizes: sides of the low-resolution images.
        pairs: for verification; left out where None.
        search: for identification and retrieval; left out where None.
        gallery: another encoder for the HR side (of a pair the left image), such as the teacher, in whose space the
            encoder was trained; the HR-HR row is then its own.
        native: the images have the resolution they are to be judged at, as TinyFace's: no size is made of another,
            each encoder reads them as they are, and there is one row, of sides native.
        degradation: how LR comes from HR.
        fit: how images that are not square are fitted.
        device: where the encoders run.
        autocast: context of the encoder's forward pass; another gallery runs in float32.
        memory_mb: budget for decoded images.
        resamples: of the bootstrap.

    Returns:
        ``{dataset, images, people, native, hr_size, degradation, rows}``; a row is ``{sides, size, verification,
        identification}``, sides one of hr-hr, hr-lr, lr-lr, native, and size null at hr-hr.

    Raises:
        CrossresError: nothing asked for, encoders of two spaces, a size above hr_size, or what `verify` and
            `identify` refuse.
    """
    if pairs is None and search is None:
        raise CrossresError("nothing to judge: give pairs, a search or both")
    if gallery is not None and gallery.embedding_dim != encoder.embedding_dim:
        raise CrossresError(
            f"the gallery's embeddings have {gallery.embedding_dim} numbers, the probes' {encoder.embedding_dim}: "
            "they cannot be compared; train the student with losses.cosine at the teacher's width"
        )
    for size in sizes:
        if not 1 <= size <= hr_size:
            raise CrossresError(f"sizes: {size} is not within 1 and hr_size {hr_size}")
    degradation = degradation or Degradation()
    rows: list[dict[str, Any]] = []

    def judge(sides: str, size: int | None, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
        row: dict[str, Any] = {"sides": sides, "size": size}
        if pairs is not None:
            row["verification"] = verify(left, right, pairs, resamples)
        if search is not None:
            row["identification"] = identify(left, right, search, resamples)
        rows.append(row)

    def load(size: int) -> Loader:
        return Loader(images, hr_size=size, lr_size=size, device=device, fit=fit, memory_mb=memory_mb)

    result = {
        "dataset": images.name,
        "images": len(images),
        "people": int((images.class_counts > 0).sum()),
        "native": native,
        "hr_size": hr_size,
        "degradation": None if native else asdict(degradation.resolved()),
        "rows": rows,
    }
    if native:
        own = sizes_of(encoder)[2]
        right = embed(encoder.to(device), load(own), autocast)
        left = right if gallery is None else embed(gallery.to(device), load(hr_size))
        judge("native", own, left, right)
        return result
    loader = load(hr_size)

    def read(by: Encoder, size: Size | None) -> npt.NDArray[Any]:
        loader.lr_size = hr_size if size is None else size
        loader.degradation = Degradation(kernel=degradation.kernel) if size is None else degradation
        return embed(by.to(device), loader, nullcontext if by is gallery else autocast)

    high = read(gallery or encoder, None)
    judge("hr-hr", None, high, high)
    for size in sizes:
        low = read(encoder, size)
        judge("hr-lr", size, high, low)
        judge("lr-lr", size, low, low)
    return result


def _finite(value: float) -> float | None:
    """JSON knows no infinity: a threshold above or below all scores is null."""
    return value if np.isfinite(value) else None
