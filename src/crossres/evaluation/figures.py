"""Pictures of results as PNG, and what all figures share: style, curves, axes of classes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from crossres.core.files import write_atomically

BLUE, RED, GREY = "#2f5d8a", "#c8553d", "#8a8f98"
#: Of methods, far apart also for those who see fewer colours (Okabe & Ito); then another marker and line.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
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

    style = {"axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "axes.prop_cycle": cycler(color=COLOURS)}
    with rc_context(STYLE | style):
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        yield figure
        write_atomically(path, lambda file: figure.savefig(file, format="png"))


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
    axes.set(title="Accuracy against resolution", xlabel="side of the image, pixels", ylabel="top-1, %")
    axes.set_ylim(bottom=0)
    axes.legend()


def draw_faces(result: dict[str, Any], path: str | Path) -> None:
    """Draw `evaluate_faces`' result as PNG, written atomically: ROC and DET, CMC and open set, a line a row."""
    rows = result["rows"]
    plots: Any = {"verification": _plot_verification, "identification": _plot_identification}
    parts = [part for part in plots if any(part in row for row in rows)]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    with png(path, (11, 0.4 + 4.2 * len(parts))) as figure:
        for part, panels in zip(parts, figure.subplots(len(parts), 2, squeeze=False), strict=True):
            lines = []
            for row in (row for row in rows if part in row):
                label = row["sides"].upper() + (f" {row['size']}x{row['size']}" if row["size"] else "")
                style = {"color": f"C{sizes.index(row['size'])}", "linestyle": STROKES[row["sides"]], "label": label}
                lines.append((row[part], style))
            plots[part](*panels, lines)
        for axes in figure.axes:
            axes.legend(loc="best")
        figure.suptitle(f"{result['model']} on {result['dataset']}")


def _plot_verification(roc: Any, det: Any, lines: Sequence[tuple[dict[str, Any], Any]]) -> None:
    # limits, one of as many pairs as all rows have, come first: an axis has none of its own where all lines lie at 0
    far, fnmr = (min(0.1, 1 / lines[0][0]["pairs"][kind]) for kind in ("impostor", "genuine"))
    for axis in (roc.xaxis, det.xaxis, det.yaxis):
        log_axis(axis)
    roc.set(title="Verification", xlim=(far, 1), ylim=(0, 100))
    roc.set(xlabel="false accept rate", ylabel="true accept rate, %")
    det.set(title="Verification, detection error tradeoff", xlim=(far, 1), ylim=(fnmr, 1))
    det.set(xlabel="false match rate (false accept rate)", ylabel="false non-match rate (1 - true accept rate)")
    for part, style in lines:
        rates, tar = part["roc"]["far"], np.array(part["roc"]["tar"])
        roc.plot(rates, 100 * tar, drawstyle="steps-post", **style)
        det.plot(rates, 1 - tar, drawstyle="steps-post", **style)


def _plot_identification(cmc: Any, open_set: Any, lines: Sequence[tuple[dict[str, Any], Any]]) -> None:
    ranks = 1, max(2, *(len(part["cmc"]) for part, _ in lines))
    cmc.set(title="Identification, closed set", xlim=ranks, ylim=(0, 100), xlabel="rank", ylabel="identified, %")
    if strangers := lines[0][0]["strangers"]:  # all rows search for the same identities
        log_axis(open_set.xaxis)
        open_set.set(title="Identification, open set, rank 1", xlim=(min(0.1, 1 / strangers), 1), ylim=(0, 100))
        open_set.set(xlabel="false positive identification rate", ylabel="true positive identification rate, %")
    else:
        open_set.remove()
    for part, style in lines:
        cmc.plot(range(1, len(part["cmc"]) + 1), part["cmc"], **style)
        if curve := part["open_set_curve"]:
            open_set.plot(curve["fpir"], curve["tpir"], drawstyle="steps-post", **style)
