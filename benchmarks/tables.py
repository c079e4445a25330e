"""Render the tables of README and docs/ from the files under results/, between markers; nothing is typed by hand."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from math import hypot, isnan
from pathlib import Path
from statistics import mean, median
from typing import Any

from cifar_tables import measured_methods, sensitivity_table, students_table, teacher_table
from deploy_tables import exports_table, gallery_table
from face_tables import GALLERY, degraded_table, faces_costs, protocols_table, summary_table

from crossres.bench.comparison import (
    Comparison,
    Costs,
    MethodScore,
    best_factor,
    compare_folder,
    compare_methods,
    ranks,
)
from crossres.bench.grid import Grid, read_grid
from crossres.bench.results import method_of, paired_gain, read_results
from crossres.bench.tables import (
    cells,
    legend,
    markdown,
    rank_table,
    sizes_table,
    table,
    transfer_table,
    write_comparison,
)
from crossres.core.files import write_atomically

#: What `crossres methods` shows beside the losses.
MEASURED = Path("src/crossres/config/measured.json")
STEPS = Path("results/bench/steps.json")
#: One for each folder of results; grids that share a folder need no line of their own.
GRIDS = [
    Path("recipes/cifar100") / f"{name}.yaml"
    for name in (
        *("methods-8x8", "methods-16x16", "finals-16x16", "seeds", "structures", "same-resolution", "tuned-8x8"),
        "live-teacher",
    )
]
SEEDS, SENSITIVITY = (Path("recipes/cifar100") / f"{name}.yaml" for name in ("seeds", "sensitivity"))
#: Grids that choose, on validation images.
CHOOSING = [Path("recipes/cifar100") / f"{name}.yaml" for name in ("crrcd-variants", "crrcd-options", "all-classes")]
#: Grids of faces, and what `crossres faces evaluate` says of their teacher and of its copies trained on small faces.
#: Of students on images that are not as trained.
CAMERAS = [
    *(Path("recipes/signs") / f"{name}.yaml" for name in ("near", "far", "adapted")),
    *(Path("recipes/cifar100") / f"{name}.yaml" for name in ("cameras", "mixed-8x8")),
    Path("recipes/faces/cameras.yaml"),
]
#: Standard deviation of a kernel in LR pixels, where it is not 0: of a box and of a triangle.
KERNEL_WIDTHS = {"area": 12**-0.5, "bilinear": 6**-0.5}
SIMULATED = Path("results/match/simulated.json")
FACES = Path("recipes/faces/lfw.yaml")
FACES_ENLARGED = Path("recipes/faces/lfw-enlarged.yaml")
FACE_TEACHER, FACE_COSTS = (Path("results/faces") / f"{name}.json" for name in ("teacher", "costs"))
#: Of faces of the preset realistic, by the teacher and by students that were and were not trained on such.
FACE_REALISTIC = Path("results/faces/realistic")
FACE_COPIES = {
    "a copy of the teacher, trained on 8x8 to 16x16": Path("results/faces/copy.json"),
    "such a copy, read at 32x32": Path("results/faces/copy-32.json"),
}


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
    """What a grid's methods came to, with statistics; ``write`` puts it beside the results in other formats, too."""
    if not has_results(recipe):
        return "No run so far."
    grid, comparison = comparison_of(recipe)
    rows = comparison.scores
    if write:
        write_comparison(comparison, grid.folder)
    some = comparison.results[0]
    counts = some["images"]
    classes = some["config"]["images"].get("classes")
    subset = f", {len(classes)} of its classes" if classes else ""
    teachers = sorted({(r["teacher"]["name"], r["hr_size"]) for r in comparison.results if r["teacher"]})
    taught = ", ".join(f"{name} at {size}x{size}" for name, size in teachers)
    run = {row.method for row in rows}
    left = [method for method in grid.methods if method not in run]
    so_far = f"{len(run)} of {len(grid.methods)} methods so far; to be run: {', '.join(left)}. " if left else ""
    parts = [
        f"{so_far}{some['dataset']}{subset}: {counts['train']:,} training, {counts['val']:,} validation and "
        f"{counts['test']:,} test images; {some['epochs']} epochs; teacher {taught}. {legend(rows, grid.baseline)}",
        markdown(rows, grid.baseline),
        *ranks_of_ours(rows),
        *chosen_on_validation(grid, comparison),
    ]
    order = ranks(rows)
    if len({row.setting for row in rows}) > 1 and order:
        listed = ", ".join(f"{method} {rank:.1f}" for method, rank in order.items())
        parts.append(f"Mean rank over the settings (1 is best): {listed}.")
    return "\n\n".join(parts)


def chosen_on_validation(grid: Grid, comparison: Comparison) -> Iterator[str]:
    """A sentence of a grid that tries factors: what the chosen one of each method came to on validation images."""
    if len(grid.factors) < 2:
        return
    tried: dict[str, list[dict[str, Any]]] = {}
    for result in comparison.results:
        tried.setdefault(method_of(result), []).append(dict(result))
    best = {method: best_factor(members) for method, members in tried.items()}
    chosen = {method: mean(r["val_top1_last"] for r in members) for method, members in best.items()}
    of_factor = {method: members[0]["grid"].get("factor") for method, members in best.items()}
    listed = ", ".join(
        f"{method} {top1:.2f}" + (f" (times {of_factor[method]:g})" if of_factor[method] else "")
        for method, top1 in sorted(chosen.items(), key=lambda item: -item[1])
    )
    yield f"On the validation images, which chose each weight, with the factor that won: {listed}."


def ranks_of_ours(rows: Sequence[MethodScore]) -> Iterator[str]:
    """A sentence for each setting that has crrcd or one of its forms."""
    for setting in dict.fromkeys(row.setting for row in rows):
        here = [row for row in rows if row.setting == setting]
        orders = {"by the mean over each one's seeds": [row.method for row in here]}
        if len({tuple(sorted(row.score)) for row in here}) > 1:
            shared = set.intersection(*(set(row.score) for row in here))
            best = sorted(here, key=lambda row: -mean(row.score[seed] for seed in shared))
            orders["on the seeds that all have"] = [row.method for row in best]
        places = [
            f"{how} {', '.join(f'{method} {rank}' for rank, method in enumerate(order, 1) if method[:5] == 'crrcd')}"
            for how, order in orders.items()
        ]
        if any(row.method.startswith("crrcd") for row in here):
            yield f"Rank of ours among {len(here)} at {setting}: {'; '.join(places)}."


#: What crrcd is set against: the finalists, in the grids that have them.
FINALISTS = ("kd (fading, weight 4)", "crd (weight 0.4)", "fskd (weight 320)", "review (weight 20)")


def ours_against() -> str:
    """What crrcd gains over other methods than labels alone."""
    rows = []
    for recipe in GRIDS:
        run = {row.method for row in comparison_of(recipe)[1].scores} if has_results(recipe) else set()
        for rival in [rival for rival in FINALISTS if rival in run and "crrcd" in run]:
            comparison = compare_folder(grid_of(recipe).folder, rival)
            classes = comparison.results[0]["config"]["images"].get("classes")
            for row in comparison.scores:
                if row.method == "crrcd":
                    setting, _, _, _, gain, p, _, seeds = cells(row)
                    rows.append([setting, str(len(classes)) if classes else "all", rival, gain, p, seeds])
    return table(["setting", "classes", "against", "gain", "p", "seeds"], rows)


def ranks_over(recipes: Sequence[Path]) -> str:
    """Ranks of the methods that several grids have, each grid its own settings."""
    return rank_table([row for recipe in recipes for row in comparison_of(recipe)[1].scores])


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


def faces_tables(recipe: Path) -> dict[str, str]:
    """A grid of faces: its students beside the enlarged teacher at each size, on both pairs of sides."""
    results = [r for r in read_results(grid_of(recipe).folder) if GALLERY in r.get("protocols", {})]
    teacher = json.loads(FACE_TEACHER.read_text())
    copies = {name: json.loads(path.read_text()) for name, path in FACE_COPIES.items()}
    tables = {
        f"{recipe.stem}-{size}-{sides}": protocols_table(results, teacher, size, sides, copies)
        for size in sorted({r["lr_size"] for r in results})
        for sides in ("lr-lr", "hr-lr")
    }
    methods = [*grid_of(recipe).methods, *grid_of(FACES_ENLARGED).methods]
    tables[f"{recipe.stem}-summary"] = summary_table(results, teacher, methods, copies)
    return tables


def realistic_table() -> str:
    """SFace and its students, on faces that were only made small and on those of the preset realistic."""
    grid = {
        (r["lr_size"], r["seed"]): r["protocols"][GALLERY]
        for r in read_results(grid_of(FACES).folder)
        if method_of(r) == "crrcd-paper + cosface"
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
            "crrcd-paper + cosface, trained on clean images of the size": {
                **{("clean", size): grid[size, 0] for size in sizes},
                **{("realistic", size): read[f"clean-{size}"] for size in sizes},
            },
            "crrcd-paper + cosface, trained on realistic ones of 8x8 to 16x16": {
                **{("clean", size): read["realistic-on-clean"] for size in sizes},
                **{("realistic", size): read["realistic"] for size in sizes},
            },
        }
    )


def as_judged(result: dict[str, Any]) -> dict[str, Any]:
    """A result of faces with the accuracy of each protocol, LR to LR, where one of objects has top-1."""

    def accuracy(rows: list[dict[str, Any]]) -> float:
        (row,) = (row for row in rows if (row["sides"], row["size"]) == ("lr-lr", result["lr_size"]))
        return float(row["verification"]["accuracy_chosen"])

    judged = {name: {"top1": accuracy(document["rows"])} for name, document in result["protocols"].items()}
    return result | {"top1_best_val": result["accuracy_best_val"], "unseen": judged}


def cameras_table(recipe: Path, *, write: bool) -> str:
    """What a grid's students are worth on images that are not as trained, and their gains on natural ones."""
    if not has_results(recipe):
        return "No run so far."
    grid, comparison = comparison_of(recipe)
    if write:
        write_comparison(comparison, grid.folder)
    results = comparison.results
    parts = [transfer_table(list(map(as_judged, results)) if grid.task == "faces" else results)]
    for name in grid.natural:
        others = [{key: r[key] for key in r if key != "right_last"} for r in comparison.results]  # of other images
        rows = compare_methods([r | {"top1_last": r["natural"][name]["top1"]} for r in others], grid.baseline)
        parts += [f"Gains on {name}, top-1 in %, paired by seed:", markdown(rows, grid.baseline)]
    return "\n\n".join(parts)


def simulated_table(path: Path) -> str:
    """How near match comes to cameras that are known."""
    if not path.exists():
        return "No run so far."
    rows = json.loads(path.read_text())

    def width(camera: dict[str, Any]) -> float:
        return hypot(camera["blur"], KERNEL_WIDTHS.get(camera["kernel"], 0.0))

    errors = {name: [row["errors"][name] for row in rows] for name in rows[0]["errors"]}
    errors["blur and kernel together"] = [width(row["estimate"]) / width(row["camera"]) - 1 for row in rows]
    lines = [
        [
            name,
            f"{100 * median(map(abs, each)):.1f}",
            f"{100 * max(map(abs, each)):.1f}",
            f"{sum(abs(error) <= 0.2 for error in each)} of {len(rows)}",
        ]
        for name, each in errors.items()
    ]
    kernels = sum(row["camera"]["kernel"] == row["estimate"]["kernel"] for row in rows)
    whole = sum(max(row["errors"].values()) <= 0.2 for row in rows)
    seconds = [row["seconds"] for row in rows]
    auc = {name: mean(row[name] for row in rows) for name in ("auc_after", "auc_before")}
    text = (
        f"{len(rows)} random cameras, 1,000 crops of 16x16 each, {rows[0]['threads']} thread, "
        f"{min(seconds):.0f} to {max(seconds):.0f} s of its time each. All numbers within 20 %: {whole} of "
        f"{len(rows)}; the kernel: {kernels}. A classifier tells the crops from simulated ones with an AUC of "
        f"{auc['auc_after']:.2f} on average, {auc['auc_before']:.2f} where they are only shrunk."
    )
    return f"{text}\n\n{table(['', 'median error, %', 'largest error, %', 'within 20 %'], lines)}"


def steps_table(path: Path) -> str:
    """Cost of a training step."""
    rows = json.loads(path.read_text())
    start = json.loads(path.with_name("start.json").read_text())
    first = rows[0]
    text = (
        f"Start-up to the first step of the demo: {start['seconds']:.1f} s. Steps: "
        f"{first['student']}, batch {first['batch']}, {first['precision']}, {first['machine']['threads']} threads, "
        f"{first['machine']['processor']}; median of {first['steps']} steps, methods taking turns.\n\n"
    )
    lines = [
        [
            f"{row['lr_size']}x{row['lr_size']}",
            row["method"],
            f"{row['step_ms']:.1f}",
            f"{row['ratio_to_ce']:.2f}",
            f"{100 * row['data_share_of_ce_step']:.1f} % of the ce step",
        ]
        for row in rows
    ]
    heads = ["LR size", "method", "step, ms", "ratio to ce", "data + augmentation + degradation"]
    return f"{text}{table(heads, lines)}\n\n{beside(path.with_name('beside.json'))}"


def beside(path: Path) -> str:
    """What two trainings on the same cores do to each other."""
    measured = json.loads(path.read_text())
    kinds = "; ".join(
        f"{name} {kind['steps_per_second']:.1f} (worst step {max(kind['worst_ms']) / 1e3:.1f} s)"
        for name, kind in measured["kinds"].items()
    )
    return (
        f"Side by side on {measured['cores']} cores, steps of all together a second (`benchmarks/beside.py`): "
        f"{kinds}. A training that begins later slows one that has all threads already."
    )


#: Seconds a bare step of resnet8x4 is expected to take on a GPU: some 300 kernels whose launch takes 6 microseconds.
GPU_STEP = 1.8e-3
#: Seconds that a run takes beside its steps: imports, decoding, moving the images, 30 passes over validation images.
GPU_START = 10.0


def gpu_budget(recipe: Path, steps: Path) -> str:
    """What the whole grid is designed to take on one GPU: every method, two sizes, three seeds."""
    grid = grid_of(recipe)
    costs = costs_of(steps)
    train = grid.base["train"]
    of_run = train["epochs"] * (45_000 // train["batch_size"])
    student = grid.pairs[0]["student"]
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


def all_tables(*, write: bool) -> dict[str, str]:
    """Every table by the name of its block; ``write`` puts comparisons beside their results, too."""
    cifar100 = Path("results/cifar100")
    tables = {
        "cifar100-teacher": teacher_table(cifar100),
        "cifar100-students": students_table(cifar100),
        "cifar100-sensitivity": sensitivity_table(grid_of(SENSITIVITY)),
        "steps": steps_table(STEPS),
        "gpu-budget": gpu_budget(GRIDS[0], STEPS),
        "exports": exports_table(Path("results/deploy/exports.json")),
        "gallery": gallery_table(Path("results/deploy/gallery.json")),
        "ranks": ranks_over(GRIDS[:2]),
        "crrcd-against": ours_against(),
        f"{FACES.stem}-methods": grid_table(FACES, write=write),
        **faces_tables(FACES),
        "lfw-realistic": realistic_table(),
        "simulated": simulated_table(SIMULATED),
        **{grid_of(recipe).name: cameras_table(recipe, write=write) for recipe in CAMERAS},
        "face-costs": faces_costs(FACE_COSTS),
    }
    for recipe in GRIDS:
        tables[recipe.stem] = grid_table(recipe, write=write)
        results = comparison_of(recipe)[1].results if has_results(recipe) else []
        if judged := [r for r in results if r.get("transfer")]:
            tables[f"{recipe.stem}-transfer"] = transfer_table(judged)
            tables[f"{recipe.stem}-sizes"] = sizes_table(judged)
    return tables | {recipe.stem: validation_table(recipe) for recipe in CHOOSING}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a table is out of date")
    chosen = parser.parse_args()
    texts = {page: page.read_text() for page in (Path("README.md"), *sorted(Path("docs").glob("*.md")))}
    for name, text in all_tables(write=not chosen.check).items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        if not any(block.search(page) for page in texts.values()):
            sys.exit(f"no page has a block <!-- {name} --> ... <!-- end -->")
        for page in texts:
            texts[page] = block.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", texts[page])
    measured = measured_methods({"100": comparison_of(GRIDS[0]), "25": comparison_of(SEEDS)}, STEPS)
    texts[MEASURED] = json.dumps(measured, indent=1) + "\n"
    for page, text in texts.items():
        if not page.exists() or text != page.read_text():
            if chosen.check:
                sys.exit(f"{page} is out of date: make tables")
            write_atomically(page, lambda file, text=text: file.write(text.encode()))


if __name__ == "__main__":
    main()
