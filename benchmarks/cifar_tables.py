"""Tables on CIFAR-100 that no single grid has, and the numbers of `crossres methods`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from statistics import mean
from typing import Any

from grid_tables import FINALISTS, RIVALS

from crossres.bench.comparison import Comparison
from crossres.bench.grid import Grid
from crossres.bench.results import method_of, paired_gain, read_results
from crossres.bench.tables import spread, table
from crossres.config.methods import METHODS

#: What the two ± of `students_table` are.
SPREAD = (
    "± after an accuracy is the standard deviation over the seeds, after a gain half its 95 % interval (Student's t, "
    "paired by seed, but never less than other test images would move it)."
)
#: Variants of the sensitivity grid that are runs of the students' grid too, by their methods there.
ALSO_STUDENTS = {"kd-alone": "kd", "without-kd-beta-4-tau-0.2": "crrcd-paper-without-kd"}


def teacher_table(folder: Path) -> str:
    """The teacher at its own size and on enlarged low-resolution images."""
    parts = [json.loads((folder / f"{part}.json").read_text()) for part in ("teacher", "teacher-finish")]
    enlarged = json.loads((folder / "teacher-enlarged.json").read_text())
    trained, own = parts[-1], enlarged["hr_size"]
    text = (
        f"Teacher: {trained['student']['name']} ({trained['student']['parameters']:,} parameters), "
        f"{' + '.join(str(part['epochs']) for part in parts)} epochs, one seed, stored in "
        "`results/cifar100/teacher`. Without any training for low resolution it reads the enlarged image:\n\n"
    )
    rows = [
        [
            f"{size}x{size}" + (f", enlarged to {own}" if size != own else ""),
            f"{point['top1']:.2f}",
            f"{point['top5']:.2f}",
        ]
        for point in reversed(enlarged["curve"])
        for size in [point["size"]]
    ]
    return text + table(["test images", "top-1", "top-5"], rows)


def students_table(folder: Path) -> str:
    """The students that no other grid has, over their seeds, beside three baselines."""
    results = [r for r in read_results(folder) if r["student"]["name"] == "wrn_16_1"]
    epochs = sorted({r["epochs"] for r in results})
    counts = sorted({(r["images"]["train"], r["images"]["val"], r["images"]["test"]) for r in results})
    images = "; ".join(f"{a:,} training, {b:,} validation, {c:,} test images" for a, b, c in counts)
    memory = max(r["peak_memory_mb"] for r in results)
    text = (
        f"{' or '.join(map(str, epochs))} epochs; {images}; top-1 in %; a run takes at most {memory:,.0f} MB of "
        f"memory. {SPREAD}\n\n"
    )
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["lr_size"], method_of(result)), []).append(result)
    baselines = ("ce", "ce+kd", "ce+kd (decays)")
    rows = []
    for (size, method), members in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1].count("+"), item[0])
    ):
        keys = ("top1_last", "top1_best_val", "top5_last")
        gains = ["" if method == other else _gain(members, groups.get((size, other), [])) for other in baselines]
        seeds = ", ".join(str(seed) for seed in sorted(r["seed"] for r in members))
        scores = [spread([r[key] for r in members]) for key in keys]
        rows.append(["wrn_16_1", f"{size}x{size}", method, *scores, *gains, seeds])
    heads = ["student", "LR size", "method", "top-1 last epoch", "top-1 best on val.", "top-5 last"]
    return text + table([*heads, *(f"gain over {baseline}" for baseline in baselines), "seeds"], rows)


def _gain(members: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> str:
    gain, half = paired_gain(members, base)
    if isnan(gain):
        return ""
    if half is None:
        return f"{gain:+.2f} (1 seed)"
    return f"{gain:+.2f} ± {half:.2f}{' (within noise)' if abs(gain) < half else ''}"


def sensitivity_table(grid: Grid) -> str:
    """One option of crrcd at a time, judged on the validation split alone."""
    rows: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    for result in read_results(grid.folder):
        student, variant = result["student"]["name"], result["name"].split("-", 2)[2].rsplit("-seed", 1)[0]
        rows.setdefault((student, result["lr_size"]), {}).setdefault(variant, []).append(result)
    parts = []
    for (student, size), variants in sorted(rows.items()):
        seeds = sorted({result["seed"] for members in variants.values() for result in members})
        for variant, method in ALSO_STUDENTS.items():
            paths = [grid.folder.parent / f"{student}-{size}x{size}-{method}-seed{seed}.json" for seed in seeds]
            if variant not in variants and all(path.exists() for path in paths):
                variants[variant] = [json.loads(path.read_text()) for path in paths]
        some = next(iter(variants.values()))[0]
        text = (
            f"{student} at {size}x{size}, {some['epochs']} epochs, top-1 in % on the {some['images']['val']:,} "
            "validation images after the last epoch, differences paired by seed:\n\n"
        )
        lines = []
        # what was measured with an option that is gone comes last
        for variant in [
            *(name for name in grid.methods if name in variants),
            *sorted(variants.keys() - grid.methods.keys()),
        ]:
            members = variants[variant]
            cells = [variant, f"{mean(r['val_top1_last'] for r in members):.2f}"]
            for other in ("base", "kd-alone"):
                gain, _ = paired_gain(members, variants.get(other, []), "val_top1_last")
                cells.append("" if isnan(gain) or variant == other else f"{gain:+.2f}")
            lines.append([*cells, ", ".join(str(seed) for seed in sorted(r["seed"] for r in members))])
        heads = [
            "change to sensitivity.yaml",
            "validation top-1",
            "against it unchanged",
            "against kd alone",
            "seeds",
        ]
        parts.append(text + table(heads, lines))
    return "\n\n".join(parts)


#: Runs whose validation images chose forms and weights; the finals then chose between two weights of a rival.
TRIALS = (
    *("structures-trials", "structures", "tuned-8x8", "earlier/unmoved-maps/tuned-8x8", "crrcd-variants"),
    *("crrcd-options", "cifar100/sensitivity", "all-classes"),
)


def trials() -> dict[str, int]:
    """How many runs each leading method's form and weights were chosen from, by the losses of the runs."""
    others = [name.split(" ")[0] for name in RIVALS]
    tried = dict.fromkeys(("crrcd", "crrcd-paper", *others), 0)
    for folder in TRIALS:
        for path in Path("results", folder).glob("*.json"):
            names = json.loads(path.read_text())["losses"].keys()
            if {"crrcd_maps", "crrcd_images", "own", "cells", "cells2", "cells3"} & names:
                tried["crrcd"] += 1
            elif {"crrcd", "crrcd_paper"} & names:
                tried["crrcd-paper"] += 1
            elif name := next((each for each in others if each in names), None):
                tried[name] += 1
    return tried


#: Methods by name whose step is measured beside those of the grid, by their labels in results/bench/steps.json.
STEP_FORMS = {"crd (bank, 16384 negatives)": "crd-bank"}


def measured_methods(grids: Mapping[str, tuple[Grid, Comparison]], steps: Path) -> dict[str, Any]:
    """What `crossres methods` shows: accuracy and step cost of the methods that grids name, by their names.

    Args:
        grids: by the classes that they are of, a grid and what its results came to; steps are those of the first one.
        steps: what benchmarks/steps.py wrote.
    """
    columns: list[str] = []
    methods: dict[str, dict[str, Any]] = {name: {"top1": {}, "seeds": {}, "step_cost": None} for name in METHODS}
    for classes, (grid, comparison) in grids.items():
        for row in sorted(comparison.scores, key=lambda row: row.size):
            column = f"{row.size}x{row.size}, {classes} classes"
            columns += [column] if column not in columns else []
            if name := method_name(grid.methods.get(row.method)):
                methods[name]["top1"][column] = round(row.mean, 2)
                methods[name]["seeds"][column] = len(row.score)
    grid, comparison = next(iter(grids.values()))
    names = {label: method_name(given) for label, given in grid.methods.items()} | STEP_FORMS
    timed = [row for row in json.loads(steps.read_text()) if row["lr_size"] in grid.lr_sizes]
    for row in timed:
        if name := names.get(row["method"]):
            methods[name]["step_cost"] = round(row["ratio_to_ce"], 2)
    tuned = ", ".join(f"{row.method} {row.mean:.2f}" for row in comparison.scores if row.method in FINALISTS)
    some = next(result for result in comparison.results if result["teacher"])
    about = (
        f"Top-1 in % on the test images of {some['dataset']}, mean over the seeds: {some['student']['name']}, "
        f"taught by {some['teacher']['name']} at {some['hr_size']}x{some['hr_size']}. Step: the time of one at "
        f"{timed[0]['lr_size']}x{timed[0]['lr_size']}, in steps of labels alone "
        f"({timed[0]['machine']['processor']}). "
        "Weights are those shown: of crrcd and its forms chosen on validation images, of the others as published, or "
        f"ours where docs/measured/objects.md says so. With weights chosen there, at {columns[0]}: {tuned}."
    )
    return {"about": about, "columns": columns, "methods": methods}


def method_name(given: Any) -> str | None:
    """The name of a method that a grid takes as it is, but for options beside its losses."""
    if given is None or isinstance(given, str):
        return given
    return given["method"] if given.keys() == {"method", "options"} else None
