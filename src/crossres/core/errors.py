"""The one exception a user's mistake ends in."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CrossresError(Exception):
    """A user's mistake or a condition the user can mend.

    The message is one line: what was wrong, where, and what would be right. The command line prints it
    without a stack trace and exits with code 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word nearest to ``word``, or all of a short list."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 40 else ""


def demand_utf8(what: str, path: str) -> None:
    """Refuse a path that no text file can hold: Python keeps bytes that are no UTF-8 as lone surrogates.

    Raises:
        CrossresError: naming it.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise CrossresError(f"{what} {path!a} is not UTF-8; rename it") from None
