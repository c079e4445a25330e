"""``crossres export``: a trained model as one file that reads photos, checked against the network on real images."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from crossres.config import reading as parsing
from crossres.config.options import Faces, Teach
from crossres.core.errors import CrossresError
from crossres.core.files import write_atomically
from crossres.data.faces import draw_pairs
from crossres.data.images import ImageSet
from crossres.data.pairs import Pairs, read_pairs
from crossres.deploy.deployed import Deployed
from crossres.deploy.facts import Facts
from crossres.deploy.formats import OpenvinoEngine, ProgramEngine, openvino_model, torch_program, write_openvino
from crossres.deploy.onnx_file import Precision, onnx_model, write_onnx
from crossres.deploy.parity import Parity, compare, demand, run_all
from crossres.deploy.photos import Pixels
from crossres.deploy.recognizer import Engine, Floats, OnnxEngine
from crossres.deploy.torch_engine import TorchEngine
from crossres.training.faces import read_people
from crossres.training.task import read_split

Format = Literal["onnx", "openvino", "torch"]
ENDING = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
#: Training images whose activations int8's ranges come from.
CALIBRATION = 256
#: Images that say whether an export is sound.
FEWEST = 10
#: Pairs of test people that are judged before and after.
PAIRS = 2000


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        path: of the file.
        bytes: of all its parts.
        parity: with the network.
        milliseconds: of one photo of the LR size on one core.
    """

    path: Path
    bytes: int
    parity: Parity
    milliseconds: float


@dataclass(frozen=True)
class Photos:
    """Real photos for an export.

    Attributes:
        test: that the file and the network are compared on.
        calibration: of the training split, uint8 (H, W, 3) each.
        pairs: of test photos, for faces.
    """

    test: ImageSet
    calibration: list[Pixels]
    pairs: Pairs | None


def export(
    model: str | Path,
    path: str | Path | None = None,
    *,
    data: str | None = None,
    label_column: str | None = None,
    precision: Precision = "float32",
    format: Format = "onnx",
    images: int = 10_000,
    trust_code: bool = False,
) -> Exported:
    """Export a saved model; the file appears only if it says what the network says.

    Args:
        model: a run's folder, a model's folder or a Hub name.
        path: of the file; ``model-PRECISION.onnx`` in the run's folder if left out.
        data: the images that it is checked on; those of the run if left out.
        label_column: of parquet files; the run's if left out.
        precision: float32, float16 or int8.
        format: onnx, openvino (an .xml with its .bin) or torch (``torch.export``); the latter two in float32.
        images: at most so many test images are compared.
        trust_code: import the code that the model names for its network.

    Raises:
        CrossresError: no such model or data, an operator that cannot be exported, or a file that says something else.
    """
    if format != "onnx" and precision != "float32":
        raise CrossresError(f"format {format} is written in float32; {precision} is for onnx")
    if images < FEWEST:
        raise CrossresError(f"images {images}: an export is checked on at least {FEWEST}")
    engine = TorchEngine(model, trust_code=trust_code)
    target = _target(model, path, precision, format)
    photos = _photos(model, engine.facts, data, label_column, images, precision == "int8")
    if len(photos.test) < FEWEST:
        raise CrossresError(
            f"an export is checked on at least {FEWEST} images, {len(photos.test)} were found; give --data"
        )
    before = run_all(engine, engine.facts, _own_sizes(photos.test))
    facts = replace(engine.facts, about={**engine.facts.about, "format": format, "precision_exported": precision})
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / f"tried{ENDING[format]}"
        made, file = _made(engine.network, facts, tried, precision, format, photos.calibration)
        after = run_all(file, facts, _own_sizes(photos.test))
        parity = compare(before, after, _right(photos.test, facts), _verified(before, after, photos.pairs))
        demand(parity, precision)
    facts = replace(facts, about={**facts.about, "parity": parity.facts})
    if format == "onnx":
        write_onnx(made, facts, target)
    elif format == "openvino":
        write_openvino(made, target)
    else:
        import torch

        said = {"crossres.json": facts.to_json()}
        write_atomically(target, lambda f: torch.export.save(made, f, extra_files=said))
    parts = [target, target.with_suffix(".bin")] if format == "openvino" else [target]
    return Exported(target, sum(part.stat().st_size for part in parts), parity, _milliseconds(file, facts))


def _made(
    network: Deployed, facts: Facts, tried: Path, precision: Precision, format: Format, calibration: list[Pixels]
) -> tuple[Any, Engine]:
    """Return the model in its format and what runs it as it will be run."""
    if format == "torch":
        program = torch_program(network)
        return program, ProgramEngine(program, network.outputs)
    model = onnx_model(network, precision, calibration)
    plain = tried.with_suffix(ENDING["onnx"])
    write_onnx(model, facts, plain)
    if format == "onnx":
        return model, OnnxEngine(plain, threads=1)
    other = openvino_model(plain)
    return other, OpenvinoEngine(other, network.outputs)


def _target(model: str | Path, path: str | Path | None, precision: str, format: Format) -> Path:
    ending = ENDING[format]
    if path is None:
        folder = Path(model) if Path(model).is_dir() else Path()
        return folder / f"model-{precision}{ending}"
    if Path(path).suffix != ending:
        raise CrossresError(f"{path}: a file of format {format} ends in {ending}")
    return Path(path)


def _photos(
    model: str | Path, facts: Facts, data: str | None, label_column: str | None, most: int, calibrated: bool
) -> Photos:
    """Read the images of the run that trained the model, or others that are named."""
    config = _config(Path(model), data, label_column)
    faces = facts.task == "faces"
    if faces:
        train, test = read_people(config)
    else:
        train, test = (read_split(config, split) for split in ("train", "test"))
        if config.images.classes is not None and data is None:
            train, test = (part.of_classes(config.images.classes) for part in (train, test))
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.permutation(len(train))[: CALIBRATION if calibrated else 0])
    pairs = None
    if faces:
        listed = config.pairs if isinstance(config, Faces) and data is None else None
        pairs = read_pairs(listed, test) if listed else draw_pairs(test, PAIRS, seed=0)
        used = np.unique(np.concatenate([pairs.left, pairs.right]))
        place = np.full(len(test), -1)
        place[used] = np.arange(len(used))
        pairs = replace(pairs, left=place[pairs.left], right=place[pairs.right])
        test = test.subset(used)
    elif len(test) > most:
        test = test.subset(np.sort(rng.permutation(len(test))[:most]))
    return Photos(test, [train.image(int(i)) for i in drawn], pairs)


def _config(model: Path, data: str | None, label_column: str | None) -> Teach:
    if (model / "config.yaml").is_file():
        config: Teach = parsing.read_run(model)
        if data is None and not Path(config.data).exists() and "/" in config.data:
            raise CrossresError(f"the images {config.data} that {model} was trained on are not there; give --data")
    elif data is None:
        raise CrossresError(f"{model} does not say where its images are; give --data, an export is checked on them")
    else:
        config = Teach()
    chosen = replace(config.images, label_column=label_column or config.images.label_column)
    return replace(config, data=data or config.data, images=chosen)


def _own_sizes(images: ImageSet) -> Iterator[Pixels]:
    return (images.image(i) for i in range(len(images)))


def _right(images: ImageSet, facts: Facts) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    if not facts.classes or not set(images.classes) & set(facts.classes):
        return None
    column = [facts.classes.index(name) if name in facts.classes else -1 for name in images.classes]
    return np.array(column, dtype=np.int64)[images.labels]


def _verified(before: dict[str, Floats], after: dict[str, Floats], pairs: Pairs | None) -> tuple[float, float] | None:
    if pairs is None:
        return None
    from crossres.evaluation.protocols import verify

    shares = [verify(e, e, pairs, resamples=0)["accuracy_best"] for e in (before["embedding"], after["embedding"])]
    return cast(tuple[float, float], tuple(shares))


def _milliseconds(engine: Engine, facts: Facts) -> float:
    photo = np.zeros((1, facts.side, facts.side, 3), np.uint8)
    taken = []
    for _ in range(30):
        start = time.perf_counter()
        engine.run(photo)
        taken.append(time.perf_counter() - start)
    return 1000 * float(np.median(taken))
