"""An ONNX file as an encoder, on files made here: frozen, and as a torch copy that learns and is saved whole."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossres.core.errors import CrossresError
from crossres.models.onnx_encoder import onnx_copy, onnx_encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.pretrained import from_pretrained, save_pretrained
from crossres.models.weights import weights_sha256

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx2torch", reason="onnx2torch is not installed")

WEIGHT = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
BGR = OnnxInput(highest=255.0, mean=(127.5, 127.5, 127.5), std=(128.0, 128.0, 128.0), colours="bgr")


def file(
    path: Path,
    batch: Any = "n",
    side: Any = 4,
    layout: str = "nchw",
    weight: np.ndarray = WEIGHT,
    outputs: tuple[str, ...] = ("embedding",),
) -> Path:
    """Mean over the image of each channel, times a matrix: an embedding of 5 numbers; twice that; their sum."""
    shape = [batch, 3, side, side] if layout == "nchw" else [batch, side, side, 3]
    axes = [2, 3] if layout == "nchw" else [1, 2]
    helper, real = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(weight.dtype)
    nodes = [
        helper.make_node("ReduceMean", ["data", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["embedding"]),
        helper.make_node("Add", ["embedding", "embedding"], ["double"]),
        helper.make_node("ReduceSum", ["embedding", "last"], ["sum"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("data", real, shape)],
        [helper.make_tensor_value_info(name, real, [batch, 1 if name == "sum" else 5]) for name in outputs],
        [
            onnx.numpy_helper.from_array(weight, "weight"),
            onnx.numpy_helper.from_array(np.array(axes, dtype=np.int64), "axes"),
            onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "last"),
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
    path = file(tmp_path / "t.onnx", outputs=("sum", "embedding", "double"))
    once, twice = (onnx_encoder(path, OnnxInput(output=name))(images()).embedding for name in ("embedding", "double"))
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
    three = file(tmp_path / "three.onnx", batch=2, outputs=("sum", "embedding", "double"))
    cases: list[tuple[Path, OnnxInput, str]] = [
        (tmp_path / "none.onnx", OnnxInput(), r"none.onnx: No such file"),
        (broken, OnnxInput(), r"broken.onnx: onnxruntime cannot read it"),
        (open_size, OnnxInput(), r"reads images of any size; set onnx_input.size"),
        (fixed, OnnxInput(size=8), r"reads images of side 4, not 8"),
        (fixed, OnnxInput(layout="nhwc"), r"is not nhwc with 3 channels"),
        (fixed, OnnxInput(output="fc1"), r"has no output 'fc1'; its outputs are embedding"),
        (three, OnnxInput(), r"has the outputs sum \[1\], embedding \[5\], double \[5\]; name .* onnx_input.output"),
        (three, OnnxInput(output="sum"), r"'sum' is one number an image, which is no embedding"),
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


def pictures(count: int = 3, side: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wanted", [OnnxInput(), BGR])
@pytest.mark.parametrize("opset", [13, 21])
def test_a_copy_says_what_the_file_says(wanted: OnnxInput, opset: int, tmp_path: Path) -> None:
    path = network(tmp_path / "t.onnx", opset=opset)
    copy, file = onnx_copy(path, wanted), onnx_encoder(path, wanted)
    assert (copy.embedding_dim, copy.input_size) == (6, 8)
    with torch.no_grad():
        for side in (8, 5):  # another size is enlarged to the file's
            ours, theirs = copy.eval()(pictures(side=side)).embedding, file(pictures(side=side)).embedding
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("flat", [(1, 64), (1, -1)])
def test_a_batch_that_is_fixed_inside_becomes_free_in_a_copy(flat: tuple[int, ...], tmp_path: Path) -> None:
    path = network(tmp_path / "t.onnx", flat=flat)
    with torch.no_grad():
        ours, theirs = (make(path, BGR).eval()(pictures()).embedding for make in (onnx_copy, onnx_encoder))
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
        maps = ((pictures(side=size) * 255 - 127.5) / 128).flip(1)
        for layer in whole.backbone.network.children():
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.ReLU)):
                maps = layer(maps)
        maps = torch.nn.functional.interpolate(maps, (4, 4), mode="bilinear")
        matrix = next(weight for weight in whole.parameters() if weight.shape == (6, 64))
        expected = maps.flatten(1) @ matrix.T
        torch.testing.assert_close(copy(pictures(side=size)).embedding, expected, rtol=1e-4, atol=1e-3)
    save_pretrained(copy, tmp_path / "model")
    with torch.no_grad():
        again = from_pretrained(tmp_path / "model")(pictures(side=size)).embedding
        assert torch.equal(again, copy(pictures(side=size)).embedding)


def test_a_size_that_the_file_cannot_read_is_said_in_one_line(tmp_path: Path) -> None:
    path = network(tmp_path / "t.onnx", flat=(1, 64))
    with pytest.raises(CrossresError, match=r"^[^\n]*t.onnx: its torch copy cannot read images of side 0 [^\n]*$"):
        onnx_copy(path, BGR, input_size=0)


def test_a_copy_learns_in_batches(tmp_path: Path) -> None:
    copy = onnx_copy(network(tmp_path / "t.onnx"), BGR, classes=("a", "b")).train()
    said = copy(pictures(5))
    assert said.logits is not None
    assert said.logits.shape == (5, 2)
    said.logits.square().sum().backward()
    weights = dict(copy.named_parameters())
    assert sum(weight.numel() for weight in weights.values()) == 4 * 27 + 4 * 2 + 6 * 64 + (6 + 1) * 2
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights.values())


def test_a_saved_copy_comes_back_without_the_file(tmp_path: Path) -> None:
    path = network(tmp_path / "t.onnx")
    copy = onnx_copy(path, BGR).eval()
    with torch.no_grad():
        for weight in copy.parameters():
            weight.add_(0.1)
    save_pretrained(copy, tmp_path / "model")
    path.unlink()
    again = from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(again(pictures()).embedding, copy(pictures()).embedding)
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
