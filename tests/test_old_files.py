"""What commit 1b93d17 wrote still loads: a run, its model, an exported file, a gallery, a result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import crossres
from crossres.config.experiment import Distill
from crossres.config.reading import read_run

OLD = Path(__file__).parent / "old_files"
#: of its ``result.json``; a tie of two classes may fall otherwise on another processor
ACCURACY = pytest.approx(70.0, abs=2.5)


def test_a_run() -> None:
    config = read_run(OLD / "run")
    assert isinstance(config, Distill)
    assert (config.lr_size, config.model.name, config.precision) == (8, "resnet8", "float32")
    assert set(config.losses) == {"ce", "kd", "crrcd_paper", "cosine"}
    assert config.losses["crrcd_paper"]["critic"] == "softmax"
    assert not {"negatives", "queue_size", "unit_embeddings"} & config.losses["crrcd_paper"].keys()


def test_a_model(drawn: Path) -> None:
    document = crossres.evaluate(crossres.Evaluate(model=str(OLD / "run"), data=str(drawn)))
    assert document["top1"] == ACCURACY
    assert json.loads((OLD / "run" / "result.json").read_text())["top1_best_val"] == 70.0


def test_a_result() -> None:
    from crossres.bench.results import read_results

    (result,) = read_results(OLD / "run")
    assert (result["method"], result["top1_last"]) == ("ce+kd+cosine+crrcd", 70.0)


def test_an_exported_file(drawn: Path) -> None:
    recognizer = crossres.Recognizer.load(OLD / "student-int8.onnx")
    photos = sorted((drawn / "test").rglob("*.png"))
    right = [
        answer.label == photo.parent.name for answer, photo in zip(recognizer.stream(photos), photos, strict=True)
    ]
    assert 100 * np.mean(right) == pytest.approx(70.0, abs=5)


def test_a_gallery(drawn: Path) -> None:
    options = crossres.Identify(
        gallery=str(OLD / "gallery.npz"), photos=[str(drawn / "train" / "disc" / "00.png")], model=str(OLD / "run")
    )
    document = crossres.identify(options)
    assert document["thresholds"][0]["similarity"] == pytest.approx(0.9959, abs=1e-4)
    assert document["photos"][0]["name"] == "disc"
    assert document["photos"][0]["nearest"][0]["similarity"] == pytest.approx(1, abs=1e-5)
