"""How commands print: results on stdout, notes on stderr, names that are not UTF-8 escaped."""

import json
import sys
from typing import Any


def show(text: str) -> None:
    """Print a line of a result."""
    print(text.encode(errors="backslashreplace").decode())


def note(text: str) -> None:
    """Print a line beside the result."""
    print(text.encode(errors="backslashreplace").decode(), file=sys.stderr)


def show_json(document: Any) -> None:
    """Print a document as one line of JSON."""
    print(json.dumps(document))


def marks(flags: list[str]) -> str:
    """Return the reasons why an answer is not to be trusted, as they follow it."""
    return "".join(f" [{flag}]" for flag in flags)
