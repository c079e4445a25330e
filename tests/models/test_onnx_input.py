"""Opening ONNX files: what is wrong in one line, and a digest that follows the weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.models.onnx_input import onnx_sha256, open_session

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def file(path: Path, *, weights: str = "w.bin", first: float = 0.0) -> Path:
    """Adds numbers, which lie in a file beside it, to its input."""
    helper = onnx.helper
    values = np.full(2000, first, dtype=np.float32)
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2000]) for name in ("x", "y")]
    added = onnx.numpy_helper.from_array(values, "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "add", ports[:1], ports[1:], [added])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path, save_as_external_data=True, location=weights, size_threshold=0)
    return path


def test_weights_beside_a_file_are_read_and_part_of_its_digest(tmp_path: Path) -> None:
    long = "w" * 200
    path = file(tmp_path / "a.onnx", weights=long, first=1.0)
    (y,) = open_session(path, threads=1).run(None, {"x": np.zeros(2000, np.float32)})
    assert (y == 1).all()
    before = onnx_sha256(path)
    (tmp_path / "unrelated").write_text("else")
    assert onnx_sha256(path) == before
    content = bytearray((tmp_path / long).read_bytes())
    content[0] ^= 1
    (tmp_path / long).write_bytes(content)
    assert onnx_sha256(path) != before


def test_what_cannot_be_opened_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    cases = [
        (tmp_path / "none.onnx", 0, "none.onnx: No such file or directory"),
        (broken, 0, r"broken.onnx: onnxruntime cannot read it \("),
        (broken, -1, "threads -1: expected a number of threads, or 0 "),
    ]
    for path, threads, line in cases:
        with pytest.raises(CrossresError, match=rf"^[^\n]*{line}[^\n]*$"):
            open_session(path, threads)
    with pytest.raises(CrossresError, match=r"none.onnx: No such file or directory$"):
        onnx_sha256(tmp_path / "none.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CrossresError, match=r"broken.onnx needs onnxruntime: pip install 'crossres\[predict\]'$"):
        open_session(broken)
