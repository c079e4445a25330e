"""A saved model run by torch, as its export would run it."""

from __future__ import annotations

from pathlib import Path

import torch

from crossres.deploy.deployed import Deployed
from crossres.deploy.facts import facts_of
from crossres.deploy.photos import Pixels
from crossres.deploy.recognizer import Floats
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput, read_onnx_input
from crossres.models.onnx_teacher import OnnxBackbone
from crossres.models.teachers import read_teacher
from crossres.models.weights import weights_sha256


def deploy(encoder: Encoder) -> Deployed:
    """Return an encoder with the preprocessing of its training before it and its answers after it.

    Raises:
        CrossresError: it does not say its sizes.
    """
    # so that a folder and its export are known for one model
    info = {**encoder.info, "weights_sha256": weights_sha256(encoder)}
    facts = facts_of(info, encoder.classes, encoder.embedding_dim, encoder.input_size)
    return Deployed(encoder, facts).eval().requires_grad_(False)


class TorchEngine:
    """Runs a run's or model's folder, a model of the Hub, or an ONNX file that is no export of ours.

    Args:
        path: as of `crossres.models.teachers.read_teacher`.
        trust_code: import the code that the model names for its network.
        onnx_input: what an ONNX file expects, as ``highest=1,colours=bgr``; such a file is taken for a face model.

    Raises:
        CrossresError: nothing there, or broken.
    """

    def __init__(self, path: str | Path, *, trust_code: bool = False, onnx_input: str = "") -> None:
        wanted = read_onnx_input(onnx_input) if onnx_input else OnnxInput()
        encoder = read_teacher(str(path), wanted, trust_code=trust_code)
        if isinstance(encoder.backbone, OnnxBackbone):
            encoder.info = {"task": "faces", **encoder.info}
        self.network = deploy(encoder)
        self.facts = self.network.facts
        self.outputs = self.network.outputs
        self.digest = str(self.facts.about["weights_sha256"])

    def run(self, photos: Pixels) -> dict[str, Floats]:
        """Photos uint8 (B, H, W, 3) -> the outputs by name."""
        with torch.inference_mode():
            said = self.network(torch.from_numpy(photos))
        return {name: value.numpy() for name, value in zip(self.outputs, said, strict=True)}
