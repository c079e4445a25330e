"""What a page consists of, and its HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossres.core.files import write_atomically


@dataclass(frozen=True)
class Cell:
    """What a table or a tile shows: text, what is small beside it, and for a bar the number and its interval."""

    text: str
    small: str = ""
    number: float | None = None
    interval: Sequence[float] = ()


@dataclass(frozen=True)
class Table:
    """Rows of a name and cells; the intervals of a column get bars on one scale."""

    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]

    def bar(self, column: int, cell: Cell) -> list[float]:
        """Return where a cell's interval begins and ends and its number lies on its column's scale, in percent."""
        ends = [end for _, cells in self.rows for end in cells[column].interval]
        if cell.number is None or not cell.interval or len(ends) < 4 or min(ends) == max(ends):
            return []
        return [100 * (value - min(ends)) / (max(ends) - min(ends)) for value in (*cell.interval, cell.number)]


#: Of a legend: a character, the number of its colour, what it stands for.
Sign = tuple[str, int, str]
#: Of a card: who answered, what, and whether that was right; None where it is the truth.
Answer = tuple[str, str, bool | None]


@dataclass(frozen=True)
class Drawing:
    """A figure: SVG whose colours are the page's variables, its title, caption and legend."""

    svg: str
    title: str
    caption: str = ""
    legend: Sequence[Sign] = ()


@dataclass(frozen=True)
class Card:
    """A judged image or pair: data URIs and captions of its pictures, the answers, the file it comes from."""

    pictures: Sequence[tuple[str, str]]
    answers: Sequence[Answer]
    file: str


@dataclass(frozen=True)
class Block:
    """A heading of a section and what is below it; ``legend`` is of all its drawings, ``folded`` heading and text."""

    title: str
    text: str = ""
    facts: Sequence[tuple[str, str]] = ()
    table: Table | None = None
    legend: Sequence[Sign] = ()
    drawings: Sequence[Drawing] = ()
    cards: Sequence[Card] = ()
    folded: tuple[str, str] | None = None
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A run: its name, itself in a sentence, what the reader has to know, its few chief numbers, its blocks."""

    name: str
    lead: str
    notes: Sequence[str]
    tiles: Sequence[tuple[str, Cell]]
    blocks: Sequence[Block]


def write_page(path: Path, title: str, about: str, side_by_side: Sequence[Block], sections: Sequence[Section]) -> int:
    """Write a page as one HTML file that loads nothing from elsewhere; return its bytes.

    Every text is escaped; the drawings alone are taken as they are.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    how: Any = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    template = Environment(loader=PackageLoader("crossres.report", "."), **how).get_template("page.html")
    text = template.render(title=title, about=about, side_by_side=side_by_side, sections=sections)
    # a name that is not UTF-8 comes as lone surrogates, which no file can hold
    encoded = text.encode("utf-8", "replace")
    write_atomically(path, lambda file: file.write(encoded))
    return len(encoded)
