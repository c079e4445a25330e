"""What the page says, as HTML: everything that comes from outside is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

from crossres.deploy.answers import Answers, Limit
from crossres.deploy.photos import Pixels
from crossres.deploy.recognizer import Answer, Recognizer

#: Classes or names that are listed.
LISTED = 5
VERDICTS = {True: "The same", False: "Not the same", None: "No verdict"}


def about(answers: Answers) -> str:
    """Say what a model reads and does."""
    facts = answers.facts
    low, high = facts.lr_size
    size = f"{low}x{low}" if low == high else f"{low}x{low} to {high}x{high}"
    does = f"knows {len(facts.classes)} classes" if facts.classes else "compares photos"
    known = f"; {len(answers.gallery):,} identities in the gallery" if answers.gallery else ""
    return f"Reads {size} pixels, learned beside {facts.hr_size}x{facts.hr_size}; {does}{known}."


def looked(answers: Answers, photo: Pixels, side: int) -> str:
    """Show a photo, uint8 (H, W, 3), at a side in pixels: what the student sees and what is said of it."""
    look, whole = answers.look(photo, side), side == answers.largest(photo)
    at, pixels = f"at {side}x{side} pixels", f"{answers.facts.side}x{answers.facts.side}"
    lists = [_top("Student", "on the photo as it is" if whole else at, look.student, answers.student)]
    if answers.teacher and look.small_teacher and not whole:
        lists.append(_top("Teacher", f"{at}, enlarged", look.small_teacher, answers.teacher))
    if answers.teacher and look.teacher:
        lists.append(_top("Teacher", "on the photo as it is", look.teacher, answers.teacher))
    pictures = [_picture(look.small, f"The photo {at}"), _picture(look.read, f"What the student reads: {pixels}")]
    return block(_gate([("", look.student)]), _row("seen", pictures), _row("lists", lists))


def compared(answers: Answers, first: Pixels, second: Pixels) -> str:
    """Show whether two photos, uint8 (H, W, 3), show the same."""
    similarity, both = answers.compare(first, second)
    verdict = _verdict(VERDICTS[answers.pairs.passed(similarity)], similarity, answers.pairs)
    names = ("first", "second")
    pictures = [
        _picture(answers.read(photo), f"What is read of the {name} photo")
        for photo, name in zip((first, second), names, strict=True)
    ]
    gate = _gate((f"The {name} photo is ", answer) for name, answer in zip(names, both, strict=True))
    return block(gate, verdict, _row("seen", pictures))


def searched(answers: Answers, photo: Pixels) -> str:
    """Show who of the gallery is most like a photo, uint8 (H, W, 3)."""
    matches, answer = answers.search(photo, LISTED)
    best = matches[0]
    found = {True: best.name, False: "Nobody in this gallery", None: "No verdict"}
    verdict = _verdict(found[answers.strangers.passed(best.similarity)], best.similarity, answers.strangers)
    rows = [(match.name, max(0.0, match.similarity), f"{match.similarity:.4f}") for match in matches]
    parts = [_picture(answers.read(photo), "What is read of the photo"), _list("Most alike", "by similarity", rows)]
    return block(_gate([("", answer)]), verdict, _row("lists", parts))


def _gate(given: Iterable[tuple[str, Answer]]) -> str:
    reasons = [who + flag for who, answer in given for flag in answer.flags]
    if reasons:
        return said("doubt", "This answer is not to be trusted.", reasons)
    return said("fine", "Nothing in the pixels speaks against an answer.")


def said(kind: str, title: str, lines: Sequence[str] = ()) -> str:
    """Return a box with a title and lines, as text; ``kind`` decides its colour."""
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<div class='said {kind}' role='status'><b>{escape(title)}</b>{text}</div>"


def _verdict(verdict: str, similarity: float, limit: Limit) -> str:
    than = "" if limit.similarity is None else f", threshold {limit.similarity:.4f}"
    text = f"<p class='verdict'>{escape(verdict)}</p><p>Similarity {similarity:.4f}{than}</p>{note(limit.note)}"
    return f"<div>{text}</div>"


def _picture(pixels: Pixels, caption: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f"<figure><img src='{source}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"


def _top(title: str, about: str, answer: Answer, who: Recognizer) -> str:
    found = answer.top(who.facts, LISTED)
    rows = [(label, share, f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %") for label, share in found]
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


def _row(kind: str, parts: Iterable[str]) -> str:
    return f"<div class='{kind}'>{''.join(parts)}</div>"


def block(*parts: str) -> str:
    """Put parts under each other."""
    return f"<div class='crossres'>{''.join(parts)}</div>"
