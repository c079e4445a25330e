"""Tables of grids: short ones for the pages, all columns in files beside the results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from math import isnan
from pathlib import Path
from statistics import mean
from typing import Any

from crossres.bench.comparison import (
    MEASURES,
    Comparison,
    Costs,
    MethodScore,
    best_factor,
    compare_folder,
)
from crossres.bench.grid import Grid, read_grid
from crossres.bench.results import method_of, paired_gain, read_results
from crossres.bench.tables import OTHER_SIZES, cells, spread, table, write_comparison

STEPS = Path("results/bench/steps.json")
#: What crrcd is set against: by method, its published weight (of fading kd: ours) and the one chosen on 25 classes.
RIVALS = {
    "kd (fading)": ("kd (fading)", "kd (fading, weight 4)"),
    "crd": ("crd", "crd (weight 0.4)"),
    "fskd": ("fskd", "fskd (weight 320)"),
    "review": ("review", "review (weight 20)"),
}
FINALISTS = tuple(chosen for _, chosen in RIVALS.values())
#: Whose students are shown on other images, beside the finalists.
OURS = ("ce", "crrcd-paper", "crrcd-images", "crrcd")


#: Reading checks every run; several tables are of one grid.
grid_of = cache(read_grid)


def costs_of(path: Path) -> Costs:
    """Step time of each method relative to labels alone, from one run of benchmarks/steps.py."""
    rows = json.loads(path.read_text())
    return {(row["student"], row["lr_size"], row["method"]): row["ratio_to_ce"] for row in rows}


@cache
def comparison_of(recipe: Path) -> tuple[Grid, Comparison]:
    """A grid, and its comparison with the measured costs; several tables are of one."""
    grid = grid_of(recipe)
    return grid, compare_folder(grid.folder, grid.baseline, costs_of(STEPS))


def has_results(recipe: Path) -> bool:
    """Whether a run of a grid is there."""
    folder = grid_of(recipe).folder
    return folder.is_dir() and bool(read_results(folder))


def grid_table(recipe: Path, *, write: bool) -> str:
    """What a grid's methods came to, for docs/measured/; ``write`` puts all columns beside the results."""
    if not has_results(recipe):
        return "No run so far."
    grid, comparison = comparison_of(recipe)
    if write:
        write_comparison(comparison, grid.folder)
    some = comparison.results[0]
    classes = some["config"]["images"].get("classes")
    subset = f", {len(classes)} of its classes" if classes else ""
    teachers = sorted({(r["teacher"]["name"], r["hr_size"]) for r in comparison.results if r["teacher"]})
    taught = ", ".join(f"{name} at {size}x{size}" for name, size in teachers)
    run = {row.method for row in comparison.scores}
    left = [method for method in grid.methods if method not in run]
    published = "" if any("(" in method for method in left) else " with their published weights"
    missing = f" Not run so far{published}: {', '.join(left)}." if left else ""
    tests = f"{some['images']['test']:,} test images"
    caption = (
        f"{some['dataset']}{subset}; {some['epochs']} epochs; {_seeds(comparison.scores)}; {tests}; "
        f"teacher {taught}. [All columns](../../{grid.folder}/comparison.md).{missing}"
    )
    return f"{caption}\n\n{short_table(comparison.scores, grid.baseline)}"


def _seeds(scores: Sequence[MethodScore]) -> str:
    """How many seeds the methods have."""
    *fewer, most = sorted({len(row.score) for row in scores})
    if fewer == [1]:
        return f"{most} seeds, one where no ± stands"
    return "one seed" if most == 1 else f"{f'{fewer[0]} to ' if fewer else ''}{most} seeds"


def short_table(scores: Sequence[MethodScore], baseline: str) -> str:
    """Method, accuracy and gain, with setting, cost and seeds only where they tell rows apart."""
    every = [cells(row) for row in scores]
    measure = MEASURES[scores[0].measure][0]
    heads = ["setting", "method", f"{measure}, %", f"gain over {baseline}", "cost", "seeds"]
    columns = [[row[i] for row in every] for i in (0, 1, 2, 4, 6)]
    counts = [len(row.score) for row in scores]  # a ± tells many from one
    columns.append([str(count) if len({*counts, 1}) > 2 else "" for count in counts])
    if len({setting.partition(" ")[0] for setting in columns[0]}) == 1:  # one student
        columns[0] = [setting.partition(" ")[2] for setting in columns[0]]
    if all(row.cost is None for row in scores if row.method != baseline):
        columns[4] = [""] * len(every)
    shown = [i for i, column in enumerate(columns) if i in (1, 2, 3) or len(set(column)) > 1]
    return table([heads[i] for i in shown], zip(*(columns[i] for i in shown), strict=True))


def chosen_on_validation(grid: Grid, comparison: Comparison) -> str:
    """Of a grid that tries factors: what the chosen one of each method came to on validation images."""
    tried: dict[str, list[dict[str, Any]]] = {}
    for result in comparison.results:
        tried.setdefault(method_of(result), []).append(dict(result))
    best = {method: best_factor(members) for method, members in tried.items()}
    chosen = {method: mean(r["val_top1_last"] for r in members) for method, members in best.items()}
    rows = [
        [method, f"{best[method][0]['grid'].get('factor') or 1:g}", f"{top1:.2f}"]
        for method, top1 in sorted(chosen.items(), key=lambda item: -item[1])
    ]
    text = f"The factor, of {', '.join(f'{factor:g}' for factor in grid.factors)}, that chose each method's weight."
    return f"{text}\n\n{table(['method', 'factor', 'validation top-1, %'], rows)}"


def ours_against(recipes: Sequence[Path]) -> str:
    """What crrcd gains over other methods than labels alone: a row a rival, a column a setting."""
    rivals = sorted(weight for weights in RIVALS.values() for weight in weights)
    gains: dict[str, dict[str, str]] = {rival: {} for rival in rivals}
    for recipe in recipes:
        run = {row.method for row in comparison_of(recipe)[1].scores} if has_results(recipe) else set()
        for rival in [rival for rival in rivals if rival in run and "crrcd" in run]:
            comparison = compare_folder(grid_of(recipe).folder, rival)
            classes = comparison.results[0]["config"]["images"].get("classes")
            for row in comparison.scores:
                if row.method == "crrcd" and len(row.score) > 1:
                    where = f"{row.size}x{row.size}, {len(classes) if classes else 'all'} classes"
                    gains[rival][where] = cells(row)[4]
    settings = sorted({where for of_rival in gains.values() for where in of_rival})
    rows = [[rival, *(gains[rival].get(where, "") for where in settings)] for rival in gains if gains[rival]]
    return table(["gain of crrcd over", *settings], rows)


def live_table(recipe: Path) -> str:
    """What each method gains from a teacher computed live over its stored outputs, and both accuracies."""
    grid, comparison = comparison_of(recipe)
    means = {row.method: row.mean for row in comparison.scores}
    rows = []
    for name in (label.removesuffix(", live") for label in grid.methods if label.endswith(", live")):
        stored, live = (f"{name}, {kind}" for kind in ("stored", "live"))
        if stored in means and live in means:
            against = next(row for row in compare_folder(grid.folder, stored).scores if row.method == live)
            rows.append([name, f"{means[stored]:.2f}", f"{means[live]:.2f}", cells(against)[4]])
    return table(["method", "stored", "live", "gain"], rows)


def leading(recipe: Path, size: int) -> dict[str, MethodScore]:
    """Labels alone, the rivals and crrcd of a grid, each at the weight that is best on its validation images.

    Weights are compared on the seeds that all of a rival's have; without such a seed the published one counts.
    """
    comparison = comparison_of(recipe)[1]
    rows = {row.method: row for row in comparison.scores if row.size == size}
    found = {}
    for name, weights in {"ce": ("ce",), **RIVALS, "crrcd": ("crrcd",)}.items():
        if run := [rows[weight] for weight in weights if weight in rows]:
            seeds = set.intersection(*({*row.score} for row in run))
            found[name] = max(run, key=lambda row: mean(_validation(comparison, row, seeds))) if seeds else run[0]
    return found


def _validation(comparison: Comparison, row: MethodScore, seeds: set[int]) -> list[float]:
    """A row's accuracy on validation images after the last epoch, of some seeds."""
    mine = (r for r in comparison.results if (method_of(r), r["lr_size"]) == (row.method, row.size))
    return [r["val_top1_last"] for r in mine if r["seed"] in seeds]


def elsewhere_table(recipe: Path) -> str:
    """The finalists' students on other images: degraded otherwise, of other sizes, of other data (linear probe)."""
    results = [r for r in read_results(grid_of(recipe).folder) if r.get("transfer")] if has_results(recipe) else []
    results = [r for r in results if method_of(r) in (*OURS, *FINALISTS)]
    if not results:
        return "No run so far."
    size = results[0]["lr_size"]
    values: dict[str, Any] = {f"{size}x{size}": lambda r: r["top1_best_val"]}
    for name in (name for name in results[0]["unseen"] if name != OTHER_SIZES):
        values[name] = lambda r, name=name: r["unseen"][name]["top1"]
    for side in (size // 2, 2 * size):
        values[f"{side}x{side}"] = lambda r, side=side: next(
            point["top1"] for point in r["unseen"][OTHER_SIZES]["curve"] if point["size"] == side
        )
    for name in results[0]["transfer"]:
        values[f"{name}, probe"] = lambda r, name=name: r["transfer"][name]["probe_top1"]
    methods: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        methods.setdefault(method_of(result), []).append(result)
    rows = [
        [method, *(spread([value(r) for r in members]) for value in values.values())]
        for method, members in sorted(methods.items(), key=lambda item: -mean(r["top1_best_val"] for r in item[1]))
    ]
    return table(["method", *values], rows)


def validation_table(recipe: Path) -> str:
    """A grid that chooses: its methods on the validation images alone, a table for each student."""
    grid = grid_of(recipe)
    students: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for result in read_results(grid.folder):
        students.setdefault(result["student"]["name"], {}).setdefault(method_of(result), []).append(result)
    parts = []
    for student, methods in students.items():
        some = next(iter(methods.values()))[0]
        rows = []
        for method, members in sorted(methods.items(), key=lambda item: -mean(r["val_top1_last"] for r in item[1])):
            gain, half = paired_gain(members, methods.get(grid.baseline, []), "val_top1_last")
            spread = "" if half is None else f" ± {half:.2f}"
            against = "" if method == grid.baseline or isnan(gain) else f"{gain:+.2f}{spread}"
            seeds = ", ".join(str(seed) for seed in sorted(r["seed"] for r in members))
            rows.append([method, f"{mean(r['val_top1_last'] for r in members):.2f}", against, seeds])
        parts += [
            f"{student} at {some['lr_size']}x{some['lr_size']}, {some['epochs']} epochs, top-1 in % on the "
            f"{some['images']['val']:,} validation images after the last epoch, differences paired by seed (± half "
            "their 95 % interval by Student's t):",
            table(["method", "validation top-1", f"against {grid.baseline}", "seeds"], rows),
        ]
        if left := [method for method in grid.methods if method not in methods]:
            parts.append(f"Not run with this student: {'; '.join(left)}.")
    return "\n\n".join(parts)
