"""Figures as SVG inside the page: text stays text, colours are the page's variables, so light and dark both read."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crossres.evaluation.figures import MARKERS, NAMED_CLASSES
from crossres.report.page import Drawing, Sign

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

#: Colours that nothing else has: each becomes a variable of the page's style.
INK, MUTED, GRID = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0101a{number}" for number in range(8))
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)"} | {
    colour: f"var(--c{number})" for number, colour in enumerate(SERIES)
}
#: `MARKERS` as a legend's characters.
SIGNS = ("●", "■", "▲", "◆")
#: A matrix is more or less of one of these over the page's ground.
BLUE, ORANGE = (0.18, 0.45, 0.80), (0.88, 0.42, 0.12)
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a folder's name may hold a $ that opens no formula
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Curve:
    """A named line: its points and the number of its colour; after the last colour they begin anew, dashed."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    number: int = 0

    @property
    def colour(self) -> int:
        return self.number % len(SERIES)

    @property
    def dashed(self) -> bool:
        return self.number >= len(SERIES)

    @property
    def sign(self) -> Sign:
        """Its line in a legend."""
        return ("╍" if self.dashed else "━", self.colour, self.name)


def draw_curves(
    curves: Sequence[Curve],
    title: str,
    caption: str = "",
    *,
    x: str,
    y: str,
    scale: str = "linear",
    band: tuple[float, float] | None = None,
    log_y: bool = False,
    top: float | None = None,
    named: bool = True,
) -> Drawing:
    """Draw lines.

    Args:
        curves: what is drawn; points that are no finite numbers are left out.
        title: of the drawing.
        caption: of the drawing.
        x: what the horizontal axis is.
        y: what the vertical axis is.
        scale: of the horizontal axis: linear, sizes (to base 2, each size a tick) or rates (to base 10).
        band: range of the horizontal axis that is marked, such as the sizes trained at.
        log_y: whether the vertical axis is logarithmic.
        top: end of the vertical axis, which then begins at 0.
        named: whether a legend names them.
    """
    with _axes((4.8, 3.2)) as (axes, svg):
        if band:
            axes.axvspan(*band, color=MUTED, alpha=0.25, linewidth=4)
        for curve in curves:
            points = [(a, b) for a, b in zip(curve.x, curve.y, strict=True) if math.isfinite(b)]
            axes.plot(
                [a for a, _ in points],
                [b for _, b in points],
                "--" if curve.dashed else "-",
                marker="o" if scale == "sizes" or len(points) == 1 else None,
                markersize=4,
                linewidth=1.7,
                color=SERIES[curve.colour],
            )
        if scale != "linear":
            axes.set_xscale("log", base=2 if scale == "sizes" else 10)
            axes.xaxis.set_major_formatter(_plain)
        if scale == "sizes":
            sizes = sorted({size for curve in curves for size in curve.x})
            # of two nearer than this the names would overlap
            shown = [a for a, b in pairwise([*sizes, math.inf]) if b > 1.13 * a]
            axes.set_xticks(shown, [f"{size:g}" for size in shown])
            axes.minorticks_off()
        if log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_plain)
            axes.yaxis.set_minor_formatter("")
        if top is not None:
            axes.set_ylim(0, top)
        axes.set(xlabel=x, ylabel=y)
        axes.grid()
    return Drawing(svg(), title, caption, [curve.sign for curve in curves] if named else ())


def draw_points(points: Floats, label: npt.NDArray[np.int64]) -> str:
    """Draw a map (N, 2); a label (N,) has its colour and marker of `SERIES` and `MARKERS`."""
    with _axes((4.2, 4.0)) as (axes, svg):
        for number in np.unique(label).tolist():
            style: Any = {"color": SERIES[number % len(SERIES)], "marker": MARKERS[number % len(MARKERS)]}
            x, y = points[label == number].T
            axes.plot(x, y, linestyle="", markersize=4, alpha=0.75, markeredgewidth=0, **style)
        axes.set(xticks=[], yticks=[])
        axes.axis("equal")
        axes.spines[:].set_visible(True)
    return svg()


def draw_relations(similarity: Floats, label: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    """Draw similarities (N, N) in -1..1 of images that lie class by class: blue alike, orange opposed."""
    with _axes((4.6, 4.0)) as (axes, svg):
        axes.imshow(_coloured(similarity, -similarity), interpolation="none")
        edges = np.flatnonzero(np.diff(label, prepend=-1, append=-1)).tolist()
        for edge in edges[1:-1]:
            axes.axhline(edge - 0.5, color=MUTED, linewidth=0.4)
            axes.axvline(edge - 0.5, color=MUTED, linewidth=0.4)
        axes.set_yticks([(a + b - 1) / 2 for a, b in pairwise(edges)], [_short(name) for name in names])
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return svg()


def draw_confusion(share: Floats, classes: Sequence[str]) -> str:
    """Draw shares (C, C) of the true class: right answers blue, mistakes orange, the largest the deepest."""
    own = np.eye(len(share), dtype=bool)
    mistakes = share * ~own
    with _axes((5.2, 4.8)) as (axes, svg):
        axes.imshow(_coloured(share * own, mistakes / (mistakes.max() or 1)), interpolation="none")
        if len(classes) <= NAMED_CLASSES:
            names = [_short(name) for name in classes]
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.set(xlabel="answer", ylabel="truth")
        axes.spines[:].set_visible(True)
    return svg()


def draw_histograms(scores: Floats, same: npt.NDArray[np.bool_], threshold: float, title: str) -> Drawing:
    """Draw how similar genuine and impostor pairs (N,) are, and the threshold between them."""
    kinds = {"genuine": same, "impostor": ~same}
    with _axes((4.8, 3.0)) as (axes, svg):
        low, high = min(scores.min(), threshold), max(scores.max(), threshold)
        bins = np.linspace(low, high + 1e-9, 41).tolist()
        for colour, chosen in enumerate(kinds.values()):
            # shares, not counts: a list may have few pairs of one kind
            each = [100 / max(1, int(chosen.sum()))] * int(chosen.sum())
            axes.hist(scores[chosen], bins, weights=each, color=SERIES[colour], alpha=0.55)
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle="--")
        axes.set(xlabel="cosine similarity", ylabel="% of the pairs of a kind")
    signs = [("■", colour, name) for colour, name in enumerate(kinds)]
    return Drawing(svg(), title, f"Dashed: the threshold, {threshold:.2f}.", signs)


def _coloured(blue: Floats, orange: Floats) -> Floats:
    """Return RGBA (N, M, 4): the larger of the two, as much of its colour as it is above 0."""
    strength = np.nan_to_num(np.maximum(blue, orange)).clip(0, 1)
    return np.concatenate([np.where((blue >= orange)[..., None], BLUE, ORANGE), strength[..., None]], axis=-1)


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _plain(value: float, _: float) -> str:
    return f"{value:g}"


@contextmanager
def _axes(size: tuple[float, float]) -> Iterator[tuple[Axes, Callable[[], str]]]:
    """Give axes in the page's style, and a function that returns their SVG once they are drawn."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure.subplots(), lambda: _inline(file.getvalue())
        figure.savefig(file, format="svg")


def _inline(text: str) -> str:
    """Return matplotlib's file as a part of a page: no header, no addresses, no ids that every figure has."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return re.sub("|".join(_VARIABLES), lambda found: _VARIABLES[found[0]], text)
