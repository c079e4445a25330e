"""Distilling face encoders, on drawn people."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import crossres
from crossres import CrossresError, Encoder, Faces, build_encoder, distill_faces, load, read
from crossres.commands.main import main
from crossres.core.progress import Progress
from crossres.data.splits import SPLIT_SEED, hold_out_people
from crossres.evaluation.verification import calibrate_pairs

STEPS = 3  # of an epoch: 54 images in batches of 16
COSINE = {"cosine": {"weight": 1.0}}
COSFACE = {"cosface": {"weight": 1.0, "scale": 16.0}}


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
        config.device, config.precision = "cpu", "float32"
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


def test_without_labels_it_comes_near_its_teacher(make: Any, teacher: Encoder) -> None:
    config = make(losses=COSINE, train__epochs=8, model__embedding_dim=48)
    result = distill_faces(config, teacher=teacher, quiet=True)
    assert result["task"] == "faces distill"
    assert result["images"] == {"train": 54, "val": 18, "test": 72}
    assert result["auc_last"] > 90
    assert result["val_auc_by_epoch"][-1] == result["val_auc_last"] > 85
    assert result["verification_last"]["auc"] == result["auc_last"]
    assert result["identification_best_val"]["rank1"] == result["rank1_best_val"]
    assert "top1_last" not in result
    student = load(config.folder)
    assert (student.classes, student.embedding_dim) == ((), 48)
    # the threshold that travels is that of all pairs of the people held out, as the deployed model reads them
    train = read(config.data, split="train", open_set=True)
    _, held_out = hold_out_people(train, 0.25, SPLIT_SEED)
    rows = crossres.Recognizer.load(config.folder).embed(held_out.image(i) for i in range(len(held_out)))
    expected = calibrate_pairs(rows, held_out.labels)
    assert len(student.info["pairs"]) == len(expected) > 0
    for own, threshold in zip(student.info["pairs"], expected, strict=True):
        assert own == pytest.approx(asdict(threshold), abs=0.02)
        assert own["people"] == len(set(held_out.labels.tolist()))
    # the summary is printed for people; Python gets the document
    assert crossres.distill_faces(config, teacher=teacher, resume=True, quiet=True) == result


@pytest.mark.parametrize(
    "losses",
    [
        COSFACE,
        {"arcface": {"weight": 1.0}, "adaface": {"weight": 1.0}},
        {"crrcd_paper": {"weight": 1.0, "critic": "softmax"}, "similarity": {"weight": 1.0}, **COSINE},
        {"ce": {"weight": 1.0}, "crd": {"weight": 1.0, "form": "bank", "negatives": 16}},
    ],
    ids=lambda losses: "+".join(losses),
)
def test_resumed_it_equals_an_uninterrupted_run(
    losses: dict[str, Any], make: Any, teacher: Encoder, runs: Any, pause: Any
) -> None:
    needs = {"teacher": teacher} if set(losses) & {"cosine", "crd", "crrcd_paper", "similarity"} else {}
    options = {"losses": {**losses, **pause.losses}, "train__images_per_class": 2, "train__epochs": 2}
    whole, part = (make(name=name, **options, augment__zoom=0.1, augment__colour=0.2) for name in ("whole", "part"))
    expected = distill_faces(whole, **needs, quiet=True)
    pause.after(STEPS + 1)
    with pytest.raises(KeyboardInterrupt):
        distill_faces(part, **needs, quiet=True)
    result = distill_faces(part, **needs, resume=True, quiet=True)
    runs.same_runs(whole.folder, part.folder)
    assert result["verification_last"] == expected["verification_last"]


def test_the_threshold_is_the_validations_also_where_only_judging_was_left(
    make: Any, teacher: Encoder, runs: Any, pause: Any
) -> None:
    losses = {**COSINE, **pause.losses}
    whole, part = (make(losses=losses, name=name) for name in ("whole", "part"))
    result = distill_faces(whole, teacher=teacher, quiet=True)
    part.folder.mkdir()
    (part.folder / "model").write_text("in the way")
    with pytest.raises(CrossresError, match="it is a file"):
        distill_faces(part, teacher=teacher, quiet=True)
    (part.folder / "model").unlink()
    pause.after(0)  # a step would end here
    distill_faces(part, teacher=teacher, resume=True, quiet=True)
    runs.same_runs(whole.folder, part.folder)
    assert result["verification_last"]["threshold_chosen"] != result["verification_last"]["threshold_best"]


def test_images_without_names(
    crowd: Path, make: Any, teacher: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = tmp_path / "crops"
    crops.mkdir()
    for number, file in enumerate(sorted((crowd / "train").rglob("*.png"))):
        shutil.copy(file, crops / f"{number}.png")
    losses = {"crrcd_paper": {"weight": 1.0, "critic": "softmax"}, **COSINE}
    config = make(losses=losses, unlabelled=str(crops), train__epochs=1)
    result = distill_faces(config, teacher=teacher)
    # those who train have no names; all people of the training split judge the epochs
    assert result["images"] == {"train": 72, "val": 72, "test": 72}
    assert result["config"]["unlabelled"] == "crops"
    assert "val_auc_best" in result
    assert result["images_in_both"] == 0
    judged = sorted((crowd / "test").rglob("*.png"))[0]
    shutil.copy(judged, crops / "again.png")
    again = make(losses=COSINE, unlabelled=str(crops), train__epochs=1, name="again")
    assert distill_faces(again, teacher=teacher)["images_in_both"] == 1
    line = f"crops: 1 of the training images are test images too (first: {crops}/again.png): results will be too high"
    assert line in capsys.readouterr().err
    (crops / "again.png").unlink()
    for name in ("cosface", "ce"):
        labelled = make(losses={name: {"weight": 1.0}}, unlabelled=str(crops), name=name)
        with pytest.raises(
            CrossresError, match=rf"^losses.{name}: needs people's names; remove this loss or `unlabelled`$"
        ):
            distill_faces(labelled, quiet=True)
    with pytest.raises(CrossresError, match=r"^there is no data set '[^']*none'"):
        distill_faces(replace(config, unlabelled=str(tmp_path / "none"), name="lost"), teacher=teacher, quiet=True)


def test_a_teacher_that_knows_other_people_teaches_its_embedding(make: Any) -> None:
    knows = build_encoder("resnet8", classes=("x", "y", "z"), input_size=16)
    result = distill_faces(make(losses=COSINE, train__epochs=1), teacher=knows, quiet=True)
    assert result["method"] == "cosine"


def test_the_default_needs_no_names_with_a_teacher_and_names_without_one(make: Any, teacher: Encoder) -> None:
    taught = distill_faces(make(name="taught", losses=None, train__epochs=1), teacher=teacher, quiet=True)
    alone = distill_faces(make(name="alone", losses=None, train__epochs=1), quiet=True)
    assert (taught["method"], alone["method"]) == ("cosine", "cosface")
    assert taught["losses"]["cosine"]["weight"] == 8.0


def test_a_folder_without_splits_is_split_by_people(
    crowd: Path, make: Any, prepared: Any, teacher: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(data=str(crowd / "train"), teacher="(in memory)", losses=COSINE, images__test_fraction=0.25)
    run, _ = prepared(config, teacher=teacher)
    assert "are in the training and in the test images" not in capsys.readouterr().err
    assert run.facts["images"] == {"train": 42, "val": 12, "test": 18}
    sets = [run.train.images, run.val.images, run.test.images]
    people = [{images.where(i).split("/")[-2] for i in range(len(images))} for images in sets]
    assert [len(each) for each in people] == [7, 2, 3]
    assert len(set.union(*people)) == 12


def test_people_in_training_and_test_are_reported_before_training(
    crowd: Path, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], teacher: Encoder
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(crowd, mixed)
    shutil.copytree(mixed / "train" / "p03", mixed / "test" / "p03")
    result = distill_faces(make(data=str(mixed), losses=COSINE, train__epochs=1), teacher=teacher)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{mixed}: 1 people are in the training and in the test images, first p03: ")
    assert lines[1] == f"{mixed}: train 54, val 18, test 78 images"
    assert lines[2].startswith("mixed: 6 of the training images are test images too (first: ")
    assert lines[3].startswith("epoch 1/1  cosine ")
    assert "train" not in lines[3]  # nothing is classified
    assert "faces: test pairs " in lines[-1]
    assert result["people_in_both_last"] == 1


def test_videos_in_training_and_test_are_reported(
    make: Any, prepared: Any, teacher: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(teacher="(in memory)", losses=COSINE, images__group=r"p\d(\d)")  # their last digit
    prepared(config, Progress(), teacher=teacher)
    told = capsys.readouterr().err
    assert "crowd: 10 of the groups are in the training and in the test images, first '0'" in told
    assert "of the 10 groups hold images of several classes, first '0': if each numbers its groups" in told


def test_options_that_people_have_none_of(make: Any, teacher: Encoder) -> None:
    with pytest.raises(CrossresError, match=r"^images\.classes does not apply to people; leave it out$"):
        distill_faces(make(losses=COSINE, images__classes=["p01"]), teacher=teacher, quiet=True)
    with pytest.raises(CrossresError, match=r"^losses.kd: the teacher has no logits; losses.similarity compares "):
        distill_faces(make(losses={"kd": {"weight": 1.0}}), teacher=teacher, quiet=True)


def test_a_list_of_pairs_is_checked_before_the_training(make: Any, teacher: Encoder, pairs_csv: Any) -> None:
    one_kind = pairs_csv("p12_0000,p13_0000,0")
    with pytest.raises(CrossresError, match=r"wrong.csv: holds no genuine pair; verification needs both kinds$"):
        distill_faces(make(losses=COSINE, pairs=str(one_kind)), teacher=teacher, quiet=True)
    assert not make().folder.exists()


def test_people_of_whom_there_is_one_image_each_are_verified_alone(
    crowd: Path, make: Any, teacher: Encoder, tmp_path: Path, pairs_csv: Any
) -> None:
    single = tmp_path / "single"
    shutil.copytree(crowd / "train", single / "train")
    for number in range(4):
        (single / "test" / f"face{number}").mkdir(parents=True)
        shutil.copy(
            crowd / "test" / "p12" / f"p12_{number:04}.png", single / "test" / f"face{number}" / f"{number}.png"
        )
    pairs = pairs_csv("0,1,1\n2,3,0")
    result = distill_faces(
        make(data=str(single), losses=COSINE, pairs=str(pairs), train__epochs=1), teacher=teacher, quiet=True
    )
    assert "identification_last" not in result
    assert result["verification_last"]["pairs"] == {"genuine": 1, "impostor": 1}


def test_stored_embeddings_teach_and_have_no_other_views(
    crowd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Any
) -> None:
    images = read(crowd, split="train", open_set=True)
    values = np.random.default_rng(0).normal(size=(len(images), 5)).astype(np.float32)
    paths = [images.path(i) for i in range(len(images))]
    np.savez(tmp_path / "stored.npz", path=np.array(paths), embedding=values)
    words = ["faces", "distill", crowd, "--hr_size", 16, "--lr-size", 8, "--runs", tmp_path, "--val_pairs", 60]
    words += ["--train.epochs", 1, "--train.batch_size", 16, "--train.val_fraction", 0.25]
    words += ["--model.name", "resnet8", "--device", "cpu", "--precision", "float32"]
    words += ["--teacher", tmp_path / "stored.npz", "--name", "student"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "student: test pairs " in printed.err.splitlines()[-2]
    result = distill_faces(crossres.config.reading.of_run(Faces, tmp_path / "student"), resume=True, quiet=True)
    assert result["teacher"]["name"] == "stored"
    assert result["method"] == "cosine"
    assert main(["faces", "distill", "--resume", str(tmp_path / "student")]) == 0
    capsys.readouterr()
    line = refused("distill", "--resume", tmp_path / "student")
    assert "is a run of crossres faces distill; resume it with crossres faces distill --resume " in line
    assert refused(*words, "--teacher_cache", "false", "--overwrite").endswith("set teacher_cache to true")
    assert refused(*words, "--teacher_top_k", 5, "--overwrite").endswith(" gives no logits: leave teacher_top_k out")
