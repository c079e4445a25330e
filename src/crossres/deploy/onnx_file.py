"""Writing a deployed network as one ONNX file: preprocessing inside, facts in the metadata."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from crossres.core.errors import CrossresError, library_errors
from crossres.core.files import write_atomically
from crossres.core.types import Pixels
from crossres.deploy.deployed import Deployed
from crossres.deploy.facts import Facts
from crossres.deploy.recognizer import FACTS, INPUT

Precision = Literal["float32", "float16", "int8"]
#: opset of the files: the newest that onnxruntime and the converters to other formats all read
OPSET = 20
#: what is computed with 8-bit numbers; the preprocessing and the last step to answers are not
_QUANTISED = ("Conv", "Gemm", "Add", "Relu", "GlobalAveragePool", "ReduceMean", "MaxPool", "AveragePool")


def onnx_model(deployed: Deployed, precision: Precision = "float32", calibration: Iterable[Pixels] = ()) -> Any:
    """Return the network as an ONNX model that reads uint8 (B, H, W, 3) of any B, H and W.

    Args:
        deployed: in eval mode.
        precision: of the network's weights and sums; float16 and int8 leave the preprocessing in float32. int8 is
            static quantisation: weights per channel, activations by their range over the calibration images.
        calibration: uint8 (H, W, 3) photos like those to come, for int8.

    Raises:
        CrossresError: onnx, onnxscript or onnxruntime is missing, the network cannot be exported, or no calibration.
    """
    for package in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(package) is None:
            raise CrossresError(f"an export needs {package}: pip install 'crossres[onnx]'")
    model = _traced(deployed, precision)
    return _quantised(model, list(calibration)) if precision == "int8" else model


def write_onnx(model: Any, facts: Facts, path: str | Path) -> None:
    """Write a model of `onnx_model` with its facts: all of the file, or nothing and a CrossresError."""
    import onnx

    # where in the source each node comes from concerns no reader, and is half of a small file
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del entry.metadata_props[:]
    onnx.helper.set_model_props(model, {FACTS: facts.to_json()})
    onnx.checker.check_model(model)
    write_atomically(path, lambda file: file.write(model.SerializeToString()))


def _traced(deployed: Deployed, precision: Precision) -> Any:
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
            output_names=list(deployed.outputs),
            dynamic_shapes=(free,),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _quantised(model: Any, calibration: list[Pixels]) -> Any:
    if not calibration:
        raise CrossresError("int8 needs calibration images; give the data it was trained on")
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class CalibrationPhotos(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Pixels] = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            photo = next(self.left, None)
            return None if photo is None else {INPUT: photo[None]}

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, small = (str(Path(folder) / name) for name in ("plain", "prepared", "small"))
        onnx.save(model, plain)
        # batch normalisation joins its convolution; the free sizes defeat symbolic shapes
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            small,
            CalibrationPhotos(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=_preprocessing(onnx.load(prepared)),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        return onnx.load(small)


def _preprocessing(model: Any) -> list[str]:
    """Return the names of the nodes before the first convolution or product with weights."""
    kinds = [node.op_type in ("Conv", "Gemm") for node in model.graph.node]
    return [node.name for node in list(model.graph.node)[: [*kinds, True].index(True)]]
