"""Pictures of results, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossres.checkpoint import write_atomically

BLUE, RED, GREY = "#2f5d8a", "#c8553d", "#8a8f98"
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
