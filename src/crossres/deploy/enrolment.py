"""Filling a gallery with photos, finding who of it is on a photo, and comparing two photos.

`enroll`, `identify` and `verify` take the options of the command of their name and return what it prints with
``--json``; ``note`` is called with each line that a user should read beside it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from crossres.config.deployment import Enroll, Identify, Reader, Verify
from crossres.core.errors import CrossresError
from crossres.core.types import Bools, Float32s
from crossres.data.align import Aligner
from crossres.data.faces import read_pairs
from crossres.data.folder import read_loose
from crossres.data.images import ImageSet
from crossres.deploy.gallery import Gallery, cosine, identity_of
from crossres.deploy.gallery_file import locked
from crossres.deploy.photos import Source, fitted, people_in, photos_below, read_photo
from crossres.deploy.recognizer import Recognizer
from crossres.deploy.thresholds import (
    Limit,
    at_least,
    at_size,
    check_similarity,
    for_side,
    in_place_of,
    poor,
    too_small,
    usable,
    usable_by_size,
)

Note = Callable[[str], None]


class PhotoReader:
    """The model that a command names, and the photos that it did not use, as ``{"photo": ..., "why": ...}``."""

    def __init__(self, options: Reader, *, flagged_too: bool = False) -> None:
        if not options.model:
            raise CrossresError("--model is missing: the model that reads the photos")
        how: dict[str, Any] = {
            "flip": options.flip,
            "trust_code": options.trust_code,
            "onnx_input": options.onnx_input,
        }
        self.recognizer = Recognizer.load(options.model, **how)
        self.identity = identity_of(self.recognizer)
        self.same_space, self.min_quality, self.flagged_too = options.same_space, options.min_quality, flagged_too
        self.left_out: list[dict[str, str]] = []

    def embeddings(
        self, photos: Iterable[Source], names: Sequence[str] = (), *, any_size: bool = False
    ) -> list[Float32s | None]:
        """Return each photo's embedding, (d,); None for one that is left out, by its path or its name."""
        rows = []
        for number, answer in enumerate(self.recognizer.stream(photos)):
            flags = () if self.flagged_too else answer.flags_but_size if any_size else answer.photo_flags
            why = answer.reason if answer.error else "; ".join(flags) or poor(answer, self.min_quality)
            if left_out := bool(why):
                name = names[number] if names else answer.name
                self.left_out.append({"photo": name, "why": why})
            rows.append(None if left_out else answer.embedding)
        return rows

    def portraits(self, photos: Sequence[Path], aligner: Aligner | None) -> list[Float32s | None]:
        """Return the embedding (d,) of each photo or, with an aligner, of the face in it; None for one left out."""
        if aligner is None:
            return self.embeddings(photos)
        names: list[str] = []

        def faces() -> Iterator[Source]:
            for path in photos:
                face, why = None, "no face was detected in it"
                try:
                    face = aligner(read_photo(path, limits=self.recognizer.facts.range))
                except CrossresError as error:
                    why = str(error).removeprefix(f"{path}: ")
                if face is None:
                    self.left_out.append({"photo": str(path), "why": why})
                else:
                    names.append(str(path))
                    yield face

        rows = self.embeddings(faces(), names)
        by_name = dict(zip(names, rows, strict=True))
        return [by_name.get(str(path)) for path in photos]

    def strangers(self, folder: Path, sizes: Sequence[int]) -> dict[int, Float32s]:
        """Return the embeddings (S, d) of strangers shrunk to each size in pixels, or as they are, as size 0.

        A photo is shrunk as the model does it, to those sizes that it has. CrossresError where none can be used.
        """
        facts, paths = self.recognizer.facts, photos_below(folder)
        small: dict[int, dict[str, Source]] = {size: {} for size in sizes or [0]}
        for path in paths:
            if not sizes:
                small[0][str(path)] = path
                continue
            try:
                photo = read_photo(path, limits=facts.range)
            except CrossresError as error:
                self.left_out.append({"photo": str(path), "why": str(error).removeprefix(f"{path}: ")})
                continue
            for size in sizes:
                if facts.side_of(photo) >= size:
                    small[size][f"{path}{at_size(size)}"] = fitted(photo, size, facts)
        rows = {}
        for size, photos in small.items():
            read = self.embeddings(photos.values(), list(photos), any_size=bool(size))
            usable = [row for row in read if row is not None]
            if not usable:
                raise CrossresError(f"{folder}: no photo in it that can be used as a stranger{at_size(size)}")
            rows[size] = np.stack(usable)
        return rows

    def pairs(self, path: str, folder: Path) -> tuple[list[float], Bools]:
        """Return the similarity of each listed pair whose photos can be used, and whether it shows one identity."""
        files = read_loose(folder)[0]
        pairs = read_pairs(path, ImageSet(files, np.zeros(len(files), np.int64), ["?"], str(folder)))
        needed = np.unique(np.concatenate([pairs.left, pairs.right])).tolist()
        rows = dict(zip(needed, self.embeddings(folder / files.path(i) for i in needed), strict=True))
        similarities, kept = [], []
        for i in range(len(pairs)):
            first, second = rows[int(pairs.left[i])], rows[int(pairs.right[i])]
            if first is not None and second is not None:
                similarities.append(cosine(first, second))
                kept.append(i)
        return similarities, pairs.same[kept]

    def gallery(self, path: str | Path) -> Gallery:
        """Read a gallery; refuse one that holds embeddings of another space."""
        gallery = Gallery.load(path)
        gallery.demand_shared(self.identity, self.recognizer.facts.embedding_dim, same_space=self.same_space)
        return gallery


def enroll(options: Enroll, note: Note = lambda _: None) -> dict[str, Any]:
    """Change a gallery: take identities out, put people in, set its thresholds; note photos left out, unsure rates.

    Returns:
        gallery (its path), identities, embeddings, added (new embeddings by name), removed, left_out (photo and why),
        thresholds of a search and pair_threshold (as `crossres.deploy.thresholds.Threshold`; None without one),
        outgrown.

    Raises:
        CrossresError: nothing to do, or nothing that can be done; the gallery is then as it was.
    """
    reader = PhotoReader(options, flagged_too=options.all) if _reads(options) else None
    path = Path(options.gallery)
    _opened(path, reader)
    people = people_in(Path(options.people), flat=options.flat) if options.people else []
    aligner = Aligner(options.align) if options.align else None
    rows = reader.portraits([photo for _, photo in people], aligner) if reader else []
    strangers = reader.strangers(Path(options.strangers), options.sizes) if reader and options.strangers else {}
    pairs = reader.pairs(options.pairs, Path(options.images)) if reader and options.pairs and options.images else None
    left_out = reader.left_out if reader else []
    if people and all(row is None for row in rows):
        first = left_out[0]["why"]
        raise CrossresError(f"{options.people}: none of {len(rows)} photos can be used; the first: {first}")
    added: dict[str, int] = {}
    notes = [f"{one['photo']}: left out: {one['why']}" for one in left_out]
    # the photos are embedded before: others wait no longer than it takes to write
    with locked(path):
        gallery = _opened(path, reader)
        gallery.index = options.index or gallery.index
        for name in options.remove:
            gallery.remove(name)
        for (name, _), row in zip(people, rows, strict=True):
            if row is not None:
                added[name] = added.get(name, 0) + gallery.add(name, row)
        model = reader.identity if reader else None
        gallery.thresholds = [] if strangers else gallery.thresholds
        for size, those in strangers.items():
            notes.append(gallery.calibrate(those, options.fpir, model, size).unsure_note())
        if strangers:
            quality = options.min_quality
            gallery.thresholds = [replace(each, min_quality=quality) for each in gallery.thresholds]
        if pairs:
            held = replace(gallery.calibrate_pairs(*pairs, options.far, model), min_quality=options.min_quality)
            gallery.pair_threshold = held
            notes.append(held.unsure_note())
        gallery.save(path)
    for line in filter(None, [*notes, gallery.outgrown_note]):
        note(line)
    return {
        "gallery": options.gallery,
        "identities": len(gallery),
        "embeddings": gallery.embeddings,
        "added": added,
        "removed": options.remove,
        "left_out": left_out,
        "thresholds": [asdict(threshold) for threshold in gallery.thresholds],
        "pair_threshold": gallery.pair_threshold and asdict(gallery.pair_threshold),
        "outgrown": gallery.outgrown,
    }


def _reads(options: Enroll) -> bool:
    """Return whether an enrolment reads photos; refuse one whose options do not fit together."""
    reads = bool(options.people or options.strangers or options.pairs)
    if not (reads or options.remove or options.index):
        raise CrossresError("nothing to do; give PEOPLE, --remove, --strangers, --pairs or --index")
    if options.align and not options.people:
        raise CrossresError("--align: aligns the photos of PEOPLE; give them, too")
    if options.sizes and not options.strangers:
        raise CrossresError("--sizes: sides that strangers are shrunk to; give --strangers, too")
    if options.sizes and min(options.sizes) < 1:
        raise CrossresError(f"--sizes: {min(options.sizes)} is below 1")
    if bool(options.pairs) != bool(options.images):
        raise CrossresError("--pairs and --images belong together: a list, and the folder of its images")
    for name, rate in (("fpir", options.fpir), ("far", options.far)):
        if not 0 <= rate <= 1:
            raise CrossresError(f"--{name}: a share within 0..1, got {rate:g}")
    return reads


def _opened(path: Path, reader: PhotoReader | None) -> Gallery:
    """Return the gallery that takes the reader's embeddings: a new one where there is none."""
    if reader is None:
        return Gallery.load(path)
    if path.exists():
        return reader.gallery(path)
    return Gallery(reader.recognizer.facts.embedding_dim, model=reader.identity)


def identify(options: Identify, note: Note = lambda _: None) -> dict[str, Any]:
    """Find who of a gallery is on photos; note that no threshold holds, or that it is outgrown.

    Returns:
        gallery (its path), thresholds (each a `crossres.deploy.thresholds.Threshold` as a dict; none where none
        hold), outgrown, and photos: of each its path as photo, name (None: not in it, or no threshold), threshold
        (its similarity, by the photo's size), nearest (name and similarity of each), quality, flags and error.

    Raises:
        CrossresError: a gallery, model or folder that cannot be read, or none of the photos can be.
    """
    if options.k < 1:
        raise CrossresError(f"--k: expected 1 or more, got {options.k}")
    reader = PhotoReader(options)
    gallery = reader.gallery(options.gallery)
    answers = reader.recognizer.predict(options.photos)
    rows = [answer.embedding for answer in answers if answer.embedding is not None]
    if not rows:
        raise CrossresError(f"none of {len(answers)} photos could be read; the first: {answers[0].reason}")
    results = iter(gallery.search(np.stack(rows), options.k))
    remedy = f"{options.gallery} --strangers FOLDER --model {reader.recognizer.source}"
    thresholds, why = usable_by_size(gallery.thresholds, reader.identity.digest, remedy)
    photos = []
    for answer in answers:
        matches = next(results) if answer.embedding is not None else []
        threshold = for_side(thresholds, answer.side) if matches else None
        low = poor(answer, max(reader.min_quality, threshold.min_quality if threshold else 0))
        threshold = None if low else threshold
        known = threshold is not None and at_least(matches[0].similarity, threshold.similarity)
        row: dict[str, Any] = {"photo": answer.name, "name": matches[0].name if known else None}
        row |= {"threshold": threshold and threshold.similarity, "nearest": [asdict(match) for match in matches]}
        small = too_small(thresholds, answer.side) if matches else ""
        flags = [*(answer.flags_but_size if small else answer.photo_flags), *filter(None, [small, low])]
        photos.append({**row, "quality": answer.quality, "flags": flags, "error": answer.error})
    for line in filter(None, [why, gallery.outgrown_note]):
        note(line)
    return {
        "gallery": options.gallery,
        "thresholds": [asdict(threshold) for threshold in thresholds],
        "outgrown": gallery.outgrown,
        "photos": photos,
    }


def verify(options: Verify, note: Note = lambda _: None) -> dict[str, Any]:
    """Decide whether two photos show the same; note what the threshold does, or that none is given or holds.

    The threshold is the given one, a gallery's, or the model's own at the false accept rate ``far``.

    Returns:
        photos (photo, quality and flags of each), similarity, threshold (a similarity, or None) and same (None
        without a threshold, for a photo of too low quality, or for one too small for the model's own threshold).

    Raises:
        CrossresError: a gallery, model or photo that cannot be read, a threshold that cannot be one, or a rate that
            the model has no threshold for.
    """
    if options.threshold is not None:
        check_similarity(options.threshold)
        if options.gallery:
            raise CrossresError("--gallery and --threshold both set the threshold; give one of them")
        if options.far is not None:
            raise CrossresError(
                "--far picks a threshold of the model's own, and --threshold gives one; leave one out"
            )
    reader = PhotoReader(options)
    limit = _pair_limit(options, reader)
    answers = reader.recognizer.predict(options.photos)
    if len(answers) != 2:
        raise CrossresError(f"verify compares two photos, got {len(answers)}")
    if error := next((answer.error for answer in answers if answer.error), None):
        raise CrossresError(error)
    similarity = cosine(*(np.asarray(answer.embedding) for answer in answers))
    if line := limit.note_on(*answers):
        note(line)
    photos = []
    for answer in answers:
        flags = [*answer.photo_flags, *filter(None, [poor(answer, limit.min_quality)])]
        photos.append({"photo": answer.name, "quality": answer.quality, "flags": flags})
    verdict = limit.passed(similarity, *answers)
    return {"photos": photos, "similarity": similarity, "threshold": limit.similarity, "same": verdict}


def _pair_limit(options: Verify, reader: PhotoReader) -> Limit:
    """Return the threshold of pairs that options choose: the given one, a gallery's, or the model's own."""
    facts, quality = reader.recognizer.facts, options.min_quality
    if options.threshold is not None:
        return Limit(options.threshold, "", min_quality=quality)
    remedy = "--gallery with one (crossres enroll GALLERY --pairs FILE --images FOLDER sets it)"
    own = () if options.flip else facts.pairs  # which are of photos alone
    without = " with --flip" if facts.pairs and not own else ""
    why, kept = f"no threshold{without}, so no verdict; give --threshold, or {remedy}", None
    if options.gallery:
        enrolling = f"{options.gallery} --pairs FILE --images FOLDER --model {reader.recognizer.source}"
        kept = reader.gallery(options.gallery).pair_threshold
        held, why = usable(kept, reader.identity.digest, enrolling)
        if held and options.far is not None:
            raise CrossresError("--far picks a threshold of the model's own, the gallery has one; leave --far out")
        if held:
            return Limit(held.similarity, "", min_quality=max(quality, held.min_quality))
    if not own and options.far is not None:
        raise CrossresError(f"--far: {reader.identity.name} has no threshold of its own{without}; leave --far out")
    if not own:
        return Limit(None, why, min_quality=quality)
    chosen = next((each for each in own if options.far in (None, each.rate)), None)
    if chosen is None:
        rates = ", ".join(f"{each.rate:g}" for each in own)
        raise CrossresError(f"--far: {reader.identity.name} has thresholds for {rates}, got {options.far:g}")
    laxer = next((each for each in own if each.rate > chosen.rate), None)
    more = f"; --far {laxer.rate:g} misses {100 * (1 - laxer.tar):.0f} %" if laxer else ""
    # what it was calibrated on was no smaller
    return Limit(chosen.similarity, f"{in_place_of(kept)}{chosen.note}{more}", facts.lr_size[0], quality)
