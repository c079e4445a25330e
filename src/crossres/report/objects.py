"""Objects: accuracy, confusion and the most confident mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crossres.bench.tables import tests_of
from crossres.data.images import ImageSet
from crossres.evaluation.accuracy import topk_accuracy
from crossres.evaluation.classification import evaluate
from crossres.evaluation.statistics import wilson
from crossres.report.content import Run, Sources, Teacher
from crossres.report.drawing import Curve, draw_confusion
from crossres.report.page import Card, Cell, Drawing, Part, Table
from crossres.report.parts import Judged, percent
from crossres.report.seen import Answers, pictures, student_answers, teacher_answers

#: Mistakes between two classes that are listed.
LISTED = 8


def judge(run: Run, teacher: Teacher | None, sources: Sources, shown: int) -> Judged:
    """Judge a classifier on its test images; ``shown`` mistakes become pictures.

    Raises:
        CrossresError: the images have a class that the student does not know.
    """
    images, classes = sources.test(run).images, run.student.classes
    count = len(images)
    how: dict[str, Any] = {"device": run.device.torch, "autocast": run.device.autocast}
    how["memory_mb"] = run.config.images.memory_mb
    found = evaluate(run.student, images, **how)
    student = student_answers(run, images, sources)
    label = torch.tensor([classes.index(name) for name in images.classes])[torch.from_numpy(images.labels)]
    curves = [_curve("student", found["curve"], 0)]
    rows = [(f"Student at {run.at_lr}", _cells(found["top1"], found["top5"], count)), *_recorded(run)]
    answers = teacher_answers(run, teacher, images, sources) if teacher else None
    teachers = None
    if teacher and answers and answers.logits is not None:
        said = _cells(topk_accuracy(answers.logits, label), topk_accuracy(answers.logits, label, 5), count)
        teachers = said[0]
        sizes = tuple(point["size"] for point in found["curve"])
        enlarged = sources.once(
            ("curve", id(teacher), id(images), sizes, run.degradation, run.device.precision),
            lambda: evaluate(teacher.encoder, images, sizes=sizes, degradation=run.degradation, **how)["curve"],
        )
        curves.append(_curve("teacher, image enlarged", enlarged, 1))
        rows.append((f"Teacher at {run.at_hr}", said))
        rows += [
            (f"Teacher on {run.at_lr}, enlarged", _cells(point["top1"], point["top5"], count))
            for point in enlarged
            if point["size"] == run.lr_size != run.hr_size
        ]
    heads = ["", "top-1", "top-5"]
    if len(classes) <= 5:  # one of five is always right
        heads, rows = heads[:2], [(name, cells[:1]) for name, cells in rows]
    note = (
        f"On {count:,} test images; small: 95 % interval over the test images (Wilson), which says nothing of "
        "another training. Rows that are not “recorded” are measured for this page, in the training's precision: "
        f"{run.device.precision}."
    )
    parts = [_confusion(np.array(found["confusion"]), classes)]
    parts.append(_mistakes(run, images, label, {"student": student, "teacher": answers}, sources, shown))
    return Judged("top-1", Table(heads, rows), note, teachers, curves, (), parts, images, student, answers)


def _cells(top1: float, top5: float, count: int) -> list[Cell]:
    return [percent(value, wilson(round(value * count / 100), count)) for value in (top1, top5)]


def _recorded(run: Run) -> list[tuple[str, list[Cell]]]:
    said = run.document
    kinds = {"best_val": f"Recorded, epoch {said['best_epoch']} (saved)", "last": "Recorded, last epoch"}
    if said["best_epoch"] == said["epochs"]:
        kinds.pop("best_val")
    count = tests_of(said)
    return [(name, _cells(said[f"top1_{of}"], said[f"top5_{of}"], count)) for of, name in kinds.items() if count]


def _curve(name: str, points: Sequence[dict[str, float]], colour: int) -> Curve:
    return Curve(name, [p["size"] for p in points], [p["top1"] for p in points], colour)


def _confusion(counts: npt.NDArray[np.int64], classes: Sequence[str]) -> Part:
    share = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    mistakes = share * ~np.eye(len(share), dtype=bool)
    worst = np.argsort(-mistakes, axis=None, kind="stable")[:LISTED]
    pairs = [divmod(at, len(share)) for at in worst.tolist()]
    rows = [
        (classes[t], [Cell(classes[a]), Cell(f"{counts[t, a]}"), Cell(f"{share[t, a]:.0f} %")])
        for t, a in pairs
        if mistakes[t, a]
    ]
    caption = f"Share of each true class: right answers blue, mistakes orange, the deepest {mistakes.max():.0f} %."
    drawing = Drawing(draw_confusion(share / 100, classes), "Confusion matrix", caption)
    return Part("Confusion", table=Table(["truth", "taken for", "times", "of class"], rows), drawings=[drawing])


def _mistakes(
    run: Run, images: ImageSet, label: torch.Tensor, said: dict[str, Answers | None], sources: Sources, shown: int
) -> Part:
    answers = {
        who: of.logits.softmax(1).nan_to_num().max(1) for who, of in said.items() if of and of.logits is not None
    }
    sure, answer = answers["student"]
    wrong = torch.nonzero(answer != label).flatten()
    worst = wrong[sure[wrong].argsort(descending=True, stable=True)][:shown].tolist()
    seen = pictures(run, images, sources, worst)
    classes = run.student.classes
    cards = []
    for at in worst:
        lines: list[tuple[str, str, bool | None]] = [("truth", classes[int(label[at])], None)]
        for who, (how_sure, named) in answers.items():
            text = f"{classes[int(named[at])]}, {100 * float(how_sure[at]):.0f} %"
            lines.append((who, text, bool(named[at] == label[at])))
        cards.append(Card(seen[at], lines, images.path(at) or images.where(at)))
    text = f"The student is wrong on {len(wrong):,} of {len(label):,} images; here are those it is surest of."
    return Part("The worst errors", text if len(wrong) else "The student is right on every image.", cards=cards)
