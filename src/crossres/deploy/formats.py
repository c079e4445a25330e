"""The exported network in other formats: OpenVINO's and torch's own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossres.core.errors import CrossresError
from crossres.deploy.deployed import Deployed
from crossres.deploy.photos import Pixels
from crossres.deploy.recognizer import INPUT, Floats


class OpenvinoEngine:
    """Runs an OpenVINO model on the CPU.

    Args:
        model: of ``openvino.convert_model``.
        outputs: names in the order of the model's outputs.
    """

    def __init__(self, model: Any, outputs: tuple[str, ...]) -> None:
        import openvino

        self.outputs = outputs
        # bfloat16 is its default where the processor has it
        self.compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(self, photos: Pixels) -> dict[str, Floats]:
        """Photos uint8 (B, H, W, 3) -> the outputs by name."""
        said = self.compiled({INPUT: photos})
        return {name: np.array(said[i]) for i, name in enumerate(self.outputs)}


def openvino_model(onnx_file: Path) -> Any:
    """Return OpenVINO's model of an exported file.

    Raises:
        CrossresError: openvino is missing or does not know an operator.
    """
    try:
        import openvino
    except ImportError:
        raise CrossresError("this format needs openvino: pip install 'crossres[openvino]'") from None
    try:
        return openvino.convert_model(str(onnx_file))
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise CrossresError(f"openvino cannot read the export ({why})") from None


def write_openvino(model: Any, path: Path) -> None:
    """Write an OpenVINO model: ``path`` (.xml) and its weights beside it (.bin).

    Raises:
        CrossresError: they cannot be written.
    """
    import openvino

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            openvino.save_model(model, str(made), compress_to_fp16=False)
            # the weights first: an .xml is never without them
            for ending in (".bin", ".xml"):
                shutil.move(made.with_suffix(ending), path.with_suffix(ending))
    except OSError as error:
        raise CrossresError(f"cannot write {path}: {error.strerror or error}") from None


class ProgramEngine:
    """Runs a ``torch.export`` program.

    Args:
        program: of `torch_program`.
        outputs: names in the order of its outputs.
    """

    def __init__(self, program: torch.export.ExportedProgram, outputs: tuple[str, ...]) -> None:
        self.outputs = outputs
        self.network = program.module()

    def run(self, photos: Pixels) -> dict[str, Floats]:
        """Photos uint8 (B, H, W, 3) -> the outputs by name."""
        with torch.inference_mode():
            said = self.network(torch.from_numpy(photos))
        return {name: value.numpy() for name, value in zip(self.outputs, said, strict=True)}


def any_photos(deployed: Deployed) -> tuple[torch.Tensor, dict[int, Any]]:
    """Return photos to trace the network with, and which of their axes are free, by name."""
    side = deployed.facts.side
    # no squares: a length of 1 or equal ones would be taken for fixed
    example = torch.zeros(2, side + 3, side + 1, 3, dtype=torch.uint8)
    return example, {axis: torch.export.Dim(name) for axis, name in enumerate(("batch", "height", "width"))}


def torch_program(deployed: Deployed) -> torch.export.ExportedProgram:
    """Return the network as ``torch.export`` sees it, for photos of any number and size.

    Raises:
        CrossresError: the network cannot be exported.
    """
    example, free = any_photos(deployed)
    try:
        return torch.export.export(deployed, (example,), dynamic_shapes=(free,))
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise CrossresError(f"torch cannot export this network ({why})") from None
