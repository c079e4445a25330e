"""What the page can be asked, and the photos that it begins with: plain functions, without a web server."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from crossres.config.deployment import Page
from crossres.core.errors import CrossresError
from crossres.core.types import Pixels
from crossres.data.decode import Limits
from crossres.deploy.gallery import Gallery, Match, cosine, identity_of
from crossres.deploy.photos import fitted, no_image, photos_below, read_photo
from crossres.deploy.recognizer import Answer, Recognizer
from crossres.deploy.thresholds import (
    Limit,
    Threshold,
    check_similarity,
    for_side,
    in_place_of,
    too_small,
    usable,
    usable_by_size,
)
from crossres.evaluation.facts import Facts
from crossres.models.zoo import examples, names

#: Smallest side that a photo is brought to.
MIN_SIDE = 4
#: Samples of a class, and of all.
PER_CLASS, MAX_SAMPLES = 2, 24


class Examined(NamedTuple):
    """A photo at a resolution, uint8 (side, side, 3), what the student reads of it, uint8 (s, s, 3), and the answers.

    The student answers to ``small``, at the largest side to the photo as it is; the teacher to both, there to the
    photo alone.
    """

    small: Pixels
    read: Pixels
    student: Answer
    teacher: list[Answer]


@dataclass(frozen=True)
class PhotoService:
    """Everything that the page can be asked: a student, beside one of classes its teacher, and a gallery to search.

    On two photos the same is seen from the similarity ``pairs`` on; somebody of the gallery from that of `strangers`
    on, which are of the gallery's ``thresholds`` or, where none hold, of none because of ``why``.
    """

    student: Recognizer
    teacher: Recognizer | None
    gallery: Gallery | None
    pairs: Limit
    thresholds: Sequence[Threshold]
    why: str

    @property
    def name(self) -> str:
        """The student's, for people."""
        return identity_of(self.student).name

    @property
    def facts(self) -> Facts:
        """Facts about the student."""
        return self.student.facts

    @property
    def compares(self) -> bool:
        """Whether it is asked about two photos; else, which class one shows."""
        return self.facts.task == "faces" or not self.facts.classes

    def predict(self, path: Path, top: int = 1) -> dict[str, Any]:
        """Return the document of ``crossres predict`` for a file, by its name alone, with ``top`` classes."""
        if not isinstance(top, int) or not 1 <= top <= len(self.facts.classes):
            raise CrossresError(f"top is {top!r}; give a number from 1 to {len(self.facts.classes)}")
        (answer,) = self.student.predict(path)
        error = answer.error and answer.error.replace(answer.name, path.name)
        return replace(answer, name=path.name, error=error).document(self.facts, top)

    def largest(self, photo: Pixels) -> int:
        """Return the side that the photo has, in pixels: at most the HR side of training and at least `MIN_SIDE`."""
        return max(MIN_SIDE, min(self.facts.side_of(photo), self.facts.hr_size))

    def opening(self, photo: Pixels) -> int:
        """Return the side in pixels that a photo is first shown at: the student's own, where the photo has it."""
        return max(MIN_SIDE, min(self.facts.side, self.largest(photo)))

    def examine(self, photo: Pixels, side: int) -> Examined:
        """Return the answers to a photo, uint8 (H, W, 3), at a side from `MIN_SIDE` to `largest`; there, as it is."""
        largest = self.largest(photo)
        if not MIN_SIDE <= side <= largest:
            raise CrossresError(f"the side is {side} pixels; give {MIN_SIDE} to {largest}")
        small = fitted(photo, side, self.facts)
        photos = [photo] if side == largest else [small, photo]
        teacher = [self.teacher.predict(each)[0] for each in photos] if self.teacher else []
        return Examined(small, self.read(photos[0]), self.student.predict(photos[0])[0], teacher)

    def read(self, photo: Pixels) -> Pixels:
        """Return what the student reads of a photo, uint8 (H, W, 3) -> uint8 (s, s, 3)."""
        return fitted(photo, self.facts.side, self.facts)

    def similarity(self, first: Pixels, second: Pixels) -> tuple[float, list[Answer]]:
        """Return the cosine of the embeddings of two photos, each uint8 (H, W, 3), and the answers that hold them."""
        answers = [self.student.predict(photo)[0] for photo in (first, second)]
        return cosine(*(np.asarray(answer.embedding) for answer in answers)), answers

    def strangers(self, photo: Pixels) -> Limit:
        """Return the similarity from which on a photo, uint8 (H, W, 3), shows somebody of the gallery."""
        side = self.facts.side_of(photo)
        threshold = for_side(self.thresholds, side)
        if threshold is None or self.gallery is None:
            return Limit(None, too_small(self.thresholds, side) or self.why)
        return _limit_of(threshold, self.gallery)

    def search(self, photo: Pixels, k: int) -> tuple[list[Match], Answer]:
        """Return the ``k`` of the gallery who are most like a photo, uint8 (H, W, 3), and the answer of the model."""
        assert self.gallery is not None
        (answer,) = self.student.predict(photo)
        return self.gallery.search(np.asarray(answer.embedding), k)[0], answer


def load_service(options: Page, note: Callable[[str], None] = lambda _: None) -> PhotoService:
    """Read everything that the page is asked about a model; note where the run's own teacher cannot be shown.

    CrossresError: one of them cannot be read, or does not belong to the others.
    """
    if options.threshold is not None:
        check_similarity(options.threshold)
    assert options.model is not None
    gallery = Gallery.load(options.gallery) if options.gallery else None
    flip = gallery is not None and gallery.model is not None and gallery.model.flip
    student = Recognizer.load(options.model, threads=options.threads, flip=flip, trust_code=options.trust_code)
    own = () if flip else student.facts.pairs  # which are of photos alone
    unset = "no threshold is set, so similarities only; --gallery or --threshold sets one"
    # what it was calibrated on was no smaller
    pairs = Limit(own[0].similarity, own[0].note, student.facts.lr_size[0]) if own else Limit(None, unset)
    thresholds: Sequence[Threshold] = []
    why = ""
    if gallery:
        gallery.demand_shared(identity_of(student), student.facts.embedding_dim, same_space=options.same_space)
        digest, by = identity_of(student).digest, f"--model {student.source}"
        thresholds, why = usable_by_size(gallery.thresholds, digest, f"{options.gallery} --strangers FOLDER {by}")
        held, lacking = usable(gallery.pair_threshold, digest, f"{options.gallery} --pairs FILE --images FOLDER {by}")
        own_note = f"{in_place_of(gallery.pair_threshold)}{pairs.note}"
        pairs = _limit_of(held, gallery) if held else pairs._replace(note=own_note if own else lacking)
    if options.threshold is not None:
        pairs = Limit(options.threshold, "")
    service = PhotoService(student, None, gallery, pairs, thresholds, why)
    if not service.compares:
        return replace(service, teacher=_teacher(options, note))
    if options.teacher:
        raise CrossresError(f"{options.model} has no classes to list beside a teacher's; leave --teacher out")
    return service


class Shown(NamedTuple):
    """A model on the page: its title, what it is asked, and the photos to begin with, class by class."""

    title: str
    service: PhotoService
    first: list[list[Path]]


def shown(options: Page, into: Path, note: Callable[[str], None] = lambda _: None) -> list[Shown]:
    """Return the model that the page is of, or all ready ones; samples of a run are written ``into`` a folder.

    CrossresError: what `load_service` and `samples` refuse, or options of one model where all are shown.
    """
    if options.model is not None:
        service = load_service(options, note)
        return [Shown(service.name, service, samples(options.model, options.samples, into, note))]
    given = [name for name in ("teacher", "samples", "gallery", "threshold") if getattr(options, name) is not None]
    if given:
        raise CrossresError(f"--{given[0]} belongs to one model; name it: crossres page MODEL --{given[0]} ...")
    ready = [
        Shown(name, load_service(replace(options, model=name), note), [[path] for path in examples(name)])
        for name in names()
    ]
    return sorted(ready, key=lambda model: not model.first)  # what answers at a click first


def _limit_of(threshold: Threshold, gallery: Gallery) -> Limit:
    note = threshold.outgrown_note(len(gallery)) or threshold.unsure_note()
    return Limit(threshold.similarity, note, min_quality=threshold.min_quality)


def _teacher(options: Page, note: Callable[[str], None]) -> Recognizer | None:
    """Return the teacher that is given, else the one that a run's folder names, where that can still be read."""
    assert options.model is not None
    path = options.teacher
    try:
        if not path and (Path(options.model) / "config.yaml").is_file():
            from crossres.config.reading import read_run

            part = read_run(options.model).distillation
            path = part and part.teacher
        if not path or not (options.teacher or Path(path).exists()):
            return None
        teacher = Recognizer.load(path, trust_code=options.trust_code)
        if teacher.facts.classes:
            return teacher
        raise CrossresError(f"{path} has no classes to list")
    except CrossresError as error:
        if options.teacher:
            raise
        note(f"the run's teacher is not shown: {error}")
        return None


def telling(service: PhotoService, paths: Iterable[Path]) -> Path | None:
    """Return the photo that shows best what the student is for; None where there is none, or no teacher.

    The student answers as the teacher does to the whole photo, but not to the same pixels enlarged; of several photos
    its most probable answer counts. Photos that are as small as those pixels or cannot be read are left out.
    """
    shares: dict[Path, float] = {}
    for path in paths if service.teacher else ():
        try:
            photo = read_upload(path, service.facts.range)
        except CrossresError:
            continue
        if (side := service.opening(photo)) < service.largest(photo):
            examined = service.examine(photo, side)
            enlarged, whole = (answer.label for answer in examined.teacher)
            if examined.student.label == whole != enlarged:
                shares[path] = examined.student.probability or 0.0
    return max(shares, key=lambda path: shares[path], default=None)


def read_upload(path: Path, limits: Limits = None) -> Pixels:
    """Return an uploaded photo, uint8 (H, W, 3); refuse, by its name alone, what `read_photo` does and tiny ones."""
    photo = read_photo(path, path.name, limits)
    height, width = photo.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise CrossresError(f"{path.name}: {width}x{height} pixels are too few; give at least {MIN_SIDE}x{MIN_SIDE}")
    return photo


def samples(model: str, folder: str | None, into: Path, note: Callable[[str], None]) -> list[list[Path]]:
    """Return a few photos to begin with, class by class: of a ``folder`` (of a folder for each class, or loose).

    Without one they are test images of the model, if it is a run's folder and its data are still there, written
    ``into`` a folder as PNG; ``note`` is called with a line where they cannot be read. CrossresError: no image.
    """
    if folder:
        of_class: dict[Path, list[Path]] = {}
        for path in photos_below(Path(folder)):
            of_class.setdefault(path.parent, []).append(path)
        if not of_class:
            raise no_image(Path(folder))
        most = PER_CLASS if len(of_class) > 1 else MAX_SAMPLES
        return [paths[:most] for paths in _spread(list(of_class.values()))]
    if not (Path(model) / "config.yaml").is_file():
        return []
    try:
        return list(_of_run(model, into))
    except CrossresError as error:
        note(f"no samples: {error}")
        return []


def _of_run(model: str, into: Path) -> Iterator[list[Path]]:
    from crossres.config.reading import read_run
    from crossres.evaluation.prepare import read_split

    config = read_run(model)
    # nothing is fetched for a sample
    config = replace(config, images=replace(config.images, download=False))
    images = read_split(config, "test", open_set=config.faces is not None)
    for label in _spread(np.flatnonzero(images.class_counts).tolist()):
        name = re.sub(r"[^\w-]+", "-", images.classes[label])[:40]
        chosen = np.flatnonzero(images.labels == label)[:PER_CLASS].tolist()
        paths = [into / f"{name}-{number}.png" for number in range(1, len(chosen) + 1)]
        for path, i in zip(paths, chosen, strict=True):
            Image.fromarray(images.image(i)).save(path)
        yield paths


def _spread(classes: Sequence[Any]) -> list[Any]:
    """Return no more classes than samples are shown of, evenly."""
    shown = min(len(classes), MAX_SAMPLES // PER_CLASS)
    return [classes[len(classes) * i // shown] for i in range(shown)]
