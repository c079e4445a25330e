"""The blocks of a run that both tasks have: options, learning curves, errors, speed and size."""

import base64
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from crossres.config.record import to_yaml
from crossres.core.devices import Device, machine
from crossres.core.progress import clock
from crossres.core.timing import duration
from crossres.core.types import Outputs
from crossres.data.degradation import COLOURS
from crossres.evaluation.figures import Curve
from crossres.models.encoder import Encoder
from crossres.report.content import FinishedRun
from crossres.report.page import Answer, Block, Card, Cell, Table, TableRow, draw_curves

#: Side that a picture is kept at, at most, and up to which every pixel is.
LARGEST, EXACT = 128, 64
#: Images of a timed pass; seconds of passes and passes at least.
BATCHES, SECONDS, PASSES = (1, 64), 0.2, 3


@dataclass(frozen=True)
class Judged:
    """What a task measures of a run; ``measure``: what its chief number is, as a table's head has it.

    Attributes:
        results: the numbers; the first row is the student's at the size it was trained at, its first the chief one.
        note: what these are.
        teacher_score, enlarged: the teacher's chief number at high resolution, and on the student's images, which it
            enlarges; None without one that can be judged.
        curves: chief number against resolution, the student's first.
        blocks: what the task alone has.
        outputs: of the student and, where there is one, of the teacher on the test images.
    """

    measure: str
    results: Table
    note: str
    teacher_score: Cell | None
    enlarged: Cell | None
    curves: Sequence[Curve]
    blocks: Sequence[Block]
    outputs: Mapping[str, Outputs]

    @property
    def score(self) -> Cell:
        """The student's chief number."""
        return self.results.rows[0][1][0]


def share(value: float) -> str:
    """Write a percentage in three digits; near its ends, which are 0 and 100, two stand after the point."""
    if value in (0, 100):
        return f"{value:.0f}"
    return f"{value:.1f}" if 9.995 <= value < 99.95 else f"{min(value, 99.99):.2f}"


def percent(value: float, interval: Sequence[float], mark: str = "") -> Cell:
    """Return a percentage and its 95 % interval."""
    return Cell(f"{share(value)} %{mark}", f"{share(interval[0])} to {share(interval[1])}", value, interval)


def rounded(value: float, digits: int = 3) -> str:
    """Write a number in so many digits, without an exponent."""
    return f"{float(f'{value:.{digits}g}'):,.10g}"


def short(count: int) -> str:
    """Write a number of parameters in three digits."""
    if not count:
        return "not known"
    return f"{rounded(count / 1e6)} M" if count >= 1e6 else f"{rounded(count / 1e3)} k"


def words(name: str) -> str:
    """Write the name of a loss, or several of them, as words."""
    return name.replace("_", " ").replace("+", " + ")


def differing(measured: Sequence[Cell], recorded: Sequence[TableRow]) -> list[TableRow]:
    """Return the recorded rows that show something else than the measured cells and the recorded rows above."""
    rows: dict[tuple[str, ...], TableRow] = {}
    for name, cells in (("", measured), *recorded):
        rows.setdefault(tuple(cell.text + cell.small for cell in cells), (name, cells))
    return list(rows.values())[1:]


def trained(run: FinishedRun) -> Block:
    """Say what was trained, on what, how and where."""
    document, train, degradation = run.document, run.config.train, run.degradation.resolved()
    parts = {"train": "training", "val": "validation"}
    ranges = {"blur": degradation.blur, "noise": degradation.noise, "JPEG": degradation.jpeg}
    ranges |= {name: getattr(degradation, name) for name in COLOURS}
    drawn = [f"{name} {r[0]:g} to {r[1]:g}" for name, r in ranges.items() if r not in (None, (0.0, 0.0), (1.0, 1.0))]
    losses = [
        f"{options.get('weight', 1):g} {words(name)}{' (decays)' * bool(options.get('decay'))}"
        for name, options in document["losses"].items()
    ]
    batch = document.get("batch_size") or train.batch_size
    counts = [f"{count:,} {parts.get(name, name)}" for name, count in document["images"].items()]
    kind = ", ".join([degradation.preset, degradation.kernel, *drawn]) if document.get("degradation") else "none"
    versions = [f"{name} {document['versions'].get(name)}" for name in ("python", "crossres", "torch")]
    speed = f"{rounded(document['images_per_second'])} images a second in {document['precision']}"
    optimizer = {"sgd": "SGD", "adamw": "AdamW"}[train.optimizer]
    facts = {
        "Images": f"{document['dataset']}: {', '.join(counts)}",
        "Network": f"{document['student']['name']}, {document['student']['parameters']:,} parameters",
        "Teacher": run.taught_by or "none",
        "Sizes": f"the network reads {run.at_lr}, the images are {run.at_hr}",
        "Degradation": kind,
        "Losses": " + ".join(losses),
        "Schedule": f"{document['epochs']} epochs, batch {batch}, {train.schedule.replace('_', ' ')}",
        "Optimiser": f"{optimizer}, learning rate {train.learning_rate:g}, decay {train.weight_decay:g}",
        "Seed": str(document["seed"]),
        "Saved": f"epoch {document['best_epoch']} of {document['epochs']}; judged here",
        "Time": f"{clock(document['seconds'])}, {speed}",
        "Machine": _machine(document["machine"]),
        "Versions": ", ".join(versions),
        "Commit": (document.get("commit") or "not recorded")[:12],
    }
    every = "Every option", to_yaml(run.config)
    return Block("What was trained", facts=list(facts.items()), folded=every, closed=True)


def _machine(machine: Mapping[str, Any]) -> str:
    """Name a processor and how many threads ran on it."""
    return f"{machine['processor']}, {machine['threads']} thread{'s' * (machine['threads'] != 1)}"


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
    losses = curves([row["losses"] for row in run.epochs], {name: words(name) for name in run.epochs[-1]["losses"]})
    values = [value for _, _, each in losses for value in each if isfinite(value)]
    apart = bool(values) and 0 < 20 * min(values) < max(values)
    best, unweighted = run.document["best_epoch"], "Each term unweighted, its mean over an epoch."
    marked, band = f"Marked: epoch {best}, whose weights are saved.", (best, best)
    drawings = [draw_curves(accuracy, "Accuracy", marked, x="epoch", y="%", band=band)] if accuracy else []
    scale = "log y" if apart else "linear"
    drawings.append(draw_curves(losses, "Losses", unweighted, x="epoch", y="loss", scale=scale))
    return Block("Learning curves", drawings=drawings, closed=True)


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
    """Set what the networks cost side by side, a column each."""
    costs = efforts.values()
    texts = {
        "reads": [f"{cost.side}x{cost.side}" for cost in costs],
        "parameters": [short(cost.parameters) for cost in costs],
        "file": ["none" if cost.megabytes is None else f"{rounded(cost.megabytes)} MB" for cost in costs],
        "time for one image": [duration(cost.milliseconds[1]) for cost in costs],
        "an image in batches of 64": [duration(cost.milliseconds[64]) for cost in costs],
    }
    rows = [(name, [Cell(text) for text in each]) for name, each in texts.items()]
    note = (
        f"Times are of one moment on this machine ({_machine(machine(run.device))}, {run.device.precision}), the "
        "fastest of several passes; another load or machine gives others."
    )
    return Block("Speed and size", table=Table(["", *efforts], rows), note=note)
