"""An encoder on faces: its images read at every resolution, and the protocols on what it says of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from crossres.core.errors import CrossresError
from crossres.core.files import write_atomically
from crossres.data.degradation import Degradation
from crossres.data.faces import Search
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.data.pairs import UNNAMED, Pairs
from crossres.evaluation.embedding import embed, sizes_of
from crossres.evaluation.protocols import FARS, FPIRS, identify, similarities, verify
from crossres.evaluation.verification import best_threshold
from crossres.models.cache import cached_outputs
from crossres.models.encoder import Encoder
from crossres.models.stored import StoredBackbone, stored_outputs

Floats = npt.NDArray[np.float64]
Embeddings = npt.NDArray[np.float32]


def evaluate_faces(
    encoder: Encoder,
    images: ImageSet,
    *,
    hr_size: int,
    sizes: Sequence[int],
    pairs: Pairs | None = None,
    search: Search | None = None,
    chooses: tuple[ImageSet, Pairs] | None = None,
    gallery: Encoder | None = None,
    gallery_cache: Path | None = None,
    native: bool = False,
    degradation: Degradation | None = None,
    fit: Any = "crop",
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    memory_mb: int = 4096,
    resamples: int = 1000,
    fars: Sequence[float] = FARS,
    fpirs: Sequence[float] = FPIRS,
    keep: Callable[[str, int, Floats], None] | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Judge an encoder on faces at HR-HR, HR-LR and LR-LR, for each low-resolution size.

    Args:
        encoder: reads the probes (of a pair the right image); at HR-HR and LR-LR both sides.
        images: of people.
        hr_size: side that the images are read at, in pixels.
        sizes: sides of the low-resolution images.
        pairs: for verification; left out where None.
        search: for identification and retrieval; left out where None.
        chooses: other images and pairs of them, on which the threshold of ``accuracy_chosen`` is chosen.
        gallery: another encoder for the HR side (of a pair the left image), such as the teacher or its stored
            embeddings, in whose space the encoder was trained; the HR-HR row is then its own.
        gallery_cache: folder that keeps the gallery's embeddings for the next encoder that is judged beside it.
        native: the images have the resolution they are to be judged at, as TinyFace's: no size is made of another,
            each encoder reads them as they are, and there is one row, of sides native.
        degradation: how LR comes from HR.
        fit: how images that are not square are fitted.
        device: where the encoders run.
        autocast: context of the encoder's forward pass; another gallery runs in float32.
        memory_mb: budget for decoded images.
        resamples: of the bootstrap.
        fars: false accept rates that TAR is given at.
        fpirs: false positive identification rates that TPIR is given at.
        keep: given (sides, size, similarity of each pair) of each row, its size hr_size at hr-hr.
        progress: told (what, done, total) of each pass over the images.

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
    result = {
        "dataset": images.name,
        "images": len(images),
        "people": sum(
            bool(count) and name != UNNAMED for name, count in zip(images.classes, images.class_counts, strict=True)
        ),
        "native": native,
        "hr_size": hr_size,
        "degradation": None if native else asdict(degradation.resolved()),
        "rows": rows,
    }
    images, pairs, search = _used(images, pairs, search)
    others, chooser, _ = _used(*chooses, None) if chooses is not None and pairs is not None else (None, None, None)

    def views(side: int) -> _Views:
        sets = [images] if others is None else [images, others]
        return _Views(
            [Loader(of, hr_size=side, lr_size=side, device=device, fit=fit, memory_mb=memory_mb) for of in sets],
            degradation,
            progress,
        )

    def judge(sides: str, size: int | None, left: list[Embeddings], right: list[Embeddings]) -> None:
        row: dict[str, Any] = {"sides": sides, "size": size}
        if pairs is not None:
            threshold = None
            if chooser is not None:
                threshold = best_threshold(similarities(left[1], right[1], chooser), chooser.same)
            row["verification"] = verify(left[0], right[0], pairs, resamples, threshold, fars)
            if keep is not None:
                keep(sides, size or hr_size, similarities(left[0], right[0], pairs))
        if search is not None:
            row["identification"] = identify(left[0], right[0], search, resamples, fpirs)
        rows.append(row)

    if native:
        own = sizes_of(encoder)[2]
        right = views(own).read(encoder.to(device), None, autocast)
        # another side is decoded for another encoder alone
        high = right if gallery is None else views(hr_size).kept(gallery.to(device), gallery_cache)
        judge("native", own, high, right)
        return result
    at_hr = views(hr_size)
    left = None if gallery is None else at_hr.kept(gallery.to(device), gallery_cache)
    high = left or at_hr.read(encoder.to(device), None, autocast)
    judge("hr-hr", None, high, high)
    for size in sizes:
        low = at_hr.read(encoder.to(device), size, autocast)
        judge("hr-lr", size, high, low)
        judge("lr-lr", size, low, low)
    return result


@dataclass
class _Views:
    """Images that are decoded once at one side and read at several sizes.

    Attributes:
        loaders: of the judged images and, where there are some, of those that choose the threshold.
        degradation: of smaller sizes.
        progress: told (what, done, total) of each pass.
    """

    loaders: list[Loader]
    degradation: Degradation
    progress: Callable[[str, int, int], None]

    def read(self, by: Encoder, size: int | None, autocast: Callable[[], Any]) -> list[Embeddings]:
        """Return the embeddings at a size, degraded; None is the side itself, at most resized."""
        for loader in self.loaders:
            loader.lr_size = size or loader.hr_size
            loader.degradation = self.degradation if size else Degradation(kernel=self.degradation.kernel)
        told = partial(self.progress, f"at {size}x{size}" if size else "at their own size")
        said = [embed(by, loader, autocast, progress=told) for loader in self.loaders]
        return [_sound(of, loader.images) for of, loader in zip(said, self.loaders, strict=True)]

    def kept(self, by: Encoder, folder: Path | None) -> list[Embeddings]:
        """Return another model's embeddings of the side itself, in float32, from a folder where they are there."""
        known: dict[str, Any] = {"flip": False, "autocast": nullcontext, "precision": "float32"}
        known["progress"] = lambda _, done, total: self.progress("gallery", done, total)
        said = [
            stored_outputs(by, loader.images, loader.device)
            if isinstance(by.backbone, StoredBackbone)
            else cached_outputs(by, loader, folder, **known)
            for loader in self.loaders
        ]
        rows = [outputs.embedding[0].cpu().numpy() for outputs in said]
        return [_sound(of, loader.images) for of, loader in zip(rows, self.loaders, strict=True)]


def _sound(embeddings: Embeddings, images: ImageSet) -> Embeddings:
    length = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~np.isfinite(length) | (length == 0))
    if len(bad):
        raise CrossresError(
            f"the embedding of {images.where(int(bad[0]))} is NaN, infinite or 0; {len(bad)} such images in all"
        )
    return embeddings


def _used(
    images: ImageSet, pairs: Pairs | None, search: Search | None
) -> tuple[ImageSet, Pairs | None, Search | None]:
    """Return the images that the protocols name, and the protocols on these."""
    named = [pairs.left, pairs.right] if pairs else []
    named += [search.gallery, search.probes] if search else []
    used = np.unique(np.concatenate(named))
    if pairs is not None:
        left, right = (np.searchsorted(used, side) for side in (pairs.left, pairs.right))
        pairs = replace(pairs, left=left, right=right)
    if search is not None:
        gallery, probes = (np.searchsorted(used, side) for side in (search.gallery, search.probes))
        search = replace(search, gallery=gallery, probes=probes)
    return images.subset(used), pairs, search


#: How pairs were read (hr-hr, hr-lr, lr-lr or native), side of the smaller images in pixels, similarities (N,).
Scored = tuple[str, int, npt.NDArray[np.float64]]


COLUMNS = ("left", "right", "same", "fold", "sides", "size", "similarity")


def write_scores(path: str | Path, images: ImageSet, pairs: Pairs, rows: Sequence[Scored]) -> None:
    """Write a line a pair and row: the columns of a list of pairs, and what they were found to be.

    Args:
        path: of the CSV, written atomically; similarities are written so that they read back exactly.
        images: that the pairs name.
        pairs: of N pairs.
        rows: the similarities at each of the sides and sizes.

    Raises:
        CrossresError: the file cannot be written.
    """
    listed = [
        (images.path(left) or images.where(left), images.path(right) or images.where(right), int(same), fold)
        for left, right, same, fold in zip(
            pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist(), pairs.fold.tolist(), strict=True
        )
    ]

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(COLUMNS)
        for sides, size, scores in rows:
            lines.writerows((*pair, sides, size, score) for pair, score in zip(listed, scores.tolist(), strict=True))
        text.detach()  # flushes, and leaves the file open to who opened it

    write_atomically(path, write)
