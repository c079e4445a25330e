"""What a run leaves behind: result.json, the model, and numbers that evaluate finds again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import crossres
from crossres import Distill, Evaluate, Model, Recognizer, Teach, Train, distill, load, read, teach
from crossres.config.reading import of_run
from crossres.config.record import sha256
from crossres.data.splits import SPLIT_SEED, stratified_split
from crossres.evaluation.statistics import calibrate
from crossres.models.encoder import build_encoder
from crossres.models.weights import weights_sha256

FILES = [".lock", "config.yaml", "metrics.jsonl", "model", "result.json", "state.pt"]


def test_result_json_keeps_its_contract(finished: Distill, drawn_teacher: Path, runs: Any) -> None:
    text = (finished.folder / "result.json").read_text()
    result = json.loads(text)
    assert str(finished.folder.parent) not in text  # nothing of this machine's paths
    assert str(drawn_teacher.parent) not in text
    teacher = json.loads((drawn_teacher / "result.json").read_text())
    config = of_run(Distill, finished.folder)
    exact = {
        "name": "finished",
        "task": "distill",
        "method": "ce+kd+crrcd_paper",
        "dataset": "shapes",
        "teacher": {
            "name": "resnet8",
            "top1_hr": teacher["top1_best_val"],
            "sha256": weights_sha256(load(drawn_teacher)),
        },
        "student": {"name": "resnet8", "parameters": sum(p.numel() for p in load(finished.folder).parameters())},
        "hr_size": 16,
        "lr_size": 8,
        "seed": 0,
        "epochs": 3,
        "precision": "float32",
        "losses": config.terms,
        "config_sha256": sha256(config),
    }
    assert {key: result[key] for key in exact} == exact
    assert result["degradation"]["kernel"] == "bicubic"
    for key in ("top1_last", "top1_best_val", "top5_last"):
        assert 0 <= result[key] <= 100
    assert result["top5_last"] == 100.0  # of four classes
    assert all(result[key] > 0 for key in ("seconds", "images_per_second", "peak_memory_mb"))
    assert result["versions"]["torch"]
    assert result["machine"]["device"] == "cpu"
    assert result["commit"] is None or len(result["commit"].rstrip("+")) == 40
    # a line an epoch, of the terms by name
    rows = runs.rows(finished.folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert set(rows[0]["losses"]) == {"ce", "kd", "crrcd_paper"}
    assert {"train_top1", "val_top1", "images_per_second", "learning_rate", "seconds"} <= set(rows[0])
    assert result["val_top1_last"] == rows[-1]["val_top1"]
    # what is returned is what is read
    assert distill(finished, resume=True, quiet=True) == result


def test_the_result_of_a_teacher(drawn_teacher: Path) -> None:
    result = json.loads((drawn_teacher / "result.json").read_text())
    exact = {"task": "teach", "method": "ce", "teacher": None, "degradation": None, "hr_size": 16, "lr_size": 16}
    assert {key: result[key] for key in exact} == exact
    assert result["config_sha256"] == sha256(of_run(Teach, drawn_teacher))


def test_the_model_holds_neither_teacher_nor_relation_modules(finished: Distill, drawn: Path) -> None:
    classes = read(str(drawn), split="test").classes
    fresh = build_encoder("resnet8", classes=classes, input_size=8)
    assert load_file(finished.folder / "model" / "model.safetensors").keys() == fresh.state_dict().keys()
    assert load(finished.folder).state_dict().keys() == fresh.state_dict().keys()
    assert sorted(path.name for path in finished.folder.iterdir()) == FILES


def test_the_model_knows_where_it_comes_from(finished: Distill) -> None:
    encoder = load(finished.folder)
    assert encoder.classes == ("bar", "cross", "disc", "frame")
    assert not encoder.training
    result = json.loads((finished.folder / "result.json").read_text())
    info = {key: result[key] for key in ("task", "lr_size", "hr_size", "degradation", "method", "dataset", "teacher")}
    assert {key: encoder.info[key] for key in info} == info
    assert encoder.info["results"]["top1_best_val"] == result["top1_best_val"]
    assert encoder.info["results"]["these_weights"] == f"top1_best_val (epoch {result['best_epoch']})"
    assert encoder.info["results"]["test_images"] == 40
    ours, whole = encoder.state_dict(), load(finished.folder / "model").state_dict()
    assert all((ours[name] == whole[name]).all() for name in whole)


def test_evaluate_finds_the_numbers_again(finished: Distill, drawn: Path) -> None:
    result = json.loads((finished.folder / "result.json").read_text())
    document = crossres.evaluate(Evaluate(model=str(finished.folder), data=str(drawn), sizes=[8]))
    assert document["images"] == 40
    assert document["top1"] == result["top1_best_val"]
    assert document["top5"] == result["top5_best_val"]


def test_evaluate_finds_those_of_bfloat16_again(make: Any, drawn: Path) -> None:
    config = make(train_epochs=2, precision="bfloat16", train_ema=0.5)
    result = distill(config, quiet=True)
    options = Evaluate(model=str(config.folder), data=str(drawn), sizes=[8], precision="bfloat16")
    assert crossres.evaluate(options)["top1"] == result["top1_best_val"]


def test_evaluate_finds_those_of_a_teacher_again(drawn: Path, drawn_teacher: Path) -> None:
    result = json.loads((drawn_teacher / "result.json").read_text())
    document = crossres.evaluate(Evaluate(model=str(drawn_teacher), data=str(drawn)))
    assert document["top1"] == result["top1_best_val"]
    # the curve says how the teacher does on enlarged LR images
    assert [point["size"] for point in document["curve"]] == [8, 12, 16]


@pytest.mark.parametrize("seed", [0, 7])
def test_a_result_says_which_images_it_is_of(make: Any, finished: Distill, seed: int) -> None:
    """The split is the same for every seed."""
    result = distill(make(train_epochs=1, train_seed=seed, losses={"ce": {"weight": 1.0}}), quiet=True)
    expected = json.loads((finished.folder / "result.json").read_text())
    assert result["images"] == expected["images"] == {"train": 88, "val": 8, "test": 40}
    assert result["data_sha256"] == expected["data_sha256"]
    assert result["data_sha256"].keys() == {"train", "val", "test"}


def test_the_model_knows_which_of_its_answers_are_sure(drawn: Path, tmp_path: Path) -> None:
    """By its own validation images, as it is deployed; without any it says nothing."""
    config = Teach(
        data=str(drawn),
        runs=str(tmp_path),
        hr_size=16,
        model=Model(name="resnet8"),
        train=Train(epochs=2, batch_size=16, val_fraction=0.8),
        precision="float32",
        device="cpu",
    )
    teach(config, quiet=True)
    stored = load(config.folder).info["confidence"]
    train = read(str(drawn), split="train")
    _, held_out = stratified_split(train.labels, 0.8, SPLIT_SEED)
    answers = Recognizer.load(config.folder).predict([train.image(int(i)) for i in held_out])
    right = [answer.label == train.classes[train.labels[i]] for answer, i in zip(answers, held_out, strict=True)]
    expected = asdict(calibrate([answer.probability for answer in answers], right))
    assert stored["images"] == len(held_out) == 76
    assert stored == expected | {"threshold": pytest.approx(expected["threshold"], abs=0.01)}
    teach(replace(config, name="unjudged", train=Train(epochs=1, batch_size=16, val_fraction=0)), quiet=True)
    assert load(tmp_path / "unjudged").info["confidence"] is None
