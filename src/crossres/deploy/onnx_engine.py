"""Engines: what runs a deployed network; here a file of ``crossres export``, with onnxruntime alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from crossres.core.errors import CrossresError, library_errors
from crossres.core.types import Float32s, Pixels
from crossres.deploy.facts import Facts, from_json
from crossres.models.onnx_session import onnx_sha256, open_session

#: key of the facts in an ONNX file's metadata, and name of its input
FACTS, INPUT = "crossres", "photos"


class Engine(Protocol):
    """What runs a deployed network: its facts, the names of its outputs, and sha256 (hex) of its file or weights."""

    facts: Facts
    outputs: tuple[str, ...]
    digest: str

    def run(self, photos: Pixels) -> dict[str, Float32s]:
        """Photos uint8 (B, H, W, 3) -> embedding (B, d), quality (B,); with classes probabilities (B, classes)."""


class OnnxEngine:
    """Runs a file of ``crossres export`` with onnxruntime, on the CPU.

    Args:
        path: of the file.
        threads: how many an operator may use; 0: as many as there are cores.
        session: of the file, where it is open already.

    Raises:
        CrossresError: no such file, not written by ``crossres export``, or broken.
    """

    def __init__(self, path: str | Path, threads: int = 0, session: Any = None) -> None:
        self.session = session or open_session(path, threads)
        self.digest = onnx_sha256(path).hex()
        text = self.session.get_modelmeta().custom_metadata_map.get(FACTS)
        if text is None:
            raise CrossresError(
                f"{path}: not written by crossres export (no preprocessing inside); export the student"
            )
        self.facts = from_json(text, str(path))
        classes, side = len(self.facts.classes), self.facts.side
        self.outputs = tuple(output.name for output in self.session.get_outputs())
        inputs = [(each.name, each.type, len(each.shape)) for each in self.session.get_inputs()]
        expected = ("embedding", *(("logits", "probabilities") if classes else ()), "quality")
        if inputs != [(INPUT, "tensor(uint8)", 4)] or self.outputs != expected:
            raise CrossresError(f"{path}: its inputs or outputs do not match its facts; export the model again")
        outputs = self.run(np.zeros((1, side, side, 3), np.uint8))
        shapes = {"embedding": (1, self.facts.embedding_dim), "quality": (1,), "probabilities": (1, classes)}
        if any(outputs[name].shape != shapes.get(name, outputs[name].shape) for name in outputs):
            raise CrossresError(f"{path}: its outputs do not have the sizes in its facts; export the model again")

    def run(self, photos: Pixels) -> dict[str, Float32s]:
        """Photos uint8 (B, H, W, 3) -> the outputs by name."""
        with library_errors("onnxruntime cannot run the model"):
            return dict(zip(self.outputs, self.session.run(None, {INPUT: photos}), strict=True))
