"""Objects: accuracy, confusion and the most confident mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from crossres.bench.results import tests_of
from crossres.core.types import Int64s, Outputs
from crossres.evaluation.accuracy import topk_accuracy
from crossres.evaluation.classification import evaluate_encoder
from crossres.evaluation.figures import Curve
from crossres.evaluation.statistics import wilson
from crossres.report.content import FinishedRun
from crossres.report.drawing import draw_confusion
from crossres.report.page import Answer, Block, Cell, Drawing, Table
from crossres.report.parts import Judged, percent, worst_errors

#: Mistakes between two classes that are listed.
LISTED = 8


def judge(run: FinishedRun) -> Judged:
    """Judge a classifier on its test images.

    Raises:
        CrossresError: the images have a class that the student does not know.
    """
    images, classes, teacher, count = run.test.images, run.student.classes, run.teacher, len(run.test.images)
    result = evaluate_encoder(run.student, images, run.judgement, run.device)
    outputs = run.outputs(images)
    label = torch.tensor([classes.index(name) for name in images.classes])[torch.from_numpy(images.labels)]
    curves = [_curve("student", result["curve"])]
    rows = [(f"Student at {run.at_lr}", _cells(result["top1"], result["top5"], count))]
    document, tests = run.document, tests_of(run.document)
    recorded = {"last": "Recorded, last epoch"}
    if document["best_epoch"] < document["epochs"]:
        recorded = {"best_val": f"Recorded, epoch {document['best_epoch']} (saved)", **recorded}
    for which, name in recorded.items() if tests else ():
        rows.append((name, _cells(document[f"top1_{which}"], document[f"top5_{which}"], tests or 0)))
    score = None
    if teacher and (logits := outputs["teacher"].logits) is not None:
        cells = _cells(topk_accuracy(logits, label), topk_accuracy(logits, label, 5), count)
        score, sizes = cells[0], [point["size"] for point in result["curve"]]
        how = teacher, images, replace(run.judgement, sizes=sizes, degradation=run.degradation), run.device
        key = ("curve", id(teacher), id(images), repr(sizes), run.degradation, run.device.precision)
        enlarged = run.shared.once(key, lambda: evaluate_encoder(*how)["curve"])
        curves.append(_curve("teacher, image enlarged", enlarged))
        rows.append((f"Teacher at {run.at_hr}", cells))
        for point in enlarged:
            if point["size"] == run.lr_size != run.hr_size:
                rows.append((f"Teacher on {run.at_lr}, enlarged", _cells(point["top1"], point["top5"], count)))
    heads = ["", "top-1", "top-5"]
    if len(classes) <= 5:  # one of five is always right
        heads, rows = heads[:2], [(name, cells[:1]) for name, cells in rows]
    note = (
        f"On {count:,} test images; small: 95 % interval over the test images (Wilson), which says nothing of "
        "another training. Rows that are not “recorded” are measured for this page, in the training's precision: "
        f"{run.device.precision}."
    )
    blocks = [_confusion(np.array(result["confusion"]), classes), _mistakes(run, label, outputs)]
    return Judged("top-1", Table(heads, rows), note, score, curves, (), blocks, outputs)


def _cells(top1: float, top5: float, count: int) -> list[Cell]:
    return [percent(value, wilson(round(value * count / 100), count)) for value in (top1, top5)]


def _curve(name: str, points: Sequence[Mapping[str, float]]) -> Curve:
    return name, [point["size"] for point in points], [point["top1"] for point in points]


def _confusion(counts: Int64s, classes: Sequence[str]) -> Block:
    share = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    mistakes = share * ~np.eye(len(share), dtype=bool)
    worst = np.argsort(-mistakes, axis=None, kind="stable")[:LISTED]
    rows = []
    for truth, taken in (divmod(place, len(share)) for place in worst.tolist()):
        if mistakes[truth, taken]:
            texts = classes[taken], f"{counts[truth, taken]}", f"{share[truth, taken]:.0f} %"
            rows.append((classes[truth], [Cell(text) for text in texts]))
    caption = f"Share of each true class: right answers blue, mistakes orange, the deepest {mistakes.max():.0f} %."
    drawing = Drawing(draw_confusion(share / 100, classes), "Confusion matrix", caption)
    return Block("Confusion", table=Table(["truth", "taken for", "times", "of class"], rows), drawings=[drawing])


def _mistakes(run: FinishedRun, label: torch.Tensor, outputs: Mapping[str, Outputs]) -> Block:
    answers = {who: of.logits.softmax(1).nan_to_num().max(1) for who, of in outputs.items() if of.logits is not None}
    confidence, answer = answers["student"]
    wrong = torch.nonzero(answer != label).flatten()
    errors: list[tuple[list[int], list[Answer]]] = []
    for position in wrong[confidence[wrong].argsort(descending=True, stable=True)][: run.shared.shown].tolist():
        lines: list[Answer] = [("truth", run.student.classes[int(label[position])], None)]
        for who, (share, predicted) in answers.items():
            named = int(predicted[position])
            text = f"{run.student.classes[named]}, {100 * float(share[position]):.0f} %"
            lines.append((who, text, named == int(label[position])))
        errors.append(([position], lines))
    text = f"The student is wrong on {len(wrong):,} of {len(label):,} images; here are those it is surest of."
    return worst_errors(run, text if len(wrong) else "The student is right on every image.", errors)
