"""An ONNX file as a teacher: whatever its layout, range, colours and batch, on files made here."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossres.core.errors import CrossresError
from crossres.models.onnx_encoder import onnx_encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.weights import weights_sha256

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

WEIGHT = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def file(path: Path, batch: Any = "n", side: Any = 4, layout: str = "nchw", weight: np.ndarray = WEIGHT) -> Path:
    """Mean over the image of each channel, times a matrix: an embedding of 5 numbers; beside it twice that."""
    shape = [batch, 3, side, side] if layout == "nchw" else [batch, side, side, 3]
    axes = [2, 3] if layout == "nchw" else [1, 2]
    helper, real = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(weight.dtype)
    nodes = [
        helper.make_node("ReduceMean", ["data", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["embedding"]),
        helper.make_node("Add", ["embedding", "embedding"], ["double"]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("data", real, shape)],
        [helper.make_tensor_value_info(name, real, [batch, 5]) for name in ("embedding", "double")],
        [
            onnx.numpy_helper.from_array(weight, "weight"),
            onnx.numpy_helper.from_array(np.array(axes, dtype=np.int64), "axes"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def images(count: int = 5, side: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", ["n", 1, 3])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("colours", ["rgb", "bgr"])
def test_it_gets_what_it_declares(batch: Any, layout: Any, colours: Any, tmp_path: Path) -> None:
    path = file(tmp_path / "t.onnx", batch=batch, layout=layout)
    wanted = OnnxInput(highest=255, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0), colours=colours, layout=layout)
    encoder = onnx_encoder(path, wanted)
    assert (encoder.embedding_dim, encoder.input_size, encoder.classes) == (5, 4, ())
    said = encoder(images())
    assert said.logits is None
    order = [0, 1, 2] if colours == "rgb" else [2, 1, 0]
    for row, picture in zip(said.embedding, images().numpy() * 255, strict=True):
        normal = np.stack([(picture[c] - (10, 20, 30)[c]) / (2, 4, 8)[c] for c in range(3)])[order]
        assert np.allclose(row.numpy(), normal.mean((1, 2)) @ WEIGHT, rtol=1e-4, atol=1e-4)


def test_another_size_is_brought_to_its_own(tmp_path: Path) -> None:
    encoder = onnx_encoder(file(tmp_path / "t.onnx"), OnnxInput())
    grey = torch.full((2, 3, 9, 9), 0.5)
    assert np.allclose(encoder(grey).embedding.numpy(), 127.5 * WEIGHT.sum(0), rtol=1e-4)


def test_the_output_that_is_asked_for(tmp_path: Path) -> None:
    path = file(tmp_path / "t.onnx")
    once, twice = (onnx_encoder(path, OnnxInput(output=name))(images()).embedding for name in (None, "double"))
    assert torch.allclose(2 * once, twice)


def test_copies_share_the_file_and_other_files_are_other_teachers(tmp_path: Path) -> None:
    encoder = onnx_encoder(file(tmp_path / "t.onnx"), OnnxInput())
    again = onnx_encoder(file(tmp_path / "t.onnx"), OnnxInput())
    other = onnx_encoder(file(tmp_path / "t.onnx", weight=WEIGHT + 1), OnnxInput())
    assert torch.equal(deepcopy(encoder)(images()).embedding, encoder(images()).embedding)
    assert weights_sha256(encoder) == weights_sha256(again)
    assert weights_sha256(encoder) != weights_sha256(other)
    assert weights_sha256(encoder) != weights_sha256(onnx_encoder(tmp_path / "t.onnx", OnnxInput(colours="bgr")))


def test_what_is_no_teacher_is_said_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    open_size = file(tmp_path / "open.onnx", side="s")
    fixed = file(tmp_path / "t.onnx")
    cases: list[tuple[Path, OnnxInput, str]] = [
        (tmp_path / "none.onnx", OnnxInput(), r"none.onnx: No such file"),
        (broken, OnnxInput(), r"broken.onnx: onnxruntime cannot read it"),
        (open_size, OnnxInput(), r"reads images of any size; give the side that it was trained at"),
        (fixed, OnnxInput(size=8), r"reads images of side 4, not 8"),
        (fixed, OnnxInput(layout="nhwc"), r"is not nhwc with 3 channels"),
        (fixed, OnnxInput(output="fc1"), r"has no output 'fc1'; its outputs are embedding, double"),
        (fixed, OnnxInput(std=(1.0, 0.0, 1.0)), r"std and highest should be above 0"),
    ]
    for path, wanted, line in cases:
        with pytest.raises(CrossresError, match=rf"^[^\n]*{line}[^\n]*$"):
            onnx_encoder(path, wanted)
    assert onnx_encoder(open_size, OnnxInput(size=6))(images(2, 6)).embedding.shape == (2, 5)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_it_gets_numbers_of_the_precision_it_reads(kind: Any, tmp_path: Path) -> None:
    wanted = OnnxInput(size=4)
    said, exact = (
        onnx_encoder(file(tmp_path / f"{np.dtype(of)}.onnx", weight=WEIGHT.astype(of)), wanted)(images()).embedding
        for of in (kind, np.float32)
    )
    assert said.dtype == torch.float32
    assert torch.allclose(said, exact, rtol=1e-2, atol=1e-2)


def test_an_input_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path / "t.onnx", weight=WEIGHT.astype(np.int32))
    with pytest.raises(CrossresError, match=r"t.onnx: reads tensor\(int32\); expected tensor\(float\), "):
        onnx_encoder(path, OnnxInput())


def test_an_input_of_bytes_gets_rounded_ones(tmp_path: Path) -> None:
    model = onnx.load(file(tmp_path / "t.onnx"))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    model.graph.node[0].input[0] = "real"
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["data"], ["real"], to=onnx.TensorProto.FLOAT))
    onnx.save(model, tmp_path / "bytes.onnx")
    said = onnx_encoder(tmp_path / "bytes.onnx", OnnxInput())(images()).embedding
    rounded = (images().numpy() * 255).round().mean((2, 3)) @ WEIGHT
    assert np.allclose(said.numpy(), rounded, rtol=1e-5)
