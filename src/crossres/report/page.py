"""What a page consists of, its HTML, and its figures.

These are SVG inside the page: text stays text, colours are the page's variables, so light and dark both read.
"""

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from crossres.core.files import write_atomically
from crossres.core.types import Bools, Float64s, Int64s
from crossres.evaluation.figures import MARKERS, NAMED_CLASSES, STYLE, Curve, log_axis, name_classes, plot_curves

#: Colours that nothing else has: each becomes a variable of the page's style.
INK, MUTED, GRID = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0101a{number}" for number in range(8))
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"}
_VARIABLES |= {colour: f"var(--c{number})" for number, colour in enumerate(SERIES)}
#: `MARKERS` as a legend's characters.
SIGNS = ("●", "■", "▲", "◆")
#: A matrix is more or less of one of these over the page's ground.
BLUE, ORANGE = (0.18, 0.45, 0.80), (0.88, 0.42, 0.12)
#: Of the cells of a confusion matrix: how deep their colour is at most, for ink on it to be read; the smallest text.
DEEPEST, SMALLEST = 0.65, 6.5
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
    """What a table or a tile shows: text, what is small beside it, and to draw it the number and its interval."""

    text: str
    small: str = ""
    number: float | None = None
    interval: Sequence[float] = ()


#: Of a table: its name and its cells.
TableRow = tuple[str, Sequence[Cell]]


@dataclass(frozen=True)
class Table:
    """Rows below heads; on a narrow screen those of a wide table are stacked."""

    heads: Sequence[str]
    rows: Sequence[TableRow]


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
    """A heading of a section and what is below it; ``legend`` is of all its drawings, ``folded`` heading and text.

    Of ``small`` drawings two lie side by side on a phone; of a ``closed`` block only the heading shows until a click.
    """

    title: str
    text: str = ""
    facts: Sequence[tuple[str, str]] = ()
    table: Table | None = None
    legend: Sequence[Sign] = ()
    drawings: Sequence[Drawing] = ()
    cards: Sequence[Card] = ()
    folded: tuple[str, str] | None = None
    note: str = ""
    small: bool = False
    closed: bool = False


@dataclass(frozen=True)
class Section:
    """A run: its name, itself in a sentence, what the reader has to know, its few chief numbers, its blocks.

    ``explained`` says what some of these numbers are.
    """

    name: str
    lead: str
    notes: Sequence[str]
    tiles: Sequence[tuple[str, Cell]]
    explained: str
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

    The horizontal axis has a ``band`` that is marked, such as the sizes trained at, and a ``scale``: linear, of whole
    numbers, sizes or rates; the last two are logarithmic and have percentages above. With "log y" it is linear, and
    the vertical axis is logarithmic.
    """
    with _axes((3.8, 2.6), title) as (axes, svg):
        if band:
            axes.axvspan(*band, color=MUTED, alpha=0.25, linewidth=4)
        plot_curves(axes, curves, sizes=scale == "sizes")
        if scale in ("sizes", "rates"):
            axes.set_ylim(0, 100 if scale == "sizes" else 102)
        if scale in ("linear", "log y"):
            axes.xaxis.get_major_locator().set_params(integer=True)
        if scale in ("rates", "log y"):
            log_axis(axes.xaxis if scale == "rates" else axes.yaxis)
        axes.set(xlabel=x, ylabel=y)
        axes.grid()
    return Drawing(svg(), title, caption, signs(curves) if named else ())


def draw_intervals(rows: Sequence[tuple[str, Cell]], measure: str) -> list[Drawing]:
    """Draw the numbers of rows and their intervals on one scale; empty where fewer than two have an interval."""
    shown = [(textwrap.fill(name, 18), cell) for name, cell in rows if cell.number is not None and cell.interval]
    if len(shown) < 2:
        return []
    title = f"{measure[0].upper()}{measure[1:]} with 95 % intervals"
    lines = sum(1 + name.count("\n") for name, _ in shown)
    with _axes((3.8, 0.6 + 0.15 * (lines + len(shown))), title) as (axes, svg):
        for place, (_, cell) in enumerate(shown):
            axes.plot(cell.interval, [place, place], color="C0", linewidth=5, alpha=0.4, solid_capstyle="butt")
            axes.plot([cell.number], [place], "o", color="C0", markersize=5)
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.set(xlabel=f"{measure}, %", ylim=(len(shown) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
    return [Drawing(svg(), title)]


def draw_points(points: Float64s, label: Int64s, title: str, caption: str) -> Drawing:
    """Draw a map (N, 2); a label (N,) has its colour and marker of `SERIES` and `MARKERS`."""
    with _axes((2.6, 2.4), title) as (axes, svg):
        for number in np.unique(label).tolist():
            style: Any = {"color": f"C{number}", "marker": MARKERS[number % len(MARKERS)], "markersize": 3.5}
            axes.plot(*points[label == number].T, linestyle="", alpha=0.75, markeredgewidth=0, **style)
        axes.set(xticks=[], yticks=[])
        axes.axis("equal")
        axes.spines[:].set_visible(True)
    return Drawing(svg(), title, caption)


def draw_relations(similarity: Float64s, label: Int64s, title: str) -> Drawing:
    """Draw similarities (N, N) in -1..1 of images that lie class by class: blue alike, orange opposed.

    Each class has its character of `SIGNS` in its colour of `SERIES` beside it, as in a legend.
    """
    from matplotlib.colors import LinearSegmentedColormap

    ends: Any = [(0, (*ORANGE, 1)), (0.5, (*ORANGE, 0)), (0.5, (*BLUE, 0)), (1, (*BLUE, 1))]
    colours = LinearSegmentedColormap.from_list("relations", ends)
    with _axes((2.6, 2.9), title) as (axes, svg):
        image = axes.imshow(similarity, cmap=colours, vmin=-1, vmax=1, interpolation="none")
        bar = axes.figure.colorbar(image, location="bottom", ticks=[-1, 0, 1], aspect=16)
        bar.set_label("cosine: -1 opposed, 1 alike")
        bar.outline.set_visible(False)
        edges = np.flatnonzero(np.diff(label, prepend=-1, append=-1)).tolist()
        for edge in edges[1:-1]:
            axes.axhline(edge - 0.5, color=MUTED, linewidth=0.4)
            axes.axvline(edge - 0.5, color=MUTED, linewidth=0.4)
        middles = [(a + b - 1) / 2 for a, b in pairwise(edges)]
        axes.set_yticks(middles, [SIGNS[number % len(SIGNS)] for number in range(len(middles))])
        for number, text in enumerate(axes.get_yticklabels()):
            text.set_color(SERIES[number % len(SERIES)])
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return Drawing(svg(), title)


def draw_confusion(counts: Int64s, share: Float64s, classes: Sequence[str]) -> Drawing:
    """Draw shares (C, C) of the true class in percent, and the counts (C, C) in cells that are large enough.

    Right answers are blue, mistakes orange, the largest the deepest.
    """
    own = np.eye(len(share), dtype=bool)
    mistakes = share * ~own
    # points, of a matrix some four inches wide: as large as a cell leaves room for the longest count
    font = min(9.5, 290 / len(classes) / (0.6 * len(f"{counts.max()}") + 0.5))
    title = "Confusion matrix"
    with _axes((4.8, 4.5), title) as (axes, svg):
        strength = DEEPEST * np.where(own, share / 100, mistakes / (mistakes.max() or 1))
        colours = np.where(own[..., None], BLUE, ORANGE)
        axes.imshow(np.concatenate([colours, strength[..., None]], axis=-1), interpolation="none")
        axes.set(xticks=[], yticks=[])
        name_classes(axes, classes)
        axes.tick_params(length=0)
        if max(map(len, classes)) < 3:
            axes.tick_params(axis="x", rotation=0)
        for truth, answer in np.argwhere(counts).tolist() if font >= SMALLEST else ():
            axes.text(answer, truth, f"{counts[truth, answer]}", ha="center", va="center", fontsize=font)
        axes.set(xlabel="answer", ylabel="truth")
        axes.spines[:].set_visible(True)
    left_out = "names and counts" if len(classes) > NAMED_CLASSES else "counts"
    small = f"The cells of {len(classes)} classes are too small for {left_out}"
    numbers = "Counts of test images" if font >= SMALLEST else small
    shade = "the shade is the share of the true class: right answers blue, mistakes orange"
    return Drawing(svg(), title, f"{numbers}; {shade}, the deepest {mistakes.max():.0f} %.")


def draw_histograms(scores: Float64s, same: Bools, threshold: float, title: str) -> Drawing:
    """Draw how similar genuine and impostor pairs (N,) are, and the threshold between them."""
    kinds = {"genuine": same, "impostor": ~same}
    with _axes((3.8, 2.6), title) as (axes, svg):
        bins = np.linspace(min(scores.min(), threshold), max(scores.max(), threshold) + 1e-9, 41).tolist()
        for colour, chosen in enumerate(kinds.values()):
            # shares, not counts: a list may have few pairs of one kind
            each = [100 / max(1, int(chosen.sum()))] * int(chosen.sum())
            axes.hist(scores[chosen], bins, weights=each, color=f"C{colour}", alpha=0.55)
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle="--")
        axes.set(xlabel="cosine similarity", ylabel="% of the pairs of a kind")
    legend = [("■", colour, name) for colour, name in enumerate(kinds)]
    return Drawing(svg(), title, f"Dashed: the threshold, {threshold:.2f}.", legend)


@contextmanager
def _axes(size: tuple[float, float], title: str) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Give axes in the page's style, and a function that returns their SVG, with its title, once they are drawn."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

    file = io.StringIO()
    with rc_context({**_PAGE_STYLE, "axes.prop_cycle": cycler(color=SERIES)}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure.subplots(), lambda: _inline(file.getvalue())
        figure.savefig(file, format="svg", metadata={"Title": title})


def _inline(text: str) -> str:
    """Return matplotlib's file as a part of a page: no header, no addresses, no ids that every figure has."""
    text = text[text.index("<svg") :].replace("<svg", '<svg role="img"', 1)
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return re.sub("|".join(_VARIABLES), lambda match: _VARIABLES[match[0]], text)
