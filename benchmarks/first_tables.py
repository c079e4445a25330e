"""What a newcomer's page says: times and results of the tutorials, and what the defaults for few images rest on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from grid_tables import grid_of, has_results
from scipy.stats import t

from crossres.bench.results import method_of, read_results
from crossres.bench.tables import spread, table
from crossres.evaluation.statistics import beyond_chance

TUTORIALS = Path("results/tutorials")
NOT_MEASURED = "Not measured so far."


def _measured(name: str) -> dict[str, Any] | None:
    path = TUTORIALS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def times() -> str:
    """Seconds of the three commands of the README."""
    measured = _measured("own-crops")
    if measured is None:
        return NOT_MEASURED
    seconds = {line["line"].split()[1]: line["seconds"] for line in reversed(measured["lines"])}
    listed = f"{seconds['teach']:.0f}, {seconds['distill']:.0f} and {seconds['export']:.0f}"
    images = measured["images"]
    count = images["train"] + images["val"] + images["test"]
    return f"With {count} photos of 28x28 the commands take {listed} seconds on {measured['machine']['cores']} cores."


def own_crops() -> str:
    """What a student and one of labels alone come to on the tutorial's digits."""
    measured = _measured("own-crops")
    if measured is None:
        return NOT_MEASURED
    scores = measured["top1"]
    whole = sum(line["seconds"] for line in measured["lines"])
    return (
        f"On {measured['images']['others']:,} other digits, over {len(scores['student'])} seeds: the student "
        f"{spread(scores['student'])} % right, labels alone {spread(scores['labels'])} %, a gain of "
        f"{_gain(scores['student'], scores['labels'])} points. All commands of this page take "
        f"{whole / 60:.1f} minutes on {measured['machine']['cores']} cores, pip before that "
        f"{measured['install_seconds'] / 60:.1f} (most of it for PyTorch's GPU libraries)."
    )


def _gain(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The mean gain over the seeds and half its 95 % interval, and whether it is noise."""
    difference = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    half = t.ppf(0.975, len(difference) - 1) * stdev(difference) / sqrt(len(difference))  # Student's t over the seeds
    noise = " (within noise)" if abs(mean(difference)) <= half else ""
    return f"{mean(difference):+.1f} ± {half:.1f}{noise}"


def tiny_crops() -> str:
    """What larger photos of the same classes are worth beside tiny crops."""
    measured = _measured("tiny-crops")
    if measured is None:
        return NOT_MEASURED
    scores = measured["top1"]
    labels, more, taught = (scores[name] for name in ("tiny-labels", "more-labels", "taught"))
    return (
        f"On {measured['images']['others']:,} other crops as they are, over {len(taught)} seeds: labels alone "
        f"{spread(labels)} % right, with the larger photos {spread(more)} %, with a teacher that sees them "
        f"{spread(taught)} %: {_gain(more, labels)} points by the photos, {_gain(taught, more)} by the teacher."
    )


def few_table(recipes: list[Path]) -> str:
    """Top-1 after the last epoch of grids of few images: a row a batch size and epochs, a column a method."""
    columns: dict[str, dict[str, str]] = {}
    for recipe in filter(has_results, recipes):
        scores: dict[str, list[float]] = {}
        for result in read_results(grid_of(recipe).folder):
            scores.setdefault(method_of(result), []).append(result["top1_last"])
            count = result["images"]["train"] + result["images"]["val"]
        for name in (name for name in grid_of(recipe).methods if name in scores):
            method, form = name.split(", ", 1)
            columns.setdefault(f"{method}, {count}", {})[form] = spread(scores[name])
    if not columns:
        return NOT_MEASURED
    forms = dict.fromkeys(form for column in columns.values() for form in column)
    rows = [[form, *(column.get(form, "") for column in columns.values())] for form in forms]
    return table(["top-1, %", *columns], rows)


def saved_table(grids: dict[str, Path]) -> str:
    """What the test images say of each way to choose the epoch, over the runs that recorded both epochs.

    Args:
        grids: by what a row calls them, folders of results.
    """
    rows = []
    for name, folder in ((name, folder) for name, folder in grids.items() if folder.is_dir()):
        runs = [r for r in read_results(folder) if r.get("val_top1_by_epoch") and r["images"]["val"]]
        # later runs judged no other epoch than the rule's
        runs = [r for r in runs if r["val_top1_by_epoch"][r["best_epoch"] - 1] == max(r["val_top1_by_epoch"])]
        if not runs:
            continue
        gains = [r["top1_best_val"] - r["top1_last"] for r in runs]
        curves = [(r["val_top1_by_epoch"], r["images"]["val"]) for r in runs]
        better = [beyond_chance(max(curve), curve[-1], cases) for curve, cases in curves]
        kept = [gain if is_better else 0.0 for gain, is_better in zip(gains, better, strict=True)]
        cases = sorted({r["images"]["val"] for r in runs})
        shown = f"{cases[0]:,}" if len(cases) == 1 else f"{cases[0]:,} to {cases[-1]:,}"
        rows.append([name, shown, str(len(runs)), f"{mean(gains):+.2f}", f"{min(gains):+.2f}", f"{mean(kept):+.2f}"])
    heads = ["runs", "validation images", "number", "best on validation, mean", "worst", "the rule, mean"]
    return table(heads, rows)


def judged_anew(path: Path) -> str:
    """What trained students come to by the rule for ties and float32 logits, beside what their runs recorded."""
    rows = json.loads(path.read_text())
    moved = [row[f"anew in {row['precision']}"] - row["recorded"] for row in rows]
    return (
        f"Runs recorded before that are a little low: {len(rows)} students of 8x8, judged again in "
        f"{rows[0]['precision']}, gain {min(moved):.2f} to {max(moved):.2f} points (`benchmarks/judged_anew.py`). "
        "The tables of all methods, of 100 and of 25 classes, have the recorded numbers, by the older rule."
    )
