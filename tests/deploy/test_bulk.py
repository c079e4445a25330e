"""Many photos: predictions as documents and a table, embeddings as parquet files that resume."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from crossres.config.deployment import Embed, Predict
from crossres.config.options import ImageColumn
from crossres.core.errors import CrossresError
from crossres.data.readers import read
from crossres.deploy.bulk import embed, predict
from crossres.deploy.recognizer import Recognizer
from crossres.models.onnx_input import OnnxInput
from crossres.models.teachers import read_teacher, stored_outputs


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    """The test images of `drawn`, one of them broken and one white."""
    folder = shutil.copytree(drawn / "test", tmp_path / "photos")
    (folder / "disc" / "05.png").write_bytes(b"no image")
    Image.new("RGB", (16, 16), "white").save(folder / "disc" / "06.png")
    return folder


def rows_in(folder: Path) -> list[dict[str, object]]:
    return [row for part in sorted(folder.iterdir()) for row in parquet.read_table(part).to_pylist()]


def test_embeddings_are_those_of_the_recognizer_and_resume(onnx_file: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = Embed(model=str(onnx_file), data=str(photos), out=str(out), part=15, batch_size=4)
    counts = {"photos": 40, "flagged": 1, "unreadable": 1}
    assert embed(options) == counts
    answers = Recognizer.load(onnx_file).predict(photos)
    rows = rows_in(out)
    assert [str(photos / row["path"]) for row in rows] == [answer.name for answer in answers]
    for row, answer in zip(rows, answers, strict=True):
        assert (row["embedding"] is None) == (answer.embedding is None) == (row["error"] is not None)
        if answer.embedding is not None:
            np.testing.assert_allclose(row["embedding"], answer.embedding, atol=1e-5)
    parts = sorted(out.iterdir())
    written = [part.stat().st_mtime_ns for part in parts]
    parts[1].unlink()
    notes: list[str] = []
    assert embed(options, notes.append) == counts
    assert notes == [f"{out}: 2 of 3 parts are there already", "3 of 3 parts, 40 photos"]
    assert [part.stat().st_mtime_ns for part in sorted(out.iterdir())][::2] == written[::2]


def test_parts_of_other_photos_are_refused(onnx_file: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = Embed(model=str(onnx_file), data=str(photos), out=str(out), part=15)
    embed(options)
    broken = photos / "disc" / "05.png"
    for change in (lambda: os.utime(broken, ns=(1, 1)), broken.unlink):
        change()
        with pytest.raises(
            CrossresError, match=r"was made by another model, from other photos or with another --part"
        ):
            embed(options)
    shutil.rmtree(out)
    embed(options)
    shutil.rmtree(photos / "frame")
    shutil.rmtree(photos / "disc")  # what is left fills two parts of three
    with pytest.raises(CrossresError, match="was made by"):
        embed(replace(options, part=20))
    with pytest.raises(CrossresError, match=r"part-00002.parquet was made by"):
        embed(options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"out": "photos"}, "holds the photos"),
        ({"part": 0}, "--part, --batch_size: expected 1 or more, got 0 and 64"),
        ({"batch_size": 0}, "expected 1 or more, got 10000 and 0"),
        ({"data": "empty"}, "no image in it"),
        ({"data": "missing"}, "not a folder of images and not a parquet file"),
        ({"data": "broken"}, "none of the 1 photos could be read"),
    ],
)
def test_wrong_options(
    onnx_file: Path, options: dict[str, object], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "empty", "broken"):
        Path(name).mkdir()
    Path("broken/a.png").write_bytes(b"no image")
    with pytest.raises(CrossresError, match=why):
        embed(Embed(**{"model": str(onnx_file), "data": "photos", "out": "out", **options}))


def test_embeddings_of_parquet(onnx_file: Path, drawn: Path, tmp_path: Path) -> None:
    files = sorted((drawn / "test").rglob("*.png"))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    parquet.write_table(arrow.table({"image": images}), tmp_path / "data.parquet", row_group_size=7)
    options = Embed(model=str(onnx_file), data=str(tmp_path / "data.parquet"), out=str(tmp_path / "out"), part=11)
    assert embed(options) == {"photos": 40, "flagged": 0, "unreadable": 0}
    rows = rows_in(tmp_path / "out")
    assert [row["path"] for row in rows] == [path.name for path in files]
    expected = Recognizer.load(onnx_file).embed(files)
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
    shutil.copy(files[0], tmp_path / "beside.png")
    notes: list[str] = []
    embed(replace(options, data=str(tmp_path), out=str(tmp_path / "out of a folder")), notes.append)
    assert notes[0] == f"{tmp_path}: reading its parquet files; the 1 image files beside them are not read"


def test_columns_that_hold_no_images_are_refused(onnx_file: Path, drawn: Path, tmp_path: Path) -> None:
    files = sorted((drawn / "test" / "disc").iterdir())
    bare = [path.read_bytes() for path in files]
    table = {"path": [str(path) for path in files], "text": [{"bytes": str(path)} for path in files], "image": bare}
    parquet.write_table(arrow.table(table), tmp_path / "data.parquet")
    options = Embed(model=str(onnx_file), data=str(tmp_path / "data.parquet"), out=str(tmp_path / "out"))
    for column in ("path", "text"):
        with pytest.raises(CrossresError, match=f"'{column}' of data.parquet is (string|struct.*); images should be"):
            embed(replace(options, images=ImageColumn(column)))
    with pytest.raises(CrossresError, match="image_column 'photo'"):
        embed(replace(options, images=ImageColumn("photo")))
    embed(options)
    assert [row["path"] for row in rows_in(tmp_path / "out")] == [f"data.parquet:{i}" for i in range(10)]


def test_embeddings_are_a_teacher(onnx_file: Path, photos: Path, tmp_path: Path) -> None:
    odd = os.fsencode(photos / "disc") + b"/\xff.png"
    shutil.copy(photos / "disc" / "04.png", odd)
    embed(Embed(model=str(onnx_file), data=str(photos), out=str(tmp_path / "out"), part=15))
    os.unlink(odd)
    teacher = read_teacher(str(tmp_path / "out"), OnnxInput())
    with pytest.raises(CrossresError, match=r"no embedding of disc/05.png \(1 of 40 images"):
        stored_outputs(teacher, read(photos, split="all"), torch.device("cpu"))
    (photos / "disc" / "05.png").unlink()
    images = read(photos, split="all")
    cache = stored_outputs(teacher, images, torch.device("cpu"))(torch.arange(39), torch.zeros(39, dtype=torch.long))
    expected = Recognizer.load(onnx_file).embed([photos / images.path(i) for i in range(39)])
    np.testing.assert_allclose(cache.embedding.numpy(), expected, atol=1e-5)


@pytest.mark.usefixtures("cluster")
def test_embeddings_over_ray(onnx_file: Path, drawn: Path, tmp_path: Path) -> None:
    alone, over = (tmp_path / name for name in ("alone", "over"))
    for out, engine in ((alone, "local"), (over, "ray")):
        options = Embed(model=str(onnx_file), data=str(drawn / "test"), out=str(out), part=15, engine=engine)
        assert embed(options)["photos"] == 40
    for ours, theirs in zip(sorted(alone.iterdir()), sorted(over.iterdir()), strict=True):
        assert parquet.read_table(ours)["path"] == parquet.read_table(theirs)["path"]
        a, b = (np.array(parquet.read_table(path)["embedding"].to_pylist()) for path in (ours, theirs))
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_predict_answers_as_the_recognizer(onnx_file: Path, drawn: Path, tmp_path: Path) -> None:
    folder, table = drawn / "test" / "cross", tmp_path / "answers.csv"
    notes: list[str] = []
    options = Predict(model=str(onnx_file), photos=[str(folder)], top=2, csv=str(table), threads=1)
    documents = list(predict(options, notes.append))
    answers = Recognizer.load(onnx_file).predict(folder)
    assert [document["label"] for document in documents] == [answer.label for answer in answers]
    assert [document["probability"] for document in documents] == pytest.approx(
        [answer.probability for answer in answers]
    )
    assert all(len(document["top"]) == 2 for document in documents)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [answer.label for answer in answers]
    assert notes == []


def test_photos_that_cannot_be_read_are_counted(onnx_file: Path, photos: Path) -> None:
    notes: list[str] = []
    model = str(onnx_file)
    documents = list(predict(Predict(model=model, photos=[str(photos)]), notes.append))
    flagged = sum(bool(document["flags"]) for document in documents)
    assert flagged >= 1
    assert notes == [f"40 photos: {flagged} flagged, 1 unreadable"]
    (broken,) = (document for document in documents if document["error"])
    assert broken["error"] == f"{photos / 'disc' / '05.png'}: {broken['error'].split(': ', 1)[1]}"
    with pytest.raises(CrossresError, match="none of the photos could be read"):
        list(predict(Predict(model=model, photos=[str(photos / "disc" / "05.png")])))
    with pytest.raises(CrossresError, match="--top: expected 1 or more, got 0"):
        list(predict(Predict(model=model, photos=[str(photos)], top=0)))


def test_a_model_without_classes_is_refused(faces: Path, photos: Path) -> None:
    with pytest.raises(CrossresError, match="has no classes; crossres identify and verify compare"):
        list(predict(Predict(model=str(faces), photos=[str(photos)])))


def test_names_that_are_not_utf8(onnx_file: Path, tmp_path: Path) -> None:
    folder, table = tmp_path / "odd", tmp_path / "table.csv"
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", os.fsencode(folder) + b"/\xff.png")
    (document,) = predict(Predict(model=str(onnx_file), photos=[str(folder)], csv=str(table)))
    assert document["photo"].endswith("\udcff.png")
    assert "\\udcff.png," in table.read_text()
