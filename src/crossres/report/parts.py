"""The parts of a run that both tasks have: what was trained, learning curves, the two spaces, speed and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
import numpy.typing as npt

from crossres.config.options import to_yaml
from crossres.core.devices import machine
from crossres.core.progress import clock
from crossres.data.images import ImageSet
from crossres.report.content import Run
from crossres.report.drawing import SIGNS, Curve, draw_curves, draw_points, draw_relations
from crossres.report.page import Cell, Drawing, Part, Table
from crossres.report.seen import Answers
from crossres.report.space import Kept, first_of, flat, kept, largest_classes, relations
from crossres.report.speed import BATCHES, Effort

#: Classes in colour on a map, images of each there and in a matrix, images whose relations are compared.
CLASSES, ON_MAP, IN_MATRIX, RELATED = 8, 40, 12, 2000


@dataclass(frozen=True)
class Judged:
    """What a task finds out of a run.

    Attributes:
        measure: what its chief number is, as a table's head has it.
        results: the numbers; the first row is the student's at the size it was trained at, its first the chief one.
        note: what these are.
        teachers: the teacher's chief number at high resolution; None without one that can be judged.
        curves: chief number against resolution, the student's first.
        drawings: what is drawn beside these.
        parts: what the task alone has.
        images: what it was judged on.
        student: what the student said of them.
        teacher: what the teacher said; None without one.
    """

    measure: str
    results: Table
    note: str
    teachers: Cell | None
    curves: Sequence[Curve]
    drawings: Sequence[Drawing]
    parts: Sequence[Part]
    images: ImageSet
    student: Answers
    teacher: Answers | None

    @property
    def score(self) -> Cell:
        """The student's chief number."""
        return self.results.rows[0][1][0]


def percent(value: float, interval: Sequence[float], mark: str = "") -> Cell:
    """Return a percentage and its 95 % interval."""
    return Cell(f"{value:.2f} %{mark}", f"{interval[0]:.2f} to {interval[1]:.2f}", value, interval)


def trained(run: Run) -> Part:
    """Say what was trained, on what, how and where."""
    said, train, how = run.document, run.config.train, run.degradation.resolved()
    ranges = {"blur": how.blur, "noise": how.noise, "JPEG": how.jpeg}
    drawn = [f"{name} {r[0]:g} to {r[1]:g}" for name, r in ranges.items() if r and r != (0.0, 0.0)]
    losses = [
        f"{options.get('weight', 1):g} {name}{' (decays)' * bool(options.get('decay'))}"
        for name, options in said["losses"].items()
    ]
    versions = [f"{name} {said['versions'].get(name)}" for name in ("python", "crossres", "torch")]
    facts = {
        "Images": f"{said['dataset']}: {', '.join(f'{count:,} {name}' for name, count in said['images'].items())}",
        "Network": f"{said['student']['name']}, {said['student']['parameters']:,} parameters",
        "Teacher": run.taught_by or "none",
        "Sizes": f"the network reads {run.at_lr}, the images are {run.at_hr}",
        "Degradation": ", ".join([how.preset, how.kernel, *drawn]) if said.get("degradation") else "none",
        "Losses": " + ".join(losses),
        "Schedule": f"{train.epochs} epochs, batch {train.batch_size}, {train.schedule.replace('_', ' ')}",
        "Optimiser": f"{train.optimizer}, learning rate {train.learning_rate:g}, decay {train.weight_decay:g}",
        "Seed": str(said["seed"]),
        "Saved": f"epoch {said['best_epoch']}, the best on validation; judged here",
        "Time": f"{clock(said['seconds'])}, {said['images_per_second']:,.0f} images/s in {said['precision']}",
        "Machine": f"{said['machine']['processor']}, {said['machine']['threads']} thread(s)",
        "Versions": ", ".join(versions),
        "Commit": (said.get("commit") or "not recorded")[:12],
    }
    return Part("What was trained", facts=list(facts.items()), folded=("Every option", to_yaml(run.config)))


def learning(run: Run) -> Part | None:
    """Draw accuracies and losses over the epochs; None without a record of them."""
    if not run.epochs:
        return None
    epochs = [row["epoch"] for row in run.epochs]

    def curves(rows: Sequence[Mapping[str, float | None]], names: Mapping[str, str]) -> list[Curve]:
        values = {key: [nan if (v := row.get(key)) is None else v for row in rows] for key in names}
        drawn = [key for key in names if any(map(isfinite, values[key]))]
        return [Curve(names[key], epochs, values[key], number) for number, key in enumerate(drawn)]

    shares = {"train_top1": "training", "val_top1": "validation", "val_top5": "validation top-5"}
    shares |= {"val_accuracy": "validation accuracy", "val_auc": "validation AUC"}
    accuracy = curves(run.epochs, shares)
    losses = curves([row["losses"] for row in run.epochs], {name: name for name in run.epochs[-1]["losses"]})
    values = [value for loss in losses for value in loss.y if isfinite(value)]
    apart = bool(values) and 0 < 20 * min(values) < max(values)
    best = run.document["best_epoch"]
    drawings = []
    if accuracy:
        caption = f"Marked: epoch {best}, whose weights are saved."
        drawings.append(draw_curves(accuracy, "Accuracy", caption, x="epoch", y="%", band=(best, best)))
    caption = "Each term unweighted, its mean over an epoch."
    drawings.append(draw_curves(losses, "Losses", caption, x="epoch", y="loss", log_y=apart))
    return Part("Learning curves", drawings=drawings)


def space(judged: Judged) -> tuple[Part | None, Kept | None]:
    """Set the teacher's and the student's embeddings side by side; without a teacher the student's alone."""
    label, names = judged.images.labels, judged.images.classes
    if not judged.student.sound or len(label) < 3:
        return None, None
    sides = {"student": judged.student.embedding}
    if judged.teacher is not None and judged.teacher.sound:
        sides = {"teacher": judged.teacher.embedding, **sides}
    classes = largest_classes(label, CLASSES)
    mapped, related = first_of(label, classes, ON_MAP), first_of(label, classes, IN_MATRIX)
    colour = np.searchsorted(classes, label[mapped])
    first, maps, matrices = None, [], []
    for side, embedding in sides.items():
        points, shown = flat(embedding[mapped], first)
        first = points if first is None else first
        maps.append(Drawing(draw_points(points, colour), f"Map, {side}", f"{shown:.0f} % of the variance."))
        matrix = draw_relations(relations(embedding[related]), label[related], [names[number] for number in classes])
        matrices.append(Drawing(matrix, f"Relations, {side}"))
    agreed = _kept(sides, label)
    which = f"the {len(classes)} classes with most images" if len(classes) < len(names) else "all classes"
    text = f"Maps: the two principal components of the embeddings of {len(mapped)} test images of {which}"
    text += ", the student's turned and mirrored to lie as the teacher's. " if agreed else ". "
    text += (
        f"Relations: each row and column is one of {len(related)} images, class by class, each dot the cosine of two "
        "embeddings, their mean taken off: blue alike, orange opposed."
    )
    title = "Embeddings" if agreed is None else "Does the student keep the relations?"
    signs = [(SIGNS[i % len(SIGNS)], i, names[number]) for i, number in enumerate(classes)]
    return Part(title, text, _said_of(agreed), legend=signs, drawings=[*maps, *matrices]), agreed


def _kept(sides: Mapping[str, npt.NDArray[np.float32]], label: npt.NDArray[np.int64]) -> Kept | None:
    if len(sides) < 2:
        return None
    some = np.unique(np.linspace(0, len(label) - 1, min(len(label), RELATED)).astype(np.int64))
    return kept(relations(sides["teacher"][some]), relations(sides["student"][some]), label[some])


def _said_of(agreed: Kept | None) -> list[tuple[str, str]]:
    if agreed is None:
        return []
    every, across = (f"{value:.2f}" if isfinite(value) else "none" for value in (agreed.correlation, agreed.across))
    near = (
        f"{agreed.overlap:.1f} % of an image's {agreed.neighbours} nearest in the teacher's space are among its "
        f"nearest in the student's (by chance {agreed.chance:.1f} %)"
    )
    alike = f"{every} between both networks' similarities of all pairs; {across} over the pairs of two classes alone"
    return [("Neighbours", near), ("Correlation", alike)]


def speed(efforts: Mapping[str, Effort], run: Run) -> Part:
    """Set what the networks cost side by side."""
    rows = []
    for name, cost in efforts.items():
        said = [
            f"{cost.side}x{cost.side}",
            f"{cost.parameters:,}" if cost.parameters else "",
            "" if cost.megabytes is None else f"{cost.megabytes:.2f} MB",
            *(f"{cost.milliseconds[batch]:.3g}" for batch in BATCHES),
        ]
        rows.append((name, [Cell(text) for text in said]))
    where = machine(run.device)
    heads = ["", "reads", "parameters", "file", *(f"ms, batch {batch}" for batch in BATCHES)]
    return Part(
        "Speed and size",
        table=Table(heads, rows),
        note="Times are milliseconds an image, of one moment on this machine "
        f"({where['processor']}, {where['threads']} thread(s), "
        f"{run.device.precision}), the fastest of several passes; another load or machine gives others.",
    )
