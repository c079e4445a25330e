"""``crossres export``: a trained model as one ONNX file: preprocessing inside, facts in the metadata.

It is checked against the network on real images.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import groupby, islice, takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from crossres.config.deployment import Export
from crossres.config.experiment import Experiment, Teach
from crossres.config.record import base_name
from crossres.core.errors import CrossresError, library_errors
from crossres.core.files import write_atomically
from crossres.core.timing import timed
from crossres.core.types import Float32s, Int64s, Pixels
from crossres.data.faces import Pairs, draw_pairs, read_pairs
from crossres.data.images import ImageSet
from crossres.deploy.deployed import Deployed, TorchEngine, costs_of
from crossres.deploy.photos import reduced
from crossres.evaluation.facts import Facts
from crossres.evaluation.onnx_engine import FACTS, INPUT, SHA256, Engine, OnnxEngine, with_sha256
from crossres.evaluation.prepare import read_in_groups, read_run_on
from crossres.evaluation.verification import verify
from crossres.training.faces import read_people

Precision = Literal["float32", "float16", "int8"]
#: opset of the files: the newest that onnxruntime and the converters to other formats all read
OPSET = 20
#: what is computed with 8-bit numbers; the preprocessing and the last step to answers are not
_QUANTISED = ("Conv", "Gemm", "Add", "Relu", "GlobalAveragePool", "ReduceMean", "MaxPool", "AveragePool")
#: Training images whose activations int8's ranges come from.
CALIBRATION = 256
#: Images that show whether an export is sound.
MIN_IMAGES = 10
#: Pairs of test people that are judged before and after.
PAIRS = 2000
#: Photos that are run together.
BATCH = 64
#: By precision: the lowest mean cosine between embeddings, and the lowest share of equal first answers, in percent.
BOUNDS = {"float32": (0.99999, 99.9), "float16": (0.9995, 99.0), "int8": (0.97, 90.0)}
#: How much accuracy an export may lose, in points, or in images where those are few.
POINTS, IMAGES = 1.0, 2


def export(options: Export) -> dict[str, Any]:
    """Export a saved model as an ONNX file; it appears only if it answers as the network does.

    Returns:
        path and bytes of the file, milliseconds of one photo of the LR size on one core, and parity (see
        `measure_parity`).

    Raises:
        CrossresError: no such model or data, an operator that cannot be exported, or a file that answers otherwise.
    """
    if options.limit < MIN_IMAGES:
        raise CrossresError(f"--limit {options.limit}: an export is checked on at least {MIN_IMAGES} images")
    network = TorchEngine(options.model, trust_code=options.trust_code)
    folder = Path(options.model) if Path(options.model).is_dir() else Path()
    target = Path(options.out or folder / f"model-{options.precision}.onnx")
    if target.suffix != ".onnx":
        raise CrossresError(f"--out {target}: the name of an ONNX file ends in .onnx")
    test, calibration, pairs = _images(options, network.facts)
    if len(test) < MIN_IMAGES:
        raise CrossresError(
            f"an export is checked on at least {MIN_IMAGES} images, here are {len(test)}; give --data"
        )
    before = run_all(network, test)
    about = {**network.facts.about, "format": "onnx", "precision_exported": options.precision}
    about |= costs_of(network.network)
    facts = replace(network.facts, about=about)
    with tempfile.TemporaryDirectory() as beside:
        tried = Path(beside) / "tried.onnx"
        model = onnx_model(network.network, options.precision, calibration)
        write_onnx(model, facts, tried)
        engine = OnnxEngine(tried, threads=1)
        after = run_all(engine, test)
        embeddings = (before["embedding"], after["embedding"])
        judged = [verify(rows, rows, pairs, resamples=0)["accuracy_best"] for rows in embeddings] if pairs else None
        parity = measure_parity(before, after, _truth(test, facts), judged)
        demand_parity(parity, options.precision)
        photo = np.zeros((1, facts.side, facts.side, 3), np.uint8)
        (timing,) = timed({"one": (lambda: engine.run(photo), 1)}, seconds=0.1).values()
    write_onnx(model, replace(facts, about={**about, "parity": parity}), target)
    size = target.stat().st_size
    return {"path": str(target), "bytes": size, "milliseconds": timing.median, "parity": parity}


def _images(options: Export, facts: Facts) -> tuple[ImageSet, list[Pixels], Pairs | None]:
    """Return test images to compare on, training images, uint8 (H, W, 3), for int8, and for faces test pairs."""
    config = _config(options)
    config = replace(config, images=replace(config.images, range=config.images.range or facts.range))
    trained = base_name(config.data) == facts.about.get("dataset")
    if trained and facts.about.get("test_fraction"):
        config = replace(config, images=replace(config.images, test_fraction=facts.about["test_fraction"]))
    group = config.images.group or facts.about.get("group")
    if facts.task == "faces":
        group = group if trained else config.images.group
        train, test = read_people(replace(config, images=replace(config.images, group=group)))
    else:
        train, test = read_in_groups(config, "train", group), read_in_groups(config, "test", group)
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.permutation(len(train))[: CALIBRATION if options.precision == "int8" else 0])
    calibration = [train.image(int(i)) for i in drawn]
    if facts.task == "faces":
        listed = config.faces.pairs if config.faces and options.data is None else None
        pairs = read_pairs(listed, test) if listed else draw_pairs(test, PAIRS, seed=0)
        used, places = np.unique(np.concatenate([pairs.left, pairs.right]), return_inverse=True)
        left, right = np.split(places.astype(np.int64), 2)
        return test.subset(used), calibration, replace(pairs, left=left, right=right)
    if len(test) > options.limit:
        test = test.subset(np.sort(rng.permutation(len(test))[: options.limit]))
    return test, calibration, None


def _config(options: Export) -> Experiment:
    """Return the experiment whose images are read: of the model's run, where there is one."""
    config: Experiment = Teach()
    if (Path(options.model) / "config.yaml").is_file():
        config = read_run_on(options.model, options.data)
    elif options.data is None:
        raise CrossresError(f"{options.model} does not say where its images are; give --data to check the export on")
    columns = {name: column for name, column in asdict(options.images).items() if column}
    classes = config.images.classes if options.data is None else None
    images = replace(config.images, classes=classes, **columns)
    return replace(config, data=options.data or config.data, images=images)


def _truth(images: ImageSet, facts: Facts) -> Int64s | None:
    """Return each image's class among the network's, -1 where it does not know it; None where it knows none."""
    if not set(images.classes) & set(facts.classes):
        return None
    column = [facts.classes.index(name) if name in facts.classes else -1 for name in images.classes]
    return np.array(column, dtype=np.int64)[images.labels]


def run_all(engine: Engine, images: ImageSet) -> dict[str, Float32s]:
    """Return the outputs for images at their own sizes, (N, ...), in their order."""
    parts = []
    photos = (reduced(images.image(i), engine.facts) for i in range(len(images)))
    for _, same_size in groupby(photos, key=lambda photo: photo.shape):
        while batch := list(islice(same_size, BATCH)):
            parts.append(engine.run(np.stack(batch)))
    return {name: np.concatenate([part[name] for part in parts]) for name in engine.facts.outputs}


def measure_parity(
    before: dict[str, Float32s],
    after: dict[str, Float32s],
    truth: npt.ArrayLike | None = None,
    accuracies: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Compare the outputs of a network and of its export on the same photos.

    Args:
        before: of the network, as `run_all` gives them.
        after: of the file.
        truth: class of each photo, (N,), -1 where the network does not know it; None for encoders without classes.
        accuracies: before and after, where they are not those of the classes.

    Returns:
        images, how many; largest_difference of any number of the embeddings, in units of their root mean square;
        cosine, the mean over the photos between the two embeddings; agreement, the share of the photos with the same
        first answer, in percent (None without classes); accuracy of the file and accuracy_before of the network, in
        percent: top-1, or of pairs for faces (None where it is not known).
    """
    ours, theirs = (outputs["embedding"].astype(np.float64) for outputs in (before, after))
    size = np.sqrt((ours**2).mean()) or 1.0
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = (ours * theirs).sum(1) / np.maximum(lengths, 1e-12)
    agreement = None
    if "logits" in before:
        first, second = (outputs["logits"].argmax(1) for outputs in (before, after))
        agreement = 100 * float((first == second).mean())
        if truth is not None:
            right = np.asarray(truth)
            accuracies = 100 * float((first == right).mean()), 100 * float((second == right).mean())
    accuracy_before, accuracy = accuracies or (None, None)
    return {
        "images": len(ours),
        "largest_difference": float(np.abs(ours - theirs).max() / size),
        "cosine": float(cosine.mean()),
        "agreement": agreement,
        "accuracy": accuracy,
        "accuracy_before": accuracy_before,
    }


def demand_parity(parity: Mapping[str, Any], precision: str) -> None:
    """Refuse an export, by its `measure_parity`, that does not answer as the network does."""
    cosine, agreement = BOUNDS[precision]
    few = 100 * IMAGES / parity["images"]
    lost = 0.0 if parity["accuracy"] is None else parity["accuracy_before"] - parity["accuracy"]
    if not parity["cosine"] >= cosine:
        problem = f"mean cosine {parity['cosine']:.5f}, at least {cosine} needed"
    elif parity["agreement"] is not None and parity["agreement"] < agreement - few:
        problem = f"the same first answer for {parity['agreement']:.2f} % of the images, at least {agreement} needed"
    elif lost > max(POINTS, few):
        problem = f"it loses {lost:.2f} points of accuracy"
    else:
        return
    remedy = "try another precision"
    if precision == "float32":
        remedy = "this network cannot be exported exactly; try another backbone, or report it"
    raise CrossresError(f"the export failed: {problem}; {remedy}")


def onnx_model(deployed: Deployed, precision: Precision = "float32", calibration: Iterable[Pixels] = ()) -> Any:
    """Return a network in eval mode as an ONNX model that reads uint8 (B, H, W, 3) of any B, H and W.

    The precision is that of its weights and sums; float16 and int8 leave the preprocessing in float32. int8 is static
    quantisation: weights per channel, activations by their range over calibration photos, uint8 (H, W, 3), like those
    to come. CrossresError: onnx, onnxscript or onnxruntime is missing, no export is possible, or no calibration.
    """
    for package in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(package) is None:
            raise CrossresError(f"an export needs {package}: pip install 'crossres[onnx]'")
    network = deepcopy(deployed).cpu().eval().requires_grad_(False)
    if precision == "float16":
        network.encoder.half()
    side = deployed.facts.side
    # a length of 1, or two equal ones, would be taken for fixed
    example = torch.zeros(2, side + 3, side + 1, 3, dtype=torch.uint8)
    free = {axis: torch.export.Dim(name) for axis, name in enumerate(("batch", "height", "width"))}
    with library_errors("torch cannot export this network to ONNX"):
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(deployed.facts.outputs),
            dynamic_shapes=(free,),
            verbose=False,
        )
    assert program is not None
    return _quantised(program.model_proto, list(calibration)) if precision == "int8" else program.model_proto


def write_onnx(model: Any, facts: Facts, path: str | Path) -> None:
    """Write a model of `onnx_model` with its facts: all of the file, or nothing and a CrossresError."""
    import onnx

    # where in the source each node comes from concerns no reader, and is half of a small file
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del entry.metadata_props[:]
    onnx.helper.set_model_props(model, {FACTS: facts.to_json(), SHA256: "0" * 64})
    onnx.checker.check_model(model)
    write_atomically(path, lambda file: file.write(with_sha256(model.SerializeToString())))


def _quantised(model: Any, calibration: list[Pixels]) -> Any:
    if not calibration:
        raise CrossresError("int8 needs calibration images; give the data it was trained on")
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class CalibrationPhotos(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            return next(({INPUT: photo[None]} for photo in self.left), None)

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, small = (str(Path(folder) / name) for name in ("plain", "prepared", "small"))
        onnx.save(model, plain)
        # batch normalisation joins its convolution; the free sizes defeat symbolic shapes
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        # the preprocessing: what is before the first convolution or product with weights
        before = takewhile(lambda node: node.op_type not in ("Conv", "Gemm"), onnx.load(prepared).graph.node)
        quantization.quantize_static(
            prepared,
            small,
            CalibrationPhotos(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=[node.name for node in before],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        return onnx.load(small)
