"""An encoder on faces: its images read at every resolution, and the protocols on its embeddings."""

import codecs
import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from crossres.config.judging import EvaluateFaces
from crossres.config.record import base_name
from crossres.core.devices import Device
from crossres.core.errors import CrossresError
from crossres.core.files import cell, holds_embeddings, write_atomically
from crossres.core.progress import Progress
from crossres.core.types import Float32s, Float64s
from crossres.data.degradation import Degradation
from crossres.data.face_sets import SURVFACE_PAIRS
from crossres.data.faces import UNNAMED
from crossres.data.loader import Loader
from crossres.evaluation.exported import exported_encoder
from crossres.evaluation.face_protocols import FaceTest, read_protocols
from crossres.evaluation.identification import FPIRS, identify
from crossres.evaluation.prepare import CPU, check, degradation_of, device_of, embeddings_of, kept, note, sizes_of
from crossres.evaluation.verification import FARS, best_threshold, similarities, verify
from crossres.models.encoder import Encoder
from crossres.models.filling import cached_outputs
from crossres.models.onnx_input import OnnxInput
from crossres.models.teachers import StoredBackbone, read_teacher, stored_outputs
from crossres.models.weights import weights_sha256

#: Of the judged images and, if there are any, of those that choose the threshold.
Embeddings = list[Float32s]
#: How pairs were read (hr-hr, hr-lr, lr-lr or native), side of the smaller images in pixels, similarities (N,).
Scored = tuple[str, int, Float64s]
COLUMNS = ("left", "right", "same", "fold", "sides", "size", "similarity")


def evaluate_faces(options: EvaluateFaces) -> dict[str, Any]:
    """Judge a saved face model, as ``crossres faces evaluate`` does; notes and progress go to stderr.

    Returns:
        What `evaluate_face_encoder` returns, the names of model and gallery, gallery_stored (whether that is stored
        embeddings) and the precision.

    Raises:
        CrossresError: options out of range or that exclude each other, no such model, images or pairs, or what
            `evaluate_face_encoder` raises.
        Unwritten: the figure or the scores cannot be written.
    """
    # people's own folders may hold good images to make smaller ones of; the published sets are small as they are
    small = options.layout is not None and not (options.layout == "folders" and options.sizes)
    options = replace(options, native=options.native or small)
    check(options)
    _check_files(options)
    encoder = _read_model(options.model, options, options.onnx_input or OnnxInput())
    gallery = _read_gallery(options, encoder)
    test = read_protocols(options, encoder)
    device = device_of(options, encoder)
    scored: list[Scored] | None = [] if options.scores else None
    how: dict[str, Any] = {"gallery": gallery, "device": device, "scored": scored, "progress": Progress().count}
    result: dict[str, Any] = {
        "model": base_name(options.model),
        "gallery": base_name(options.gallery) if options.gallery else None,
        "gallery_stored": gallery is not None and isinstance(gallery.backbone, StoredBackbone),
    }
    result |= evaluate_face_encoder(encoder, test, options, **how) | {"precision": device.precision}
    with kept(result):
        if options.png:
            from crossres.evaluation.figures import draw_faces

            draw_faces(result, options.png)
        if options.scores and scored:
            write_scores(options.scores, test, scored)
    return result


def _check_files(options: EvaluateFaces) -> None:
    """Refuse files that cannot be what they are given as."""
    if holds_embeddings(options.model):
        raise CrossresError(f"{options.model}: stored embeddings know no other images; give the model they come from")
    if options.scores and options.layout not in (None, SURVFACE_PAIRS):
        raise CrossresError(f"--scores: {options.data} has its own gallery and probes, no pairs; leave it out")
    if options.scores and options.search and not options.pairs:
        raise CrossresError("--scores writes the similarities of pairs; give --pairs, or leave it out")
    lists = (options.pairs, options.threshold_pairs, options.templates, options.data)
    inputs = {Path(path).absolute() for path in (*lists, *(options.search or ())) if path}
    if options.scores and Path(options.scores).absolute() in inputs:
        raise CrossresError(f"--scores: {options.scores} is an input; name another file")


def _read_model(model: str, options: EvaluateFaces, onnx_input: OnnxInput) -> Encoder:
    return exported_encoder(model) or read_teacher(model, onnx_input, trust_code=options.trust_code)


def _read_gallery(options: EvaluateFaces, encoder: Encoder) -> Encoder | None:
    """Read the gallery's model; a student knows what its own teacher expects of its input."""
    if not options.gallery:
        return None
    teacher = encoder.info.get("teacher") or {}
    onnx_input = options.onnx_input or OnnxInput(**(teacher.get("onnx_input") or {}))
    gallery = _read_model(options.gallery, options, onnx_input)
    same_width = gallery.embedding_dim == encoder.embedding_dim  # where not, it is refused
    # a network and its export share a space
    ours, theirs = ([weights_sha256(each), each.info.get("weights_sha256")] for each in (encoder, gallery))
    ours.append(teacher.get("sha256"))
    if same_width and not any(digest and digest in ours for digest in theirs):
        name = f" ({teacher['name']})" if teacher.get("name") else ""
        note(
            f"{options.gallery} is not the model that {options.model} was trained with{name}: unless both share a "
            "space, the comparison means nothing"
        )
    return gallery


def evaluate_face_encoder(
    encoder: Encoder,
    test: FaceTest,
    options: EvaluateFaces,
    *,
    gallery: Encoder | None = None,
    device: Device = CPU,
    scored: list[Scored] | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Judge an encoder on faces at HR-HR, HR-LR and LR-LR, for each low-resolution size.

    Args:
        encoder: reads the probes (of a pair the right image); at HR-HR and LR-LR both sides.
        test: images, pairs and who is searched for.
        options: sizes, degradation, rates, resamples, cache_dir; native: each encoder reads the images, such as
            TinyFace's, as they are, and there is one row.
        gallery: another encoder for the HR side (of a pair the left image), such as the teacher or its stored
            embeddings, in whose space the encoder was trained; the HR-HR row is then its own.
        device: where the encoders run, in which precision; another gallery runs in float32.
        scored: gets the similarities of the pairs of each row.
        progress: called with (what, done, total) in each pass over the images.

    Returns:
        ``{dataset, images, templates, people, native, flip, aligned, hr_size, degradation, rows}``; a row is
        ``{sides, size, verification, identification}``, sides one of hr-hr, hr-lr, lr-lr, native, and size
        null at hr-hr.

    Raises:
        CrossresError: no pairs and no search, encoders of two spaces, a size above hr_size, or what `verify` and
            `identify` refuse.
    """
    reading = _Reading(encoder, gallery, test.used(), options, device, progress)
    pairs, search, chooser = reading.test.pairs, reading.test.search, reading.test.chooser
    fars, fpirs = (list(dict.fromkeys(rates)) for rates in (options.far or FARS, options.fpir or FPIRS))
    rows = []
    for sides, size, left, right in reading.rows():
        row: dict[str, Any] = {"sides": sides, "size": size}
        if pairs is not None:
            threshold = chooser and best_threshold(similarities(left[1], right[1], chooser[1]), chooser[1].same)
            row["verification"] = verify(left[0], right[0], pairs, options.resamples, threshold, fars)
            if scored is not None:
                scored.append((sides, size or reading.hr_size, similarities(left[0], right[0], pairs)))
        if search is not None:
            row["identification"] = identify(left[0], right[0], search, options.resamples, fpirs)
        rows.append(row)
    counts = zip(test.images.classes, test.images.class_counts, strict=True)
    return {
        "dataset": test.images.name,
        "images": len(test.images),
        "templates": len(test.templates) if test.templates is not None else None,
        "people": sum(bool(count) and name != UNNAMED for name, count in counts),
        "native": options.native,
        "flip": options.flip,
        "aligned": options.align is not None,
        "hr_size": reading.hr_size,
        "degradation": None if options.native else asdict(reading.degradation.resolved()),
        "rows": rows,
    }


@dataclass(frozen=True)
class _Reading:
    """The images of a test as the encoders read them; each side is decoded once."""

    encoder: Encoder
    gallery: Encoder | None
    test: FaceTest
    options: EvaluateFaces
    device: Device
    progress: Callable[[str, int, int], None]

    def __post_init__(self) -> None:
        width, of_gallery = self.encoder.embedding_dim, self.gallery and self.gallery.embedding_dim
        if of_gallery not in (None, width):
            raise CrossresError(
                f"the gallery's embeddings have {of_gallery} numbers, the probes' {width}: they cannot be compared; "
                "train the student with losses.cosine at the teacher's width"
            )
        for size in self.options.sizes:
            if not 1 <= size <= self.hr_size:
                raise CrossresError(f"sizes: {size} is outside 1..{self.hr_size} (hr_size)")

    @property
    def hr_size(self) -> int:
        both = [encoder for encoder in (self.encoder, self.gallery) if encoder is not None]
        reading = [encoder for encoder in both if not isinstance(encoder.backbone, StoredBackbone)]
        return self.options.hr_size or max(sizes_of(encoder)[0] for encoder in reading)

    @property
    def degradation(self) -> Degradation:
        return degradation_of(self.options, self.encoder)

    def rows(self) -> Iterator[tuple[str, int | None, Embeddings, Embeddings]]:
        """Yield the sides, the size and the embeddings of the left and of the right side of each row."""
        if self.options.native:
            size = sizes_of(self.encoder)[2]
            right = self._read(self._loaders(size))
            # another side is decoded for another encoder alone
            left = right if self.gallery is None else self._read(self._loaders(self.hr_size), self.gallery)
            yield "native", size, left, right
            return
        loaders = self._loaders(self.hr_size)
        high = self._read(loaders, self.gallery)
        yield "hr-hr", None, high, high
        trained = dict.fromkeys(sizes_of(self.encoder)[1:]) if not self.options.sizes else ()
        for size in self.options.sizes or [size for size in trained if size < self.hr_size]:
            low = self._read([loader.at(size, self.degradation) for loader in loaders])
            yield "hr-lr", size, high, low
            yield "lr-lr", size, low, low

    def _loaders(self, side: int) -> list[Loader]:
        how: dict[str, Any] = {"hr_size": side, "lr_size": side, "memory_mb": self.options.images.memory_mb}
        how |= {"device": self.device.torch, "fit": self.encoder.info.get("fit", "crop")}
        return [Loader(images, **how) for images in (self.test.images, *(self.test.chooser or ())[:1])]

    def _read(self, loaders: Sequence[Loader], gallery: Encoder | None = None) -> Embeddings:
        """Return the embeddings of the judged encoder, or those of the gallery's, in float32 and kept in a folder."""
        encoder = (self.encoder if gallery is None else gallery).to(self.device.torch)
        folder = Path(self.options.cache_dir) if self.options.cache_dir else None
        flip = self.options.flip
        how: dict[str, Any] = {"flip": flip, "autocast": nullcontext, "precision": "float32"}
        how["progress"] = lambda _, done, total: self.progress("gallery", done, total)
        embeddings = []
        for loader in loaders:
            what = "at their own size" if loader.lr_size == loader.hr_size else f"at {loader.lr_size} pixels"
            if isinstance(encoder.backbone, StoredBackbone):
                cache = stored_outputs(encoder, loader.images, self.device.torch)
                rows = cache.embeddings(len(loader.images)).cpu().numpy()
            elif gallery is not None:
                cache = cached_outputs(encoder, loader, folder, mirrored=flip, **how)
                rows = cache.embeddings(len(loader.images)).cpu().numpy()
            else:
                progress = partial(self.progress, what)
                rows = embeddings_of(encoder, loader, self.device.autocast, progress=progress, mirrored=flip)
            embeddings.append(_sound(rows, loader))
        if self.test.templates is not None:
            embeddings[0] = self.test.templates.joined(embeddings[0], by_quality=self.options.by_quality)
        return embeddings


def _sound(embeddings: Float32s, loader: Loader) -> Float32s:
    """Return embeddings; refuse those that no cosine can be taken of, by the image."""
    length = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~np.isfinite(length) | (length == 0))
    if len(bad):
        where = loader.images.where(int(bad[0]))
        raise CrossresError(f"the embedding of {where} is NaN, infinite or 0; {len(bad)} such images in all")
    return embeddings


def write_scores(path: str | Path, test: FaceTest, rows: Sequence[Scored]) -> None:
    """Write a line a pair and row: the columns of a list of pairs, and the similarity.

    Args:
        path: of the CSV, written atomically; similarities are written so that they read back exactly.
        test: with pairs.
        rows: the similarities at each of the sides and sizes.

    Raises:
        CrossresError: the file cannot be written.
    """
    pairs = test.pairs
    assert pairs is not None
    sides = ([cell(test.name(i)) for i in side.tolist()] for side in (pairs.left, pairs.right))
    listed = list(zip(*sides, pairs.same.astype(int).tolist(), pairs.fold.tolist(), strict=True))

    def write(file: IO[bytes]) -> None:
        lines = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
        lines.writerow(COLUMNS)
        for read_as, size, scores in rows:
            lines.writerows(
                (*pair, read_as, size, score) for pair, score in zip(listed, scores.tolist(), strict=True)
            )

    write_atomically(path, write)
