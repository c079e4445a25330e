"""The blocks of a run that both tasks have: options, learning curves, errors, the two spaces, speed and size."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossres.config.record import to_yaml
from crossres.core.devices import Device, machine
from crossres.core.progress import clock
from crossres.core.types import Outputs
from crossres.evaluation.figures import Curve
from crossres.models.encoder import Encoder
from crossres.report.content import FinishedRun
from crossres.report.drawing import SIGNS, draw_curves, draw_points, draw_relations
from crossres.report.page import Answer, Block, Card, Cell, Drawing, Table
from crossres.report.space import Agreement, agreement, first_of, largest_classes, principal_map, relations

#: Classes in colour on a map, images of each there and in a matrix, images whose relations are compared.
CLASSES, ON_MAP, IN_MATRIX, RELATED = 8, 40, 12, 2000
#: Side that a picture is kept at, at most, and up to which every pixel is.
LARGEST, EXACT = 128, 64
#: Images of a timed pass; seconds of passes and passes at least.
BATCHES, SECONDS, PASSES = (1, 64), 0.2, 3


@dataclass(frozen=True)
class Judged:
    """What a task measures of a run.

    Attributes:
        measure: what its chief number is, as a table's head has it.
        results: the numbers; the first row is the student's at the size it was trained at, its first the chief one.
        note: what these are.
        teacher_score: the teacher's chief number at high resolution; None without one that can be judged.
        curves: chief number against resolution, the student's first; ``drawings`` are beside it.
        blocks: what the task alone has.
        outputs: of the student and, where there is one, of the teacher on the test images.
    """

    measure: str
    results: Table
    note: str
    teacher_score: Cell | None
    curves: Sequence[Curve]
    drawings: Sequence[Drawing]
    blocks: Sequence[Block]
    outputs: Mapping[str, Outputs]

    @property
    def score(self) -> Cell:
        """The student's chief number."""
        return self.results.rows[0][1][0]


def percent(value: float, interval: Sequence[float], mark: str = "") -> Cell:
    """Return a percentage and its 95 % interval."""
    return Cell(f"{value:.2f} %{mark}", f"{interval[0]:.2f} to {interval[1]:.2f}", value, interval)


def trained(run: FinishedRun) -> Block:
    """Say what was trained, on what, how and where."""
    document, train, degradation = run.document, run.config.train, run.degradation.resolved()
    ranges = {"blur": degradation.blur, "noise": degradation.noise, "JPEG": degradation.jpeg}
    drawn = [f"{name} {r[0]:g} to {r[1]:g}" for name, r in ranges.items() if r and r != (0.0, 0.0)]
    losses = [
        f"{options.get('weight', 1):g} {name}{' (decays)' * bool(options.get('decay'))}"
        for name, options in document["losses"].items()
    ]
    counts = [f"{count:,} {name}" for name, count in document["images"].items()]
    kind = ", ".join([degradation.preset, degradation.kernel, *drawn]) if document.get("degradation") else "none"
    versions = [f"{name} {document['versions'].get(name)}" for name in ("python", "crossres", "torch")]
    speed = f"{document['images_per_second']:,.0f} images/s in {document['precision']}"
    facts = {
        "Images": f"{document['dataset']}: {', '.join(counts)}",
        "Network": f"{document['student']['name']}, {document['student']['parameters']:,} parameters",
        "Teacher": run.taught_by or "none",
        "Sizes": f"the network reads {run.at_lr}, the images are {run.at_hr}",
        "Degradation": kind,
        "Losses": " + ".join(losses),
        "Schedule": f"{train.epochs} epochs, batch {train.batch_size}, {train.schedule.replace('_', ' ')}",
        "Optimiser": f"{train.optimizer}, learning rate {train.learning_rate:g}, decay {train.weight_decay:g}",
        "Seed": str(document["seed"]),
        "Saved": f"epoch {document['best_epoch']}, the best on validation; judged here",
        "Time": f"{clock(document['seconds'])}, {speed}",
        "Machine": f"{document['machine']['processor']}, {document['machine']['threads']} thread(s)",
        "Versions": ", ".join(versions),
        "Commit": (document.get("commit") or "not recorded")[:12],
    }
    return Block("What was trained", facts=list(facts.items()), folded=("Every option", to_yaml(run.config)))


def learning(run: FinishedRun) -> Block | None:
    """Draw accuracies and losses over the epochs; None without a record of them."""
    if not run.epochs:
        return None
    epochs = [row["epoch"] for row in run.epochs]

    def curves(rows: Sequence[Mapping[str, float | None]], names: Mapping[str, str]) -> list[Curve]:
        values = {key: [nan if (v := row.get(key)) is None else v for row in rows] for key in names}
        return [(name, epochs, values[key]) for key, name in names.items() if any(map(isfinite, values[key]))]

    shares = {"train_top1": "training", "val_top1": "validation", "val_top5": "validation top-5"}
    shares |= {"val_accuracy": "validation accuracy", "val_auc": "validation AUC"}
    accuracy = curves(run.epochs, shares)
    losses = curves([row["losses"] for row in run.epochs], {name: name for name in run.epochs[-1]["losses"]})
    values = [value for _, _, each in losses for value in each if isfinite(value)]
    apart = bool(values) and 0 < 20 * min(values) < max(values)
    caption = "Each term unweighted, its mean over an epoch."
    drawings = [draw_curves(losses, "Losses", caption, x="epoch", y="loss", log_y=apart)]
    if accuracy:
        best = run.document["best_epoch"]
        caption = f"Marked: epoch {best}, whose weights are saved."
        drawings.insert(0, draw_curves(accuracy, "Accuracy", caption, x="epoch", y="%", band=(best, best)))
    return Block("Learning curves", drawings=drawings)


def worst_errors(run: FinishedRun, text: str, errors: Sequence[tuple[Sequence[int], Sequence[Answer]]]) -> Block:
    """Show errors as pictures: the positions of each one's test images, and the answers."""
    images = run.test.images
    pictures: dict[int, list[tuple[str, str]]] = {}
    positions = sorted({position for shown, _ in errors for position in shown})
    for batch in run.loader(images).ordered(positions, hr=True) if positions else ():
        assert batch.hr is not None
        for position, hr, lr in zip(batch.index.tolist(), batch.hr, batch.lr, strict=True):
            pictures[position] = [(data_uri(hr), f"HR {run.at_hr}"), (data_uri(lr), f"LR {run.at_lr}")]
    cards = []
    for shown, answers in errors:
        files = " and ".join(images.path(position) or images.where(position) for position in shown)
        cards.append(Card([picture for position in shown for picture in pictures[position]], answers, files))
    return Block("The worst errors", text, cards=cards)


def data_uri(image: Tensor) -> str:
    """Return a picture (3, h, w) in 0..1 as a data URI: small ones pixel by pixel, larger ones as JPEG."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture, file = Image.fromarray(pixels), io.BytesIO()
    kind = "png" if max(picture.size) <= EXACT else "jpeg"
    picture.thumbnail((LARGEST, LARGEST))
    picture.save(file, format=kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def embeddings(run: FinishedRun, judged: Judged) -> tuple[Block | None, Agreement | None]:
    """Set the teacher's and the student's embeddings side by side; without a teacher the student's alone."""
    label, names = run.test.images.labels, run.test.images.classes
    both = sorted(judged.outputs.items(), reverse=True)  # the teacher first
    sides = {name: of.embedding.numpy() for name, of in both if of.embedding.isfinite().all()}
    if "student" not in sides or len(label) < 3:
        return None, None
    classes = largest_classes(label, CLASSES)
    mapped, related = first_of(label, classes, ON_MAP), first_of(label, classes, IN_MATRIX)
    colour = np.searchsorted(classes, label[mapped])
    first, maps, matrices = None, [], []
    for side, embedding in sides.items():
        points, shown = principal_map(embedding[mapped], first)
        first = points if first is None else first
        maps.append(Drawing(draw_points(points, colour), f"Map, {side}", f"{shown:.0f} % of the variance."))
        matrix = draw_relations(relations(embedding[related]), label[related], [names[number] for number in classes])
        matrices.append(Drawing(matrix, f"Relations, {side}"))
    title, turned, agreed, facts = "Embeddings", "", None, []
    if len(sides) == 2:
        some = np.unique(np.linspace(0, len(label) - 1, min(len(label), RELATED)).astype(np.int64))
        agreed = agreement(relations(sides["teacher"][some]), relations(sides["student"][some]), label[some])
        title = "Does the student keep the relations?"
        turned = ", the student's turned and mirrored to lie as the teacher's"
        near = f"{agreed.overlap:.1f} % of an image's {agreed.neighbours} nearest in the teacher's space are among "
        near += f"its nearest in the student's (by chance {agreed.chance:.1f} %)"
        every, across = (f"{r:.2f}" if isfinite(r) else "none" for r in (agreed.correlation, agreed.across))
        alike = f"{every} between both networks' similarities of all pairs"
        facts = [("Neighbours", near), ("Correlation", f"{alike}; {across} over the pairs of two classes alone")]
    which = f"the {len(classes)} classes with most images" if len(classes) < len(names) else "all classes"
    text = (
        f"Maps: the two principal components of the embeddings of {len(mapped)} test images of {which}{turned}. "
        f"Relations: each row and column is one of {len(related)} images, class by class, each dot the cosine of two "
        "embeddings, their mean taken off: blue alike, orange opposed."
    )
    signs = [(SIGNS[i % len(SIGNS)], i, names[number]) for i, number in enumerate(classes)]
    return Block(title, text, facts, legend=signs, drawings=[*maps, *matrices]), agreed


@dataclass(frozen=True)
class Effort:
    """What a network costs: parameters, 0 where its file does not tell them; megabytes of its file, None without one.

    Milliseconds are an image's, by batch size, at ``side`` pixels, of the fastest pass: other load disturbs it least.
    """

    side: int
    parameters: int
    megabytes: float | None
    milliseconds: dict[int, float]


def effort(encoder: Encoder, side: int, source: str | Path, device: Device) -> Effort:
    """Measure an encoder that lies on the device and was read from ``source``, a file or a model's folder."""
    milliseconds = {}
    for batch in BATCHES:
        images = torch.rand(batch, 3, side, side, device=device.torch)
        seconds: list[float] = []
        with torch.inference_mode(), device.autocast():
            while len(seconds) < PASSES or sum(seconds) < SECONDS:
                started = time.perf_counter()
                encoder(images)
                if device.torch.type == "cuda":
                    torch.cuda.synchronize(device.torch)
                seconds.append(time.perf_counter() - started)
        milliseconds[batch] = 1000 * min(seconds) / batch
    files = [Path(source), Path(source) / "model.safetensors", Path(source) / "model" / "model.safetensors"]
    size = next((file.stat().st_size / 1e6 for file in files if file.is_file()), None)
    return Effort(side, sum(p.numel() for p in encoder.parameters()), size, milliseconds)


def speed(efforts: Mapping[str, Effort], run: FinishedRun) -> Block:
    """Set what the networks cost side by side."""
    rows = []
    for name, cost in efforts.items():
        texts = [
            f"{cost.side}x{cost.side}",
            f"{cost.parameters:,}" if cost.parameters else "",
            "" if cost.megabytes is None else f"{cost.megabytes:.2f} MB",
            *(f"{cost.milliseconds[batch]:.3g}" for batch in BATCHES),
        ]
        rows.append((name, [Cell(text) for text in texts]))
    heads = ["", "reads", "parameters", "file", *(f"ms, batch {batch}" for batch in BATCHES)]
    where = "{processor}, {threads} thread(s)".format(**machine(run.device))
    note = (
        f"Times are milliseconds an image, of one moment on this machine ({where}, {run.device.precision}), the "
        "fastest of several passes; another load or machine gives others."
    )
    return Block("Speed and size", table=Table(heads, rows), note=note)
