"""Render the tables of README and docs/ from the files under results/, between markers; nothing is typed by hand."""

from __future__ import annotations

import argparse
import json
import re
import sys
from functools import cache
from math import hypot
from pathlib import Path
from statistics import mean, median
from typing import Any

from camera_tables import (
    HARSH,
    across_sizes,
    adapted_rows,
    adapted_table,
    matched_text,
    other_ways_text,
    signs_table,
    training_by_test,
)
from cifar_tables import measured_methods, sensitivity_table, students_table, teacher_table, trials
from deploy_tables import exports_table, gallery_table, gpu_table, scale_table, scale_text, ten_million
from face_tables import ENLARGED, GALLERY, degraded_table, face_means, faces_costs, protocols_table, summary_table
from first_tables import few_table, judged_anew, own_crops, saved_table, times, tiny_crops
from grid_tables import (
    STEPS,
    chosen_on_validation,
    comparison_of,
    elsewhere_table,
    grid_of,
    grid_table,
    has_results,
    leading,
    live_table,
    ours_against,
    validation_table,
)

from crossres.bench.results import method_of, read_results
from crossres.bench.tables import spread, table, write_comparison
from crossres.core.files import write_atomically

#: What `crossres methods` shows beside the losses.
MEASURED = Path("src/crossres/config/measured.json")
#: One for each folder of results; grids that share a folder need no line of their own.
GRIDS = [
    Path("recipes/cifar100") / f"{name}.yaml"
    for name in (
        *("methods-8x8", "methods-16x16", "finals-16x16", "seeds", "structures", "same-resolution", "tuned-8x8"),
        "live-teacher",
    )
]
#: Of all classes, by LR size.
FINALS = {8: GRIDS[0], 16: GRIDS[2]}
SEEDS, SENSITIVITY = (Path("recipes/cifar100") / f"{name}.yaml" for name in ("seeds", "sensitivity"))
#: Grids that choose, on validation images.
CHOOSING = [Path("recipes/cifar100") / f"{name}.yaml" for name in ("crrcd-variants", "crrcd-options", "all-classes")]
#: Grids of few images, and all whose runs judged the epoch that was best on validation beside the last one.
CHOICES = [Path("recipes/choices") / f"images-{count}.yaml" for count in (100, 300, 1000, 3000)]
EPOCHS = {
    **{f"digits, {count} images": Path(f"results/choices-{count}") for count in (100, 300, 1000, 3000)},
    **{
        name: Path("results") / name
        for name in ("seeds", "tuned-8x8", "structures", "live-teacher", "methods-8x8", "methods-16x16")
    },
}
#: Of students on images that are not as trained.
SIGNS = {name: Path("recipes/signs") / f"{name}.yaml" for name in ("near", "far", "ready")}
#: Students of near frames, adapted to far ones.
ADAPTED = Path("results/signs-adapted")
CAMERAS, MIXED, SIZES = (Path("recipes/cifar100") / f"{name}.yaml" for name in ("cameras", "mixed-8x8", "sizes"))
FACE_CAMERAS = Path("recipes/faces/cameras.yaml")
TINYIMAGENET = Path("recipes/tinyimagenet/ready.yaml")
#: Standard deviation of a kernel in LR pixels, where it is not 0: of a box and of a triangle.
KERNEL_WIDTHS = {"area": 12**-0.5, "bilinear": 6**-0.5}
SIMULATED = Path("results/match/simulated.json")
SCALE = Path("results/bench/scale.json")
#: Grids of faces, and what `crossres faces evaluate` says of their teacher and of its copies trained on small faces.
FACES = Path("recipes/faces/lfw.yaml")
#: The face student that pages recommend, of lfw-enlarged.yaml.
STUDENT = "cosine + crrcd-paper + cosface, enlarged to 32x32"
FACE_TEACHER, FACE_COSTS = (Path("results/faces") / f"{name}.json" for name in ("teacher", "costs"))
#: Of faces of the preset realistic, by the teacher and by students that were and were not trained on such.
FACE_REALISTIC = Path("results/faces/realistic")
FACE_COPIES = {
    "a copy of the teacher": Path("results/faces/copy.json"),
    "a copy, read at 32x32": Path("results/faces/copy-32.json"),
    "a copy with names, read at 32x32": Path("results/faces/copy-32-names.json"),
    "a copy with names, read at 48x48": Path("results/faces/copy-48.json"),
}


@cache
def judged_faces() -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """The students judged against the teacher's gallery, what the teacher came to, and its copies by name."""
    results = [dict(r) for r in read_results(grid_of(FACES).folder) if GALLERY in r.get("protocols", {})]
    copies = {name: json.loads(path.read_text()) for name, path in FACE_COPIES.items()}
    return results, json.loads(FACE_TEACHER.read_text()), copies


def faces_tables() -> dict[str, str]:
    """A grid of faces on pages, accuracy on pairs and rank-1, and every protocol in a file beside its results."""
    results, teacher, copies = judged_faces()
    protocols = [
        f"## {size}x{size}, {sides}\n\n{protocols_table(results, teacher, size, sides, copies)}"
        for sides in ("lr-lr", "hr-lr")
        for size in sorted({r["lr_size"] for r in results})
    ]
    methods = [*grid_of(FACES).methods, STUDENT]
    tables = {
        f"{FACES.stem}-{block}": summary_table(results, teacher, methods, copies, measure)
        for block, measure in (("pairs", "accuracy"), ("rank-1", "rank-1"))
    }
    return tables | {str(grid_of(FACES).folder / "protocols.md"): "\n\n".join(protocols)}


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


def simulated_table(path: Path) -> str:
    """How near match comes to cameras that are known."""
    if not path.exists():
        return "No run so far."
    rows = json.loads(path.read_text())

    def width(camera: dict[str, Any]) -> float:
        return hypot(camera["blur"], KERNEL_WIDTHS.get(camera["kernel"], 0.0))

    errors = {name: [row["errors"][name] for row in rows] for name in rows[0]["errors"]}
    errors["blur and kernel, their deviation"] = [width(row["estimate"]) / width(row["camera"]) - 1 for row in rows]
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
    whole = sum(max(map(abs, row["errors"].values())) <= 0.2 for row in rows)
    seconds = [row["seconds"] for row in rows]
    auc = {name: mean(row[name] for row in rows) for name in ("auc_after", "auc_before")}
    text = (
        f"{len(rows)} random cameras, 1,000 crops of 16x16 each, {rows[0]['threads']} thread, "
        f"{min(seconds):.0f} to {max(seconds):.0f} s of its time each. All numbers within 20 %: {whole} of "
        f"{len(rows)}; the kernel: {kernels}. A classifier tells the crops from simulated ones with an AUC of "
        f"{auc['auc_after']:.2f} on average and {max(row['auc_after'] for row in rows):.2f} at most, "
        f"{auc['auc_before']:.2f} where they are only shrunk."
    )
    return f"{text}\n\n{table(['', 'median error, %', 'largest error, %', 'within 20 %'], lines)}"


def steps_table(path: Path) -> str:
    """Cost of a training step of every method."""
    rows = json.loads(path.read_text())
    lines = [
        [f"{row['lr_size']}x{row['lr_size']}", row["method"], f"{row['step_ms']:.1f}", f"{row['ratio_to_ce']:.2f}"]
        for row in rows
    ]
    return table(["LR size", "method", "step, ms", "ratio to ce"], lines)


def steps_text(path: Path) -> str:
    """What a step costs with labels alone."""
    rows = json.loads(path.read_text())
    first = rows[0]
    bare = " and ".join(
        f"{r['step_ms']:.0f} ms at {r['lr_size']}x{r['lr_size']}" for r in rows if r["method"] == "ce"
    )
    return (
        f"With labels alone a step of {first['student']} (batch {first['batch']}, {first['precision']}, "
        f"{first['machine']['threads']} threads, {first['machine']['processor']}) takes {bare}."
    )


def beside_table(path: Path) -> str:
    """What trainings on the same cores do to each other: steps of all together a second, and those of each."""
    rows = [
        [
            name,
            f"{kind['steps_per_second']:.1f}",
            " / ".join(f"{each:.0f}" for each in kind["median_ms"]),
            " / ".join(f"{each:.0f}" for each in kind["worst_ms"]),
        ]
        for name, kind in json.loads(path.read_text())["kinds"].items()
    ]
    return table(["jobs", "steps a second, together", "median step, ms", "worst step, ms"], rows)


def summary() -> str:
    """The leading methods at both sizes, and what a step of theirs costs."""
    rows = {size: leading(grid, size) for size, grid in FINALS.items()}
    epochs = {size: comparison_of(grid)[1].results[0]["epochs"] for size, grid in FINALS.items()}
    accuracy = [f"{size}x{size}, {count} epochs" for size, count in epochs.items()]
    steps = [f"step at {size}x{size}" for size in FINALS]
    lines = [
        [
            name,
            *(spread([*rows[size][name].score.values()]) for size in FINALS),
            *(f"{rows[size][name].cost:.2f}" for size in FINALS),
        ]
        for name in sorted(rows[8], key=lambda name: rows[8][name].mean)
    ]
    return table(["top-1, %", *accuracy, *steps], lines)


def numbers() -> dict[str, str]:
    """Numbers that sentences hold, by the name of their block."""
    enlarged = json.loads(Path("results/cifar100/teacher-enlarged.json").read_text())
    at = {point["size"]: point["top1"] for point in enlarged["curve"]}
    eight = {row.method: row for row in comparison_of(GRIDS[0])[1].scores}
    accuracy, rank1 = (face_means(measure, *judged_faces()) for measure in ("accuracy", "rank-1"))
    values = {
        "teacher-8": at[8],
        **{f"{name}-8": eight[name].mean for name in ("ce", "crrcd")},
    }
    for size in (8, 16):
        for sides, where in (("lr-lr", "pairs"), ("hr-lr", "gallery")):
            rated = accuracy[sides, size]
            values |= {
                f"sface-{size}-{where}": rated[ENLARGED],
                f"face-student-{size}-{where}": rated[STUDENT],
                f"face-copy-{size}-{where}": rated[next(iter(FACE_COPIES))],
            }
        values |= {
            f"sface-{size}-rank-1": rank1["hr-lr", size][ENLARGED],
            f"face-student-{size}-rank-1": rank1["hr-lr", size][STUDENT],
        }
    values["face-copy-48-gallery"] = accuracy["hr-lr", 16]["a copy with names, read at 48x48"]
    costs = json.loads(FACE_COSTS.read_text())
    speeds = {row["reads"]: costs[0]["ms_of_batch"] / row["ms_of_batch"] for row in costs if row["input"] == 16}
    return {
        **{name: f"{value:.1f}" for name, value in values.items()},
        "face-speed-32": f"{speeds[32]:.0f}",
    }


def all_tables(*, write: bool) -> dict[str, str]:
    """Every table by the name of its block, or by its file beside the results; ``write`` writes comparisons, too."""
    cifar100 = Path("results/cifar100")
    compared = (FACES, *CHOICES, *SIGNS.values(), TINYIMAGENET, CAMERAS, MIXED, SIZES, FACE_CAMERAS) if write else ()
    for recipe in filter(has_results, compared):
        grid, comparison = comparison_of(recipe)
        write_comparison(comparison, grid.folder)
    adapted = adapted_rows(ADAPTED, SIGNS["near"])
    tables = {
        "summary": summary(),
        **numbers(),
        "first-times": times(),
        "own-crops": own_crops(),
        "tiny-crops": tiny_crops(),
        "few-images": few_table(CHOICES),
        "judged-anew": judged_anew(Path("results/choices/judged-anew.json")),
        "saved-epoch": saved_table(EPOCHS),
        "cifar100-teacher": teacher_table(cifar100),
        str(cifar100 / "students.md"): students_table(cifar100),
        str(cifar100 / "sensitivity.md"): sensitivity_table(grid_of(SENSITIVITY)),
        str(STEPS.with_suffix(".md")): steps_table(STEPS),
        "steps": steps_text(STEPS),
        "beside": beside_table(STEPS.with_name("beside.json")),
        "exports": exports_table(Path("results/deploy/exports.json")),
        "gallery": gallery_table(Path("results/deploy/gallery.json")),
        "scale": scale_text(SCALE),
        str(SCALE.with_suffix(".md")): scale_table(SCALE),
        "ten-million": ten_million(SCALE, SCALE.with_name("gpu.json")),
        "gpu": gpu_table(SCALE.with_name("gpu.json")),
        "crrcd-against": ours_against(GRIDS),
        "trials": ", ".join(f"{method} {count}" for method, count in trials().items()),
        **faces_tables(),
        "lfw-realistic": realistic_table(),
        "simulated": simulated_table(SIMULATED),
        **{f"signs-{name}": signs_table(recipe) for name, recipe in SIGNS.items()},
        "tinyimagenet-ready": signs_table(TINYIMAGENET),
        "signs-adapted": adapted_table(adapted),
        "signs-other-ways": other_ways_text(adapted),
        "signs-matched": matched_text(SIMULATED.with_name("signs.json")),
        "cameras": training_by_test(CAMERAS, ("clean", "noise", HARSH, "nearest")),
        "mixed-8x8": training_by_test(MIXED, ("clean", HARSH, "nearest"), shrunk=GRIDS[0]),
        "lfw-cameras": training_by_test(FACE_CAMERAS, ("clean", "noise", HARSH, "nearest")),
        "sizes": across_sizes(SIZES, (6, 8, 16, 24)),
        "face-costs": faces_costs(FACE_COSTS),
    }
    for recipe in GRIDS:
        tables[recipe.stem] = grid_table(recipe, write=write)
        if has_results(recipe) and len(grid_of(recipe).factors) > 1:
            tables[str(grid_of(recipe).folder / "validation.md")] = chosen_on_validation(*comparison_of(recipe))
    tables["live-teacher"] = live_table(GRIDS[-1])
    tables |= {f"{recipe.stem}-elsewhere": elsewhere_table(recipe) for recipe in GRIDS[:3]}
    return tables | {str(grid_of(recipe).folder / "validation.md"): validation_table(recipe) for recipe in CHOOSING}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a table is out of date")
    chosen = parser.parse_args()
    texts = {page: page.read_text() for page in (Path("README.md"), *sorted(Path("docs").rglob("*.md")))}
    for name, text in all_tables(write=not chosen.check).items():
        if name.endswith(".md"):
            texts[Path(name)] = f"{text}\n"
            continue
        # a table has lines of its own, a number stands in a sentence
        block = re.compile(rf"(<!-- {name} -->(\n?)).*?(<!-- end -->)", re.S)
        for page in texts:
            texts[page] = block.sub(lambda match, text=text: f"{match[1]}{text}{match[2]}{match[3]}", texts[page])
    measured = measured_methods({"100": comparison_of(GRIDS[0]), "25": comparison_of(SEEDS)}, STEPS)
    texts[MEASURED] = json.dumps(measured, indent=1) + "\n"
    for page, text in texts.items():
        if not page.exists() or text != page.read_text():
            if chosen.check:
                sys.exit(f"{page} is out of date: make tables")
            write_atomically(page, lambda file, text=text: file.write(text.encode()))


if __name__ == "__main__":
    main()
