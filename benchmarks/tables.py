"""Render the tables of README and docs/ from the files under results/, between markers; nothing is typed by hand."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import isnan
from pathlib import Path
from statistics import mean
from typing import Any

from cifar100 import VARIANTS
from deploy_tables import exports_table, gallery_table
from face_tables import GALLERY, degraded_table, faces_costs, protocols_table, summary_table

from crossres.bench.bench import compared, write_comparison
from crossres.bench.comparison import Row, cells, legend, markdown, rank_table, ranks
from crossres.bench.grid import read_grid
from crossres.bench.tables import SPREAD, label, method_table, paired_gain, read_results, sizes_table, transfer_table
from crossres.core.files import write_atomically

STEPS = Path("results/bench/steps.json")
#: One for each folder of results; grids that share a folder need no line of their own.
GRIDS = [
    Path("recipes/cifar100") / f"{name}.yaml"
    for name in ("methods-8x8", "methods-16x16", "seeds", "same-resolution", "tuned-8x8", "live-teacher")
]
#: Grids that choose, on validation images.
CHOOSING = [Path("recipes/cifar100") / f"{name}.yaml" for name in ("crrcd-variants", "crrcd-options")]
#: Grids of faces, and what `crossres faces evaluate` says of their teacher and of its copies trained on small faces.
FACES = Path("recipes/faces/lfw.yaml")
FACES_ENLARGED = Path("recipes/faces/lfw-enlarged.yaml")
FACE_TEACHER, FACE_COSTS = (Path("results/faces") / f"{name}.json" for name in ("teacher", "costs"))
#: Of faces of the preset realistic, by the teacher and by students that were and were not trained on such.
FACE_REALISTIC = Path("results/faces/realistic")
FACE_COPIES = {
    "a copy of the teacher, trained on 8x8 to 16x16": Path("results/faces/copy.json"),
    "such a copy, read at 32x32": Path("results/faces/copy-32.json"),
}


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
    """The students that no grid has, over their seeds."""
    results = [r for r in read_results(folder) if r["student"]["name"] == "wrn_16_1"]
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
        # what the grid no longer has comes last
        for variant in sorted(variants, key=[*VARIANTS, *sorted(variants)].index):
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


@cache
def comparison_of(recipe: Path) -> tuple[list[Row], list[dict[str, Any]], list[str]]:
    """A grid's comparison with the measured costs; several tables are of one."""
    return compared(read_grid(recipe), costs_of(STEPS))


def grid_table(recipe: Path, *, write: bool) -> str:
    """What a grid's methods came to, with statistics; ``write`` puts it beside the results in other formats, too."""
    grid = read_grid(recipe)
    rows, results, left_out = comparison_of(recipe)
    if write:
        write_comparison(grid, rows, results, left_out)
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
    for setting in dict.fromkeys(row.setting for row in rows):
        placed = [row.method for row in rows if row.setting == setting]
        orders = {"by the mean over each one's seeds": placed}
        if len({tuple(sorted(row.score)) for row in rows if row.setting == setting}) > 1:
            orders["on the seeds that all have"] = on_shared_seeds(rows, setting)
        said = [
            f"{how} {', '.join(f'{method} {rank}' for rank, method in enumerate(order, 1) if method[:5] == 'crrcd')}"
            for how, order in orders.items()
        ]
        if any(method.startswith("crrcd") for method in placed):
            lines += ["", f"Rank of ours among {len(placed)} at {setting}: {'; '.join(said)}."]
    found = ranks(rows)
    if len({row.setting for row in rows}) > 1 and found:
        told = ", ".join(f"{method} {rank:.1f}" for method, rank in found.items())
        lines += ["", f"Mean rank over the settings (1 is best): {told}."]
    return "\n".join(lines)


#: What crrcd is set against in each grid: its own total without relations, and the nearest relatives.
RIVALS = {
    "methods-8x8": ("kd (fading)", "kd (weight 1)", "crd"),
    "methods-16x16": ("kd (weight 1)", "crd"),
    "seeds": ("kd", "crd", "fskd", "review"),
}


def ours_against() -> str:
    """What crrcd gains over other methods than labels alone."""
    lines = ["| setting | classes | against | gain | p | seeds |", "|---|---|---|---|---|---|"]
    for recipe in GRIDS:
        grid = read_grid(recipe)
        for rival in RIVALS.get(recipe.stem, ()):
            rows, results, _ = compared(replace(grid, baseline=rival))
            classes = results[0]["config"]["images"].get("classes")
            for row in rows:
                if row.method == "crrcd":
                    setting, _, _, _, gain, p, _, seeds = cells(row)
                    count = len(classes) if classes else "all"
                    lines.append(f"| {setting} | {count} | {rival} | {gain} | {p} | {seeds} |")
    return "\n".join(lines)


def on_shared_seeds(rows: Sequence[Row], setting: str) -> list[str]:
    """The methods of a setting from the best, judged on the seeds that all of them have."""
    here = [row for row in rows if row.setting == setting]
    shared = set.intersection(*(set(row.score) for row in here))
    return [row.method for row in sorted(here, key=lambda row: -mean(row.score[seed] for seed in shared))]


def ranks_over(recipes: Sequence[Path]) -> str:
    """Ranks of the methods that several grids have, each grid its own settings."""
    return rank_table([row for recipe in recipes for row in comparison_of(recipe)[0]])


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
            f"{some['images']['val']:,} validation images after the last epoch, differences paired by seed (± half "
            "their 95 % interval by Student's t):",
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
        left = [method for method in grid.methods if method not in methods]
        if left:
            lines += ["", f"Not run with this student: {'; '.join(left)}."]
        lines.append("")
    return "\n".join(lines).rstrip()


def faces_tables(recipe: Path) -> dict[str, str]:
    """A grid of faces: its students beside the enlarged teacher at each size, on both pairs of sides."""
    results = [r for r in read_results(read_grid(recipe).folder) if GALLERY in r.get("protocols", {})]
    teacher = json.loads(FACE_TEACHER.read_text())
    copies = {name: json.loads(path.read_text()) for name, path in FACE_COPIES.items()}
    tables = {
        f"{recipe.stem}-{size}-{sides}": protocols_table(results, teacher, size, sides, copies)
        for size in sorted({r["lr_size"] for r in results})
        for sides in ("lr-lr", "hr-lr")
    }
    methods = [*read_grid(recipe).methods, *read_grid(FACES_ENLARGED).methods]
    tables[f"{recipe.stem}-summary"] = summary_table(results, teacher, methods, copies)
    return tables


def realistic_table() -> str:
    """SFace and its students, on faces that were only made small and on those of the preset realistic."""
    grid = {
        (r["lr_size"], r["seed"]): r["protocols"][GALLERY]
        for r in read_results(read_grid(FACES).folder)
        if label(r) == "crrcd + cosface"
    }
    read = {path.stem: json.loads(path.read_text()) for path in FACE_REALISTIC.glob("*.json")}
    teacher = json.loads(FACE_TEACHER.read_text())
    sizes = (8, 16)
    return degraded_table(
        {
            "the teacher, enlarged": {
                **{("clean", size): teacher for size in sizes},
                **{("realistic", size): read["teacher"] for size in sizes},
            },
            "crrcd + cosface, trained on clean images of the size": {
                **{("clean", size): grid[size, 0] for size in sizes},
                **{("realistic", size): read[f"clean-{size}"] for size in sizes},
            },
            "crrcd + cosface, trained on realistic ones of 8x8 to 16x16": {
                **{("clean", size): read["realistic-on-clean"] for size in sizes},
                **{("realistic", size): read["realistic"] for size in sizes},
            },
        }
    )


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


#: Seconds a bare step of resnet8x4 is expected to take on a GPU: some 300 kernels whose launch takes 6 microseconds.
GPU_STEP = 1.8e-3
#: Seconds that a run takes beside its steps: imports, decoding, moving the images, 30 passes over validation images.
GPU_START = 10.0


def gpu_budget(recipe: Path, steps: Path) -> str:
    """What the whole grid is designed to take on one GPU: every method, two sizes, three seeds."""
    grid = read_grid(recipe)
    costs = costs_of(steps)
    train = grid.base["train"]
    of_run = train["epochs"] * (45_000 // train["batch_size"])
    student = grid.pairs[0].student
    ratios = [costs.get((student, size, method), 1.0) for method in grid.methods for size in (8, 16)]
    runs = 3 * len(ratios)
    one = (3 * sum(ratios) * of_run * GPU_STEP + runs * GPU_START) / 60
    return (
        f"{len(grid.methods)} methods at two sizes with three seeds are {runs} runs of {of_run:,} steps. A bare step "
        f"is expected to take {1e3 * GPU_STEP:.1f} ms, as long as its kernels take to launch; with the methods' "
        f"measured ratios to it (on a CPU) and {GPU_START:.0f} s beside the steps of a run, one process takes "
        f"{one:.0f} minutes. Each step uses a small part of the GPU, so that `--parallel 4` is designed to take a "
        f"quarter, {one / 4:.0f} minutes, as long as the processes' launches overlap (MPS lets their kernels do so, "
        "too). Transfer and unseen degradations are not in it: a linear probe runs on the CPU."
    )


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
        "gpu-budget": gpu_budget(GRIDS[0], STEPS),
    }
    for recipe in GRIDS:
        if read_grid(recipe).folder.is_dir():
            tables[recipe.stem] = grid_table(recipe, write=not chosen.check)
            judged = [r for r in comparison_of(recipe)[1] if r.get("transfer") and r["seed"] == 0]
            if judged:
                tables[f"{recipe.stem}-transfer"] = transfer_table(judged)
                tables[f"{recipe.stem}-sizes"] = sizes_table(judged)
    tables["ranks"] = ranks_over(GRIDS[:2])
    tables["crrcd-against"] = ours_against()
    for recipe in CHOOSING:
        if read_grid(recipe).folder.is_dir():
            tables[recipe.stem] = validation_table(recipe)
    if (measured := Path("results/deploy/exports.json")).exists():
        tables["exports"] = exports_table(measured)
    if (measured := Path("results/deploy/gallery.json")).exists():
        tables["gallery"] = gallery_table(measured)
    if read_grid(FACES).folder.is_dir() and FACE_TEACHER.exists():
        tables[f"{FACES.stem}-methods"] = grid_table(FACES, write=not chosen.check)
        tables |= faces_tables(FACES)
    if FACE_REALISTIC.is_dir():
        tables["lfw-realistic"] = realistic_table()
    if FACE_COSTS.exists():
        tables["face-costs"] = faces_costs(FACE_COSTS)
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
