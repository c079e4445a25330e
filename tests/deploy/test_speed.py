"""Speed: what is measured of a file and of a folder, and what is counted beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

import crossres
from crossres.core.errors import CrossresError
from crossres.deploy.export import write_onnx
from crossres.deploy.speed import speed
from crossres.evaluation.onnx_engine import FACTS, OnnxEngine
from crossres.models.pretrained import from_pretrained

OLD = Path(__file__).parents[1] / "old_files" / "student-int8.onnx"


def counted(student: Path) -> int:
    """Multiply-adds of an 8x8 image by a naive count over layers, and of resampling its rows and columns."""
    encoder, total = from_pretrained(student), []

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        total.append(output.numel() * layer.weight[0].numel())

    for layer in encoder.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        encoder(torch.zeros(1, 3, 8, 8))
    return sum(total) + 2 * 3 * 8**3


def test_a_file_and_its_folder(student: Path, onnx_file: Path) -> None:
    threads = torch.get_num_threads()
    for model, runtime in ((onnx_file, "onnxruntime"), (student, "torch")):
        document = speed(crossres.Speed(model=str(model), batch_size=8))
        assert (document["side"], document["batch_size"]) == (8, 8)
        assert document["runtime"].split()[0] == runtime
        assert document["parameters"] == sum(p.numel() for p in from_pretrained(student).parameters())
        assert document["multiply_adds"] == counted(student)
        file = student / "model" / "model.safetensors" if model == student else model
        assert document["bytes"] == file.stat().st_size
        assert [row["threads"] for row in document["timings"]] == [1, 0]
        for row in document["timings"]:
            for timing in (row["of_one"], row["of_batch"]):
                assert 0 < timing["low"] <= timing["median"] <= timing["high"]
                assert timing["repeats"] >= 10
    assert torch.get_num_threads() == threads


def test_a_file_needs_no_torch(onnx_file: Path) -> None:
    code = (
        "import sys, crossres\n"
        "sys.modules['torch'] = None\n"
        f"document = crossres.speed(crossres.Speed(model={str(onnx_file)!r}, batch_size=2))\n"
        "print(document['multiply_adds'] > 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(crossres.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_what_a_file_does_not_say_is_unknown(onnx_file: Path, tmp_path: Path) -> None:
    """One of an earlier version, or anybody's."""
    facts = OnnxEngine(onnx_file).facts
    lying = tmp_path / "lying.onnx"
    about = {**facts.about, "parameters": "many", "multiply_adds": -1}
    write_onnx(onnx.load(onnx_file), replace(facts, about=about), lying)
    for path in (OLD, lying):
        document = speed(crossres.Speed(model=str(path), batch_size=2))
        assert document["parameters"] is document["multiply_adds"] is None


def test_what_cannot_be_measured(onnx_file: Path, tmp_path: Path) -> None:
    foreign, text = tmp_path / "foreign.onnx", tmp_path / "text.onnx"
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    assert FACTS not in {entry.key for entry in model.metadata_props}
    text.write_text("no network")
    for path, why in [
        (foreign, f"^{foreign}: not written by crossres export; export the student$"),
        (text, f"^{text}: onnxruntime cannot read it"),
        (tmp_path / "none.onnx", f"^{tmp_path / 'none.onnx'}: No such file or directory$"),
        (tmp_path / "none", "there is no folder"),
        (tmp_path, f"there is no config.json in {tmp_path}"),
    ]:
        with pytest.raises(CrossresError, match=why):
            speed(crossres.Speed(model=str(path)))
    with pytest.raises(CrossresError, match="--batch_size: expected 1 or more, got 0"):
        speed(crossres.Speed(model=str(onnx_file), batch_size=0))
