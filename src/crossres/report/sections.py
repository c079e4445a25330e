"""A run's section, and several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from crossres.bench.comparison import MEASURES, cells, compare, legend, titles
from crossres.bench.tables import label
from crossres.core.errors import CrossresError
from crossres.report import faces, objects, parts
from crossres.report.content import Run, Sources
from crossres.report.drawing import Curve, draw_curves
from crossres.report.page import Cell, Drawing, Part, Section, Table
from crossres.report.space import Kept
from crossres.report.speed import Effort, effort


@dataclass(frozen=True)
class Told:
    """A run's section, and what the run is compared by."""

    run: Run
    section: Section
    judged: parts.Judged
    kept: Kept | None
    cost: Effort


def tell(run: Run, sources: Sources, shown: int) -> Told:
    """Judge a run and write its section; ``shown`` errors become pictures.

    Raises:
        CrossresError: images or models that do not fit the run.
    """
    teacher = sources.teacher(run)
    judge = faces.judge if run.document["compared_by"] == "accuracy" else objects.judge
    judged = judge(run, teacher, sources, shown)
    related, kept = parts.space(judged)
    efforts = {"student": effort(run.student, run.side, run.folder, run.device)}
    cost = efforts["student"]
    if teacher and not teacher.stored:
        efforts["teacher"] = sources.once(
            ("cost", id(teacher), run.device), lambda: effort(teacher.encoder, run.hr_size, teacher.path, run.device)
        )
    caption = "Images are degraded to each size as in training; marked: the size trained at."
    resolution = _against_resolution(judged.curves, judged.measure, caption, band=(run.low, run.side))
    shown_parts = [
        parts.trained(run),
        Part("Results", table=judged.results, drawings=[resolution, *judged.drawings], note=judged.note),
        parts.learning(run),
        *judged.parts,
        related,
        parts.speed(efforts, run),
    ]
    tiles = [(f"{judged.measure} at {run.at_lr}", judged.score)]
    if judged.teachers:
        tiles.append((f"teacher at {run.at_hr}", judged.teachers))
    if kept:
        tiles.append(("neighbours kept", Cell(f"{kept.overlap:.0f} %", f"by chance {kept.chance:.1f} %")))
    beside = f"teacher {_millions(efforts['teacher'])}" if "teacher" in efforts else ""
    tiles.append(("parameters", Cell(_millions(cost), beside)))
    tiles.append(("an image", Cell(f"{cost.milliseconds[64]:.3g} ms", "batches of 64")))
    section = Section(run.name, _lead(run), run.notes, tiles, [part for part in shown_parts if part])
    return Told(run, section, judged, kept, cost)


def _millions(cost: Effort) -> str:
    count = cost.parameters
    return (f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.0f} k") if count else "not known"


def _against_resolution(curves: Sequence[Curve], measure: str, caption: str, **how: Any) -> Drawing:
    axes: dict[str, Any] = {"x": "side of the image, pixels", "y": f"{measure}, %", "scale": "sizes", "top": 100}
    return draw_curves(curves, "Accuracy against resolution", caption, **axes, **how)


def _lead(run: Run) -> str:
    said, reads = run.document, f"{run.document['student']['name']} reads images of {run.at_lr}"
    if said["task"] == "teach":
        return f"{reads}, a teacher."
    by = f"taught by {run.taught_by}, which sees them at {run.at_hr}" if run.taught_by else "taught by labels alone"
    return f"{reads}, {by}. Losses: {label(said)}."


def side_by_side(told: Sequence[Told]) -> list[Part]:
    """Set several runs beside each other: a table, accuracy against resolution and validation by epoch.

    Classifiers and face encoders are apart: their numbers mean different things.
    """
    found = []
    for measure in dict.fromkeys(one.judged.measure for one in told):
        members = [one for one in told if one.judged.measure == measure]
        heads = ["", measure, "teacher", "method", "size", "seed", "neighbours kept", "relations"]
        table = Table([*heads, "parameters", "ms an image"], [(one.run.name, _cells(one)) for one in members])
        note = (
            "Small: 95 % interval over the tests, which says nothing of another training; bars share a scale. "
            "Relations: correlation of teacher's and student's similarities. Times: one moment, batches of 64."
        )
        found.append(Part(f"Runs by {measure}", table=table, note=note))
        if methods := _methods([one.run.document for one in members]):
            found.append(methods)
        curves, epochs = [], []
        for i, one in enumerate(members):
            said, first = one.run.document, one.judged.curves[0]
            values = said.get(f"{said['chosen_by']}_by_epoch", [])
            curves.append(Curve(one.run.name, first.x, first.y, i))
            epochs.append(Curve(one.run.name, range(1, len(values) + 1), values, i))
        watched = f"validation {MEASURES[members[0].run.document['compared_by']][2]}, %"
        drawings = [
            _against_resolution(curves, measure, "Of the students.", named=False),
            draw_curves(epochs, "Validation by epoch", x="epoch", y=watched, named=False),
        ]
        found.append(Part("Curves", legend=[curve.sign for curve in curves], drawings=drawings))
    return found


def _methods(documents: Sequence[dict[str, Any]], baseline: str = "ce") -> Part | None:
    """Compare the runs' methods, over their seeds where there are several; None where nothing can be compared."""
    try:
        rows = compare(documents, baseline)
    except (CrossresError, ModuleNotFoundError):  # runs that are no one experiment; scipy is an extra
        return None
    if len(rows) == len(documents) and all(row.gain is None for row in rows):
        return None
    table = [(setting, [Cell(text) for text in texts]) for setting, *texts in map(cells, rows)]
    return Part("Methods", table=Table(["", *titles(rows, baseline)[1:]], table), note=legend(rows, baseline))


def _cells(one: Told) -> list[Cell]:
    agreed, said = one.kept, one.run.document
    texts = [
        one.judged.teachers.text if one.judged.teachers else "",
        label(said),
        one.run.at_lr,
        str(said["seed"]),
        f"{agreed.overlap:.1f} %" if agreed else "",
        f"{agreed.correlation:.2f}" if agreed and isfinite(agreed.correlation) else "",
        f"{one.cost.parameters:,}",
        f"{one.cost.milliseconds[64]:.3g}",
    ]
    return [one.judged.score, *(Cell(text) for text in texts)]
