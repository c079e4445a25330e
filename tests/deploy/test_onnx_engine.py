"""Files of ``crossres export``: others and broken ones are refused; a digest follows the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from crossres.core.errors import CrossresError
from crossres.deploy.onnx_engine import OnnxEngine
from crossres.deploy.recognizer import Recognizer
from crossres.models.onnx_session import onnx_sha256


def test_neighbours_change_no_digest_but_weights_do(onnx_file: Path, tmp_path: Path) -> None:
    shutil.copy(onnx_file, tmp_path / "alone.onnx")
    (tmp_path / "bar").write_text("a class has this name")
    assert onnx_sha256(tmp_path / "alone.onnx") == onnx_sha256(onnx_file)
    for long in ("weights", "w" * 200):
        model = onnx.load(onnx_file)
        onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location=long, size_threshold=0)
        before = onnx_sha256(tmp_path / "split.onnx")
        (tmp_path / long).write_bytes((tmp_path / long).read_bytes()[:-1] + b"x")
        assert onnx_sha256(tmp_path / "split.onnx") != before


def test_files_that_are_not_exports_are_refused(tmp_path: Path, onnx_file: Path) -> None:
    with pytest.raises(CrossresError, match=r"missing.onnx: No such file"):
        Recognizer.load(tmp_path / "missing.onnx")
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"\x80\x04junk")
    with pytest.raises(CrossresError, match="onnxruntime cannot read it"):
        Recognizer.load(junk)
    model = onnx.load(onnx_file)
    facts = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "crossres"))
    for name, changed in (("wider", facts | {"embedding_dim": 7}), ("none", facts | {"classes": []})):
        onnx.helper.set_model_props(model, {"crossres": json.dumps(changed)})
        onnx.save(model, tmp_path / f"{name}.onnx")
        with pytest.raises(CrossresError, match="export the model"):
            Recognizer.load(tmp_path / f"{name}.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(CrossresError, match="which is not nchw with 3 channels"):
        Recognizer.load(tmp_path / "bare.onnx")
    with pytest.raises(CrossresError, match="not written by crossres export"):
        OnnxEngine(tmp_path / "bare.onnx")
