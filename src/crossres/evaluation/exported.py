"""A ready model or a file of ``crossres export`` as an encoder that is judged: with its own answers and facts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossres.core.errors import CrossresError
from crossres.core.types import Outputs
from crossres.data.degradation import Degradation
from crossres.evaluation.onnx_engine import OnnxEngine, open_export
from crossres.models.encoder import Encoder
from crossres.models.zoo import model_file


def exported_encoder(model: str) -> Encoder | None:
    """Return a frozen encoder of a ready model's name or an exported file; None for what is neither.

    Its answers are those of `crossres.Recognizer` for the same pixels, on the CPU. ``info`` has the file's facts.

    Raises:
        CrossresError: an ONNX file that is missing, damaged or broken.
    """
    file = model_file(model)
    if Path(file).suffix.lower() != ".onnx":
        return None
    engine = open_export(file, torch.get_num_threads())
    return None if engine is None else ExportedEncoder(engine, model).eval()


class ExportedEncoder(Encoder):
    """Runs a file of ``crossres export``, which brings images of any size to its own; errors name it ``model``."""

    def __init__(self, engine: OnnxEngine, model: str) -> None:
        facts = engine.facts
        architecture = {"name": "export", "file": Path(model).name}
        width = facts.embedding_dim
        super().__init__(_File(engine), embedding_dim=width, classes=(), input_size=None, architecture=architecture)
        self.classes = facts.classes  # its classifier is in the file
        self.info = _info(engine, model)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, h, w) in 0..1, taken as 8-bit ones -> embedding (B, d), logits (B, classes) or None."""
        outputs = self.backbone(images)
        return Outputs(outputs["embedding"], outputs.get("logits"), {})


class _File(nn.Module):
    """Images (B, 3, h, w) in 0..1 -> the file's outputs by name."""

    def __init__(self, engine: OnnxEngine) -> None:
        super().__init__()
        self.engine = engine
        # stands for the file's weights in `weights_sha256`
        self.digest = nn.Buffer(torch.frombuffer(bytearray.fromhex(engine.digest), dtype=torch.uint8))

    def __deepcopy__(self, memo: dict[int, Any]) -> "_File":
        return self  # a session cannot be copied, and nothing in it changes

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pixels = (images.detach().float() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        outputs = self.engine.run(pixels.contiguous().cpu().numpy())
        return {name: torch.from_numpy(values).to(images.device) for name, values in outputs.items()}


def _info(engine: OnnxEngine, model: str) -> dict[str, Any]:
    """Return the facts as ``Encoder.info`` has them; CrossresError where they are broken."""
    facts = engine.facts
    low, high = facts.lr_size
    info = {
        **facts.about,
        "task": facts.task,
        "lr_size": high if low == high else [low, high],
        "hr_size": facts.hr_size,
        "fit": facts.fit,
        "range": facts.range,
        "precision": "float32",  # of its inputs and outputs, whatever it computes with
    }
    try:
        info["degradation"] = {**(info.get("degradation") or {}), "kernel": facts.kernel}
        Degradation(**info["degradation"])
        shares = [float(info.get(name) or 0) for name in ("test_fraction", "val_fraction")]
        mappings = [info.get(name) or {} for name in ("teacher", "data_sha256")]
    except (TypeError, ValueError, OverflowError, CrossresError):
        shares, mappings = [], []
    if not (shares and all(0 <= share < 1 for share in shares) and all(isinstance(m, Mapping) for m in mappings)):
        raise CrossresError(f"{model}: its metadata is damaged; export the model again")
    return info
