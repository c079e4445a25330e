"""Pictures of results as PNG, and what all figures share: style, a method's colour, curves, bars, axes."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from crossres.core.files import write_atomically

INK, GREY = "#333333", "#aab0b8"
#: One colour a method, the same in all figures; they differ for colour-blind eyes, too (Okabe & Ito, crd darker).
#: `method_colour` reads it; a method that is not here is grey.
METHOD_COLOURS = {
    "crrcd": "#0072b2",
    **dict.fromkeys(("labels", "ce", "cosface"), "#4d4d4d"),  # of faces, names are the labels
    "kd": "#009e73",
    "a form of crrcd": "#56b4e9",
    "crd": "#b5598d",
    "review": "#d55e00",
    "fskd": "#e69f00",
    "teacher": "#5b3a1e",
    "enlarged teacher": "#b08d57",
}
MARKERS = ("o", "s", "^", "D")
LINES = ("-", "--", ":", "-.")
#: Of faces, by how the two sides of their pairs were read.
STROKES = {"hr-hr": ":", "hr-lr": "--", "lr-lr": "-", "native": "-"}
#: Above this many classes the names would overlap.
NAMED_CLASSES = 25
STYLE: Any = {
    "text.parse_math": False,  # a folder's name may hold a $ that does not open a formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


@contextmanager
def png(path: str | Path, size: tuple[float, float]) -> Iterator[Any]:
    """Give a figure of a size in inches, and write it atomically once it is drawn."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

    style = {"axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "axes.prop_cycle": cycler(color=[INK])}
    with rc_context(STYLE | style):
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        yield figure
        write_atomically(path, lambda file: figure.savefig(file, format="png"))


def method_colour(method: str) -> str:
    """Return the colour of a method by its name in a comparison, as ``kd (fading, weight 4)`` or ``ce+kd``."""
    if method in METHOD_COLOURS:
        return METHOD_COLOURS[method]
    if "crrcd" in method:
        return METHOD_COLOURS["a form of crrcd"]
    parts = [part.strip() for part in method.split("+")]
    losses = [part for part in parts if part != "ce"]
    return GREY if len(losses) != 1 else METHOD_COLOURS.get(re.split(r"[ ,(-]", losses[0])[0], GREY)


def text_colour(colour: str) -> str:
    """Return a darker shade of a colour, for text on white."""
    return "#" + "".join(f"{int(int(colour[i : i + 2], 16) * 0.7):02x}" for i in (1, 3, 5))


#: A bar: its name, a value for each seed, its colour.
Bar = tuple[str, Sequence[float], str]


def plot_bars(axes: Any, bars: Sequence[Bar]) -> None:
    """Plot percentages as bars from the top down, the mean written at each; several seeds are points."""
    for place, (_, values, colour) in enumerate(bars):
        axes.barh(place, mean(values), height=0.7, color=colour)
        if len(values) > 1:
            style: Any = {"color": colour, "edgecolors": "white", "linewidths": 0.8, "zorder": 3}
            axes.scatter(values, [place] * len(values), s=26, **style)
        beside: Any = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "weight": "bold"}
        axes.annotate(f"{mean(values):.1f}", (max(values), place), **beside)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 100), ylim=(len(bars) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")


#: A line: its name, and the coordinates of its points.
Curve = tuple[str, Sequence[float], Sequence[float]]


def plot_curves(axes: Any, curves: Sequence[Curve], *, sizes: bool = False) -> None:
    """Plot lines without the points that are not finite; on an axis of ``sizes`` of images these are the ticks.

    Each has its colour of the cycle in rcParams; after the last one they begin anew, dashed.
    """
    from matplotlib import rcParams

    for number, (name, xs, ys) in enumerate(curves):
        points = np.array([xs, ys], dtype=float)
        points = points[:, np.isfinite(points).all(0)]
        line = LINES[number // len(rcParams["axes.prop_cycle"]) % len(LINES)]
        marker = "o" if sizes or points.shape[1] == 1 else None
        axes.plot(*points, line, marker=marker, color=f"C{number}", linewidth=1.7, markersize=4, label=name)
    if sizes:
        every = sorted({size for _, xs, _ in curves for size in xs})
        # of two that are nearer than this, the names would overlap
        shown = [size for size, after in pairwise([*every, math.inf]) if after > 1.13 * size]
        axes.set_xscale("log", base=2)
        axes.set_xticks(shown, [f"{size:g}" for size in shown])
        axes.minorticks_off()


def log_axis(axis: Any) -> None:
    """Make an axis logarithmic, its numbers plain: matplotlib writes formulas, which `STYLE` leaves unparsed."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def name_classes(axes: Any, classes: Sequence[str]) -> None:
    """Name the rows and columns of a confusion matrix, unless the names would overlap."""
    if len(classes) <= NAMED_CLASSES:
        names = [shortened(name) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)


def shortened(name: str, limit: int = 16) -> str:
    """Return a name of at most ``limit`` characters."""
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def draw_evaluation(result: dict[str, Any], path: str | Path) -> None:
    """Draw accuracy against resolution and the confusion matrix of `evaluate`'s result as PNG, written atomically."""
    counts = np.asarray(result["confusion"], dtype=float)
    with png(path, (11, 4.6)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
        plot_resolution(left, result["curve"], result["lr_size"])
        right.grid(visible=False)
        share = 100 * counts / counts.sum(1, keepdims=True).clip(1)
        image = right.imshow(share, cmap="Blues", vmin=0, vmax=100)
        figure.colorbar(image, ax=right, label="% of the true class", shrink=0.9)
        right.set(title="Confusion", xlabel="predicted", ylabel="true")
        name_classes(right, result["classes"])
        figure.suptitle(f"{result['dataset']}: top-1 {result['top1']:.2f} %, {result['images']:,} images")


def plot_resolution(axes: Any, curve: Sequence[dict[str, float]], trained: Any) -> None:
    """Plot top-1 against the side of the image, and mark the size, or range of sizes, that was trained."""
    low, high = (trained, trained) if isinstance(trained, int) else trained
    plot_curves(axes, [("top-1", [point["size"] for point in curve], [point["top1"] for point in curve])], sizes=True)
    axes.axvspan(low / 1.02, high * 1.02, color=GREY, alpha=0.3, linewidth=0, label="trained at")
    axes.set(title="Accuracy against resolution", xlabel="side of the image, px", ylabel="top-1, %")
    axes.set_ylim(bottom=0)
    axes.legend()


def draw_faces(result: dict[str, Any], path: str | Path) -> None:
    """Draw `evaluate_faces`' result as PNG, written atomically: ROC and DET, CMC and open set, a line a row."""
    from matplotlib import colormaps

    rows = result["rows"]
    plots: Any = {"verification": _plot_verification, "identification": _plot_identification}
    parts = [part for part in plots if any(part in row for row in rows)]
    sizes = sorted({row["size"] for row in rows if row["size"]})
    shades = colormaps["viridis"](np.linspace(0, 0.75, len(sizes)))  # sizes have an order
    colours = {None: INK, **dict(zip(sizes, shades, strict=True))}
    with png(path, (11, 0.8 + 4.0 * len(parts))) as figure:
        for part, panels in zip(parts, figure.subplots(len(parts), 2, squeeze=False), strict=True):
            lines = []
            for row in (row for row in rows if part in row):
                label = row["sides"].upper() + (f" {row['size']}x{row['size']}" if row["size"] else "")
                style = {"color": colours[row["size"]], "linestyle": STROKES[row["sides"]], "label": label}
                lines.append((row[part], style))
            plots[part](*panels, lines)
        drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
        named = {label: line for lines, labels in drawn for line, label in zip(lines, labels, strict=True)}
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=5)
        figure.suptitle(f"{result['model']} on {result['dataset']}")


def _plot_verification(roc: Any, det: Any, lines: Sequence[tuple[dict[str, Any], Any]]) -> None:
    # limits, one of as many pairs as all rows have, come first: an axis has none of its own where all lines lie at 0
    far, fnmr = (min(10, 100 / lines[0][0]["pairs"][kind]) for kind in ("impostor", "genuine"))
    for axis in (roc.xaxis, det.xaxis, det.yaxis):
        log_axis(axis)
    roc.set(title="Verification", xlim=(far, 100), ylim=(0, 100))
    roc.set(xlabel="false accept rate, %", ylabel="true accept rate, %")
    det.set(title="Verification, detection error tradeoff", xlim=(far, 100), ylim=(fnmr, 100))
    det.set(xlabel="false match rate (false accept rate), %", ylabel="false non-match rate, %")
    for part, style in lines:
        rates, tar = 100 * np.array(part["roc"]["far"]), 100 * np.array(part["roc"]["tar"])
        roc.plot(rates, tar, drawstyle="steps-post", **style)
        det.plot(rates, 100 - tar, drawstyle="steps-post", **style)


def _plot_identification(cmc: Any, open_set: Any, lines: Sequence[tuple[dict[str, Any], Any]]) -> None:
    ranks = 1, max(2, *(len(part["cmc"]) for part, _ in lines))
    cmc.set(title="Identification, closed set", xlim=ranks, ylim=(0, 100), xlabel="rank", ylabel="identified, %")
    if strangers := lines[0][0]["strangers"]:  # all rows search for the same identities
        log_axis(open_set.xaxis)
        open_set.set(title="Identification, open set, rank 1", xlim=(min(10, 100 / strangers), 100), ylim=(0, 100))
        open_set.set(xlabel="false positive identification rate, %", ylabel="true positive identification rate, %")
    else:
        open_set.remove()
    for part, style in lines:
        cmc.plot(range(1, len(part["cmc"]) + 1), part["cmc"], **style)
        if curve := part["open_set_curve"]:
            open_set.plot(100 * np.array(curve["fpir"]), curve["tpir"], drawstyle="steps-post", **style)
