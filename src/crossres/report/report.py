"""``crossres report``: finished runs as one page, a section a run, and several runs side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from crossres import __version__
from crossres.bench.comparison import MEASURES, compare_methods
from crossres.bench.results import method_of
from crossres.bench.tables import cells, legend, titles
from crossres.config.judging import Report
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.core.timing import duration
from crossres.evaluation.figures import Curve
from crossres.models.teachers import StoredBackbone
from crossres.report import parts
from crossres.report.cameras import other_cameras
from crossres.report.content import FinishedRun, Shared
from crossres.report.page import (
    Block,
    Cell,
    Drawing,
    Section,
    Table,
    draw_curves,
    draw_intervals,
    signs,
    write_page,
)
from crossres.report.parts import rounded, share, short, words
from crossres.report.space import NEIGHBOURS, Agreement, embeddings
from crossres.report.tasks import judge_faces, judge_objects


def write_report(options: Report) -> int:
    """Judge finished runs and write one HTML page on them; return its bytes.

    CrossresError: a folder that holds no finished run or is given twice, images or models that do not fit a run.
    """
    out = Path(options.out)
    if options.images < 0:
        raise CrossresError(f"images: expected 0 or more, got {options.images}")
    if out.is_dir():
        raise CrossresError(f"out: {out} is a folder; name a file, such as {out / 'report.html'}")
    shared = Shared(options, Progress())
    places = [Path(folder).resolve() for folder in options.runs]
    names = [place.name for place in places]
    runs = []
    for folder, place in zip(map(Path, options.runs), places, strict=True):
        if places.count(place) > 1:
            raise CrossresError(f"{folder} is given twice; name each run once")
        runs.append(FinishedRun(folder, place.name if names.count(place.name) == 1 else str(folder), shared))
    if options.gallery and all(run.document["compared_by"] != "accuracy" for run in runs):
        raise CrossresError("gallery is for face encoders, and none of the runs is one; leave it out")
    if options.natural and any(run.document["compared_by"] == "accuracy" for run in runs):
        raise CrossresError("natural is for classifiers, and some of the runs are of faces; leave it out")
    chapters = []
    for number, run in enumerate(runs, 1):
        shared.progress.say(f"run {number} of {len(runs)}: {run.name}")
        chapters.append(judge(run))
        judged = chapters[-1].judged
        for line in (f"{judged.measure} {judged.score.text} ({judged.score.small})", *run.notes):
            shared.progress.say(f"  {line}")
    sets = dict.fromkeys(f"{len(run.test.images):,} test images of {run.test.images.name}" for run in runs)
    about = f"crossres {__version__}, {datetime.now():%d %B %Y, %H:%M}; judged on {', '.join(sets)}"
    title = f"{runs[0].name if len(runs) == 1 else f'{len(runs)} runs'} · crossres report"
    together = side_by_side(chapters) if len(runs) > 1 else []
    return write_page(out, title, about, together, chapters)


@dataclass(frozen=True)
class Chapter(Section):
    """A run's section, and what the run is compared by."""

    run: FinishedRun
    judged: parts.Judged
    agreement: Agreement | None
    effort: parts.Effort


def judge(run: FinishedRun) -> Chapter:
    """Judge a run and write its section; CrossresError: images or models that do not fit the run."""
    teacher, images = run.teacher, run.test.images
    if images.fingerprint != run.document.get("data_sha256", {}).get("test"):
        run.notes.append(
            f"These may be other images: the fingerprint of {images.name} is not that of the run's test images (a "
            "folder's is of its files' names, sizes and dates). The run may have recorded other numbers."
        )
    judged = (judge_faces if run.document["compared_by"] == "accuracy" else judge_objects)(run)
    spaces, agreement = embeddings(run, judged)
    efforts = {"student": parts.effort(run.student, run.side, run.folder, run.device)}
    if teacher and not isinstance(teacher.backbone, StoredBackbone):
        how = teacher, run.hr_size, teacher.info["path"], run.device
        efforts["teacher"] = run.shared.once(("effort", id(teacher), run.device), lambda: parts.effort(*how))
    caption = "Images are degraded to each size as in training; marked: the size trained at."
    resolution = _against_resolution(judged.curves, judged.measure, caption, band=(run.low, run.side))
    effort = efforts["student"]
    chief = [(name, cells[0]) for name, cells in judged.results.rows]
    drawings = [*draw_intervals(chief, judged.measure), resolution]
    blocks = [
        Block("Results", table=judged.results, drawings=drawings, note=judged.note),
        *judged.blocks,
        other_cameras(run) if run.document["compared_by"] != "accuracy" else None,
        spaces,
        parts.speed(efforts, run),
        parts.learning(run),
        parts.trained(run),
    ]
    kept = agreement and Cell(f"{share(agreement.overlap)} %", f"by chance {rounded(agreement.chance)} %")
    beside = f"teacher {short(efforts['teacher'].parameters)}" if "teacher" in efforts else ""
    tiles = {
        f"{judged.measure} at {run.at_lr}": judged.score,
        f"teacher at {run.at_hr}": judged.teacher_score,
        "teacher, enlarged": judged.enlarged,
        "neighbours kept": kept,
        "parameters": Cell(short(effort.parameters), beside),
        "an image": Cell(duration(effort.milliseconds[64]), "batches of 64"),
    }
    reads = f"{run.document['student']['name']} reads images of {run.at_lr}"
    by = f"taught by {run.taught_by}, which sees them at {run.at_hr}" if run.taught_by else "taught by labels alone"
    student = f"{reads}, {by}. Method: {words(method_of(run.document))}."
    lead = f"{reads}, a teacher." if run.document["task"] == "teach" else student
    shown = [(name, cell) for name, cell in tiles.items() if cell]
    same = f"Teacher, enlarged: on the images of {run.at_lr} that the student reads."
    explained = " ".join([same] * bool(judged.enlarged) + ([agreement.explained] if agreement else []))
    written = list(filter(None, blocks))
    return Chapter(run.name, lead, run.notes, shown, explained, written, run, judged, agreement, effort)


def _against_resolution(curves: Sequence[Curve], measure: str, caption: str, **how: Any) -> Drawing:
    axes: dict[str, Any] = {"x": "side of the image, pixels", "y": f"{measure}, %", "scale": "sizes"}
    return draw_curves(curves, "Accuracy against resolution", caption, **axes, **how)


def side_by_side(chapters: Sequence[Chapter]) -> list[Block]:
    """Set runs side by side; classifiers and face encoders are apart: their numbers mean different things."""
    blocks = []
    for measure in dict.fromkeys(chapter.judged.measure for chapter in chapters):
        members = [chapter for chapter in chapters if chapter.judged.measure == measure]
        heads = ["", measure, "teacher", "method", "size", "seed", "neighbours kept", "relations"]
        table = Table([*heads, "parameters", "an image"], [(each.run.name, _cells(each)) for each in members])
        drawings = draw_intervals([(each.run.name, each.judged.score) for each in members], measure)
        note = (
            "Small: 95 % interval over the tests, which says nothing of another training. Neighbours kept: the mean "
            f"share of a test image's {NEIGHBOURS} nearest others in the teacher's space that are among its nearest "
            "in the student's, too. Relations: correlation of teacher's and student's similarities. An image: the "
            "time it takes in batches of 64, at one moment."
        )
        blocks.append(Block(f"Runs by {measure}", table=table, drawings=drawings, note=note))
        documents = {each.name: each.run.document for each in members}
        blocks += _methods([*documents.values()])
        history = {name: of.get(f"{of['chosen_by']}_by_epoch", []) for name, of in documents.items()}
        curves: list[Curve] = [(each.name, *each.judged.curves[0][1:]) for each in members]
        epochs: list[Curve] = [(name, range(1, len(values) + 1), values) for name, values in history.items()]
        watched = f"validation {MEASURES[members[0].run.document['compared_by']][2]}, %"
        drawings = [
            _against_resolution(curves, measure, "", named=False),
            draw_curves(epochs, "Validation by epoch", x="epoch", y=watched, named=False),
        ]
        blocks.append(Block("Curves", legend=signs(curves), drawings=drawings))
    return blocks


def _methods(documents: Sequence[dict[str, Any]], baseline: str = "ce") -> list[Block]:
    """Compare the runs' methods, over their seeds where there are several; empty where nothing can be compared."""
    try:
        rows = compare_methods(documents, baseline)
    except (CrossresError, ModuleNotFoundError):  # runs that are not one experiment; scipy is an extra
        return []
    if len(rows) == len(documents) and all(row.gain is None for row in rows):
        return []
    texts = [cells(row, decimals=1) for row in rows]
    lines = [(setting, [Cell(words(method)), *map(Cell, others)]) for setting, method, *others in texts]
    explained = "What the columns are", legend(rows, baseline)
    return [Block("Methods", table=Table(["", *titles(rows, baseline)[1:]], lines), folded=explained)]


def _cells(chapter: Chapter) -> list[Cell]:
    agreement, run, judged = chapter.agreement, chapter.run, chapter.judged
    texts = [
        judged.teacher_score.text if judged.teacher_score else "",
        words(method_of(run.document)),
        run.at_lr,
        str(run.document["seed"]),
        f"{share(agreement.overlap)} %" if agreement else "",
        f"{agreement.correlation:.2f}" if agreement and isfinite(agreement.correlation) else "",
        short(chapter.effort.parameters),
        duration(chapter.effort.milliseconds[64]),
    ]
    return [judged.score, *(Cell(text) for text in texts)]
