"""A student trained for a moment, its export, and an untrained encoder of faces."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crossres import Distill, Export, Train, build_encoder, distill, export
from crossres.config.options import Model
from crossres.models.pretrained import save_pretrained


@pytest.fixture(scope="session")
def student(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on `drawn`: resnet8 at 8x8, float32."""
    config = Distill(
        data=str(drawn),
        runs=str(tmp_path_factory.mktemp("students")),
        name="student",
        hr_size=16,
        lr_size=8,
        model=Model(name="resnet8"),
        losses={"ce": {"weight": 1}},
        train=Train(epochs=6, batch_size=24),
        precision="float32",
        device="cpu",
    )
    distill(config, quiet=True)
    return config.folder


@pytest.fixture(scope="session")
def onnx_file(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as an ONNX file."""
    path = tmp_path_factory.mktemp("exports") / "student.onnx"
    export(Export(model=str(student), out=str(path)))
    return path


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained encoder of faces at 8x8, without classes."""
    import torch

    torch.manual_seed(0)
    encoder = build_encoder("resnet8", classes=(), input_size=8)
    folder = tmp_path_factory.mktemp("encoders") / "faces"
    save_pretrained(encoder.eval(), folder, info={"task": "faces", "lr_size": 8, "hr_size": 16})
    return folder


@pytest.fixture(scope="session")
def calibrated(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float | None], Path]:
    """A function that copies the student as if validation had shown answers to be sure above a probability.

    None: as an earlier version wrote it, which calibrated nothing.
    """

    def copy(threshold: float | None) -> Path:
        folder = tmp_path_factory.mktemp("calibrated") / "student"
        shutil.copytree(student / "model", folder)
        info = json.loads((folder / "config.json").read_text())
        info["confidence"] = {"accuracy": 95.0, "images": 400, "threshold": threshold}
        if threshold is None:
            del info["confidence"]
        (folder / "config.json").write_text(json.dumps(info))
        return folder

    return copy
