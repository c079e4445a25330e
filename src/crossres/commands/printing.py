"""How commands print: results on stdout, notes on stderr, what cannot be shown in names escaped."""

import sys
from typing import Any

from crossres.core.errors import visible
from crossres.core.files import to_json


def show(*lines: str) -> None:
    """Print the lines of a result; a name in one may hold anything."""
    for line in lines:
        print(visible(line))


def note(text: str) -> None:
    """Print a line beside the result."""
    print(visible(text), file=sys.stderr)


def show_json(document: Any) -> None:
    """Print a document as one line of JSON."""
    print(to_json(document))


def marks(flags: list[str]) -> str:
    """Return the reasons why an answer is not to be trusted, as they follow it."""
    return "".join(f" [{flag}]" for flag in flags)
