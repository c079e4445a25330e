"""What the page says of photos: plain functions of files and sides, without a web server."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.deploy.facts import Facts
from crossres.deploy.gallery import Gallery, Match, Model, Threshold, check_similarity, model_of, unit
from crossres.deploy.photos import Pixels, read_photo
from crossres.deploy.recognizer import Answer, Recognizer, document_of

#: Smallest side that a photo is brought to.
LEAST = 4
_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_NONE = "No threshold is set, so this is a similarity alone"


class Look(NamedTuple):
    """A photo at a resolution, and what is said of it.

    Attributes:
        small: the photo at that resolution, uint8 (side, side, 3).
        read: what the student reads of it, uint8 (s, s, 3).
        student: its answer to ``small``; at the largest side to the photo as it is.
        teacher: the teacher's answer to the photo as it is; None without one.
        small_teacher: its answer to what the student was asked about, which it enlarges; None without one.
    """

    small: Pixels
    read: Pixels
    student: Answer
    teacher: Answer | None
    small_teacher: Answer | None


class Limit(NamedTuple):
    """The similarity from which on two are the same; None, and a note that says why, where none is set."""

    similarity: float | None
    note: str

    def passed(self, similarity: float) -> bool | None:
        """Return whether it is reached; None where none is set."""
        return None if self.similarity is None else similarity >= self.similarity


@dataclass(frozen=True)
class Answers:
    """Everything that the page can be asked.

    Attributes:
        student: the model.
        teacher: beside a student of classes.
        gallery: searched; None for no search.
        pairs: from which similarity on two photos show the same.
        strangers: from which similarity on somebody of the gallery is found.
    """

    student: Recognizer
    teacher: Recognizer | None
    gallery: Gallery | None
    pairs: Limit
    strangers: Limit

    @property
    def name(self) -> str:
        """The student's, for people."""
        return model_of(self.student).name

    @property
    def facts(self) -> Facts:
        """Facts about the student."""
        return self.student.facts

    @property
    def compares(self) -> bool:
        """Whether it is asked about two photos; else, which class one shows."""
        return self.facts.task == "faces" or not self.facts.classes

    def predict(self, path: Path, top: int = 1) -> dict[str, Any]:
        """Return the JSON document of ``crossres predict`` for a file, by its name alone.

        Raises:
            CrossresError: no classes, or not so many.
        """
        if not isinstance(top, int) or not 1 <= top <= len(self.facts.classes):
            raise CrossresError(f"top is {top!r}, not a number from 1 to {len(self.facts.classes)}")
        (answer,) = self.student.predict(path)
        error = answer.error and _without_folder(answer.error, path)
        return document_of(replace(answer, name=path.name, error=error), self.student, top)

    def largest(self, photo: Pixels) -> int:
        """Return the side that the photo has, in pixels, at most the HR side of training and at least `LEAST`."""
        height, width = photo.shape[:2]
        side: int = max(height, width) if self.facts.fit == "pad" else min(height, width)
        return max(LEAST, min(side, self.facts.hr_size))

    def look(self, photo: Pixels, side: int) -> Look:
        """Return what is seen and said of a photo, uint8 (H, W, 3), at a side in pixels; at the largest, as it is.

        Raises:
            CrossresError: a side below `LEAST` or above `largest`.
        """
        largest = self.largest(photo)
        if not LEAST <= side <= largest:
            raise CrossresError(f"{side} pixels are not within {LEAST} to {largest}")
        small = at_side(photo, side, self.facts)
        given = photo if side == largest else small
        teacher = self.teacher.predict(photo)[0] if self.teacher else None
        small_teacher = self.teacher.predict(small)[0] if self.teacher and side < largest else teacher
        return Look(small, self.read(given), self.student.predict(given)[0], teacher, small_teacher)

    def read(self, photo: Pixels) -> Pixels:
        """Return what the student reads of a photo, uint8 (H, W, 3) -> uint8 (s, s, 3)."""
        return at_side(photo, self.facts.side, self.facts)

    def compare(self, first: Pixels, second: Pixels) -> tuple[float, list[Answer]]:
        """Return the cosine of the embeddings of two photos, each uint8 (H, W, 3), and the answers that hold them."""
        answers = [self.student.predict(photo)[0] for photo in (first, second)]
        left, right = (unit(np.asarray(answer.embedding), "photo")[0].astype(np.float64) for answer in answers)
        return float(left @ right), answers

    def search(self, photo: Pixels, k: int) -> tuple[list[Match], Answer]:
        """Return the ``k`` of the gallery who are most like a photo, uint8 (H, W, 3), and the answer of the model.

        Raises:
            CrossresError: there is no gallery, or it is empty.
        """
        if self.gallery is None:
            raise CrossresError("there is no gallery; start the page with --gallery")
        (answer,) = self.student.predict(photo)
        return self.gallery.search(np.asarray(answer.embedding), k)[0], answer


def load(
    model: str,
    *,
    teacher: str | None = None,
    gallery: str | None = None,
    threshold: float | None = None,
    same_space: bool = False,
    threads: int = 0,
    trust_code: bool = False,
) -> Answers:
    """Read everything that is asked; the arguments are those of ``crossres page``.

    Raises:
        CrossresError: one of them cannot be read, or does not belong to the others.
    """
    if threshold is not None:
        check_similarity(threshold)
    student = Recognizer.load(model, threads=threads, trust_code=trust_code)
    known = Gallery.load(gallery) if gallery else None
    pairs = Limit(threshold, "" if threshold is not None else f"{_NONE}; --gallery or --threshold sets one.")
    strangers = Limit(None, "")
    if known:
        owner = model_of(student)
        known.demand_shared(owner, student.facts.embedding_dim, same_space=same_space)
        strangers = _limit(known.threshold, owner, f"{gallery} --strangers FOLDER")
        if known.outgrown:
            strangers = Limit(
                strangers.similarity, "Since this threshold was set, many came into the gallery or left it."
            )
        if threshold is None:
            pairs = _limit(known.pair_threshold, owner, f"{gallery} --pairs FILE --images FOLDER")
    answers = Answers(student, None, known, pairs, strangers)
    if not answers.compares:
        return replace(answers, teacher=_teacher(model, teacher, trust_code=trust_code))
    if teacher:
        raise CrossresError(
            f"{model} has no classes to list, so no teacher's are shown beside them; leave --teacher out"
        )
    return answers


def _limit(threshold: Threshold | None, model: Model, how: str) -> Limit:
    if threshold is None:
        return Limit(None, f"{_NONE}; crossres enroll {how} sets one.")
    if threshold.model not in (None, model.digest):
        return Limit(None, f"{_NONE} for photos read by this model; crossres enroll {how} sets one.")
    return Limit(
        threshold.similarity, "This threshold was measured on too few to be sure of it." if threshold.too_few else ""
    )


def _teacher(model: str, given: str | None, *, trust_code: bool) -> Recognizer | None:
    """Return the teacher that is given, else the one that a run's folder names, where that can still be read."""
    named = given
    try:
        if not given and (Path(model) / "config.yaml").is_file():
            from crossres.config.reading import read_run

            named = getattr(read_run(model), "teacher", None)
        if not named or not (given or Path(named).exists()):
            return None
        teacher = Recognizer.load(named, trust_code=trust_code)
        if not teacher.facts.classes:
            raise CrossresError(f"{named} knows no classes, so there is nothing to list of it")
    except CrossresError as error:
        if given:
            raise
        print(f"the run's teacher is not shown: {error}", file=sys.stderr)
        return None
    return teacher


def read_upload(path: Path) -> Pixels:
    """Return an uploaded photo, uint8 (H, W, 3).

    Raises:
        CrossresError: what `read_photo` refuses, by the file's name alone, or a side of less than `LEAST` pixels.
    """
    try:
        photo = read_photo(path)
    except CrossresError as error:
        raise CrossresError(_without_folder(str(error), path)) from None
    height, width = photo.shape[:2]
    if min(height, width) < LEAST:
        raise CrossresError(f"{path.name}: {width}x{height} pixels show nothing; give at least {LEAST}x{LEAST}")
    return photo


def _without_folder(text: str, path: Path) -> str:
    return text.replace(str(path), path.name)


def at_side(photo: Pixels, side: int, facts: Facts) -> Pixels:
    """Return a photo as the model's preprocessing brings it to a side, by its fit and kernel: uint8 (side, side, 3).

    It is enlarged by bicubic interpolation, as by `crossres.deploy.deployed.Deployed`.
    """
    image = Image.fromarray(photo)
    length = (max if facts.fit == "pad" else min)(image.size)
    kernel = _PILLOW[facts.kernel if length > side else "bicubic"]
    if facts.fit == "pad":
        width, height = (max(1, round(n * side / length)) for n in image.size)
        canvas = Image.new("RGB", (side, side))
        canvas.paste(image.resize((width, height), kernel), ((side - width) // 2, (side - height) // 2))
        return np.asarray(canvas)
    left, top = ((n - length) / 2 for n in image.size)
    box = (left, top, left + length, top + length) if facts.fit == "crop" else None
    return np.asarray(image.resize((side, side), kernel, box=box))
