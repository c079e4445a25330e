"""Pictures of the face protocols, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossres.checkpoint import write_atomically
from crossres.evaluate.figures import COLOURS


def draw_faces(result: dict[str, Any], path: str | Path) -> None:
    """Draw ROC and, where people were looked for, CMC of `evaluate_faces`' result, a line a row.

    Args:
        result: what ``crossres faces evaluate --json`` prints.
        path: of the PNG, written atomically.
    """
    from matplotlib.figure import Figure

    searched = [row for row in result["rows"] if "identification" in row]
    figure = Figure(figsize=(11 if searched else 6, 4.6), layout="constrained", dpi=150)
    axes = figure.subplots(1, 2 if searched else 1, squeeze=False)[0]
    styles = {"hr-hr": ":", "hr-lr": "--", "lr-lr": "-"}
    sizes = list(dict.fromkeys(row["size"] for row in result["rows"]))
    for row in result["rows"]:
        at = f" {row['size']}x{row['size']}" if row["size"] else ""
        style = {"color": COLOURS[sizes.index(row["size"]) % len(COLOURS)], "linestyle": styles[row["sides"]]}
        label = f"{row['sides'].upper()}{at}"
        if "verification" in row:
            curve = row["verification"]["roc"]
            axes[0].plot(
                curve["far"], [100 * tar for tar in curve["tar"]], label=label, drawstyle="steps-post", **style
            )
        if "identification" in row:
            cmc = row["identification"]["cmc"]
            axes[1].plot(range(1, len(cmc) + 1), cmc, label=label, **style)
    lowest = 1 / max(
        1, min(row["verification"]["pairs"]["impostor"] for row in result["rows"] if "verification" in row)
    )
    axes[0].set(xscale="log", xlim=(lowest, 1), xlabel="false accept rate", ylabel="true accept rate, %")
    axes[0].set_title("Verification")
    if searched:
        axes[1].set(xlabel="rank", ylabel="found, %", title="Identification, closed set")
        axes[1].set_xlim(1)
    for each in axes:
        each.set_ylim(0, 100)
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
        each.legend(frameon=False, loc="best")
    figure.suptitle(f"{result['model']} on {result['dataset']}", parse_math=False)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
