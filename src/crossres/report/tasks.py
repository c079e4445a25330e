"""What is measured of a run, by its task.

Of objects accuracy, confusion and the most confident mistakes; of faces verification, identification, how similar
pairs are, and the pairs that are judged most wrongly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import torch

from crossres.config.judging import EvaluateFaces
from crossres.config.record import base_name
from crossres.core.types import Float64s, Int64s, Outputs
from crossres.data.degradation import Degradation
from crossres.evaluation.accuracy import beside_top1, measure, topk_accuracy
from crossres.evaluation.classification import AROUND, evaluate_encoder
from crossres.evaluation.face_protocols import FaceTest
from crossres.evaluation.faces import evaluate_face_encoder
from crossres.evaluation.figures import Curve
from crossres.evaluation.identification import identify
from crossres.evaluation.statistics import wilson
from crossres.evaluation.verification import best_threshold, similarities, verify
from crossres.report.content import FinishedRun
from crossres.report.page import Answer, Block, Cell, Table, TableRow, draw_confusion, draw_curves, draw_histograms
from crossres.report.parts import Judged, differing, percent, share, worst_errors

#: Mistakes between two classes that are listed.
LISTED = 8
#: Of the measured false accept rates a table has those in this range.
FARS = (1e-3, 1e-2)
#: ``{verification, identification}``, the second with a search alone, as `verify` and `identify` return them.
Row = Mapping[str, Any]
#: How the rows of results came about, before the precision.
MEASURED = "Recorded numbers are shown where they differ; all others are measured here, in the training's precision:"
#: Similarities (N,) of the pairs and the threshold.
Scored = tuple[Float64s, float]


def judge_objects(run: FinishedRun) -> Judged:
    """Judge a classifier on its test images; CrossresError: they have a class that the student does not know."""
    images, classes, teacher, tests = run.test.images, run.student.classes, run.teacher, len(run.test.images)
    judged_on = f"On {tests:,} test images"
    if images.groups is not None:  # of which the images are not independent
        tests = len(np.unique(images.groups))
        judged_on += f" of {tests:,} groups"
    result = evaluate_encoder(run.student, images, run.judgement, run.device)
    outputs = run.outputs(images)
    label = torch.tensor([classes.index(name) for name in images.classes])[torch.from_numpy(images.labels)]
    curves = [_curve("student", result["curve"])]
    judged = "Teacher" if run.document["task"] == "teach" else "Student"
    rows: list[TableRow] = [(f"{judged} at {run.at_lr}", _cells(result["top1"], result["top5"], tests))]
    rows += differing(rows[0][1], _recorded(run.document, tests))
    score = at_lr = None
    if teacher and (logits := outputs["teacher"].logits) is not None:
        cells = _cells(topk_accuracy(logits, label), topk_accuracy(logits, label, 5), tests)
        score, sizes = cells[0], [point["size"] for point in result["curve"]]
        how = teacher, images, replace(run.judgement, sizes=sizes, degradation=run.degradation), run.device
        key = ("curve", id(teacher), id(images), repr(sizes), run.degradation, run.device.precision)
        enlarged = run.shared.once(key, lambda: evaluate_encoder(*how)["curve"])
        curves.append(_curve("teacher, image enlarged", enlarged))
        rows.append((f"Teacher at {run.at_hr}", cells))
        if at_lr := _enlarged(run, label, enlarged, tests):
            rows.append((f"Teacher on {run.at_lr}, enlarged", at_lr))
    heads = ["", "top-1", "top-5"]
    if len(classes) <= 5:  # one of five is always right
        heads, rows = heads[:2], [(name, cells[:1]) for name, cells in rows]
    note = (
        f"{judged_on}; small: 95 % interval over them (Wilson), which says nothing of another training. {MEASURED} "
        f"{run.device.precision}."
    )
    if beside_top1(result):
        mean, commonest = share(result["class_mean"]), share(result["commonest"])
        note += f" Classes of unequal size: the student's mean over classes is {mean} %, the commonest class has "
        note += f"{commonest} % of the images."
    blocks = [_confusion(np.array(result["confusion"]), classes), _wrong_images(run, label, outputs)]
    return Judged("top-1", Table(heads, rows), note, score, at_lr[0] if at_lr else None, curves, blocks, outputs)


def _recorded(document: Mapping[str, Any], tests: int) -> list[TableRow]:
    """Return what a run recorded of its saved and its last weights."""
    best = document["best_epoch"]
    which = {"best_val": f"epoch {best} (saved)"} if best < document["epochs"] else {}
    return [
        (f"Recorded, {name}", _cells(document[f"top1_{key}"], document[f"top5_{key}"], tests))
        for key, name in {**which, "last": "last epoch"}.items()
    ]


def _enlarged(
    run: FinishedRun, label: torch.Tensor, curve: Sequence[Mapping[str, float]], tests: int
) -> list[Cell] | None:
    """Return the teacher's accuracies on the student's images; their size is a point of the curve, a range is not."""
    if run.lr_size == run.hr_size:
        return None
    point = next((point for point in curve if point["size"] == run.lr_size), None)
    if point is None:
        outputs = run.enlarged(run.test.images)
        assert outputs is not None
        assert outputs.logits is not None
        point = measure(outputs.logits, label)
    return _cells(point["top1"], point["top5"], tests)


def _cells(top1: float, top5: float, count: int) -> list[Cell]:
    return [percent(value, wilson(round(value * count / 100), count)) for value in (top1, top5)]


def _curve(name: str, points: Sequence[Mapping[str, float]]) -> Curve:
    return name, [point["size"] for point in points], [point["top1"] for point in points]


def _confusion(counts: Int64s, classes: Sequence[str]) -> Block:
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    mistakes = shares * ~np.eye(len(shares), dtype=bool)
    worst = np.argsort(-mistakes, axis=None, kind="stable")[:LISTED]
    rows = []
    for at in (divmod(place, len(shares)) for place in worst.tolist()):
        if mistakes[at]:
            cells = [Cell(classes[at[1]]), Cell(str(counts[at])), Cell(f"{shares[at]:.0f} %")]
            rows.append((classes[at[0]], cells))
    if not rows:
        return Block("Confusion", "No class is taken for another.")
    drawing = draw_confusion(counts, shares, classes)
    return Block("Confusion", table=Table(["truth", "taken for", "times", "of class"], rows), drawings=[drawing])


def _wrong_images(run: FinishedRun, label: torch.Tensor, outputs: Mapping[str, Outputs]) -> Block:
    answers = {who: of.logits.softmax(1).nan_to_num().max(1) for who, of in outputs.items() if of.logits is not None}
    confidence, answer = answers["student"]
    wrong = torch.nonzero(answer != label).flatten()
    errors: list[tuple[list[int], list[Answer]]] = []
    for position in wrong[confidence[wrong].argsort(descending=True, stable=True)][: run.shared.shown].tolist():
        lines: list[Answer] = [("truth", run.student.classes[int(label[position])], None)]
        for who, (certainty, predicted) in answers.items():
            named = int(predicted[position])
            text = f"{run.student.classes[named]}, {100 * float(certainty[position]):.0f}\N{NO-BREAK SPACE}%"
            lines.append((who, text, named == int(label[position])))
        errors.append(([position], lines))
    text = f"The student is wrong on {len(wrong):,} of {len(label):,} images; here are those it is surest of."
    return worst_errors(run, text if len(wrong) else "The student is right on every image.", errors)


def judge_faces(run: FinishedRun) -> Judged:
    """Judge a face encoder on its test pairs.

    CrossresError: the gallery's model has another width, or what `evaluate_face_encoder` refuses.
    """
    images, pairs, chooser = run.test.images, run.test.pairs, run.test.chooser
    assert pairs is not None
    assert chooser is not None
    outputs, choosing = run.outputs(images), run.outputs(chooser[0])
    names = {"student": f"Student, LR-LR {run.at_lr}", "teacher": f"Teacher, HR-HR {run.at_hr}"}
    rows: dict[str, Row] = {}
    scored: dict[str, Scored] = {}
    for who in outputs:
        rows[names[who]], scored[who] = _judged_pairs(run.test, outputs[who], choosing[who])
    at_lr, enlarged = f"Teacher, LR-LR {run.at_lr}, enlarged", run.enlarged(images)
    if enlarged and (others := run.enlarged(chooser[0])):
        rows[at_lr], _ = _judged_pairs(run.test, enlarged, others)
    gallery = run.shared.options.gallery
    by = f", HR by {base_name(gallery)}" if gallery else ""
    # images of one resolution that are not degraded are the same on all sides
    alike = run.lr_size == run.hr_size and run.degradation.resolved() == Degradation().resolved()
    for row in () if alike and not by else _evaluated(run, run.test, sizes=[run.side]):
        # with a gallery, HR-HR is the gallery's own
        if row["sides"] == "hr-lr" or (row["sides"] == "hr-hr" and not by):
            size = f"{run.side}x{run.side}" if row["size"] else run.at_hr
            rows[f"Student, {row['sides'].upper()} {size}{by}"] = row
    table = _table(rows, {kind: run.document[f"{kind}_last"] for kind in rows[names["student"]]})
    chief = {name: cells[0] for name, cells in table.rows}
    score = chief.get(names["teacher"])
    genuine, impostors = int(pairs.same.sum()), int((~pairs.same).sum())
    note = (
        f"{genuine:,} genuine and {impostors:,} impostor pairs of {len(images):,} images; accuracy at the threshold "
        "that is best on the validation people; small: 95 % interval (bootstrap). * fewer than ten false matches are "
        f"expected at this rate: too few to know it. {MEASURED} {run.device.precision}."
    )
    rocs: list[Curve] = []
    for name, row in rows.items():
        far, tar = (row["verification"]["roc"][key] for key in ("far", "tar"))
        # a rate of 0 has no place on a logarithmic axis
        rocs.append((name, [rate or nan for rate in far], [100 * share for share in tar]))
    caption = f"The pairs allow false accept rates down to {1 / impostors:.2g}."
    roc = draw_curves(rocs, "ROC", caption, x="false accept rate", y="true accept rate, %", scale="rates")
    spread = []
    for who, (scores, threshold) in scored.items():
        title = f"Similarities, {who} at {run.at_lr if who == 'student' else run.at_hr}"
        spread.append(draw_histograms(scores, pairs.same, threshold, title))
    pairs_drawn = Block("Genuine and impostor pairs", drawings=[*spread, roc], closed=True)
    blocks = [_wrong_pairs(run, scored), pairs_drawn]
    curves = _against_resolution(run, score)
    return Judged("pair accuracy", table, note, score, chief.get(at_lr), curves, blocks, outputs)


def _judged_pairs(test: FaceTest, outputs: Outputs, chosen_on: Outputs) -> tuple[Row, Scored]:
    """Judge one network's outputs on the test's images, at the threshold that its outputs on others choose."""
    pairs, chooser = test.pairs, test.chooser
    assert pairs is not None
    assert chooser is not None
    own, others = outputs.embedding.numpy(), chosen_on.embedding.numpy()
    threshold = best_threshold(similarities(others, others, chooser[1]), chooser[1].same)
    row: dict[str, Any] = {"verification": verify(own, own, pairs, threshold=threshold)}
    if test.search:
        row["identification"] = identify(own, own, test.search)
    return row, (similarities(own, own, pairs), threshold)


def _evaluated(run: FinishedRun, test: FaceTest, **options: Any) -> list[Row]:
    """Return a row for each of the sides and sizes, as `evaluate_face_encoder` does."""
    own: dict[str, Any] = {name: getattr(run.judgement, name) for name in ("model", "data", "images")}
    request = EvaluateFaces(**own, hr_size=run.hr_size, degradation=run.degradation, **options)
    result = evaluate_face_encoder(run.student, test, request, gallery=run.gallery, device=run.device)
    rows: list[Row] = result["rows"]
    return rows


def _table(rows: Mapping[str, Row], recorded: Row) -> Table:
    """Return a table of measured rows, the recorded one below the student's where it shows something else.

    A rate that it lacks is left empty.
    """
    first = next(iter(rows.values()))
    rates = [point["far"] for point in first["verification"]["tar_at_far"] if FARS[0] <= point["far"] <= FARS[1]]
    texts = [np.format_float_scientific(rate, trim="-", exp_digits=1) for rate in rates]
    heads = ["", "accuracy", "AUC", "EER", *(f"TAR at FAR {text}" for text in texts)]
    lines: list[TableRow] = [(name, _face_cells(row, rates)) for name, row in rows.items()]
    lines[1:1] = differing(lines[0][1], [("Recorded, last epoch", _face_cells(recorded, rates))])
    return Table([*heads, *(["rank-1", "mAP"] if "identification" in first else [])], lines)


def _face_cells(row: Row, rates: Sequence[float]) -> list[Cell]:
    verified = row["verification"]
    cells = [percent(verified[key], verified["intervals"][key]) for key in ("accuracy_chosen", "auc", "eer")]
    points = {point["far"]: point for point in verified["tar_at_far"]}
    for rate in rates:
        point = points.get(rate)
        cells.append(percent(point["tar"], point["interval"], "*" * point["too_few"]) if point else Cell(""))
    if identified := row.get("identification"):
        shares = {"rank1": identified["rank1"], "map": identified["retrieval"]["map"]}
        cells += [percent(share, identified["intervals"][key]) for key, share in shares.items()]
    return cells


def _against_resolution(run: FinishedRun, score: Cell | None) -> list[Curve]:
    sizes = sorted({size for factor in AROUND if 2 <= (size := round(run.side * factor)) <= run.hr_size})
    test = replace(run.test, search=None)
    rows = _evaluated(run, test, sizes=sizes, resamples=0)
    curves: list[Curve] = []
    for sides in ("lr-lr", "hr-lr"):
        shares = [row["verification"]["accuracy_chosen"] for row in rows if row["sides"] == sides]
        curves.append((f"student, {sides.upper()}", sizes, shares))
    return [*curves, ("teacher at HR", [sizes[0], sizes[-1]], 2 * [score.number or 0.0])] if score else curves


def _wrong_pairs(run: FinishedRun, scored: Mapping[str, Scored]) -> Block:
    images, pairs = run.test.images, run.test.pairs
    assert pairs is not None
    scores, threshold = scored["student"]
    wrong = np.flatnonzero((scores >= threshold) != pairs.same)
    kinds = {True: "one person", False: "two people"}
    errors: list[tuple[list[int], list[Answer]]] = []
    for number in wrong[np.argsort(-np.abs(scores[wrong] - threshold), kind="stable")][: run.shared.shown].tolist():
        positions, truth = [int(pairs.left[number]), int(pairs.right[number])], bool(pairs.same[number])
        people = dict.fromkeys(images.classes[images.labels[position]] for position in positions)
        answers: list[Answer] = [("truth", f"{kinds[truth]}: {', '.join(people)}", None)]
        for who, (similarity, limit) in scored.items():
            same = bool(similarity[number] >= limit)
            text = f"{kinds[same]}: {similarity[number]:.3f} {'≥' if same else '<'} {limit:.3f}"
            answers.append((who, text, same == truth))
        errors.append((positions, answers))
    text = (
        f"The student is wrong on {len(wrong):,} of {len(pairs):,} pairs; here are those farthest off its threshold, "
        "of each the similarity beside the threshold."
    )
    return worst_errors(run, text if len(wrong) else "The student is right on every pair.", errors)
