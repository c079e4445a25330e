"""The first picture of the README: what is left of images at 8x8, who recognises them, and how many.

    python benchmarks/first_picture.py                    # from results/ and the images alone
    python benchmarks/first_picture.py --student RUN      # asks teacher and student anew

CROSSRES_DATA is the folder that holds cifar100/.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from crossres.bench.results import method_of, read_results
from crossres.config.judging import Evaluate
from crossres.core.files import write_json
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.data.readers import read
from crossres.evaluation.classes import labels_of
from crossres.evaluation.figures import INK, METHOD_COLOURS, Bar, plot_bars, png, text_colour
from crossres.evaluation.prepare import CPU, loader_of, logits_of
from crossres.models.pretrained import from_pretrained

CIFAR100, METHODS = Path("results/cifar100"), Path("results/methods-8x8")
TEACHER, ANSWERS = CIFAR100 / "teacher", CIFAR100 / "answers.json"
HR_SIZE, LR_SIZE = 32, 8
#: Images are the first so many of a shuffle of the test images, each of another class than those before it.
SHOWN, SEED = 6, 0
#: By whether an answer is right: far apart for colour-blind eyes, too.
MARKS = {True: ("✓", "#009e73"), False: ("✗", "#d55e00")}


def chosen_images(images: ImageSet) -> list[int]:
    """Return the positions of the images that are shown."""
    first: dict[int, int] = {}
    for position in np.random.default_rng(SEED).permutation(len(images)).tolist():
        first.setdefault(int(images.labels[position]), position)
    return [*first.values()][:SHOWN]


def answers_of(model: Path, images: ImageSet) -> list[str]:
    """Return the class that a model takes each LR image for; it brings them to its own input size."""
    encoder = from_pretrained(model)
    labels_of(encoder, images)  # refuses other classes than it knows
    loader = loader_of(Evaluate(model=str(model), data=images.name), encoder, images, CPU)
    return [encoder.classes[number] for number in logits_of(encoder, loader.at(LR_SIZE)).argmax(1).tolist()]


def ask(student: Path, images: ImageSet) -> dict[str, Any]:
    """Return what teacher and student answer to the images that are shown."""
    positions = chosen_images(images)
    shown = images.subset(positions)
    answers = {"teacher": answers_of(TEACHER, shown), "student": answers_of(student, shown)}
    result = json.loads((student / "result.json").read_text())
    rows = [
        {"index": position, "label": images.classes[label], **{who: each[i] for who, each in answers.items()}}
        for i, (position, label) in enumerate(zip(positions, shown.labels.tolist(), strict=True))
    ]
    student_facts = {"student": result["name"], "student_seed": result["seed"]}
    return {"shuffle_seed": SEED, "lr_size": LR_SIZE, **student_facts, "images": rows}


def bars() -> list[Bar]:
    """Return top-1 in % of teacher and students, from results/; of students a value for each seed."""
    curve = json.loads((CIFAR100 / "teacher-enlarged.json").read_text())["curve"]
    of_teacher = {point["size"]: point["top1"] for point in curve}
    top1: dict[str, list[float]] = {}
    for result in read_results(METHODS):
        top1.setdefault(method_of(result), []).append(result["top1_last"])
    names = {"ce": "student at 8x8,\nlabels alone", "crrcd": "student at 8x8,\ncrrcd"}
    return [
        ("teacher,\n8x8 enlarged", [of_teacher[LR_SIZE]], METHOD_COLOURS["enlarged teacher"]),
        *((name, top1[method], METHOD_COLOURS[method]) for method, name in names.items()),
        ("teacher\nat 32x32", [of_teacher[HR_SIZE]], METHOD_COLOURS["teacher"]),
    ]


def draw(answers: Mapping[str, Any], images: ImageSet, path: Path) -> None:
    """Draw the picture as PNG."""
    rows = answers["images"]
    shown = images.subset([row["index"] for row in rows])
    batch = next(Loader(shown, hr_size=HR_SIZE, lr_size=LR_SIZE).ordered(hr=True))
    with png(path, (10.67, 3.9)) as figure:
        left, right = figure.subfigures(1, 2, width_ratios=[2.1, 1])
        grid = left.subplots(4, len(rows) + 1, height_ratios=[4.5, 1.6, 1.6, 4], width_ratios=[4, *[5] * len(rows)])
        heads = {
            "what is left:\n8x8 pixels": INK,
            "teacher,\nenlarged": METHOD_COLOURS["enlarged teacher"],
            "student,\ncrrcd": METHOD_COLOURS["crrcd"],
            "what it was:\n32x32 pixels": INK,
        }
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, (head, colour) in zip(grid[:, 0], heads.items(), strict=True):
            axes.text(1, 0.5, head, ha="right", va="center", weight="bold", color=text_colour(colour))
        for column, row, lr, hr in zip(grid.T[1:], rows, batch.lr, batch.hr, strict=True):
            column[0].imshow(lr.permute(1, 2, 0).numpy(), interpolation="nearest")
            for axes, who in zip(column[1:3], ("teacher", "student"), strict=True):
                mark, colour = MARKS[row[who] == row["label"]]
                answer = fill(f"{mark} {row[who].replace('_', ' ')}", 12)
                axes.text(0.5, 0.5, answer, ha="center", va="center", color=text_colour(colour), weight="bold")
            column[3].imshow(hr.permute(1, 2, 0).numpy(), interpolation="nearest")
            below = {"transform": column[3].transAxes, "ha": "center", "va": "top", "weight": "bold"}
            column[3].text(0.5, -0.05, row["label"].replace("_", " "), **below)
        axes = right.subplots()
        plot_bars(axes, bars())
        axes.set_xlabel(f"top-1 on {len(images):,} test images, %")
        caption = (
            f"CIFAR-100, {len(images.classes)} classes. The images are not chosen: of the test images in a random "
            f"order (seed {answers['shuffle_seed']}) the first {len(rows)} of different classes.\n"
            f"Students' bars: mean of {len(bars()[1][1])} trainings, a point each; the answers are of the one with "
            f"seed {answers['student_seed']}."
        )
        figure.supxlabel(caption, fontsize=9.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, help=f"a run of {METHODS}; its answers are written to {ANSWERS}")
    parser.add_argument("--out", type=Path, default=Path("docs/first.png"), help="where it is written")
    chosen = parser.parse_args()
    if "CROSSRES_DATA" not in os.environ:
        sys.exit("CROSSRES_DATA is not set; it is the folder that holds cifar100/")
    images = read(os.environ["CROSSRES_DATA"] + "/cifar100", split="test", label_column="fine_label")
    if chosen.student:
        write_json(ANSWERS, ask(chosen.student, images))
    draw(json.loads(ANSWERS.read_text()), images, chosen.out)


if __name__ == "__main__":
    main()
