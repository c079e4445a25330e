"""Pictures of results, as PNG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossres.bench.comparison import MEASURES
from crossres.core.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crossres.bench.comparison import Row

BLUE, RED, GREY = "#2f5d8a", "#c8553d", "#8a8f98"
#: Of methods, far apart also for those who see fewer colours (Okabe & Ito); then another marker.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D")
LINES = ("-", "--", ":", "-.")
#: Above this many classes the names would overlap.
NAMED_CLASSES = 25


def draw_evaluation(result: dict[str, Any], path: str | Path) -> None:
    """Draw accuracy against resolution and the confusion matrix of :func:`evaluate`'s result.

    Args:
        result: what ``crossres evaluate --json`` prints.
        path: of the PNG, written atomically.
    """
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    draw_curve(left, {"top-1": result["curve"]}, result["lr_size"])
    counts = np.asarray(result["confusion"], dtype=float)
    share = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    image = right.imshow(share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=right, label="% of the true class", shrink=0.9)
    right.set(title="Confusion", xlabel="predicted", ylabel="true")
    if len(counts) <= NAMED_CLASSES:
        # a folder's name may hold a $ that opens no formula
        right.set_xticks(range(len(counts)), result["classes"], rotation=90, parse_math=False)
        right.set_yticks(range(len(counts)), result["classes"], parse_math=False)
    title = f"{result['dataset']}: top-1 {result['top1']:.2f} %, {result['images']:,} images"
    figure.suptitle(title, parse_math=False)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def draw_curve(axes: Any, curves: dict[str, list[dict[str, float]]], trained: Any) -> None:
    """Draw top-1 against the side of the image, a line a name, and mark the trained size."""
    sizes = sorted({point["size"] for curve in curves.values() for point in curve})
    for (name, curve), colour in zip(curves.items(), [BLUE, RED, GREY] * len(curves), strict=False):
        axes.plot(
            [p["size"] for p in curve],
            [p["top1"] for p in curve],
            "o-",
            color=colour,
            label=name,
            linewidth=1.8,
        )
    low, high = (trained, trained) if isinstance(trained, int) else trained
    axes.axvspan(low / 1.02, high * 1.02, color=GREY, alpha=0.3, linewidth=0, label="trained at")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(s) for s in sizes])
    axes.minorticks_off()
    axes.set(title="Accuracy against resolution", xlabel="side of the image, pixels", ylabel="top-1, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


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


def _plain(axes: Any, **texts: str) -> None:
    axes.set(**texts)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
