"""Pictures of the face protocols, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossres.core.files import write_atomically
from crossres.evaluation.figures import COLOURS

LINES = {"hr-hr": ":", "hr-lr": "--", "lr-lr": "-", "native": "-"}


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
            "linestyle": LINES[row["sides"]],
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
