"""Exports answer as the network does, carry their facts, and a bad one is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from crossres.config.deployment import Export
from crossres.core.errors import CrossresError
from crossres.deploy import export as exporting
from crossres.deploy.deployed import deploy
from crossres.deploy.export import demand_parity, export, measure_parity
from crossres.deploy.recognizer import Recognizer
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import save_pretrained


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
    (photos,) = model.graph.input
    assert [dim.dim_param or dim.dim_value for dim in photos.type.tensor_type.shape.dim] == [
        "batch",
        "height",
        "width",
        3,
    ]


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_files_answer_nearly_alike(
    student: Path, onnx_file: Path, drawn: Path, tmp_path: Path, precision: str
) -> None:
    path = tmp_path / "small.onnx"
    exported = export(Export(model=str(student), out=str(path), precision=precision))
    assert exported["path"] == str(path)
    assert exported["bytes"] == path.stat().st_size < 0.8 * onnx_file.stat().st_size
    assert exported["milliseconds"] > 0
    whole, small = (Recognizer.load(path).predict(drawn / "test") for path in (onnx_file, path))
    same = np.mean([a.label == b.label for a, b in zip(whole, small, strict=True)])
    assert 100 * same == pytest.approx(exported["parity"]["agreement"])
    assert same > 0.9
    assert Recognizer.load(path).facts.about["precision_exported"] == precision
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert ("QuantizeLinear" in kinds) == (precision == "int8")


def test_images_are_split_as_in_the_training(student: Path, drawn: Path) -> None:
    """A model's folder alone: no group has frames that calibrate int8 and frames that it is checked on."""
    options = Export(model=str(student / "model"), data=str(drawn / "train"), precision="int8")
    facts = Recognizer.load(student / "model").facts
    about = {"dataset": "train", "group": r"(\w+/\d)", "test_fraction": 0.3}
    test, calibration, _ = exporting._images(options, replace(facts, about=about))
    assert test.groups is not None
    assert set(Counter(test.groups.tolist()).values()) <= {
        4,
        10,
    }  # whole groups: of each class two of ten, one of four
    assert len(test) + len(calibration) == 96
    # people are split in their groups, too: none of these files has such a one
    with pytest.raises(CrossresError, match=r"images\.group: 'track"):
        exporting._images(options, replace(facts, task="faces", about=about | {"group": "track([0-9]+)"}))
    # groups that these files do not have are left out
    test, _, _ = exporting._images(options, replace(facts, about=about | {"group": "track([0-9]+)"}))
    assert test.groups is None


def test_faces_and_a_network_that_enlarges(tmp_path: Path, drawn: Path) -> None:
    """An encoder without classes that reads 16x16 from 8x8 photos; a model's folder names its data by --data."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet8", classes=(), input_size=16, embedding_dim=12).eval()
    encoder.info = {"task": "faces", "lr_size": 8, "hr_size": 16}
    save_pretrained(encoder, tmp_path / "face")
    with pytest.raises(CrossresError, match="give --data"):
        export(Export(model=str(tmp_path / "face")))
    out = tmp_path / "face.onnx"
    parity = export(Export(model=str(tmp_path / "face"), out=str(out), data=str(drawn)))["parity"]
    assert parity["agreement"] is None
    assert parity["accuracy"] == pytest.approx(parity["accuracy_before"], abs=1)
    photo = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    (answer,) = Recognizer.load(out).predict(photo)
    assert answer.label is answer.probabilities is None
    assert answer.embedding.shape == (12,)
    assert answer.quality == pytest.approx(np.linalg.norm(answer.embedding), rel=1e-5)
    # the encoder's own enlarging, of what training would have shown it
    lr = deploy(encoder).read(torch.from_numpy(photo)[None])
    assert lr.shape[-1] == 16
    small = Recognizer.load(tmp_path / "face").embed(photo)[0]
    np.testing.assert_allclose(answer.embedding, small, atol=1e-4)


def test_what_differs_is_refused_and_nothing_is_written(
    student: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = onnx.load(onnx_file)
    for tensor in wrong.graph.initializer:
        if tensor.name.endswith("classifier.weight"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    monkeypatch.setattr(exporting, "onnx_model", lambda *_: wrong)
    with pytest.raises(CrossresError, match="the export failed: the same first answer for"):
        export(Export(model=str(student), out=str(tmp_path / "wrong.onnx")))
    assert not list(tmp_path.iterdir())


def parity_of(**changes: float | None) -> dict[str, float | None]:
    return {"images": 200, "cosine": 1.0, "agreement": 100.0, "accuracy": None, "accuracy_before": None, **changes}


def test_parity_and_its_bounds() -> None:
    rng = np.random.default_rng(0)
    before = {"embedding": rng.normal(size=(200, 4)), "logits": np.eye(4)[rng.integers(0, 4, 200)]}
    after = {"embedding": before["embedding"].copy(), "logits": before["logits"].copy()}
    truth = before["logits"].argmax(1)
    after["logits"][:3] = np.roll(after["logits"][:3], 1, axis=1)
    after["embedding"][0, 0] += 0.5
    parity = measure_parity(before, after, truth)
    shares = (parity["agreement"], parity["accuracy"], parity["accuracy_before"])
    assert (parity["images"], *shares) == (200, *map(pytest.approx, (98.5, 98.5, 100.0)))
    size = np.sqrt((before["embedding"] ** 2).mean())
    assert parity["largest_difference"] == pytest.approx(0.5 / size)
    # two images may be answered otherwise
    demand_parity(parity_of(agreement=99.0, accuracy=99.0, accuracy_before=99.9), "float32")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cosine": 0.99}, "mean cosine"),
        ({"cosine": float("nan")}, "mean cosine"),
        ({"images": 2000, "agreement": 99.0}, "first answer"),
        ({"images": 2000, "accuracy": 50.0, "accuracy_before": 51.5}, "1.50 points"),
    ],
)
def test_a_file_that_answers_otherwise_is_refused(changes: dict[str, float], why: str) -> None:
    with pytest.raises(CrossresError, match=f"the export failed: .*{why}.*cannot be exported exactly"):
        demand_parity(parity_of(**changes), "float32")
    with pytest.raises(CrossresError, match="try another precision"):
        demand_parity(parity_of(cosine=0.9), "int8")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"out": "it.bin"}, "ends in .onnx"),
        ({"limit": 9}, "at least 10"),
        ({"data": "nowhere"}, "nowhere"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_options(student: Path, options: dict[str, object], why: str) -> None:
    with pytest.raises(CrossresError, match=why):
        export(Export(**{"model": str(student), **options}))
