"""A student trained for a moment, its export, and photos."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossres import Distill, distill
from crossres.config.options import Model, Train


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
        train=Train(epochs=6, batch_size=24, precision="float32", device="cpu"),
    )
    distill(config, quiet=True)
    return config.folder


@pytest.fixture(scope="session")
def onnx_file(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as an ONNX file."""
    from crossres.deploy.export import export

    return export(student, tmp_path_factory.mktemp("exports") / "student.onnx").path
