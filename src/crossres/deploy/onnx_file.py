"""Writing a deployed network as one ONNX file: preprocessing inside, facts in the metadata."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch

from crossres.core.errors import CrossresError
from crossres.core.files import write_atomically
from crossres.deploy.deployed import Deployed
from crossres.deploy.facts import Facts
from crossres.deploy.formats import any_photos
from crossres.deploy.photos import Pixels
from crossres.deploy.recognizer import FACTS, INPUT

Precision = Literal["float32", "float16", "int8"]
#: opset of the files: the newest that onnxruntime, OpenVINO and their converters all read
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
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise CrossresError(f"an export needs {error.name}: pip install 'crossres[onnx]'") from None
    model = _model(deployed, precision)
    return _quantised(model, list(calibration)) if precision == "int8" else model


def write_onnx(model: Any, facts: Facts, path: str | Path) -> None:
    """Write a model of `onnx_model` with its facts: all of the file, or nothing.

    Raises:
        CrossresError: the file cannot be written.
    """
    import onnx

    # where in the source each node comes from is nobody's business, and half of a small file
    for entry in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del entry.metadata_props[:]
    for entry in (*model.graph.value_info, *model.graph.initializer):
        del entry.metadata_props[:]
    onnx.helper.set_model_props(model, {FACTS: facts.to_json()})
    onnx.checker.check_model(model)
    write_atomically(path, lambda file: file.write(model.SerializeToString()))


def _model(deployed: Deployed, precision: Precision) -> Any:
    network = deepcopy(deployed).cpu().eval().requires_grad_(False)
    if precision == "float16":
        network.encoder.half()
    example, free = any_photos(network)
    try:
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
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise CrossresError(f"torch cannot export this network to ONNX ({why})") from None
    assert program is not None
    return program.model_proto


def _quantised(model: Any, calibration: list[Pixels]) -> Any:
    if not calibration:
        raise CrossresError("int8 needs calibration images; give the data it was trained on")
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(CalibrationDataReader):  # type: ignore[misc]
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
        first = _preprocessing(onnx.load(prepared))
        quantize_static(
            prepared,
            small,
            Photos(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=first,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(small)


def _preprocessing(model: Any) -> list[str]:
    """Return the names of the nodes before the first convolution or product with weights."""
    names: list[str] = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            return names
        names.append(node.name)
    return names
