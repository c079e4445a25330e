"""Exports say what the network says, carry their facts, and a bad one is refused; embeddings in bulk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from crossres.commands.main import main
from crossres.core.errors import CrossresError
from crossres.data.readers import read
from crossres.deploy import bulk
from crossres.deploy import export as exporting
from crossres.deploy.export import export
from crossres.deploy.parity import Parity, compare, demand
from crossres.deploy.recognizer import Recognizer
from crossres.deploy.torch_engine import deploy
from crossres.models.encoder import build_encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.pretrained import save_pretrained
from crossres.models.stored import stored_outputs
from crossres.models.teachers import read_teacher


def test_the_file_carries_facts_and_accuracy(student: Path, onnx_file: Path) -> None:
    facts = Recognizer.load(onnx_file).facts
    result = json.loads((student / "result.json").read_text())
    parity = facts.about["parity"]
    assert facts.classes == ("bar", "cross", "disc", "frame")
    assert facts.lr_size == (8, 8)
    assert parity["images"] == 40
    assert parity["accuracy"] == parity["accuracy_before"] == pytest.approx(result["top1_best_val"])
    assert facts.about["degradation"]["kernel"] == "bicubic"
    assert facts.about["versions"]["torch"] == torch.__version__.split("+")[0]
    model = onnx.load(onnx_file)
    # nothing of the machine that wrote it
    assert str(student.parent) not in str(model)
    (given,) = model.graph.input
    assert [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim] == [
        "batch",
        "height",
        "width",
        3,
    ]


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_files_answer_nearly_alike(
    student: Path, onnx_file: Path, drawn: Path, tmp_path: Path, precision: str
) -> None:
    done = export(student, tmp_path / "small.onnx", precision=precision)
    assert done.bytes == done.path.stat().st_size < 0.8 * onnx_file.stat().st_size
    whole, small = (Recognizer.load(path).predict(drawn / "test") for path in (onnx_file, done.path))
    same = np.mean([a.label == b.label for a, b in zip(whole, small, strict=True)])
    assert 100 * same == pytest.approx(done.parity.agreement)
    assert same > 0.9
    assert Recognizer.load(done.path).facts.about["precision_exported"] == precision
    kinds = {node.op_type for node in onnx.load(done.path).graph.node}
    assert ("QuantizeLinear" in kinds) == (precision == "int8")


def test_torch_and_openvino_formats(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(student), "--format", "torch", "--out", str(tmp_path / "it.pt2"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["parity"]["agreement"] == 100
    program = torch.export.load(tmp_path / "it.pt2").module()
    photos = np.random.default_rng(0).integers(0, 256, (3, 21, 13, 3), dtype=np.uint8)
    wanted = Recognizer.load(student).embed(photos)
    np.testing.assert_allclose(program(torch.from_numpy(photos))[0].numpy(), wanted, atol=1e-5)
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    assert main(["export", str(student), "--format", "openvino", "--out", str(tmp_path / "it.xml")]) == 0
    model = openvino.compile_model(str(tmp_path / "it.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(model({"photos": photos})[0], wanted, atol=1e-3)


def test_faces_and_a_network_that_enlarges(tmp_path: Path, drawn: Path) -> None:
    """An encoder without classes that reads 16x16 from 8x8 photos; a model's folder names its data by --data."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet8", classes=(), input_size=16, embedding_dim=12).eval()
    encoder.info = {"task": "faces", "lr_size": 8, "hr_size": 16}
    save_pretrained(encoder, tmp_path / "face")
    with pytest.raises(CrossresError, match="give --data"):
        export(tmp_path / "face", tmp_path / "face.onnx")
    done = export(tmp_path / "face", tmp_path / "face.onnx", data=str(drawn))
    assert done.parity.agreement is None
    assert done.parity.accuracy == pytest.approx(done.parity.accuracy_before, abs=1)
    photo = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    (answer,) = Recognizer.load(done.path).predict(photo)
    assert answer.label is answer.probabilities is None
    assert answer.embedding.shape == (12,)
    assert answer.quality == pytest.approx(np.linalg.norm(answer.embedding), rel=1e-5)
    # the encoder's own enlarging, of what training would have shown it
    lr = deploy(encoder).read(torch.from_numpy(photo)[None])
    assert lr.shape[-1] == 16
    small = Recognizer.load(tmp_path / "face").embed(photo)[0]
    np.testing.assert_allclose(answer.embedding, small, atol=1e-4)


def test_what_differs_is_refused_and_nothing_is_written(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = exporting.onnx_model

    def wrong(network: object, *how: object) -> object:
        model = exported(network, *how)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("classifier.weight"):
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(-values, tensor.name))
        return model

    monkeypatch.setattr(exporting, "onnx_model", wrong)
    target = tmp_path / "wrong.onnx"
    assert main(["export", str(student), "--out", str(target)]) == 2
    assert "the export failed: the same first answer for" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_parity_and_its_bounds() -> None:
    rng = np.random.default_rng(0)
    before = {"embedding": rng.normal(size=(200, 4)), "logits": np.eye(4)[rng.integers(0, 4, 200)]}
    after = {"embedding": before["embedding"].copy(), "logits": before["logits"].copy()}
    truth = before["logits"].argmax(1)
    after["logits"][:3] = np.roll(after["logits"][:3], 1, axis=1)
    after["embedding"][0, 0] += 0.5
    parity = compare(before, after, truth)
    assert (parity.images, parity.agreement, parity.accuracy, parity.accuracy_before) == (200, 98.5, 98.5, 100.0)
    assert parity.largest_difference == pytest.approx(0.5 / np.sqrt((before["embedding"] ** 2).mean()))
    demand(Parity(200, 0.0, 1.0, 99.0, 99.0, 99.9), "float32")  # two images may fall otherwise
    for wrong, why in (
        (Parity(200, 0.0, 0.99, 100.0, None, None), "mean cosine"),
        (Parity(200, 0.0, float("nan"), 100.0, None, None), "mean cosine"),
        (Parity(2000, 0.0, 1.0, 99.0, None, None), "first answer"),
        (Parity(2000, 0.0, 1.0, 100.0, 50.0, 51.5), "1.50 points"),
    ):
        with pytest.raises(CrossresError, match=why):
            demand(wrong, "float32")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--precision", "int8", "--format", "torch"], "written in float32"),
        (["--out", "it.bin"], "ends in .onnx"),
        (["--images", "9"], "at least 10"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options(student: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(student), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line


def test_bulk_embeddings_resume(
    onnx_file: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(drawn / "test", photos)
    (photos / "disc" / "05.png").write_bytes(b"no image")
    Image.new("RGB", (16, 16), "white").save(photos / "disc" / "06.png")
    out = tmp_path / "out"
    words = ["embed", str(onnx_file), str(photos), str(out), "--part", "15", "--batch_size", "4"]
    assert main(words) == 0
    assert "40 photos, 1 flagged, 1 unreadable" in capsys.readouterr().out
    parts = sorted(out.iterdir())
    rows = [row for part in parts for row in parquet.read_table(part).to_pylist()]
    wanted = Recognizer.load(onnx_file).predict(photos)
    assert [str(photos / row["path"]) for row in rows] == [answer.name for answer in wanted]
    for row, answer in zip(rows, wanted, strict=True):
        assert (row["embedding"] is None) == (answer.embedding is None) == (row["error"] is not None)
        if answer.embedding is not None:
            np.testing.assert_allclose(row["embedding"], answer.embedding, atol=1e-5)
    written = [part.stat().st_mtime_ns for part in parts]
    parts[1].unlink()
    assert main(words) == 0
    said = capsys.readouterr()
    assert "2 of 3 parts are there already" in said.err
    assert "40 photos, 1 flagged, 1 unreadable" in said.out
    assert [part.stat().st_mtime_ns for part in sorted(out.iterdir())][::2] == written[::2]
    for change in (lambda: os.utime(photos / "disc" / "05.png", ns=(1, 1)), (photos / "disc" / "05.png").unlink):
        change()
        assert main(words) == 2
        assert "is of another model, other photos or another number" in capsys.readouterr().err
    shutil.rmtree(out)
    assert main(words) == 0
    shutil.rmtree(photos / "frame")
    shutil.rmtree(photos / "disc")  # what is left fills two parts of three
    assert main([*words[:3], str(out), "--part", "20"]) == 2
    assert main(words) == 2
    assert "part-00002.parquet is of" in capsys.readouterr().err
    assert main([*words[:3], str(photos)]) == 2
    assert "holds the photos" in capsys.readouterr().err


def test_bulk_embeddings_of_parquet(onnx_file: Path, drawn: Path, tmp_path: Path) -> None:
    import pyarrow as arrow

    files = sorted((drawn / "test").rglob("*.png"))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    parquet.write_table(arrow.table({"image": images}), tmp_path / "data.parquet", row_group_size=7)
    done = bulk.embed(onnx_file, tmp_path / "data.parquet", tmp_path / "out", part=11, say=lambda _: None)
    assert done == {"photos": 40, "flagged": 0, "unreadable": 0}
    tables = [parquet.read_table(part) for part in sorted((tmp_path / "out").iterdir())]
    assert [name for table in tables for name in table["path"].to_pylist()] == [path.name for path in files]
    found = np.array([row for table in tables for row in table["embedding"].to_pylist()])
    np.testing.assert_allclose(found, Recognizer.load(onnx_file).embed(files), atol=1e-5)
    shutil.copy(files[0], tmp_path / "beside.png")
    said: list[str] = []
    bulk.embed(onnx_file, tmp_path, tmp_path / "out of a folder", say=said.append)
    assert said[0] == f"{tmp_path}: its parquet files are read, 1 image files beside them are not"
    table = {"path": [str(path) for path in files], "text": [{"bytes": str(path)} for path in files]}
    parquet.write_table(arrow.table(table), tmp_path / "paths.parquet")
    for column in table:
        with pytest.raises(CrossresError, match=f"'{column}' holds (string|struct.*), not the bytes of images"):
            bulk.embed(onnx_file, tmp_path / "paths.parquet", tmp_path / "local", image_column=column)
    with pytest.raises(CrossresError, match="no column 'photo'"):
        bulk.embed(onnx_file, tmp_path / "data.parquet", tmp_path / "other", image_column="photo")


def test_bulk_embeddings_are_a_teacher(onnx_file: Path, drawn: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(drawn / "test", photos)
    (photos / "disc" / "05.png").write_bytes(b"no image")
    odd = os.fsencode(photos / "disc") + b"/\xff.png"
    shutil.copy(photos / "disc" / "04.png", odd)
    bulk.embed(onnx_file, photos, tmp_path / "out", part=15, say=lambda _: None)
    os.unlink(odd)
    teacher = read_teacher(str(tmp_path / "out"), OnnxInput())
    with pytest.raises(CrossresError, match=r"no embedding of disc/05.png \(1 of 40 images"):
        stored_outputs(teacher, read(photos, split="all"), torch.device("cpu"))
    (photos / "disc" / "05.png").unlink()
    images = read(photos, split="all")
    said = stored_outputs(teacher, images, torch.device("cpu"))(torch.arange(39), torch.zeros(39, dtype=torch.long))
    wanted = Recognizer.load(onnx_file).embed([photos / images.path(i) for i in range(39)])
    np.testing.assert_allclose(said.embedding.numpy(), wanted, atol=1e-5)


def test_bulk_embeddings_over_ray(onnx_file: Path, drawn: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    ray.init(num_cpus=2, log_to_driver=False)
    try:
        alone, over = (tmp_path / name for name in ("alone", "over"))
        said: list[str] = []
        for out, engine in ((alone, "local"), (over, "ray")):
            done = bulk.embed(onnx_file, drawn / "test", out, part=15, engine=engine, say=said.append)
            assert done["photos"] == 40
    finally:
        ray.shutdown()
    for ours, theirs in zip(sorted(alone.iterdir()), sorted(over.iterdir()), strict=True):
        assert parquet.read_table(ours)["path"] == parquet.read_table(theirs)["path"]
        a, b = (np.array(parquet.read_table(path)["embedding"].to_pylist()) for path in (ours, theirs))
        np.testing.assert_allclose(a, b, atol=1e-5)
