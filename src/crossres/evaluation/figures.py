"""Pictures of results, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossres.core.files import write_atomically

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


def _plain(axes: Any, **texts: str) -> None:
    axes.set(**texts)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


STROKES = {"hr-hr": ":", "hr-lr": "--", "lr-lr": "-", "native": "-"}


def draw_faces(result: dict[str, Any], path: str | Path) -> None:
    """Draw ROC and DET and, where people were looked for, CMC and open set of `evaluate_faces`' result, a line a row.

    Args:
        result: what ``crossres faces evaluate --json`` prints.
        path: of the PNG, written atomically.
    """
    from matplotlib.figure import Figure

    parts = [part for part in ("verification", "identification") if any(part in row for row in result["rows"])]
    figure = Figure(figsize=(11, 0.4 + 4.2 * len(parts)), layout="constrained", dpi=150)
    panels: dict[str, Any] = dict(zip(parts, figure.subplots(len(parts), 2, squeeze=False), strict=True))
    sizes = list(dict.fromkeys(row["size"] for row in result["rows"]))
    # limits come first: a logarithmic axis finds none itself where all lines lie at 0
    for part, prepare in (("verification", _for_verification), ("identification", _for_identification)):
        if part in panels:
            left, right = panels[part]
            prepare(left, right, [row[part] for row in result["rows"] if part in row])
    for row in result["rows"]:
        at = f" {row['size']}x{row['size']}" if row["size"] else ""
        style = {
            "color": COLOURS[sizes.index(row["size"]) % len(COLOURS)],
            "linestyle": STROKES[row["sides"]],
            "label": f"{row['sides'].upper()}{at}",
        }
        if "verification" in row:
            roc, det = panels["verification"]
            far, tar = (row["verification"]["roc"][name] for name in ("far", "tar"))
            roc.plot(far, [100 * share for share in tar], drawstyle="steps-post", **style)
            det.plot(far, [1 - share for share in tar], drawstyle="steps-post", **style)
        if "identification" in row:
            cmc, searched = panels["identification"]
            found = row["identification"]
            cmc.plot(range(1, len(found["cmc"]) + 1), found["cmc"], **style)
            if curve := found["open_set_curve"]:
                searched.plot(curve["fpir"], curve["tpir"], drawstyle="steps-post", **style)
    for each in figure.axes:
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
        each.legend(frameon=False, loc="best")
    figure.suptitle(f"{result['model']} on {result['dataset']}", parse_math=False)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _for_verification(roc: Any, det: Any, found: Sequence[dict[str, Any]]) -> None:
    far, fnmr = (_rates([each["pairs"][kind] for each in found]) for kind in ("impostor", "genuine"))
    roc.set(xscale="log", xlim=far, xlabel="false accept rate", ylim=(0, 100), ylabel="true accept rate, %")
    roc.set_title("Verification")
    det.set(xscale="log", xlim=far, xlabel="false match rate (false accept rate)")
    det.set(yscale="log", ylim=fnmr, ylabel="false non-match rate (1 - true accept rate)")
    det.set_title("Verification, detection error tradeoff")


def _for_identification(cmc: Any, searched: Any, found: Sequence[dict[str, Any]]) -> None:
    cmc.set(xlabel="rank", ylabel="found, %", ylim=(0, 100), title="Identification, closed set")
    cmc.set_xlim(1, max(2, *(len(each["cmc"]) for each in found)))
    if not found[0]["strangers"]:  # all rows look for the same people
        searched.remove()
        return
    searched.set(xscale="log", xlim=_rates([each["strangers"] for each in found]))
    searched.set(xlabel="false positive identification rate", ylabel="true positive identification rate, %")
    searched.set(ylim=(0, 100), title="Identification, open set, rank 1")


def _rates(counts: Sequence[int]) -> tuple[float, float]:
    """Return the limits of an axis of rates: from one of as many as there are."""
    return min(0.1, 1 / min(counts)), 1.0
