"""What the page shows, as HTML: everything that comes from outside is escaped here."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

from crossres.core.types import Pixels
from crossres.deploy.photos import TOO_SMALL
from crossres.deploy.recognizer import Answer
from crossres.deploy.service import PhotoService
from crossres.deploy.thresholds import Limit, poor
from crossres.evaluation.facts import Facts
from crossres.models.zoo import card, model_file

#: Classes or names that are listed.
LISTED = 5
VERDICTS = {True: "The same", False: "Not the same", None: "No verdict"}


def about(service: PhotoService) -> str:
    """Return what a model reads and does, and of a ready one what a photo must show."""
    facts = service.facts
    low, high = facts.lr_size
    size = f"{low}x{low}" if low == high else f"{low}x{low} to {high}x{high}"
    does = f"knows {len(facts.classes)} classes" if facts.classes else "compares photos"
    known = f"; {len(service.gallery):,} identities in the gallery" if service.gallery else ""
    source = service.student.source
    expects = f" It expects {card(source)['expects']}." if model_file(source) != source else ""
    return f"Reads {size} pixels (trained from {facts.hr_size}x{facts.hr_size} images); {does}{known}.{expects}"


def classified(service: PhotoService, photo: Pixels, side: int, remark: str = "") -> str:
    """Show a photo, uint8 (H, W, 3), at a side in pixels: what the student answers, what it reads, its classes."""
    examined, whole = service.examine(photo, side), side == service.largest(photo)
    at, as_it_is = f"at {side}x{side} pixels", "on the photo as it is"
    own = service.facts.side
    lists = [_top("Student", as_it_is if whole else at, examined.student, service.facts)]
    captions = [as_it_is] if whole else [f"{at}, enlarged", as_it_is]
    if service.teacher:
        facts = service.teacher.facts
        lists += [_top("Teacher", *shown, facts) for shown in zip(captions, examined.teacher, strict=True)]
    seen = {} if side == own and not whole else {f"The photo {at}": examined.small}
    seen[f"What the student reads: {own}x{own}"] = examined.read
    pictures = [_picture(image, caption) for caption, image in seen.items()]
    answer, uncalibrated = examined.student, _uncalibrated(service.facts)
    verdict = f"{answer.sentence} (not calibrated)" if uncalibrated and not answer.flags else answer.sentence
    notes = [*answer.flags, uncalibrated, remark]
    first = _answer(verdict, bool(answer.flags), _of_teacher(examined.teacher), notes)
    return block(first, block(*pictures, kind="seen"), block(*lists, kind="lists"))


def _of_teacher(answers: Sequence[Answer]) -> str:
    """Return what a teacher answers to the pixels and to the whole photo; nothing where they are one."""
    if len(answers) < 2:
        return ""
    enlarged, whole = (answer.label for answer in answers)
    return f"The teacher answers {enlarged} to the same pixels, enlarged, and {whole} to the whole photo."


def _uncalibrated(facts: Facts) -> str:
    """Return a line where nothing says from which probability on an answer is sure."""
    return facts.confidence.note if facts.confidence else "this model has no calibrated confidence"


def compared(service: PhotoService, first: Pixels, second: Pixels) -> str:
    """Show whether two photos, uint8 (H, W, 3), show the same."""
    similarity, answers = service.similarity(first, second)
    photos = {"first": first, "second": second}
    flags, limit = [], service.pairs
    for name, answer in zip(photos, answers, strict=True):
        flags += [f"the {name} photo is {flag}" for flag in answer.photo_flags]
        flags += [f"the {name} photo's {low}" for low in [poor(answer, limit.min_quality)] if low]
    verdict = VERDICTS[limit.passed(similarity, *answers)]
    shown = _verdict(verdict, similarity, limit, [*flags, limit.note_on(*answers)], unsure=bool(flags))
    caption = "The {} photo as the student reads it"
    pictures = [_picture(service.read(photo), caption.format(name)) for name, photo in photos.items()]
    return block(shown, block(*pictures, kind="seen"))


def searched(service: PhotoService, photo: Pixels) -> str:
    """Show who of the gallery is most like a photo, uint8 (H, W, 3)."""
    matches, answer = service.search(photo, LISTED)
    best, limit = matches[0], service.strangers(photo)
    flags = answer.flags_but_size if limit.note.startswith(TOO_SMALL) else answer.photo_flags
    notes = [*flags, poor(answer, limit.min_quality), limit.note]
    verdicts = {True: best.name, False: "Nobody in this gallery", None: "No verdict"}
    passed = limit.passed(best.similarity, answer)
    verdict = _verdict(verdicts[passed], best.similarity, limit, notes, unsure=bool(answer.photo_flags))
    rows = [(match.name, max(0.0, match.similarity), f"{match.similarity:.4f}") for match in matches]
    picture = _picture(service.read(photo), "The photo as the student reads it")
    lists = block(picture, _list("Most alike", "by similarity", rows), kind="lists")
    return block(verdict, lists)


def _verdict(verdict: str, similarity: float, limit: Limit, notes: Sequence[str], *, unsure: bool) -> str:
    than = "" if limit.similarity is None else f", threshold {limit.similarity:.4f}"
    return _answer(verdict, unsure, f"Similarity {similarity:.4f}{than}", notes)


def _answer(verdict: str, unsure: bool, text: str, notes: Iterable[str]) -> str:
    """Show an answer in a large line, amber where it is unsure; a line below it, and notes in small print."""
    below = f"<p>{escape(text)}</p>" if text else ""
    small = "".join(note(f"{line[:1].upper()}{line[1:]}.") for line in notes if line)
    kind = "answer unsure" if unsure else "answer"
    return f"<div class='{kind}' role='status'><p class='verdict'>{escape(verdict)}</p>{below}{small}</div>"


def message(kind: str, title: str, lines: Sequence[str] = ()) -> str:
    """Return a box with a title and lines, as text; ``kind`` decides its colour."""
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<div class='message {kind}' role='status'><b>{escape(title)}</b>{text}</div>"


def _picture(pixels: Pixels, caption: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f"<figure><img src='{source}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"


def _top(title: str, about: str, answer: Answer, facts: Facts) -> str:
    best = answer.top(facts, LISTED)
    rows = [(label, share, f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %") for label, share in best]
    return _list(title, about, rows)


def _list(title: str, about: str, rows: Iterable[tuple[str, float, str]]) -> str:
    items = "".join(
        f"<li><span>{escape(label)}</span><em>{escape(text)}</em><i style='--share: {100 * share:.1f}%'></i></li>"
        for label, share, text in rows
    )
    return f"<section><h3>{title}</h3>{note(about)}<ol>{items}</ol></section>"


def note(text: str) -> str:
    """Return a line in small print, as text; nothing for none."""
    return f"<p class='note'>{escape(text)}</p>" if text else ""


def block(*parts: str, kind: str = "crossres") -> str:
    """Put parts under each other, or as ``kind`` arranges them."""
    return f"<div class='{kind}'>{''.join(parts)}</div>"
