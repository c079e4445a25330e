"""A comparison of methods as figures: one colour a method, names beside what they name."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from statistics import mean
from textwrap import fill
from typing import Any

import numpy as np

from crossres.bench.comparison import MEASURES, MethodScore
from crossres.evaluation.figures import GREY, INK, LINES, METHOD_COLOURS, log_axis, method_colour, png, text_colour

#: Settings side by side.
COLUMNS = 3
#: Methods that curves name.
NAMED = 5
#: Length of a line, of names at the ends of curves.
NAME_WIDTH = 28
#: Characters of a title in a line: more would run into the next one.
TITLE_WIDTH = 32


def draw_comparison(rows: Sequence[MethodScore], baseline: str, folder: Path) -> list[Path]:
    """Draw a comparison of methods as PNGs in a folder, each written atomically; return their paths.

    ``accuracy.png``: accuracy with its interval, a row a method; ``cost.png``: gain over the baseline against the
    cost of a step; ``curves.png``: validation accuracy over the epochs. Each has a panel a setting. What the rows,
    those of `compare_methods`, do not hold is left out, and its picture of earlier rows removed.
    """
    rows = sorted(rows, key=lambda row: (row.size, -row.mean))
    files: list[Path] = []
    if rows:
        files.append(folder / "accuracy.png")
        _draw_accuracy(rows, files[-1])
    if priced := [row for row in rows if row.gain is not None and row.cost is not None]:
        files.append(folder / "cost.png")
        _draw_costs(priced, baseline, files[-1])
    if trained := [row for row in rows if row.epochs]:
        files.append(folder / "curves.png")
        _draw_epochs(trained, baseline, files[-1])
    for path in {folder / f"{name}.png" for name in ("accuracy", "cost", "curves")}.difference(files):
        path.unlink(missing_ok=True)
    return files


@contextmanager
def _panels(
    path: Path, settings: Sequence[str], panel: tuple[float, float], x: str, y: str = "", *, left: float = 0.0
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Give a figure and axes for each setting, all with the same scales.

    ``panel`` is the size of one, ``left`` what names need beside the first, in inches.
    """
    columns, lines = min(len(settings), COLUMNS), ceil(len(settings) / COLUMNS)
    with png(path, (left + panel[0] * columns, panel[1] * lines)) as figure:
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        panels = dict(zip(settings, grid.flat, strict=False))
        for axes in grid.flat[len(settings) :]:
            axes.remove()
        for setting, axes in panels.items():
            title = fill(setting, TITLE_WIDTH, break_on_hyphens=False)
            axes.set(title=title, xlabel=x, ylabel=y if axes in grid[:, 0] else "")
            axes.tick_params(labelbottom=True)
        yield figure, panels


def _settings(rows: Sequence[MethodScore]) -> dict[str, list[MethodScore]]:
    return {name: [row for row in rows if row.setting == name] for name in dict.fromkeys(row.setting for row in rows)}


def _lowest(settings: Iterable[Sequence[float]]) -> float:
    """Return the smallest value to be drawn: one far below the others of its setting would press them together.

    Far is more than three times the range of the middle half below that.
    """
    kept = []
    for values in settings:
        low, high = np.quantile(values, [0.25, 0.75])
        kept += [value for value in values if value >= low - 3 * max(high - low, 0.5)]
    return float(min(kept))


def _draw_accuracy(rows: Sequence[MethodScore], path: Path) -> None:
    from matplotlib.ticker import MaxNLocator

    settings = _settings(rows)
    behind: dict[str, list[float]] = {}
    for here in settings.values():
        for row in here:
            behind.setdefault(row.method, []).append(here[0].mean - row.mean)
    methods = sorted(behind, key=lambda method: -mean(behind[method]))
    lowest = _lowest([row.mean for row in here] for here in settings.values())
    note = ["Lines: 95 % intervals over the seeds"] if any(row.interval for row in rows) else []
    if alone := [row for row in rows if len(row.score) == 1]:
        over = f", over its test {MEASURES[rows[0].measure][1]}" if any(row.interval for row in alone) else ""
        note.append(f"hollow: one seed{over}")
    if any(row.mean < lowest for row in rows):
        note.append("triangle: further left")
    size = 3.3, 1.0 + 0.25 * len(methods)
    left = 0.08 * max(map(len, methods))
    x = f"test {MEASURES[rows[0].measure][0]}, %"
    with _panels(path, [*settings], size, x, left=left) as (figure, panels):
        for setting, axes in panels.items():
            for row in settings[setting]:
                place, colour, inside = methods.index(row.method), method_colour(row.method), row.mean >= lowest
                if inside and row.interval:
                    axes.plot(row.interval, [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
                style: Any = {"color": colour, "markersize": 6, "markeredgewidth": 1.5, "zorder": 3}
                style["markerfacecolor"] = "white" if len(row.score) == 1 else colour
                axes.plot(max(row.mean, lowest), place, "o" if inside else "<", **style)
                at_edge: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
                axes.annotate(f"{row.mean:.1f}", (1, place), (4, 0), fontsize="small", **at_edge)
            axes.set_yticks(range(len(methods)), methods)
            axes.set_ylim(-0.6, len(methods) - 0.4)
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.tick_params(axis="y", length=0)
        line = "; ".join(note)
        figure.supxlabel(fill(f"{line[:1].upper()}{line[1:]}.", int(13 * figure.get_figwidth())), fontsize="small")


def _draw_costs(rows: Sequence[MethodScore], baseline: str, path: Path) -> None:
    from matplotlib.ticker import LogLocator

    settings = _settings(rows)
    lowest = _lowest([row.gain or 0.0 for row in here] for here in settings.values())
    x, y = f"time of a training step, in steps of {baseline}", f"gain over {baseline}, percentage points"
    with _panels(path, [*settings], (6.4, 4.6), x, y) as (figure, panels):
        for axes in panels.values():
            log_axis(axes.xaxis)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 3, 5, 7)))
            axes.minorticks_off()
            axes.axhline(0, color=INK, linewidth=1)
        for row in rows:
            colour, gain = method_colour(row.method), row.gain or 0.0
            style: Any = {"color": colour, "marker": "o" if gain >= lowest else "v", "elinewidth": 1.4}
            style |= {"yerr": row.half if gain >= lowest else None, "zorder": 2 if colour == GREY else 3}
            style["markerfacecolor"] = "white" if len(row.score) == 1 else colour
            panels[row.setting].errorbar(row.cost, max(gain, lowest), **style)
        figure.draw_without_rendering()  # the axes have their places from here on
        names = [_name_points(axes, settings[setting], lowest) for setting, axes in panels.items()]
        note = ["Hollow: one seed."] if any(len(row.score) == 1 for row in rows) else []
        if sum(names) < len(rows):
            note.append("Points without a name have no room for one; accuracy.png names all.")
        if note:
            figure.supxlabel(" ".join(note), fontsize="small")


def _name_points(axes: Any, rows: Sequence[MethodScore], lowest: float) -> int:
    """Write names beside points where there is room, further off for the best of a colour; return how many."""
    from matplotlib.transforms import Bbox

    points = {row.method: (row.cost, max(row.gain or 0.0, lowest)) for row in rows}
    spots = axes.transData.transform([*points.values()])
    zero = axes.transAxes.transform([(0, 0), (1, 0)])
    zero[:, 1] = axes.transData.transform((1, 0))[1]
    taken = [Bbox([spot - 8, spot + 8]) for spot in spots] + [Bbox([zero[0] - 2, zero[1] + 2])]
    for row in rows:
        cost, gain = points[row.method]
        if row.half and gain > lowest:
            ends = axes.transData.transform([(cost, gain - row.half), (cost, gain + row.half)])
            taken.append(Bbox([ends[0] - 2, ends[1] + 2]))
    known = [row for row in rows if method_colour(row.method) != GREY]
    best = {method_colour(row.method): row for row in reversed(known)}.values()
    tries = [(row, 8) for row in known] + [(row, far) for row in best for far in (18, 30, 44, 60)]
    named = set()
    for row, far in tries + [(row, 8) for row in rows if row not in known]:
        label = row.method if (row.gain or 0.0) >= lowest else f"{row.method} ({row.gain:+.1f})"
        colour = method_colour(row.method)
        for x, y in _DIRECTIONS if row.method not in named else ():
            style: Any = {"xytext": (far * x, far * y), "textcoords": "offset points", "in_layout": False}
            style |= {"va": "center", "ha": ("right", "center", "left")[int(np.sign(x)) + 1], "fontsize": "small"}
            text = axes.annotate(label, points[row.method], color=text_colour(colour), **style)
            box = text.get_window_extent()
            if axes.bbox.count_contains(box.corners()) == 4 and not box.count_overlaps(taken):
                taken.append(box)
                named.add(row.method)
                if far > 8:
                    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 6, "shrinkB": 3}
                    axes.annotate("", points[row.method], arrowprops=line, **style)
                break
            text.remove()
    return len(named)


#: Where a name may lie, seen from its point.
_DIRECTIONS = ((1, 0), (-1, 0), (1, 0.8), (1, -0.8), (-1, 0.8), (-1, -0.8), (0, 1.2), (0, -1.2))


def _draw_epochs(rows: Sequence[MethodScore], baseline: str, path: Path) -> None:
    lowest = _lowest([row.epochs[-1] for row in here] for here in _settings(rows).values())
    low = [f"{row.method} ({row.epochs[-1]:.1f})" for row in rows if row.epochs[-1] < lowest]
    settings = _settings([row for row in rows if row.epochs[-1] >= lowest])
    named = {setting: _to_name(here, baseline) for setting, here in settings.items()}
    y = f"validation {MEASURES[rows[0].measure][2]}, %"
    with _panels(path, [*settings], (6.4, 4.6), "epoch", y) as (figure, panels):
        for setting, axes in panels.items():
            for row in settings[setting]:
                style: Any = {"color": GREY, "linewidth": 0.8, "zorder": 2}
                if row in named[setting]:
                    colour = method_colour(row.method)
                    alike = [other for other in named[setting] if method_colour(other.method) == colour]
                    line = LINES[alike.index(row) % len(LINES)]
                    style = {"color": colour, "linestyle": line, "linewidth": 1.9, "zorder": 3}
                axes.plot(range(1, len(row.epochs) + 1), row.epochs, **style)
        if low:
            note = f"Not drawn, far below: {', '.join(low)}."
            figure.supxlabel(fill(note, int(13 * figure.get_figwidth())), fontsize="small")
        figure.draw_without_rendering()  # the axes have their places from here on
        for setting, axes in panels.items():
            _name_ends(axes, named[setting])


def _to_name(rows: Sequence[MethodScore], baseline: str) -> list[MethodScore]:
    """Return the rows, of those of a setting, best first, that curves name.

    The best of ours, the best other one, the baseline, and of each colour, in the order of the table, the best.
    """
    ours = [row for row in rows if row.method == "crrcd"] + [row for row in rows if "crrcd" in row.method]
    others = [row for row in rows if "crrcd" not in row.method]
    base = [row for row in rows if row.method == baseline]
    best = {method_colour(row.method): row for row in reversed(rows)}
    of_colour = [best[colour] for colour in METHOD_COLOURS.values() if colour in best]
    chosen = {row.method: row for row in (*ours[:1], *others[:1], *base, *of_colour, *rows)}
    return [*chosen.values()][:NAMED]


def _name_ends(axes: Any, rows: Sequence[MethodScore]) -> None:
    """Write the names of lines where they end, moved apart where they would overlap."""
    from sklearn.isotonic import isotonic_regression

    scale = axes.figure.dpi / 72  # pixels a point
    rows = sorted(rows, key=lambda row: row.epochs[-1])
    labels = [fill(f"{row.method}  {row.epochs[-1]:.1f}", NAME_WIDTH) for row in rows]
    heights = np.array([13 * scale * (1 + label.count("\n")) for label in labels])
    points = [(len(row.epochs), row.epochs[-1]) for row in rows]
    ends = axes.transData.transform(points)[:, 1]
    apart = np.cumsum(heights) - heights / 2  # of their middles, if all touch
    highest = axes.bbox.y1 - heights.sum() + apart
    places = np.minimum(isotonic_regression(ends - apart) + apart, highest)
    for row, label, point, up in zip(rows, labels, points, (places - ends) / scale, strict=True):
        style: Any = {"textcoords": "offset points", "va": "center", "linespacing": 1.0}
        axes.annotate(label, point, (6, up), color=text_colour(method_colour(row.method)), **style)
