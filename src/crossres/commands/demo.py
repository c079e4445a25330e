"""The whole story on 5,000 digits: teacher, students without and with distillation, figure, report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from crossres.bench.tables import SPREAD, method_table, paired_gain
from crossres.config.options import Augment, Distill, Model, Teach, Train
from crossres.config.reading import of_run
from crossres.core.errors import CrossresError
from crossres.core.files import write_atomically
from crossres.core.progress import Progress
from crossres.data.loader import Loader
from crossres.data.readers import read
from crossres.evaluation.classification import evaluate
from crossres.models.pretrained import from_pretrained
from crossres.training.run import run

SIZES = (7, 4)
BASELINE: dict[str, dict[str, Any]] = {"ce": {"weight": 1.0}}
DISTILLED: dict[str, dict[str, Any]] = {
    "ce": {"weight": 1.0},
    "kd": {"weight": 1.0},
    "crrcd": {"weight": 1.0, "critic": "softmax"},
}


def write_folder(folder: str | Path, images: int = 600) -> None:
    """Write digits as a folder of PNG files in a folder for each class, to try what asks for one.

    Args:
        folder: must not be there yet.
        images: how many, evenly over the ten classes.

    Raises:
        CrossresError: the folder is there.
    """
    from PIL import Image

    folder = Path(folder)
    if folder.exists():
        raise CrossresError(f"{folder} is there already; name another folder")
    digits = read("digits", split="train")
    taken = dict.fromkeys(digits.classes, 0)
    for i, label in enumerate(digits.labels.tolist()):
        name = digits.classes[label]
        if taken[name] < images // len(digits.classes):
            place = folder / name / f"{taken[name]}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.image(i)).save(place)
            taken[name] += 1


def demo(
    runs: str | Path,
    *,
    seeds: int = 3,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    teacher_epochs: int = 6,
    student_epochs: int = 10,
) -> dict[str, Any]:
    """Train a teacher at 28x28 and students at 7x7 and 4x4, without and with distillation, and compare them.

    Writes the runs with their models, ``figure.png`` and ``report.md`` into ``runs``, in place of an earlier demo's.

    Args:
        runs: folder.
        seeds: students of each kind.
        device: where it runs.
        teacher_epochs: training of the teacher.
        student_epochs: training of each student.

    Returns:
        ``{teacher, enlarged, students}``: result documents, and the teacher's accuracy on enlarged LR images.

    Raises:
        CrossresError: the folder holds a run called teacher that is not the demo's.
    """
    started = time.perf_counter()
    runs = Path(runs)
    earlier = runs / "teacher" / "config.yaml"
    if earlier.exists() and not _of_the_demo(earlier.parent):
        raise CrossresError(f"{earlier.parent} is no run of the demo, which would replace it; give another --runs")
    progress = Progress()
    common: dict[str, Any] = {"data": "digits", "runs": str(runs), "augment": Augment(shift=2, flip=False)}
    teacher = run(
        Teach(
            name="teacher",
            model=Model("resnet20"),
            train=Train(epochs=teacher_epochs, batch_size=64, learning_rate=0.1, device=device),
            **common,
        ),
        overwrite=True,
    )
    students = []
    for size in SIZES:
        for seed in range(seeds):
            for losses in (BASELINE, DISTILLED):
                students.append(
                    run(
                        Distill(
                            name=f"{size}x{size}-{'+'.join(losses)}-seed{seed}",
                            teacher=str(runs / "teacher"),
                            lr_size=size,
                            losses=losses,
                            model=Model("resnet8"),
                            train=Train(
                                epochs=student_epochs, batch_size=128, learning_rate=0.1, seed=seed, device=device
                            ),
                            **common,
                        ),
                        overwrite=True,
                    )
                )
    encoder = from_pretrained(runs / "teacher")
    enlarged = evaluate(encoder, read("digits", split="test"), sizes=SIZES)["curve"]
    figure(students, teacher, enlarged, runs / "figure.png")
    text = _report(teacher, enlarged, students, time.perf_counter() - started)
    write_atomically(runs / "report.md", lambda file: file.write(text.encode()))
    progress.say(f"\n{text}\nmodels, figure.png and report.md: {runs}")
    return {"teacher": teacher, "enlarged": enlarged, "students": students}


def _of_the_demo(run: Path) -> bool:
    """Say whether a run may be the demo's teacher."""
    try:
        config = of_run(Teach, run)
    except CrossresError:  # another command's run, or another version's
        return False
    return config.data == "digits" and config.model == Model("resnet20")


def _report(
    teacher: dict[str, Any], enlarged: list[dict[str, Any]], students: list[dict[str, Any]], seconds: float
) -> str:
    lines = [
        "# crossres demo: digits at 7x7 and 4x4",
        "",
        f"Teacher ({teacher['student']['name']}, {teacher['hr_size']}x{teacher['hr_size']}): "
        f"{teacher['top1_last']:.2f} % top-1 on {teacher['images']['test']:,} test images. "
        "The same teacher on enlarged low-resolution images: "
        + ", ".join(f"{point['top1']:.2f} % at {point['size']}x{point['size']}" for point in enlarged)
        + ".",
        "",
        method_table(students),
        "",
        *([SPREAD, ""] if students[-1]["seed"] else []),
    ]
    for size in SIZES:
        baseline, distilled = (
            [s for s in students if s["lr_size"] == size and s["method"] == "+".join(losses)]
            for losses in (BASELINE, DISTILLED)
        )
        gain, half = paired_gain(distilled, baseline)
        verdict = "one seed says nothing of noise" if half is None else f"± {half:.2f}, 95 % interval"
        if half is not None and abs(gain) < half:
            verdict += ": within noise"
        lines.append(f"Distillation at {size}x{size}: {gain:+.2f} points ({verdict}).")
    lines += ["", f"{len(students) + 1} networks in {seconds:.0f} s.", "", "![figure](figure.png)", ""]
    return "\n".join(lines)


def figure(
    students: list[dict[str, Any]], teacher: dict[str, Any], enlarged: list[dict[str, Any]], path: Path
) -> None:
    """Draw what the networks see and how well they do, as PNG."""
    from matplotlib.figure import Figure

    from crossres.evaluation.figures import BLUE, GREY, RED

    sheet = Figure(figsize=(10, 4.2), layout="constrained", dpi=150)
    halves: Any = sheet.subfigures(1, 2, width_ratios=[1, 1.25])
    left, right = halves
    images = read("digits", split="test")
    sides = (teacher["hr_size"], *SIZES)
    panels = left.subplots(len(sides), 5)
    chosen = images.subset([int((images.labels == digit).argmax()) for digit in (2, 3, 5, 8, 9)])
    for row, side in zip(panels, sides, strict=True):
        batch = next(Loader(chosen, hr_size=teacher["hr_size"], lr_size=side).ordered())
        for axes, picture in zip(row, batch.lr, strict=True):
            axes.imshow(picture[0], cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{side}x{side}")
    left.suptitle("what the networks see", fontsize=11)
    axes = right.subplots()
    for shift, (losses, colour) in enumerate(((BASELINE, GREY), (DISTILLED, RED))):
        method = "+".join(losses)
        points = [
            (SIZES.index(s["lr_size"]) + 0.24 * shift - 0.12, s["top1_last"])
            for s in students
            if s["method"] == method
        ]
        axes.scatter(*zip(*points, strict=True), color=colour, label=f"student, {method}", s=46, alpha=0.8, zorder=3)
    axes.axhline(teacher["top1_last"], color=BLUE, linewidth=1.4, label="teacher at 28x28")
    axes.scatter(
        range(len(SIZES)),
        [point["top1"] for size in SIZES for point in enlarged if point["size"] == size],
        color=BLUE,
        marker="x",
        s=46,
        label="teacher, enlarged image",
    )
    axes.set_xticks(range(len(SIZES)), [f"{size}x{size}" for size in SIZES])
    axes.set(xlim=(-0.6, len(SIZES) - 0.4), ylabel="top-1 on the test set, %", title="accuracy, one dot a seed")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    write_atomically(path, lambda file: sheet.savefig(file, format="png"))
