"""Render the tables of README and docs/ from the files under results/, between markers; nothing is typed by hand."""

from __future__ import annotations

import argparse
import json
import re
import sys
from math import isnan
from pathlib import Path
from statistics import mean
from typing import Any

from cifar100 import VARIANTS

from crossres.bench import summarise
from crossres.checkpoint import write_atomically
from crossres.comparison import legend, markdown, ranks
from crossres.grid import read_grid
from crossres.tables import SPREAD, label, method_table, paired_gain, read_results

STEPS = Path("results/bench/steps.json")
#: One for each folder of results; grids that share a folder need no line of their own.
GRIDS = [
    Path("recipes/cifar100") / f"{name}.yaml"
    for name in ("methods-8x8", "methods-16x16", "seeds-16x16", "same-resolution", "tuned-8x8", "live-teacher")
]
VARIANTS_OF_CRRCD = Path("recipes/cifar100/crrcd-variants.yaml")


def teacher_table(folder: Path) -> str:
    """The teacher at its own size and on enlarged low-resolution images."""
    parts = [json.loads((folder / f"{part}.json").read_text()) for part in ("teacher", "teacher-finish")]
    enlarged = json.loads((folder / "teacher-enlarged.json").read_text())
    trained = parts[-1]
    lines = [
        f"Teacher: {trained['student']['name']} ({trained['student']['parameters']:,} parameters), "
        f"{' + '.join(str(part['epochs']) for part in parts)} epochs, one seed; {parts[0]['top1_last']:.2f} % after "
        f"the first part, {trained['top1_last']:.2f} % after the second. It is stored in `results/cifar100/teacher`, "
        "matrices as float16. Both figures are measured in "
        f"{trained['precision']}, those of the table in {enlarged['precision']}. Without any training for low "
        "resolution it reads the enlarged image:",
        "",
        "| test images | top-1 | top-5 |",
        "|---|---|---|",
    ]
    for point in reversed(enlarged["curve"]):
        size = point["size"]
        what = (
            f"{size}x{size}" if size == enlarged["hr_size"] else f"{size}x{size}, enlarged to {enlarged['hr_size']}"
        )
        lines.append(f"| {what} | {point['top1']:.2f} | {point['top5']:.2f} |")
    return "\n".join(lines)


def students_table(folder: Path) -> str:
    """Every student over its seeds."""
    results = read_results(folder)
    epochs = sorted({r["epochs"] for r in results})
    images = sorted({(r["images"]["train"], r["images"]["val"], r["images"]["test"]) for r in results})
    said = "; ".join(f"{a:,} training, {b:,} validation, {c:,} test images" for a, b, c in images)
    memory = max(r["peak_memory_mb"] for r in results)
    return (
        f"{' or '.join(map(str, epochs))} epochs; {said}; top-1 in %; a run takes at most {memory:,.0f} MB of "
        f"memory. {SPREAD}\n\n"
    ) + method_table(results, baselines=("ce", "ce+kd", "ce+kd (decays)"))


#: Variants that are runs of the students' grid too, by their recipes there.
ALSO_STUDENTS = {"kd-alone": "kd", "without-kd-beta-4-tau-0.2": "crrcd-without-kd"}


def sensitivity_table(folder: Path) -> str:
    """One option of crrcd at a time, judged on the validation split alone."""
    results = read_results(folder)
    rows: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    for result in results:
        student, variant = result["student"]["name"], result["name"].split("-", 2)[2].rsplit("-seed", 1)[0]
        rows.setdefault((student, result["lr_size"]), {}).setdefault(variant, []).append(result)
    lines = []
    for (student, size), variants in sorted(rows.items()):
        seeds = {result["seed"] for members in variants.values() for result in members}
        for variant, recipe in ALSO_STUDENTS.items():
            paths = [folder.parent / f"{student}-{size}x{size}-{recipe}-seed{seed}.json" for seed in sorted(seeds)]
            if variant not in variants and all(path.exists() for path in paths):
                variants[variant] = [json.loads(path.read_text()) for path in paths]
        some = next(iter(variants.values()))[0]
        lines += [
            f"{student} at {size}x{size}, {some['epochs']} epochs, top-1 in % on the {some['images']['val']:,} "
            "validation images after the last epoch, differences paired by seed:",
            "",
            "| change to sensitivity.yaml | validation top-1 | against it unchanged | against kd alone | seeds |",
            "|---|---|---|---|---|",
        ]
        for variant in [v for v in VARIANTS if v in variants]:
            members = variants[variant]
            cells = [variant, f"{mean(r['val_top1_last'] for r in members):.2f}"]
            for other in ("base", "kd-alone"):
                gain, _ = paired_gain(members, variants.get(other, []), "val_top1_last")
                cells.append("" if isnan(gain) or variant == other else f"{gain:+.2f}")
            cells.append(", ".join(str(seed) for seed in sorted(r["seed"] for r in members)))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def costs_of(path: Path) -> dict[tuple[str, int, str], float]:
    """Step time of each method relative to labels alone, from one run of benchmarks/steps.py."""
    rows = json.loads(path.read_text())
    return {(row["student"], row["lr_size"], row["method"]): row["ratio_to_ce"] for row in rows}


def grid_table(recipe: Path) -> str:
    """What a grid's methods came to, with statistics; also written beside the results in other formats."""
    grid = read_grid(recipe)
    rows = summarise(grid, costs_of(STEPS))
    results = read_results(grid.folder)
    some = results[0]
    counts = some["images"]
    classes = some["config"]["images"].get("classes")
    subset = f", {len(classes)} of its classes" if classes else ""
    teachers = sorted({(r["teacher"]["name"], r["hr_size"]) for r in results if r["teacher"]})
    taught = ", ".join(f"{name} at {size}x{size}" for name, size in teachers)
    run = {row.method for row in rows}
    left = [method for method in grid.methods if method not in run]
    so_far = f"{len(run)} of {len(grid.methods)} methods so far; to be run: {', '.join(left)}. " if left else ""
    lines = [
        f"{so_far}{some['dataset']}{subset}: {counts['train']:,} training, {counts['val']:,} validation and "
        f"{counts['test']:,} test images; {some['epochs']} epochs; teacher {taught}. " + legend(rows, grid.baseline),
        "",
        markdown(rows, grid.baseline),
    ]
    found = ranks(rows)
    if len({row.setting for row in rows}) > 1 and found:
        told = ", ".join(f"{method} {rank:.1f}" for method, rank in found.items())
        lines += ["", f"Mean rank over the settings (1 is best): {told}."]
    return "\n".join(lines)


def transfer_table(results: list[dict[str, Any]]) -> str:
    """Linear probe and neighbours on other data, and the students under degradations they were not trained on."""
    sets = list(dict.fromkeys(name for r in results for name in r["transfer"]))
    kinds = list(dict.fromkeys(name for r in results for name in r.get("unseen", {}) if name != "other sizes"))
    head = ["method", *(f"{name}, {how}" for name in sets for how in ("probe", "kNN")), "CIFAR-100", *kinds]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in results:
        judged = [r["transfer"][name][key] for name in sets for key in ("probe_top1", "knn_top1")]
        values = [*judged, r["top1_best_val"], *(r["unseen"][kind]["top1"] for kind in kinds)]
        lines.append(f"| {label(r)} | {' | '.join(f'{value:.2f}' for value in values)} |")
    return "\n".join(lines)


def sizes_table(results: list[dict[str, Any]]) -> str:
    """The students on test images of other sizes than they were trained on, brought to the student's size."""
    sizes = [point["size"] for point in results[0]["unseen"]["other sizes"]["curve"]]
    head = ["method", *(f"{size}x{size}" for size in sizes)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in results:
        values = {point["size"]: point["top1"] for point in r["unseen"]["other sizes"]["curve"]}
        lines.append(f"| {label(r)} | {' | '.join(f'{values[size]:.2f}' for size in sizes)} |")
    return "\n".join(lines)


def validation_table(recipe: Path) -> str:
    """A grid that chooses: its methods on the validation images alone, a table for each student."""
    grid = read_grid(recipe)
    students: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for result in read_results(grid.folder):
        students.setdefault(result["student"]["name"], {}).setdefault(label(result), []).append(result)
    lines = []
    for student, methods in students.items():
        some = next(iter(methods.values()))[0]
        lines += [
            f"{student} at {some['lr_size']}x{some['lr_size']}, {some['epochs']} epochs, top-1 in % on the "
            f"{some['images']['val']:,} validation images after the last epoch, differences paired by seed:",
            "",
            f"| method | validation top-1 | against {grid.baseline} | seeds |",
            "|---|---|---|---|",
        ]
        for method, members in sorted(methods.items(), key=lambda item: -mean(r["val_top1_last"] for r in item[1])):
            gain, half = paired_gain(members, methods.get(grid.baseline, []), "val_top1_last")
            spread = "" if half is None else f" ± {half:.2f}"
            against = "" if method == grid.baseline or isnan(gain) else f"{gain:+.2f}{spread}"
            seeds = ", ".join(str(seed) for seed in sorted(r["seed"] for r in members))
            lines.append(f"| {method} | {mean(r['val_top1_last'] for r in members):.2f} | {against} | {seeds} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def steps_table(path: Path) -> str:
    """Cost of a training step."""
    rows = json.loads(path.read_text())
    start = json.loads(path.with_name("start.json").read_text())
    first = rows[0]
    lines = [
        f"Start-up to the first step of the demo: {start['seconds']:.1f} s. Steps: "
        f"{first['student']}, batch {first['batch']}, {first['precision']}, {first['machine']['threads']} threads, "
        f"{first['machine']['processor']}; median of {first['steps']} steps, methods taking turns.",
        "",
        "| LR size | method | step, ms | ratio to ce | data + augmentation + degradation |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        size = f"{row['lr_size']}x{row['lr_size']}"
        lines.append(
            f"| {size} | {row['method']} | {row['step_ms']:.1f} | {row['ratio_to_ce']:.2f} "
            f"| {100 * row['data_share_of_ce_step']:.1f} % of the ce step |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a table is out of date")
    chosen = parser.parse_args()
    cifar100 = Path("results/cifar100")
    needed = [cifar100 / "teacher-finish.json", cifar100 / "teacher-enlarged.json", STEPS]
    needed.append(cifar100 / "sensitivity")
    if missing := [str(path) for path in needed if not path.exists()]:
        sys.exit(f"{missing[0]} is not there yet: run benchmarks/cifar100.py's three grids and make bench first")
    tables = {
        "cifar100-teacher": teacher_table(cifar100),
        "cifar100-students": students_table(cifar100),
        "cifar100-sensitivity": sensitivity_table(cifar100 / "sensitivity"),
        "steps": steps_table(STEPS),
    }
    for recipe in GRIDS:
        folder = read_grid(recipe).folder
        if folder.is_dir():
            tables[recipe.stem] = grid_table(recipe)
            judged = [r for r in read_results(folder) if r.get("transfer") and r["seed"] == 0]
            judged.sort(key=lambda r: -r["top1_best_val"])
            if judged:
                tables[f"{recipe.stem}-transfer"] = transfer_table(judged)
                tables[f"{recipe.stem}-sizes"] = sizes_table(judged)
    if read_grid(VARIANTS_OF_CRRCD).folder.is_dir():
        tables[VARIANTS_OF_CRRCD.stem] = validation_table(VARIANTS_OF_CRRCD)
    pages = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
    texts = {page: page.read_text() for page in pages}
    for name, table in tables.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        if not any(block.search(text) for text in texts.values()):
            sys.exit(f"no page has a block <!-- {name} --> ... <!-- end -->")
        for page, text in texts.items():
            texts[page] = block.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    for page, text in texts.items():
        if text != page.read_text():
            if chosen.check:
                sys.exit(f"{page} is out of date: make tables")
            write_atomically(page, lambda file, text=text: file.write(text.encode()))


if __name__ == "__main__":
    main()
