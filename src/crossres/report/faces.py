"""Faces: verification, identification, how similar pairs are, and the pairs that are judged most wrongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from crossres.config.options import base_name
from crossres.data.faces import first_image_search
from crossres.data.images import ImageSet
from crossres.data.pairs import Pairs
from crossres.evaluation.classification import AROUND
from crossres.evaluation.faces import evaluate_faces
from crossres.evaluation.protocols import identify, similarities, verify
from crossres.evaluation.verification import best_threshold
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.teachers import read_teacher
from crossres.report.content import Run, Sources, Teacher
from crossres.report.drawing import Curve, draw_curves, draw_histograms
from crossres.report.page import Card, Cell, Part, Table
from crossres.report.parts import Judged, percent
from crossres.report.seen import pictures, student_answers, teacher_answers

#: How pairs were judged: similarities (N,), the truth (N,) and the threshold.
Scored = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], float]


def judge(run: Run, teacher: Teacher | None, sources: Sources, shown: int) -> Judged:
    """Judge a face encoder on its test pairs; ``shown`` pairs that it judges wrongly become pictures.

    Raises:
        CrossresError: the gallery's model has another width, or what `evaluate_faces` refuses.
    """
    test = sources.test(run)
    images, pairs, val, chooses = test.images, test.pairs, test.val, test.val_pairs
    assert pairs is not None
    assert val is not None
    assert chooses is not None
    search = first_image_search(images) if images.class_counts.max() > 1 else None
    how: dict[str, Any] = {
        "hr_size": run.hr_size,
        "pairs": pairs,
        "chooses": (val, chooses),
        "gallery": _gallery(run, sources),
        "degradation": run.degradation,
        "fit": run.config.images.fit,
        "device": run.device.torch,
        "autocast": run.device.autocast,
        "memory_mb": run.config.images.memory_mb,
    }
    asked = {"student": [student_answers(run, of, sources) for of in (images, val)]}
    names = {"student": f"Student, LR-LR {run.at_lr}", "teacher": f"Teacher, HR-HR {run.at_hr}"}
    if teacher:
        asked["teacher"] = [teacher_answers(run, teacher, of, sources) for of in (images, val)]
    rows: list[tuple[str, list[Cell]]] = []
    rocs: list[Curve] = []
    said: dict[str, Scored] = {}
    for who, (answers, choosing) in asked.items():
        at, of = answers.embedding, choosing.embedding
        threshold = best_threshold(similarities(of, of, chooses), chooses.same)
        row: dict[str, Any] = {"verification": verify(at, at, pairs, threshold=threshold)}
        if search is not None:
            row["identification"] = identify(at, at, search)
        said[who] = similarities(at, at, pairs), pairs.same, threshold
        rows.append((names[who], _cells(row)))
        rocs.append(_roc(names[who], row["verification"]["roc"], len(rocs)))
    for row in evaluate_faces(run.student, images, sizes=[run.side], search=search, **how)["rows"]:
        # the gallery's own row is none of the student's
        if row["sides"] == "hr-lr" or (row["sides"] == "hr-hr" and not sources.gallery):
            name = f"Student, HR-LR {run.side}x{run.side}" if row["size"] else f"Student, HR-HR {run.at_hr}"
            name += f", HR by {base_name(sources.gallery)}" if sources.gallery else ""
            rows.append((name, _cells(row)))
            rocs.append(_roc(name, row["verification"]["roc"], len(rocs)))
    kinds = ["verification", *(["identification"] if search else [])]
    last = {kind: run.document[f"{kind}_last"] for kind in kinds}
    rows.insert(1, ("Recorded, last epoch", _cells(last)))
    sizes = sorted({size for by in AROUND if 2 <= (size := round(run.side * by)) <= run.hr_size})
    around = evaluate_faces(run.student, images, sizes=sizes, resamples=0, **how)["rows"]
    curves = [_curve(f"student, {sides.upper()}", around, sides, i) for i, sides in enumerate(("lr-lr", "hr-lr"))]
    teachers = dict(rows)[names["teacher"]][0] if teacher else None
    if teachers:
        curves.append(Curve("teacher at HR", [sizes[0], sizes[-1]], 2 * [teachers.at or 0.0], 2))
    heads = ["", "accuracy", "AUC", "EER", "TAR at FAR 1e-2", "1e-3", *(["rank-1", "mAP"] if search else [])]
    genuine, impostor = int(pairs.same.sum()), int((~pairs.same).sum())
    note = (
        f"{genuine:,} genuine and {impostor:,} impostor pairs of {len(images):,} images; accuracy "
        "at the threshold that is best on the validation people; small: 95 % interval (bootstrap). * fewer than ten "
        "false matches are expected at this rate: too few to know it."
    )
    caption = f"The pairs allow false accept rates down to {1 / impostor:.2g}."
    axes: dict[str, Any] = {"x": "false accept rate", "y": "true accept rate, %", "scale": "rates", "top": 102}
    where = {"student": f"student at {run.at_lr}", "teacher": f"teacher at {run.at_hr}"}
    roc = draw_curves(rocs, "ROC", caption, **axes)
    spread = [draw_histograms(*scored, f"Similarities, {where[who]}") for who, scored in said.items()]
    parts = [Part("Genuine and impostor pairs", drawings=spread), _mistakes(run, images, pairs, said, sources, shown)]
    student, other = asked["student"][0], asked["teacher"][0] if teacher else None
    return Judged("pair accuracy", Table(heads, rows), note, teachers, curves, [roc], parts, images, student, other)


def _gallery(run: Run, sources: Sources) -> Encoder | None:
    path, wanted = sources.gallery, getattr(run.config, "onnx_input", OnnxInput())
    if path is None:
        return None
    return sources.once(("gallery", repr(wanted)), lambda: read_teacher(path, wanted, trust_code=sources.trust_code))


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    found = row["verification"]
    cells = [percent(found[key], found["intervals"][key]) for key in ("accuracy_chosen", "auc", "eer")]
    cells += [percent(p["tar"], p["interval"], "*" * p["too_few"]) for p in found["tar_at_far"][1:3]]
    if searched := row.get("identification"):
        said = {"rank1": searched["rank1"], "map": searched["retrieval"]["map"]}
        cells += [percent(value, searched["intervals"][key]) for key, value in said.items()]
    return cells


def _curve(name: str, rows: Sequence[Mapping[str, Any]], sides: str, colour: int) -> Curve:
    chosen = [row for row in rows if row["sides"] == sides]
    return Curve(name, [r["size"] for r in chosen], [r["verification"]["accuracy_chosen"] for r in chosen], colour)


def _roc(name: str, points: Mapping[str, Sequence[float]], colour: int) -> Curve:
    # a rate of 0 has no place on a logarithmic axis
    shown = [(far, 100 * tar) for far, tar in zip(points["far"], points["tar"], strict=True) if far > 0]
    return Curve(name, [far for far, _ in shown], [tar for _, tar in shown], colour)


def _mistakes(
    run: Run, images: ImageSet, pairs: Pairs, said: Mapping[str, Scored], sources: Sources, shown: int
) -> Part:
    scores, truth, threshold = said["student"]
    wrong = np.flatnonzero((scores >= threshold) != truth)
    worst = wrong[np.argsort(-np.abs(scores[wrong] - threshold), kind="stable")][:shown].tolist()
    sides = {at: (int(pairs.left[at]), int(pairs.right[at])) for at in worst}
    seen = pictures(run, images, sources, [position for both in sides.values() for position in both])
    kinds = {True: "one person", False: "two people"}
    cards = []
    for at, both in sides.items():
        people = dict.fromkeys(images.classes[images.labels[position]] for position in both)
        lines: list[tuple[str, str, bool | None]] = [
            ("truth", f"{kinds[bool(pairs.same[at])]}: {', '.join(people)}", None)
        ]
        for who, (of, _, limit) in said.items():
            same = bool(of[at] >= limit)
            text = f"{kinds[same]}: similarity {of[at]:.2f}, threshold {limit:.2f}"
            lines.append((who, text, same == bool(pairs.same[at])))
        where = " and ".join(images.path(position) or images.where(position) for position in both)
        cards.append(Card([*seen[both[0]], *seen[both[1]]], lines, where))
    text = (
        f"The student is wrong on {len(wrong):,} of {len(pairs):,} pairs; here are those farthest off its threshold."
    )
    return Part("The worst errors", text if len(wrong) else "The student is right on every pair.", cards=cards)
