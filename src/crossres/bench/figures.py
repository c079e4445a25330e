"""A comparison of methods as figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossres.bench.comparison import MEASURES
from crossres.core.files import write_atomically
from crossres.evaluation.figures import COLOURS, GREY, LINES, MARKERS, _plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crossres.bench.comparison import Row


def draw_comparison(rows: Sequence[Row], baseline: str, folder: Path) -> list[Path]:
    """Draw a comparison of methods; what the rows do not hold is left out.

    ``accuracy.png``: accuracy against resolution, where there are two sizes; ``cost.png``: gain over the baseline
    against the cost of a step; ``curves.png``: validation accuracy over the epochs.

    Args:
        rows: of `crossres.bench.comparison.compare`.
        baseline: the method that gains are counted from.
        folder: gets the PNGs, each written atomically.

    Returns:
        The files written.
    """
    from matplotlib.figure import Figure

    drawn: list[Path] = []
    if not rows:
        return drawn
    measure, _, watched = MEASURES[rows[0].measure]
    settings = list(dict.fromkeys(row.setting for row in rows))
    methods = list(dict.fromkeys(row.method for row in sorted(rows, key=lambda row: -row.mean)))
    style = {
        method: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i // len(COLOURS) % len(MARKERS)]}
        for i, method in enumerate(methods)
    }

    def save(figure: Figure, name: str) -> None:
        path = folder / name
        write_atomically(path, lambda file: figure.savefig(file, format="png"))
        drawn.append(path)

    by_panel: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_panel[row.panel].append(row)
    if any(len({row.size for row in members}) > 1 for members in by_panel.values()):
        figure = Figure(figsize=(5.6 * len(by_panel) + 1.6, 4.8), layout="constrained", dpi=150)
        for axes, (panel, members) in zip(
            figure.subplots(1, len(by_panel), squeeze=False)[0], by_panel.items(), strict=True
        ):
            for method in methods:
                points = sorted((row.size, row.mean, row.deviation or 0) for row in members if row.method == method)
                if points:
                    x, y, spread = zip(*points, strict=True)
                    axes.errorbar(x, y, yerr=spread, label=method, linewidth=1.3, capsize=3, **style[method])
            sides = sorted({row.size for row in members})
            axes.set_xticks(sides, [f"{side}x{side}" for side in sides])
            _plain(axes, title=panel, xlabel="LR images", ylabel=f"test {measure}, %")
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
        save(figure, "accuracy.png")
    priced = [row for row in rows if row.gain is not None and row.cost is not None]
    if priced:
        figure, panels = _panels(settings)
        for axes, setting in zip(panels, settings, strict=True):
            shown = [row for row in priced if row.setting == setting]
            lowest = _lowest([row.gain for row in shown if row.gain is not None])
            for row in shown:
                assert row.gain is not None
                label = row.method
                if row.gain < lowest:
                    # at the edge with its number, or all others would be one heap
                    label = f"{row.method} ({row.gain:+.1f}, below)"
                error = None if row.gain < lowest else row.half
                place = (row.cost, max(row.gain, lowest))
                axes.errorbar(*place, yerr=error, capsize=3, linestyle="", label=label, **style[row.method])
            axes.axhline(0, color=GREY, linewidth=1)
            if shown:
                axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
            _plain(
                axes,
                title=setting,
                xlabel=f"training step, in steps of {baseline}",
                ylabel=f"gain over {baseline}, points",
            )
        save(figure, "cost.png")
    if any(row.epochs for row in rows):
        figure, panels = _panels(settings)
        for axes, setting in zip(panels, settings, strict=True):
            for row in (row for row in rows if row.setting == setting and row.epochs):
                colour = style[row.method]["color"]
                line = LINES[MARKERS.index(style[row.method]["marker"]) % len(LINES)]
                epochs = range(1, len(row.epochs) + 1)
                axes.plot(epochs, row.epochs, line, color=colour, linewidth=1.2, label=row.method)
            _plain(axes, title=setting, xlabel="epoch", ylabel=f"validation {watched}, %")
            axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
        save(figure, "curves.png")
    return drawn


def _lowest(gains: Sequence[float]) -> float:
    """Return the lowest gain that is drawn at its place: three times the middle half's range below that half."""
    import numpy as np

    if not gains:
        return 0.0
    low, high = np.quantile(gains, [0.25, 0.75])
    inside = [gain for gain in gains if gain >= low - 3 * max(high - low, 0.5)]
    return min(inside)


def _panels(settings: Sequence[str]) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8 * len(settings), 5.0), layout="constrained", dpi=150)
    return figure, list(figure.subplots(1, len(settings), squeeze=False)[0])
