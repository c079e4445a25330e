"""The one exception a user's mistake ends in."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class CrossresError(Exception):
    """A user's mistake or a condition the user can mend.

    The message is one line: what was wrong, where, and what would be right. The command line prints it
    without a stack trace and exits with code 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word nearest to ``word``, or all of a short list."""
    known = sorted(known)
    longer = [name for name in known if name.startswith((f"{word}_", f"{word}-", f"{word}."))]
    close = longer or get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 40 else ""


def visible(text: str) -> str:
    """Return a text as one line that changes no terminal: characters that cannot be shown are escaped."""
    shown = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return "".join(shown)


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC): systems write an accent in one of two ways that look alike."""
    return unicodedata.normalize("NFC", name)


def one_line(error: BaseException | str, limit: int | None = None) -> str:
    """Return a library's message as one line, cut to ``limit`` characters; the class name where it is empty."""
    text = " ".join(str(error).split()) or ("" if isinstance(error, str) else type(error).__name__)
    return text[:limit]


@contextmanager
def library_errors(message: str) -> Iterator[None]:
    """Turn whatever a library raises into a `CrossresError`: the message, and the library's own in brackets."""
    try:
        yield
    except CrossresError:
        raise
    except Exception as error:  # some libraries have a class of their own for each of their errors
        raise CrossresError(f"{message} ({one_line(error, 160)})") from error


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Turn a failed import into a `CrossresError`: what needs which package, and the extra that installs it."""
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise CrossresError(f"{what} needs {package}: pip install 'crossres[{extra}]'") from None


@contextmanager
def decoders_live() -> Iterator[None]:
    """Turn torch's error on a killed decoding process, raised at any line, into a `CrossresError`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        cause = "out of memory, or /dev/shm is full"
        remedy = "give fewer images.workers; a training goes on with --resume"
        raise CrossresError(f"a process that decodes images was killed ({cause}): {remedy}") from None


def demand_file(path: str | Path) -> None:
    """Raise `CrossresError` for a device or a pipe, which may have no end or nothing to read."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise CrossresError(f"{path} is not a file")


def demand_utf8(what: str, path: str) -> None:
    """Raise `CrossresError`, naming it, for a path that is not UTF-8: Python keeps its bytes as lone surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise CrossresError(f"{what} {path!a} is not UTF-8; rename it") from None
