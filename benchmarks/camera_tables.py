"""Short tables of students on images that are not as trained; all columns lie beside the results."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from grid_tables import comparison_of, has_results

from crossres.bench.results import method_of
from crossres.bench.tables import OTHER_SIZES, spread, table

NOTHING = "No run so far."
HARSH = "blur, noise, JPEG"
Value = Callable[[dict[str, Any]], float | None]


def signs_table(recipe: Path) -> str:
    """Students on near frames, shrunk, and on far frames as they are, where a grid has such: of the saved epoch."""
    if not has_results(recipe):
        return NOTHING
    results = _results(recipe)
    judged: dict[str, Value] = {"": lambda r: r["top1_best_val"]}
    if "natural" in results[0]:
        judged = {", near": judged[""], ", far": lambda r: r["natural"]["far"]["top1"]}
    weights = Counter(_short(r) for r in {method_of(r): r for r in results}.values())

    def name_of(result: dict[str, Any]) -> str:
        name = _short(result) if weights[_short(result)] == 1 else method_of(result)
        teacher = None if result["teacher"] is None else result["grid"].get("teacher")
        return f"{name} of {teacher}" if teacher else name

    # labels alone are one run, whatever teacher stands beside them
    once = {(name_of(r), r["lr_size"], r["seed"]): r for r in results}
    return _by_size("top-1, %", [*once.values()], name_of, judged)


def training_by_test(recipe: Path, tests: Sequence[str], shrunk: Path | None = None) -> str:
    """Accuracy by degradation: a row a method and a degradation of the training, a column one of the test.

    ``shrunk`` is a grid of the same protocol whose students of the same methods saw shrunk images alone.
    """
    if not has_results(recipe):
        return NOTHING
    results = [r | {"unseen": of_faces(r)} if "protocols" in r else r for r in _results(recipe)]
    if shrunk:
        runs = {(method_of(r), r["seed"]) for r in results}
        clean = [r for r in _results(shrunk) if (method_of(r), r["seed"]) in runs]
        results = [_trained_on_shrunk(r) for r in clean] + results
        results.sort(key=method_of)  # the trainings of a method stay in their order
    rows = [
        [name, training, *(spread([r["unseen"][test]["top1"] for r in members], 1) for test in tests)]
        for (name, training), members in _by(results, lambda r: (_short(r), r["grid"]["degradation"])).items()
    ]
    return table(["", "trained on", *tests], rows)


def across_sizes(recipe: Path, sizes: Sequence[int]) -> str:
    """Students of a range of sizes on test images of single ones."""
    if not has_results(recipe):
        return NOTHING
    rows = []
    for name, members in _by(_results(recipe), lambda r: f"{_short(r)}, {r['grid']['degradation']}").items():
        curves = [{point["size"]: point["top1"] for point in r["unseen"][OTHER_SIZES]["curve"]} for r in members]
        rows.append([name, *(spread([curve[size] for curve in curves], 1) for size in sizes)])
    return table(["top-1, %", *(f"{size}x{size}" for size in sizes)], rows)


def matched_text(path: Path) -> str:
    """What match says of a real camera."""
    found = json.loads(path.read_text())
    assert found["only_shrunk"], "the page says that matched training is clean training: say otherwise, and train"
    return (
        f"{found['images']['crops']:,} far frames against {found['images']['hr']:,} near ones at {found['lr_size']}x"
        f"{found['lr_size']}: only shrunk ({found['kernel']}); a classifier's AUC is {found['auc_after']:.2f}"
    )


def adapted_rows(folder: Path, recipe: Path) -> list[dict[str, Any]]:
    """What `benchmarks/adapted.py` says of students of a grid, each with the grid's result of it as ``of``."""
    files = {folder / f"{r['name']}.json": r for r in _results(recipe)}
    return [
        json.loads(file.read_text()) | {"of": r, "lr_size": r["lr_size"]}
        for file, r in files.items()
        if file.exists()
    ]


def adapted_table(rows: Sequence[dict[str, Any]]) -> str:
    """Students before and after they were adapted to crops without labels."""
    ways: dict[str, Value] = {"": lambda row: row["before"], ", adapted": lambda row: row["adapt"]}
    return _by_size("top-1 on far, %", rows, lambda row: _short(row["of"]), ways)


def other_ways_text(rows: Sequence[dict[str, Any]]) -> str:
    """What the ways that do not train anew bring, in the mean over the students."""
    gains = {way: mean(row[way] - row["before"] for row in rows) for way in ("statistics", "entropy", "adapt")}
    return (
        f"batch norm's statistics re-estimated on the crops bring {gains['statistics']:+.1f} points, entropy "
        f"minimised there {gains['entropy']:+.1f}, `adapt` {gains['adapt']:+.1f}"
    )


def _results(recipe: Path) -> list[dict[str, Any]]:
    """The results of a grid in the order of its methods and degradations."""
    grid, comparison = comparison_of(recipe)
    methods, degradations = [*grid.methods], [*grid.degradations, None]
    return sorted(
        map(dict, comparison.results),
        key=lambda r: (methods.index(method_of(r)), degradations.index(r["grid"].get("degradation"))),
    )


def _by_size(
    title: str, rows: Sequence[dict[str, Any]], name_of: Callable[[dict[str, Any]], str], values: dict[str, Value]
) -> str:
    """Tabulate rows by name, a column for each of their LR sizes and, by its words, each value."""
    sizes = sorted({row["lr_size"] for row in rows}, reverse=True)
    columns = {f"{size}x{size}{words}": (size, value) for size in sizes for words, value in values.items()}
    lines = []
    for name, members in _by(rows, name_of).items():
        of_size = [[value(row) for row in members if row["lr_size"] == size] for size, value in columns.values()]
        lines.append([name, *(spread(each, 1) for each in of_size)])
    return table([title, *columns], lines)


def _by(results: Sequence[dict[str, Any]], name: Callable[[dict[str, Any]], Any]) -> dict[Any, list[dict[str, Any]]]:
    groups: dict[Any, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(name(result), []).append(result)
    return groups


def _short(result: dict[str, Any]) -> str:
    return re.sub(r" \(weight [^)]*\)|, weight [^)]*", "", method_of(result))


def _trained_on_shrunk(result: dict[str, Any]) -> dict[str, Any]:
    own = {"clean": {"top1": result["top1_best_val"]}}
    return result | {"unseen": own | result["unseen"], "grid": result["grid"] | {"degradation": "clean"}}


def of_faces(result: dict[str, Any]) -> dict[str, Any]:
    """The accuracy of each protocol, LR to LR, where a result of objects has top-1."""

    def accuracy(rows: list[dict[str, Any]]) -> float:
        (row,) = (row for row in rows if (row["sides"], row["size"]) == ("lr-lr", result["lr_size"]))
        return float(row["verification"]["accuracy_chosen"])

    return {name: {"top1": accuracy(document["rows"])} for name, document in result["protocols"].items()}
