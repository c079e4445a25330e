"""A trainable torch copy of an ONNX file: says what the file says, learns, and is saved whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossres.core.errors import CrossresError
from crossres.models.onnx_encoder import onnx_copy, onnx_encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.pretrained import from_pretrained, save_pretrained

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx2torch", reason="onnx2torch is not installed")

BGR = OnnxInput(highest=255.0, mean=(127.5, 127.5, 127.5), std=(128.0, 128.0, 128.0), colours="bgr")


def network(
    path: Path, *, batch: int = 1, opset: int = 21, last: str = "Relu", flat: tuple[int, ...] | None = None
) -> Path:
    """A convolution of int8 weights, batch norm, dropout, an activation and a matrix: embedding of 6 from 8 x 8."""
    rng = np.random.default_rng(0)
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    constants = {
        "weight8": rng.integers(-90, 90, (4, 3, 3, 3), dtype=np.int8),
        "scale": np.array(0.01, dtype=np.float32),
        "zero": np.array(0, dtype=np.int8),
        "gamma": rng.uniform(0.5, 1, 4).astype(np.float32),
        "beta": rng.normal(size=4).astype(np.float32),
        "mean": rng.normal(size=4).astype(np.float32),
        "var": rng.uniform(0.5, 1, 4).astype(np.float32),
        "ratio": np.array(0.5, dtype=np.float32),
        "matrix": rng.normal(size=(6, 64)).astype(np.float32),
    }
    if flat:
        constants["shape"] = np.array(flat, dtype=np.int64)
    nodes = [
        helper.make_node("DequantizeLinear", ["weight8", "scale", "zero"], ["weight"]),
        helper.make_node("Conv", ["data", "weight"], ["conv"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["norm"]),
        helper.make_node("Dropout", ["norm", "ratio"], ["dropped"]),
        helper.make_node(last, ["dropped"], ["active"]),
        helper.make_node("Reshape", ["active", "shape"], ["flat"])
        if flat
        else helper.make_node("Flatten", ["active"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix"], ["embedding"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("data", real, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("embedding", real, [batch, 6])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def images(count: int = 3, side: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wanted", [OnnxInput(), BGR])
@pytest.mark.parametrize("opset", [13, 21])
def test_it_says_what_the_file_says(wanted: OnnxInput, opset: int, tmp_path: Path) -> None:
    path = network(tmp_path / "t.onnx", opset=opset)
    copy, file = onnx_copy(path, wanted), onnx_encoder(path, wanted)
    assert (copy.embedding_dim, copy.input_size) == (6, 8)
    with torch.no_grad():
        for side in (8, 5):  # another size is enlarged to the file's
            ours, theirs = copy.eval()(images(side=side)).embedding, file(images(side=side)).embedding
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("flat", [(1, 64), (1, -1)])
def test_a_batch_that_is_fixed_inside_becomes_free(flat: tuple[int, ...], tmp_path: Path) -> None:
    path = network(tmp_path / "t.onnx", flat=flat)
    with torch.no_grad():
        ours, theirs = (make(path, BGR).eval()(images()).embedding for make in (onnx_copy, onnx_encoder))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("flat", [None, (1, 64)])
@pytest.mark.parametrize("size", [4, 12])
def test_at_another_size_the_maps_are_resized_where_the_file_lays_them_flat(
    size: int, flat: tuple[int, ...] | None, tmp_path: Path
) -> None:
    path = network(tmp_path / "t.onnx", flat=flat)
    copy, whole = onnx_copy(path, BGR, input_size=size).eval(), onnx_copy(path, BGR).eval()
    assert copy.input_size == size
    with torch.no_grad():
        maps = ((images(side=size) * 255 - 127.5) / 128).flip(1)
        for layer in whole.backbone.network.children():
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.ReLU)):
                maps = layer(maps)
        maps = torch.nn.functional.interpolate(maps, (4, 4), mode="bilinear")
        matrix = next(weight for weight in whole.parameters() if weight.shape == (6, 64))
        expected = maps.flatten(1) @ matrix.T
        torch.testing.assert_close(copy(images(side=size)).embedding, expected, rtol=1e-4, atol=1e-3)
    save_pretrained(copy, tmp_path / "model")
    with torch.no_grad():
        again = from_pretrained(tmp_path / "model")(images(side=size)).embedding
        assert torch.equal(again, copy(images(side=size)).embedding)


def test_a_size_that_the_file_cannot_read_is_said_in_one_line(tmp_path: Path) -> None:
    path = network(tmp_path / "t.onnx", flat=(1, 64))
    with pytest.raises(CrossresError, match=r"^[^\n]*t.onnx: its torch copy cannot read images of side 0 [^\n]*$"):
        onnx_copy(path, BGR, input_size=0)


def test_it_learns_in_batches(tmp_path: Path) -> None:
    copy = onnx_copy(network(tmp_path / "t.onnx"), BGR, classes=("a", "b")).train()
    said = copy(images(5))
    assert said.logits is not None
    assert said.logits.shape == (5, 2)
    said.logits.square().sum().backward()
    weights = dict(copy.named_parameters())
    assert sum(weight.numel() for weight in weights.values()) == 4 * 27 + 4 * 2 + 6 * 64 + (6 + 1) * 2
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights.values())


def test_saved_it_comes_back_without_the_file(tmp_path: Path) -> None:
    path = network(tmp_path / "t.onnx")
    copy = onnx_copy(path, BGR).eval()
    with torch.no_grad():
        for weight in copy.parameters():
            weight.add_(0.1)
    save_pretrained(copy, tmp_path / "model")
    path.unlink()
    again = from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(again(images()).embedding, copy(images()).embedding)
    (tmp_path / "model" / "t.onnx").unlink()
    with pytest.raises(CrossresError, match=r"^[^\n]*t.onnx: No such file[^\n]*$"):
        from_pretrained(tmp_path / "model")


def test_an_operator_without_a_torch_copy_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match=r"^[^\n]*onnx2torch cannot make a torch copy of it [^\n]*Mish[^\n]*$"):
        onnx_copy(network(tmp_path / "mish.onnx", last="Mish"), BGR)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (torch.nn.Tanh(), r"the outputs of its torch copy differ from the file's, by up to \d"),
        (
            torch.nn.MaxPool1d(2),
            r"its torch copy returns \(2, 3\) for two images, not \(2, 6\): the file fixes its batch",
        ),
        (torch.nn.Linear(5, 5), r"its torch copy does not run \("),
    ],
)
def test_a_copy_with_other_outputs_is_refused_in_one_line(
    wrong: torch.nn.Module, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx2torch

    real: Any = onnx2torch.convert
    monkeypatch.setattr(onnx2torch, "convert", lambda model: torch.nn.Sequential(real(model), wrong))
    with pytest.raises(CrossresError, match=rf"^[^\n]*{line}[^\n]*$"):
        onnx_copy(network(tmp_path / "t.onnx"), BGR)
