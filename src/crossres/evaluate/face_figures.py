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

    verified, searched = (
        [row for row in result["rows"] if part in row] for part in ("verification", "identification")
    )
    figure = Figure(figsize=(11 if verified and searched else 6, 4.6), layout="constrained", dpi=150)
    axes = list(figure.subplots(1, bool(verified) + bool(searched), squeeze=False)[0])
    roc, cmc = axes[0], axes[-1]
    lines = {"hr-hr": ":", "hr-lr": "--", "lr-lr": "-", "native": "-"}
    sizes = list(dict.fromkeys(row["size"] for row in result["rows"]))
    for row in result["rows"]:
        at = f" {row['size']}x{row['size']}" if row["size"] else ""
        style = {
            "color": COLOURS[sizes.index(row["size"]) % len(COLOURS)],
            "linestyle": lines[row["sides"]],
            "label": f"{row['sides'].upper()}{at}",
        }
        if row in verified:
            curve = row["verification"]["roc"]
            roc.plot(curve["far"], [100 * tar for tar in curve["tar"]], drawstyle="steps-post", **style)
        if row in searched:
            shares = row["identification"]["cmc"]
            cmc.plot(range(1, len(shares) + 1), shares, **style)
    if verified:
        fewest = min(row["verification"]["pairs"]["impostor"] for row in verified)
        roc.set(xscale="log", xlim=(1 / fewest, 1), xlabel="false accept rate", ylabel="true accept rate, %")
        roc.set_title("Verification")
    if searched:
        cmc.set(xlabel="rank", ylabel="found, %", title="Identification, closed set")
        cmc.set_xlim(1)
    for each in axes:
        each.set_ylim(0, 100)
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
        each.legend(frameon=False, loc="best")
    figure.suptitle(f"{result['model']} on {result['dataset']}", parse_math=False)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
