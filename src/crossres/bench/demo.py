"""The whole story on 5,000 digits: teacher, students without and with distillation, figure, report."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from crossres.bench.comparison import compare_methods, sentences
from crossres.bench.results import method_of
from crossres.bench.tables import legend, markdown
from crossres.config.experiment import Distill, Teach
from crossres.config.judging import Demo, Evaluate
from crossres.config.options import Augment, Images, Model, Train
from crossres.config.reading import of_run
from crossres.core.errors import CrossresError
from crossres.core.files import write_atomically
from crossres.core.progress import Progress
from crossres.data.loader import Loader
from crossres.data.readers import read
from crossres.evaluation.classification import evaluate

SIZES = (7, 4)
#: Of the digits; the more judge, the smaller a gain that shows in three seeds.
TEST_FRACTION = 0.7
BASELINE = "labels"
STUDENTS = (BASELINE, "crrcd")


def demo(options: Demo) -> dict[str, Any]:
    """Train a teacher at 28x28 and students at 7x7 and 4x4, without and with distillation, and compare them.

    Writes the runs with their models, ``figure.png`` and ``report.md`` into ``runs``, in place of an earlier demo's.

    Returns:
        ``{teacher, enlarged, students}``: result documents, and the teacher's accuracy on enlarged LR images.

    Raises:
        CrossresError: no seeds, or the folder holds a run called teacher that is not the demo's.
    """
    from crossres.training.run import train  # slow to import, and `write_folder` needs no training

    if options.seeds < 1:
        raise CrossresError(f"--seeds: {options.seeds} is below 1; a comparison needs a student of each kind")
    started = time.perf_counter()
    runs = Path(options.runs)
    if (runs / "teacher" / "config.yaml").exists() and not _of_the_demo(runs / "teacher"):
        raise CrossresError(f"{runs / 'teacher'} is another run, which the demo would overwrite; give another --runs")
    images = Images(test_fraction=TEST_FRACTION)
    shared: dict[str, Any] = {"data": "digits", "images": images, "runs": str(runs), "device": options.device}
    shared["augment"] = Augment(shift=2, flip=False)
    training = Train(epochs=options.teacher_epochs, batch_size=64, learning_rate=0.1)
    teacher = train(Teach(name="teacher", model=Model("resnet20"), train=training, **shared), overwrite=True)
    students = []
    for size in SIZES:
        for seed in range(options.seeds):
            for method in STUDENTS:
                config = Distill(
                    name=f"{size}x{size}-{method}-seed{seed}",
                    teacher=str(runs / "teacher"),
                    lr_size=size,
                    method=method,
                    model=Model("resnet8"),
                    train=Train(epochs=options.student_epochs, batch_size=128, learning_rate=0.1, seed=seed),
                    **shared,
                )
                students.append(train(config, overwrite=True) | {"grid": {"method": method}})
    how: dict[str, Any] = {"sizes": list(SIZES), "device": "cpu", "precision": "float32"}
    enlarged = evaluate(Evaluate(model=str(runs / "teacher"), data="digits", **how))["curve"]
    draw_demo(students, teacher, enlarged, runs / "figure.png")
    text = _report(teacher, enlarged, students, time.perf_counter() - started)
    write_atomically(runs / "report.md", lambda file: file.write(text.encode()))
    progress = Progress()
    for line in ["", *text.splitlines(), f"models, figure.png and report.md: {runs}"]:
        progress.say(line)
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
    scores = compare_methods(students, BASELINE)
    of_teacher = ", ".join(f"{point['top1']:.2f} % at {point['size']}x{point['size']}" for point in enlarged)
    paragraphs = [
        "# crossres demo: digits at 7x7 and 4x4",
        f"Teacher ({teacher['student']['name']}, {teacher['hr_size']}x{teacher['hr_size']}): "
        f"{teacher['top1_last']:.2f} % top-1 on {teacher['images']['test']:,} test images. "
        f"The same teacher on enlarged low-resolution images: {of_teacher}.",
        markdown(scores, BASELINE),
        legend(scores, BASELINE),
        *sentences(scores, BASELINE),
        f"{len(students) + 1} networks in {seconds:.0f} s.",
        "![figure](figure.png)",
    ]
    return "\n\n".join(paragraphs) + "\n"


def draw_demo(
    students: list[dict[str, Any]], teacher: dict[str, Any], enlarged: list[dict[str, Any]], path: Path
) -> None:
    """Draw what is left of digits at each size, and beside it who recognises how many of them, as PNG."""
    from crossres.evaluation.figures import METHOD_COLOURS, plot_bars, png

    images = read("digits", split="test", test_fraction=TEST_FRACTION)
    chosen = images.subset([int((images.labels == digit).argmax()) for digit in (2, 3, 5, 8, 9)])
    hr_size = teacher["hr_size"]
    bars = {hr_size: [("teacher", [teacher["top1_last"]], METHOD_COLOURS["teacher"])]}
    for size in SIZES:
        top1 = next(point["top1"] for point in enlarged if point["size"] == size)
        bars[size] = [("teacher, enlarged images", [top1], METHOD_COLOURS["enlarged teacher"])]
        for method, name in ((BASELINE, "student, labels alone"), ("crrcd", "student, crrcd")):
            seeds = [s["top1_last"] for s in students if (s["lr_size"], method_of(s)) == (size, method)]
            bars[size].append((name, seeds, METHOD_COLOURS[method]))
    with png(path, (10, 4)) as figure:
        grid = figure.subplots(len(bars), 2, width_ratios=[1.5, 1], sharex="col")
        for (size, of_size), (left, right) in zip(bars.items(), grid, strict=True):
            batch = next(Loader(chosen, hr_size=hr_size, lr_size=size).ordered())
            gap = np.ones((hr_size, 2))
            each = [np.kron(image[0].numpy(), np.ones((hr_size // size,) * 2)) for image in batch.lr]
            strip = np.hstack([part for image in each for part in (image, gap)][:-1])
            left.imshow(strip, cmap="gray", vmin=0, vmax=1, interpolation="none")
            left.set_ylabel(f"{size}x{size}", rotation=0, ha="right", va="center", weight="bold")
            left.set(xticks=[], yticks=[])
            left.spines[:].set_visible(False)
            plot_bars(right, of_size)
            middle = (len(of_size) - 1) / 2
            right.set_ylim(middle + 1.5, middle - 1.5)  # bars of all sizes are as thick
            right.spines.bottom.set_visible(size == SIZES[-1])
            right.tick_params(axis="x", length=3 if size == SIZES[-1] else 0)
        grid[0, 0].set_title("what the networks see")
        grid[0, 1].set_title("who recognises it")
        grid[-1, 1].set_xlabel(f"top-1 on {teacher['images']['test']:,} test images, %; a point is a seed")


def write_folder(folder: str | Path, images: int = 600, side: int = 28, skip: int = 0) -> None:
    """Write digits as a folder of PNG files in a folder for each class, to try what asks for one.

    Args:
        folder: must not be there yet.
        images: how many, evenly over the ten classes.
        side: of an image, in pixels, at most 28.
        skip: how many of the first images to leave out, as if they were elsewhere.

    Raises:
        CrossresError: the folder is there.
    """
    from PIL import Image

    folder = Path(folder)
    if folder.exists():
        raise CrossresError(f"{folder} is there already; name another folder")
    digits = read("digits", split="train")
    each, first = images // len(digits.classes), skip // len(digits.classes)
    for label, name in enumerate(digits.classes):
        (folder / name).mkdir(parents=True)
        for number, i in enumerate(np.flatnonzero(digits.labels == label)[first : first + each]):
            photo = Image.fromarray(digits.image(int(i)))
            photo.resize((side, side), Image.Resampling.BICUBIC).save(folder / name / f"{number}.png")
