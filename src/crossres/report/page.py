"""What a page consists of, its HTML, and its figures.

These are SVG inside the page: text stays text, colours are the page's variables, so light and dark both read.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from crossres.core.files import write_atomically
from crossres.core.types import Bools, Float64s, Int64s
from crossres.evaluation.figures import MARKERS, STYLE, Curve, log_axis, name_classes, plot_curves, shortened

#: Colours that nothing else has: each becomes a variable of the page's style.
INK, MUTED, GRID = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0101a{number}" for number in range(8))
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"}
_VARIABLES |= {colour: f"var(--c{number})" for number, colour in enumerate(SERIES)}
#: `MARKERS` as a legend's characters.
SIGNS = ("●", "■", "▲", "◆")
#: A matrix is more or less of one of these over the page's ground.
BLUE, ORANGE = (0.18, 0.45, 0.80), (0.88, 0.42, 0.12)
_PAGE_STYLE: Any = {
    **STYLE,
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": INK,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    "grid.color": GRID,
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
}


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


def signs(curves: Sequence[Curve]) -> list[Sign]:
    """Return the lines of curves in a legend."""
    count = len(SERIES)
    return [("━" if i < count else "╍", i % count, name) for i, (name, _, _) in enumerate(curves)]


def draw_curves(
    curves: Sequence[Curve],
    title: str,
    caption: str = "",
    *,
    x: str,
    y: str,
    scale: str = "linear",
    band: tuple[float, float] | None = None,
    named: bool = True,
) -> Drawing:
    """Draw curves; ``x`` and ``y`` say what the axes are, and unless they are ``named`` there is no legend.

    The horizontal axis has a ``band`` that is marked, such as the sizes trained at, and a ``scale``: linear, sizes or
    rates; the last two are logarithmic and have percentages above. With "log y" the vertical axis is logarithmic.
    """
    with _axes((4.8, 3.2)) as (axes, svg):
        if band:
            axes.axvspan(*band, color=MUTED, alpha=0.25, linewidth=4)
        plot_curves(axes, curves, sizes=scale == "sizes")
        if scale in ("sizes", "rates"):
            axes.set_ylim(0, 100 if scale == "sizes" else 102)
        if scale in ("rates", "log y"):
            log_axis(axes.xaxis if scale == "rates" else axes.yaxis)
        axes.set(xlabel=x, ylabel=y)
        axes.grid()
    return Drawing(svg(), title, caption, signs(curves) if named else ())


def draw_points(points: Float64s, label: Int64s) -> str:
    """Draw a map (N, 2); a label (N,) has its colour and marker of `SERIES` and `MARKERS`."""
    with _axes((4.2, 4.0)) as (axes, svg):
        for number in np.unique(label).tolist():
            style: Any = {"color": f"C{number}", "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
            axes.plot(*points[label == number].T, linestyle="", alpha=0.75, markeredgewidth=0, **style)
        axes.set(xticks=[], yticks=[])
        axes.axis("equal")
        axes.spines[:].set_visible(True)
    return svg()


def draw_relations(similarity: Float64s, label: Int64s, names: Sequence[str]) -> str:
    """Draw similarities (N, N) in -1..1 of images that lie class by class: blue alike, orange opposed."""
    with _axes((4.6, 4.0)) as (axes, svg):
        axes.imshow(_coloured(similarity, -similarity), interpolation="none")
        edges = np.flatnonzero(np.diff(label, prepend=-1, append=-1)).tolist()
        for edge in edges[1:-1]:
            axes.axhline(edge - 0.5, color=MUTED, linewidth=0.4)
            axes.axvline(edge - 0.5, color=MUTED, linewidth=0.4)
        axes.set_yticks([(a + b - 1) / 2 for a, b in pairwise(edges)], [shortened(name) for name in names])
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return svg()


def draw_confusion(share: Float64s, classes: Sequence[str]) -> str:
    """Draw shares (C, C) of the true class: right answers blue, mistakes orange, the largest the deepest."""
    own = np.eye(len(share), dtype=bool)
    mistakes = share * ~own
    with _axes((5.2, 4.8)) as (axes, svg):
        axes.imshow(_coloured(share * own, mistakes / (mistakes.max() or 1)), interpolation="none")
        name_classes(axes, classes)
        axes.tick_params(length=0)
        axes.set(xlabel="answer", ylabel="truth")
        axes.spines[:].set_visible(True)
    return svg()


def draw_histograms(scores: Float64s, same: Bools, threshold: float, title: str) -> Drawing:
    """Draw how similar genuine and impostor pairs (N,) are, and the threshold between them."""
    kinds = {"genuine": same, "impostor": ~same}
    with _axes((4.8, 3.0)) as (axes, svg):
        bins = np.linspace(min(scores.min(), threshold), max(scores.max(), threshold) + 1e-9, 41).tolist()
        for colour, chosen in enumerate(kinds.values()):
            # shares, not counts: a list may have few pairs of one kind
            each = [100 / max(1, int(chosen.sum()))] * int(chosen.sum())
            axes.hist(scores[chosen], bins, weights=each, color=f"C{colour}", alpha=0.55)
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle="--")
        axes.set(xlabel="cosine similarity", ylabel="% of the pairs of a kind")
    legend = [("■", colour, name) for colour, name in enumerate(kinds)]
    return Drawing(svg(), title, f"Dashed: the threshold, {threshold:.2f}.", legend)


def _coloured(blue: Float64s, orange: Float64s) -> Float64s:
    """Return RGBA (N, M, 4): the larger of the two, as much of its colour as it is above 0."""
    strength = np.nan_to_num(np.maximum(blue, orange)).clip(0, 1)
    return np.concatenate([np.where((blue >= orange)[..., None], BLUE, ORANGE), strength[..., None]], axis=-1)


@contextmanager
def _axes(size: tuple[float, float]) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Give axes in the page's style, and a function that returns their SVG once they are drawn."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

    file = io.StringIO()
    with rc_context({**_PAGE_STYLE, "axes.prop_cycle": cycler(color=SERIES)}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure.subplots(), lambda: _inline(file.getvalue())
        figure.savefig(file, format="svg")


def _inline(text: str) -> str:
    """Return matplotlib's file as a part of a page: no header, no addresses, no ids that every figure has."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return re.sub("|".join(_VARIABLES), lambda match: _VARIABLES[match[0]], text)
