"""ONNX files on the command line: as a teacher, as a gallery's network, as what a student starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossres import read
from crossres.commands.main import main

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("mlxtend", reason="mlxtend is not installed")


def file(path: Path, seed: int = 0) -> Path:
    """Mean over the image of each channel, times a matrix: an embedding of 5 numbers."""
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    constants = {
        "axes": np.array([2, 3], dtype=np.int64),
        "matrix": np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "matrix"], ["embedding"]),
        ],
        "test",
        [helper.make_tensor_value_info("images", real, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("embedding", real, ["n", 5])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_student_knows_what_its_teachers_file_expects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, other = file(tmp_path / "t.onnx"), file(tmp_path / "other.onnx", seed=1)
    words = ["faces", "distill", "--data", "digits", "--images.test_fraction", 0.5, "--train.val_fraction", 0.4]
    words += ["--teacher", teacher, "--onnx_input.highest", 1, "--onnx_input.mean", "[0.5,0.4,0.3]"]
    words += ["--hr_size", 8, "--lr_size", 4, "--model.name", "resnet8", "--model.embedding_dim", 5]
    words += ["--train.epochs", 1, "--runs", tmp_path, "--device", "cpu", "--val_pairs", 60]
    words += ["--losses.cosine.weight", 1]
    assert main([str(word) for word in words]) == 0
    recorded = json.loads((tmp_path / "faces" / "model" / "config.json").read_text())["teacher"]
    assert recorded["file"] == "t.onnx"
    assert recorded["onnx_input"]["mean"] == [0.5, 0.4, 0.3]

    def judged(*more: object) -> tuple[dict[str, Any], str]:
        capsys.readouterr()
        words = [
            "faces",
            "evaluate",
            tmp_path / "faces",
            "digits",
            "--split",
            "test",
            "--resamples",
            0,
            "--json",
            *more,
        ]
        assert main([str(word) for word in words]) == 0
        printed = capsys.readouterr()
        return json.loads(printed.out)["rows"][0]["verification"], printed.err

    known, notes = judged("--gallery", teacher)
    assert notes == "digits: test 2,500 images\n"
    declared = ["--onnx_input.highest", 1, "--onnx_input.mean", "[0.5,0.4,0.3]"]
    assert known == judged("--gallery", teacher, *declared)[0]
    assert "is not the model that" in judged("--gallery", teacher, "--onnx_input.highest", 255)[1]
    assert "is not the model that" in judged("--gallery", other)[1]


@pytest.mark.parametrize("kind", ["onnx", "stored"])
def test_a_teacher_without_maps_teaches_by_default(kind: str, drawn: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "stored.npz"
    if kind == "onnx":
        teacher = file(tmp_path / "t.onnx")
    else:
        images = read(drawn, split="train")
        values = np.random.default_rng(0).normal(size=(len(images), 5)).astype(np.float32)
        np.savez(teacher, path=np.array([images.path(i) for i in range(len(images))]), embedding=values)
    words = ["distill", drawn, "--teacher", teacher, "--hr_size", 16, "--lr_size", 8, "--model.name", "resnet8"]
    words += ["--train.epochs", 1, "--train.batch_size", 24, "--runs", tmp_path, "--device", "cpu"]
    words += ["--onnx_input.highest", 1] if kind == "onnx" else []
    assert main([str(word) for word in words]) == 0
    result = json.loads((tmp_path / "student" / "result.json").read_text())
    assert result["method"] == "ce+crrcd_images"


def test_what_the_file_decides_is_refused_as_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"onnx:{file(tmp_path / 't.onnx')}"
    shared = ["--data", "digits", "--model.name", name, "--runs", str(tmp_path), "--device", "cpu"]
    needs = "onnx:FILE needs crossres distill or faces distill"
    for command, *words, line in (
        ("teach", f"model.name {name}: {needs}; crossres teach has no onnx_input"),
        ("distill", "--model.embedding_dim=4", f"model.embedding_dim: the file of {name} decides it; leave it out"),
    ):
        assert main([command, *shared, *words]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"crossres: {line}"
