"""Distilling and judging face encoders through the commands, on drawn people."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from crossres import Encoder, Faces, build_encoder, load
from crossres.commands.main import main
from crossres.core.errors import CrossresError
from crossres.data.readers import read
from crossres.evaluation.verification import k_fold_accuracy
from crossres.models.pretrained import from_pretrained, save_pretrained
from crossres.training.run import run

PEOPLE = 12


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ with people of their own: a face is two colours and a noisy pattern; six images each."""
    root = tmp_path_factory.mktemp("crowd") / "crowd"
    rng = np.random.default_rng(0)
    for split, first in (("train", 0), ("test", PEOPLE)):
        for person in range(first, first + PEOPLE):
            own = np.random.default_rng(1000 + person).integers(30, 226, (4, 4, 3))
            for image in range(6):
                pixels = np.kron(own, np.ones((4, 4, 1))) + rng.normal(0, 25, (16, 16, 3))
                path = root / split / f"p{person:02}" / f"p{person:02}_{image:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return root


class Tiles(torch.nn.Module):
    """A teacher that reads the sixteen tiles: an embedding of 48."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 4).flatten(1)


@pytest.fixture
def teacher() -> Encoder:
    return Encoder(Tiles(), embedding_dim=48, classes=(), input_size=16, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def make(crowd: Path, tmp_path: Path) -> Callable[..., Faces]:
    def build(**options: Any) -> Faces:
        config = Faces(data=str(crowd), runs=str(tmp_path), lr_size=8, hr_size=16, val_pairs=60)
        config.train.device, config.train.precision = "cpu", "float32"
        config.train.epochs, config.train.batch_size, config.train.val_fraction = 3, 16, 0.25
        config.model.name, config.augment.shift = "resnet8", 1
        for name, value in options.items():
            part, _, key = name.partition("__")
            if key:
                setattr(getattr(config, part), key, value)
            else:
                setattr(config, name, value)
        return config

    return build


COSINE = {"cosine": {"weight": 1.0}}


def test_without_labels_it_comes_near_its_teacher(make: Any, teacher: Encoder) -> None:
    config = make(losses=COSINE, train__epochs=8, model__embedding_dim=48)
    result = run(config, teacher=teacher, quiet=True)
    assert result["task"] == "faces distill"
    assert result["images"] == {"train": 54, "val": 18, "test": 72}
    assert result["auc_last"] > 90
    assert result["val_auc_by_epoch"][-1] == result["val_auc_last"] > 85
    assert result["verification_last"]["auc"] == result["auc_last"]
    assert result["identification_best_val"]["rank1"] == result["rank1_best_val"]
    assert "top1_last" not in result
    student = load(config.folder)
    assert (student.classes, student.embedding_dim) == ((), 48)


@pytest.mark.parametrize(
    "losses",
    [
        {"cosface": {"weight": 1.0, "scale": 16.0}},
        {"arcface": {"weight": 1.0}, "adaface": {"weight": 1.0}},
        {"crrcd": {"weight": 1.0, "critic": "softmax"}, "similarity": {"weight": 1.0}, **COSINE},
        {"ce": {"weight": 1.0}, "crd": {"weight": 1.0, "form": "bank", "negatives": 16}},
    ],
    ids=lambda losses: "+".join(losses),
)
def test_resumed_it_equals_an_uninterrupted_run(
    losses: dict[str, Any], make: Any, teacher: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossres.training import loop as train

    needs = {"teacher": teacher} if set(losses) & {"cosine", "crd", "crrcd", "similarity"} else {}
    whole = make(losses=losses, name="whole", train__images_per_class=2, augment__zoom=0.1, augment__colour=0.2)
    run(whole, **needs, quiet=True)
    part = make(losses=losses, name="part", train__images_per_class=2, augment__zoom=0.1, augment__colour=0.2)
    real = train.Fit._one_epoch

    def stop(self: train.Fit, epochs: int) -> Any:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return real(self, epochs)

    with monkeypatch.context() as patch:
        patch.setattr(train.Fit, "_one_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run(part, **needs, quiet=True)
    run(part, **needs, resume=True, quiet=True)
    ours, theirs = (load(config.folder).state_dict() for config in (part, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    results = [json.loads((config.folder / "result.json").read_text()) for config in (part, whole)]
    assert results[0]["verification_last"] == results[1]["verification_last"]


def test_the_threshold_is_the_validations_also_where_only_judging_was_left(
    make: Any, teacher: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossres.training import run as experiment

    whole = run(make(losses=COSINE, name="whole"), teacher=teacher, quiet=True)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            run(make(losses=COSINE, name="part"), teacher=teacher, quiet=True)
    part = run(make(losses=COSINE, name="part"), teacher=teacher, resume=True, quiet=True)
    for key in ("accuracy_last", "right_last", "accuracy_best_val", "verification_last"):
        assert part[key] == whole[key]
    assert part["verification_last"]["threshold_chosen"] != part["verification_last"]["threshold_best"]


def test_images_that_nobody_named(
    crowd: Path, make: Any, teacher: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = tmp_path / "crops"
    crops.mkdir()
    for number, file in enumerate(sorted((crowd / "train").rglob("*.png"))):
        shutil.copy(file, crops / f"{number}.png")
    losses = {"crrcd": {"weight": 1.0, "critic": "softmax"}, **COSINE}
    config = make(losses=losses, unlabelled=str(crops), train__epochs=2)
    result = run(config, teacher=teacher)
    # those who train nobody knows; all people of the training split judge the epochs
    assert result["images"] == {"train": 72, "val": 72, "test": 72}
    assert result["config"]["unlabelled"] == "crops"
    assert "val_auc_best" in result
    assert result["images_in_both_last"] == 0
    judged = sorted((crowd / "test").rglob("*.png"))[0]
    shutil.copy(judged, crops / "again.png")
    again = run(make(losses=COSINE, unlabelled=str(crops), train__epochs=1, name="again"), teacher=teacher)
    assert again["images_in_both_last"] == 1
    assert f"{crops}: 1 images are test images, first again.png: the test will look better" in capsys.readouterr().err
    (crops / "again.png").unlink()
    for name in ("cosface", "ce"):
        with pytest.raises(CrossresError, match=rf"^losses.{name}: needs people's names, and unlabelled images have"):
            run(make(losses={name: {"weight": 1.0}}, unlabelled=str(crops), name=name), quiet=True)
    with pytest.raises(CrossresError, match=r"^there is no data set '[^']*none'"):
        run(make(losses=COSINE, unlabelled=str(tmp_path / "none"), name="lost"), teacher=teacher, quiet=True)


def test_a_teacher_that_knows_other_people_teaches_its_embedding(make: Any) -> None:
    knows = build_encoder("resnet8", classes=("x", "y", "z"), input_size=16)
    result = run(make(losses=COSINE, train__epochs=1), teacher=knows, quiet=True)
    assert result["method"] == "cosine"


def test_a_folder_without_splits_is_split_by_people(
    crowd: Path, make: Any, teacher: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(data=str(crowd / "train"), losses=COSINE, train__epochs=1, images__test_fraction=0.25)
    result = run(config, teacher=teacher)
    assert "are in the training and in the test images" not in capsys.readouterr().err
    assert result["images"] == {"train": 42, "val": 12, "test": 18}
    words = ["faces", "evaluate", str(config.folder), str(crowd / "train"), "--json", "--resamples", "0"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["images"] == 72
    assert "the model may have been trained on most of them; --split test takes those that it was not" in said.err
    # the people who were held out, and no others
    assert main([*words, "--split", "test"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["images"], found["people"], said.err) == (18, 3, "")
    assert found["rows"][-1]["verification"]["auc"] == pytest.approx(result["auc_best_val"])
    assert main([*words, "--split", "train"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["people"] == 9
    assert said.err.startswith("--split train: the model was trained on most of these people, so that")
    assert main([*words, "--pairs_only"]) == 0
    assert "identification" not in json.loads(capsys.readouterr().out)["rows"][0]


def test_people_in_training_and_test_are_reported_before_training(
    crowd: Path, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], teacher: Encoder
) -> None:

    mixed = tmp_path / "mixed"
    shutil.copytree(crowd, mixed)
    shutil.copytree(mixed / "train" / "p03", mixed / "test" / "p03")
    result = run(make(data=str(mixed), losses=COSINE, train__epochs=1), teacher=teacher)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{mixed}: 1 people are in the training and in the test images, first p03: ")
    assert said[1].startswith("epoch 1/1  cosine ")
    assert "train" not in said[1]  # nothing is classified
    assert result["people_in_both_last"] == 1


def test_a_list_of_pairs_is_checked_before_the_training(make: Any, teacher: Encoder, tmp_path: Path) -> None:
    one_kind = _csv(tmp_path, "p12_0000,p13_0000,0")
    with pytest.raises(CrossresError, match=r"wrong.csv: holds no genuine pair; verification needs both kinds$"):
        run(make(losses=COSINE, pairs=str(one_kind)), teacher=teacher, quiet=True)
    with pytest.raises(CrossresError, match=r"^losses.kd: the teacher has no logits; losses.similarity compares "):
        run(make(losses={"kd": {"weight": 1.0}}), teacher=teacher, quiet=True)


def test_people_of_whom_there_is_one_image_each_are_verified_alone(
    crowd: Path, make: Any, teacher: Encoder, tmp_path: Path
) -> None:

    single = tmp_path / "single"
    shutil.copytree(crowd / "train", single / "train")
    for number in range(4):
        (single / "test" / f"face{number}").mkdir(parents=True)
        shutil.copy(
            crowd / "test" / "p12" / f"p12_{number:04}.png", single / "test" / f"face{number}" / f"{number}.png"
        )
    pairs = _csv(tmp_path, "0,1,1\n2,3,0")
    result = run(
        make(data=str(single), losses=COSINE, pairs=str(pairs), train__epochs=1), teacher=teacher, quiet=True
    )
    assert "identification_last" not in result
    assert result["verification_last"]["pairs"] == {"genuine": 1, "impostor": 1}


def test_people_that_choose_the_threshold_and_are_judged_by_it_are_reported(
    crowd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pretrained(build_encoder("resnet8", classes=(), input_size=16), tmp_path / "model")
    pairs = _csv(tmp_path, "p12_0000,p12_0001,1\np12_0000,p13_0001,0")
    words = ["faces", "evaluate", tmp_path / "model", crowd / "test", "--pairs", pairs, "--threshold_pairs", pairs]
    assert main([str(word) for word in [*words, "--resamples", 0, "--json"]]) == 0
    assert "wrong.csv: 2 of its people are in the judged pairs, first p12: " in capsys.readouterr().err


def test_own_folders_of_gallery_and_probes_are_judged_at_each_size(
    crowd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Any
) -> None:
    save_pretrained(build_encoder("resnet8", classes=(), input_size=16), tmp_path / "model")
    for part, people, number in (("gallery", (12, 13), 0), ("probes", (12, 13, 14), 1)):
        for person in people:
            (tmp_path / "set" / part / f"p{person}").mkdir(parents=True)
            name = f"p{person}_{number:04}.png"
            shutil.copy(crowd / "test" / f"p{person}" / name, tmp_path / "set" / part / f"p{person}" / name)
    words = [
        "faces",
        "evaluate",
        tmp_path / "model",
        tmp_path / "set",
        "--layout",
        "folders",
        "--resamples",
        0,
        "--json",
    ]
    for more, sides in (
        ((), [("native", 16)]),
        (("--sizes", "4,8"), [("hr-hr", None), ("hr-lr", 4), ("lr-lr", 4), ("hr-lr", 8), ("lr-lr", 8)]),
    ):
        assert main([str(word) for word in [*words, *more]]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert [(row["sides"], row["size"]) for row in rows] == sides
        assert all(row["identification"]["strangers"] == 1 for row in rows)
        assert all(len(row["identification"]["open_set"]) == 3 for row in rows)
    assert main([str(word) for word in [*words[:-1], "--fpir", "0.2,1e-3", "--png", tmp_path / "set.png"]]) == 0
    assert "TPIR at FPIR 0.2" in (said := capsys.readouterr().out)
    assert "0.001" in said
    assert refused(*words, "--scores", "s.csv").endswith("has its own gallery and probes, no pairs; leave it out")


def test_the_commands(crowd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Any) -> None:
    save_pretrained(build_encoder("resnet8", classes=(), input_size=16), tmp_path / "gallery")
    pairs = tmp_path / "pairs.csv"
    rows = ["left,right,same,fold"]
    rows += [f"p{a}_0000,p{a}_0001,1,{a % 4}" for a in range(12, 24)]
    rows += [f"p{a}_0000,p{a - 1}_0001,0,{a % 4}" for a in range(13, 24)]
    pairs.write_text("\n".join(rows) + "\n")
    chooser = tmp_path / "chooser.csv"
    chooser.write_text("left,right,same\np01_0000,p01_0001,1\np01_0000,p02_0001,0\n")
    values = np.random.default_rng(0).normal(size=(72, 5)).astype(np.float32)
    names = [f"train/p{p:02}/p{p:02}_{i:04}.png" for p in range(PEOPLE) for i in range(6)]
    np.savez(tmp_path / "stored.npz", path=np.array(names), embedding=values)
    words = ["faces", "distill", "--data", crowd, "--hr_size", 16, "--lr_size", 8, "--runs", tmp_path]
    words += ["--train.epochs", 2, "--train.batch_size", 16, "--train.val_fraction", 0.25]
    words += ["--model.name", "mobilefacenet", "--device", "cpu", "--precision", "float32"]
    words += ["--pairs", pairs, "--teacher", tmp_path / "stored.npz", "--name", "student"]
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "student: test pairs " in said.err.splitlines()[-1]
    result = json.loads((tmp_path / "student" / "result.json").read_text())
    assert result["verification_last"]["pairs"] == {"genuine": 12, "impostor": 11}
    assert result["config"]["pairs"] == "pairs.csv"
    assert result["teacher"]["name"] == "stored"
    assert main(["faces", "distill", "--resume", str(tmp_path / "student")]) == 0
    capsys.readouterr()

    judged = ["faces", "evaluate", tmp_path / "student", crowd, "--pairs", pairs, "--resamples", 0]
    assert main([str(word) for word in [*judged, "--json"]]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(row["sides"], row["size"]) for row in document["rows"]] == [("hr-hr", None), ("hr-lr", 8), ("lr-lr", 8)]
    # what training measured is what the command measures
    assert document["rows"][2]["verification"]["auc"] == pytest.approx(result["auc_best_val"])
    assert document["rows"][2]["identification"]["rank1"] == pytest.approx(result["rank1_best_val"])
    assert main([str(word) for word in [*judged, "--sizes", "4,8", "--png", tmp_path / "faces.png"]]) == 0
    assert "accuracy %" in capsys.readouterr().out
    assert (tmp_path / "faces.png").exists()

    # what is written gives the same numbers again
    asked = ["--far", "1e-1,1e-3,0.1", "--fpir", "0.05", "--scores", tmp_path / "scores.csv", "--json"]
    assert main([str(word) for word in [*judged, *asked]]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][2]
    assert [point["far"] for point in row["verification"]["tar_at_far"]] == [0.1, 0.001]
    assert row["identification"]["open_set"] is None
    assert refused(*judged, "--scores", pairs) == f"--scores: {pairs} is what is read; name another file"
    with (tmp_path / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 23
    of_row = [line for line in lines if (line["sides"], line["size"]) == ("lr-lr", "8")]
    assert (of_row[0]["left"], of_row[0]["right"]) == ("test/p12/p12_0000.png", "test/p12/p12_0001.png")
    again = k_fold_accuracy(
        [float(line["similarity"]) for line in of_row],
        [line["same"] == "1" for line in of_row],
        [int(line["fold"]) for line in of_row],
    )
    assert [each["accuracy"] for each in row["verification"]["folds"]] == list(again.folds)
    assert [each["threshold"] for each in row["verification"]["folds"]] == list(again.thresholds)
    assert main([str(word) for word in [*judged, *asked[:4]]]) == 0
    assert "TAR@FAR 1e-1" in capsys.readouterr().out
    for text, line in (("x", "'x' is no list of rates such as 1e-1,1e-3"), ("0.1,nan", "a rate lies between 0 and")):
        assert line in refused(*judged, "--far", text)

    assert main([str(word) for word in [*judged, "--threshold_pairs", chooser, "--resamples", 20]]) == 0
    said = capsys.readouterr().out
    assert "accuracy at the threshold that is best on the threshold pairs" in said
    assert "± half the 95 % interval" in said

    # the people whom the training held out choose the same threshold again
    assert main([str(word) for word in [*judged, "--threshold_pairs", "held-out", "--json"]]) == 0
    chosen = json.loads(capsys.readouterr().out)["rows"][2]["verification"]
    assert chosen["accuracy_chosen"] == pytest.approx(result["accuracy_best_val"])
    assert chosen["threshold_chosen"] == pytest.approx(result["verification_best_val"]["threshold_chosen"])
    assert chosen["right"] == result["right_best_val"]
    others = ["faces", "evaluate", tmp_path / "student", crowd / "test", "--threshold_pairs", "held-out"]
    changed = refused(*others, "--split", "test")
    assert (
        "these are not the images it was trained with, or their files have other times; give a list of pairs"
        in changed
    )
    unknown = refused("faces", "evaluate", tmp_path / "gallery", crowd, "--threshold_pairs", "held-out")
    assert "does not say which they are; give a list of pairs" in unknown

    for more, line in (
        (["--native", "--sizes", 8], "--sizes: images that are judged as they are have none; leave it out"),
        (["--native", "--degradation", "blur=1"], "--degradation: images that are judged as they are have none"),
        (["--hr_size", 0], "--hr_size: an image has at least 1 pixel"),
    ):
        assert line in refused(*judged, *more)

    stored = refused("faces", "evaluate", tmp_path / "stored.npz", crowd)
    assert stored.endswith("stored embeddings know no other images; give the model they come from")

    assert refused("distill", "--resume", tmp_path / "student").endswith(
        "is a run of crossres faces distill; go on with that command"
    )
    assert refused(*words, "--teacher_cache", "false", "--overwrite").endswith("leave teacher_cache on")
    save_pretrained(build_encoder("resnet8", classes=(), input_size=16, embedding_dim=128), tmp_path / "other")
    kept = [*judged, "--gallery", tmp_path / "other", "--cache_dir", tmp_path / "kept", "--json"]
    said = []
    for _ in range(2):
        assert main([str(word) for word in kept]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) == 1
    # what that model said of the images, stored, is the same gallery
    images, other = read(crowd, split="test", open_set=True), from_pretrained(tmp_path / "other")
    with torch.no_grad():
        values = other(images.pixels(16).float() / 255).embedding.numpy()
    np.savez(tmp_path / "tested.npz", path=[images.path(i) for i in range(len(images))], embedding=values)
    assert main([str(word) for word in [*judged, "--gallery", tmp_path / "tested.npz", "--json"]]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    for ours, theirs in zip(rows, json.loads(said[0])["rows"], strict=True):
        assert ours["verification"]["auc"] == pytest.approx(theirs["verification"]["auc"])
        assert ours["verification"]["threshold_best"] == pytest.approx(
            theirs["verification"]["threshold_best"], abs=1e-4
        )
    assert refused(*judged, "--gallery", tmp_path / "gallery").startswith(
        "the gallery's embeddings have 64 numbers, the probes' 128: they cannot be compared"
    )
    assert refused("faces", "distil").startswith("unknown command 'faces distil'; did you mean ")
    assert "'p99_0000'" in refused(*judged[:4], "--pairs", _csv(tmp_path, "p99_0000,p12_0000,0"))


def test_a_grid_of_faces(
    crowd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES", str(crowd))
    values = np.random.default_rng(0).normal(size=(72, 64)).astype(np.float32)
    names = [f"train/p{p:02}/p{p:02}_{i:04}.png" for p in range(PEOPLE) for i in range(6)]
    np.savez(tmp_path / "stored.npz", path=np.array(names), embedding=values)
    grid: dict[str, Any] = {
        "name": "crowd",
        "task": "faces",
        "pairs": [{"teacher": "stored.npz", "student": "resnet8"}],
        "baseline": "cosface",
        "base": {
            "hr_size": 16,
            "val_pairs": 60,
            "train": {"epochs": 1, "batch_size": 16, "val_fraction": 0.25, "device": "cpu", "precision": "float32"},
        },
        "methods": {"cosface": {"cosface": {"scale": 16.0}}, "cosine": {"cosine": {}}},
        "protocols": {"own": {"data": "$FACES", "sizes": [4, 8], "resamples": 0}},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    words = ["bench", "grid.yaml", "--data", str(crowd), "--parallel", "2"]
    assert main(words) == 0
    table = (tmp_path / "results" / "crowd" / "comparison.md").read_text()
    assert table.startswith("| setting | method | accuracy |")
    assert "| resnet8 8x8 | cosine |" in table
    found = json.loads((tmp_path / "results" / "crowd" / "resnet8-8x8-cosine-seed0.json").read_text())
    assert [row["size"] for row in found["protocols"]["own"]["rows"]] == [None, 4, 4, 8, 8]
    said = (tmp_path / "results" / "crowd" / "comparison.txt").read_text()
    assert said.startswith("accuracy in % on the test pairs after the last epoch")
    assert "McNemar p" in said
    before = found
    assert main(words) == 0  # nothing is left to do
    assert json.loads((tmp_path / "results" / "crowd" / "resnet8-8x8-cosine-seed0.json").read_text()) == before
    capsys.readouterr()
    for wrong, line in (
        ({"unseen": {"a": "preset=realistic"}}, "unseen: not of task faces"),
        ({"task": "x"}, "task is 'x'"),
    ):
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(grid | wrong))
        assert line in refused("bench", "wrong.yaml")


def test_the_pairs_of_a_bin(tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Any) -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(16):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
        pictures.append(file.getvalue())
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((pictures, [True, False] * 4)))
    save_pretrained(build_encoder("resnet8", classes=(), input_size=8), tmp_path / "model", info={"hr_size": 16})
    words = ["faces", "evaluate", tmp_path / "model", path, "--resamples", 0]
    assert main([str(word) for word in words]) == 0
    # whose faces they are nobody knows
    assert capsys.readouterr().out.startswith("model on lfw, 16 images\n")
    assert main([str(word) for word in [*words, "--json"]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["people"] == 0
    assert [row["verification"]["pairs"] for row in found["rows"]] == [{"genuine": 4, "impostor": 4}] * 3
    assert "identification" not in found["rows"][0]
    assert refused(*words, "--pairs", "p.csv").endswith("lfw.bin has its own pairs; leave --pairs out")


def _csv(folder: Path, row: str) -> Path:
    path = folder / "wrong.csv"
    path.write_text(f"left,right,same\n{row}\n")
    return path
