"""A comparison of methods as figures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossres.bench.comparison import MEASURES, MethodScore
from crossres.evaluation.figures import COLOURS, GREY, LINES, MARKERS, png


def draw_comparison(rows: Sequence[MethodScore], baseline: str, folder: Path) -> list[Path]:
    """Draw a comparison of methods as PNGs in a folder, each written atomically; return their paths.

    ``accuracy.png``: accuracy against resolution, where there are two sizes; ``cost.png``: gain over the baseline
    against the cost of a step; ``curves.png``: validation accuracy over the epochs. What the rows, those of
    `compare_methods`, do not hold is left out.
    """
    best_first = sorted(rows, key=lambda row: -row.mean)
    numbers = {method: number for number, method in enumerate(dict.fromkeys(row.method for row in best_first))}
    files: list[Path] = []

    def draw(name: str, group: str, plot: Callable[..., None], x: str, y: str) -> None:
        titles = list(dict.fromkeys(getattr(row, group) for row in rows))
        files.append(folder / name)
        with png(files[-1], (6.8 * len(titles), 5.0)) as figure:
            for axes, title in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles, strict=True):
                plot(axes, [row for row in rows if getattr(row, group) == title], numbers)
                axes.set(title=title, xlabel=x, ylabel=y)
                if axes.get_legend_handles_labels()[0]:
                    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))

    if len({(row.panel, row.size) for row in rows}) > len({row.panel for row in rows}):
        draw("accuracy.png", "panel", _plot_sizes, "LR images", f"test {MEASURES[rows[0].measure][0]}, %")
    if any(row.gain is not None and row.cost is not None for row in rows):
        step = f"training step, in steps of {baseline}"
        draw("cost.png", "setting", _plot_costs, step, f"gain over {baseline}, points")
    if any(row.epochs for row in rows):
        draw("curves.png", "setting", _plot_epochs, "epoch", f"validation {MEASURES[rows[0].measure][2]}, %")
    return files


def _style(number: int) -> dict[str, Any]:
    return {"color": f"C{number}", "marker": MARKERS[number // len(COLOURS) % len(MARKERS)], "capsize": 3}


def _plot_sizes(axes: Any, rows: Sequence[MethodScore], numbers: Mapping[str, int]) -> None:
    for method, number in numbers.items():
        if points := sorted((row.size, row.mean, row.deviation or 0) for row in rows if row.method == method):
            x, y, spread = zip(*points, strict=True)
            axes.errorbar(x, y, yerr=spread, label=method, linewidth=1.3, **_style(number))
    sides = sorted({row.size for row in rows})
    axes.set_xticks(sides, [f"{side}x{side}" for side in sides])


def _plot_costs(axes: Any, rows: Sequence[MethodScore], numbers: Mapping[str, int]) -> None:
    priced = [(row, row.gain) for row in rows if row.gain is not None and row.cost is not None]
    gains = np.array([gain for _, gain in priced] or [0.0])
    low, high = np.quantile(gains, [0.25, 0.75])
    # one further below the middle half than three times its range is drawn at the edge with its number: a heap else
    lowest = gains[gains >= low - 3 * max(high - low, 0.5)].min()
    for row, gain in priced:
        label = row.method if gain >= lowest else f"{row.method} ({gain:+.1f}, below)"
        style = {"yerr": row.half if gain >= lowest else None, "linestyle": "", **_style(numbers[row.method])}
        axes.errorbar(row.cost, max(gain, lowest), label=label, **style)
    axes.axhline(0, color=GREY, linewidth=1)


def _plot_epochs(axes: Any, rows: Sequence[MethodScore], numbers: Mapping[str, int]) -> None:
    for row in (row for row in rows if row.epochs):
        number, epochs = numbers[row.method], range(1, len(row.epochs) + 1)
        line = LINES[number // len(COLOURS) % len(LINES)]
        axes.plot(epochs, row.epochs, line, color=f"C{number}", linewidth=1.2, label=row.method)
