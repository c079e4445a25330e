"""Everything a run needs before its first step: images and their splits, sizes, the teacher's outputs."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from crossres import Augment, CrossresError, Degradation, Distill, Images, Model, Teach, distill, load, read
from crossres.core.progress import Progress
from crossres.data.degrade import degrade
from crossres.evaluation.prepare import split_otherwise
from crossres.models.encoder import build_encoder
from crossres.training import classification
from crossres.training.networks import build_teacher

CE = {"ce": {"weight": 1.0}}
KD = {"kd": {"weight": 1.0}}


# the images and their sizes


def test_validation_comes_from_the_training_images_and_no_image_is_in_two_parts(
    make: Any, prepared: Any, drawn: Path
) -> None:
    run, _ = prepared(make(train_val_fraction=0.25))
    sets = {"train": run.train.images, "val": run.val.images, "test": run.test.images}
    paths = {name: {images.where(i) for i in range(len(images))} for name, images in sets.items()}
    assert {name: len(of_part) for name, of_part in paths.items()} == {"train": 72, "val": 24, "test": 40}
    assert not paths["train"] & paths["val"]
    assert all("/train/" in path for path in paths["train"] | paths["val"])
    assert all("/test/" in path for path in paths["test"])
    # a quarter of each class
    for name in read(str(drawn), split="test").classes:
        assert sum(f"/{name}/" in path for path in paths["val"]) == 6


def test_a_large_set_holds_out_so_many_at_most(make: Any, prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "MOST_HELD_OUT", 8)
    run, _ = prepared(make(train_val_fraction=0.25))
    assert (len(run.train.images), len(run.val.images)) == (88, 8)


def test_no_split_cuts_a_group(
    make: Any, prepared: Any, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from crossres.core.progress import Progress

    shutil.copytree(drawn / "train", tmp_path / "tracks")  # bar/00.png to bar/23.png: ten images a track
    config = make(data=str(tmp_path / "tracks"), teacher=None, losses=CE, images=Images(group=r"(\w+/\d)\d\.png$"))
    run, _ = prepared(config)
    groups = [set(getattr(run, part).images.groups) for part in ("train", "val", "test")]
    assert all(groups)
    assert len(set.union(*groups)) == sum(map(len, groups)) == 12
    for path in (tmp_path / "tracks").glob("*/2*.png"):
        path.unlink()  # of two tracks one is for the test
    with pytest.raises(CrossresError, match=r"^tracks: no class has a second group to hold out for validation; "):
        prepared(config)
    both = make(teacher=None, losses=CE, train_val_fraction=0, images=Images(group=r"/(\w+)/\d"))
    prepared(both, Progress())
    assert (
        "shapes: 4 of the groups are in the training and in the test images, first 'bar'" in capsys.readouterr().err
    )


def test_test_images_among_the_training_images_are_counted(
    make: Any, prepared: Any, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from crossres.core.progress import Progress

    shutil.copytree(drawn, tmp_path / "set")
    judged = sorted((tmp_path / "set" / "test" / "disc").iterdir())[:2]
    for number, file in enumerate(judged):
        Image.open(file).save(
            tmp_path / "set" / "train" / "bar" / f"copy{number}.bmp"
        )  # by its pixels, not its bytes
    config = make(data=str(tmp_path / "set"), teacher=None, losses=CE, train_val_fraction=0)
    run, _ = prepared(config, Progress())
    assert run.facts["images_in_both"] == 2
    first = tmp_path / "set" / "train" / "bar" / "copy0.bmp"
    line = f"set: 2 of the training images are test images too (first: {first}): results will be too high."
    assert line in capsys.readouterr().err
    # among those held out for validation, too
    assert prepared(replace(config, train=replace(config.train, val_fraction=0.5)))[0].facts["images_in_both"] == 2
    # images that are not in memory are not looked at
    assert prepared(replace(config, images=Images(memory_mb=0, workers=0)))[0].facts["images_in_both"] is None


def test_a_teacher_of_another_split_is_told(drawn: Path) -> None:
    test = read(drawn / "train", split="test", group=r"(\w+/\d)")
    how = {"group": r"(\w+/\d)", "test_fraction": 0.2}
    line = "crops: the teacher was trained with images.group None, not (\\w+/\\d): it may have seen these test images"
    for info in ({"group": None, "test_fraction": 0.2}, {}):  # an older version knew no groups
        assert (split_otherwise("teacher", info, "crops", test, how) or "").startswith(line)
    less = split_otherwise("model", {**how, "test_fraction": 0.1}, "crops", test, how)
    assert (less or "").startswith("crops: the model was trained with images.test_fraction 0.1, not 0.2: it may")
    assert split_otherwise("teacher", how, "crops", test, how) is None
    assert split_otherwise("teacher", {}, "crops", read(drawn, split="test"), how) is None  # splits of its own


def test_all_seeds_are_judged_on_the_same_degraded_images(make: Any, prepared: Any) -> None:
    common = {"degradation": Degradation(preset="realistic"), "losses": CE}
    one, other = (prepared(make(train_seed=seed, **common))[0] for seed in (0, 7))
    for part in ("train", "val", "test"):
        assert getattr(one, part).images.fingerprint == getattr(other, part).images.fingerprint
    for part in ("val", "test"):
        ours, theirs = (torch.cat([b.lr for b in getattr(run, part).ordered(batch_size=16)]) for run in (one, other))
        assert torch.equal(ours, theirs)
    ours, theirs = (next(iter(run.train.epoch(0))).lr for run in (one, other))
    assert not torch.equal(ours, theirs)


def test_hr_size_comes_from_the_teacher_then_from_the_images(
    make: Any, prepared: Any, drawn_teacher: Path, tmp_path: Path
) -> None:
    teacher = load(drawn_teacher)
    teacher.info, teacher.input_size = {}, 12
    run, _ = prepared(make(teacher="(in memory)", hr_size=None, losses=KD), teacher=teacher)
    assert run.facts["hr_size"] == 12
    wide = make(name="b", data=str(tmp_path / "wide"), teacher=None, hr_size=None, losses=CE)
    for i in range(8):
        folder = tmp_path / "wide" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 24), (9 * i, 0, 0)).save(folder / f"{i}.png")
    assert prepared(wide)[0].facts["hr_size"] == 24
    for path in (tmp_path / "wide" / "a").iterdir():
        Image.new("RGB", (50, 50)).save(path)
    assert prepared(wide)[0].facts["hr_size"] == 32


def test_images_of_several_sizes_and_large_ones_are_reported(
    tmp_path: Path, prepared: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from crossres.core.progress import Progress

    for i in range(8):
        folder = tmp_path / "set" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 300), (9 * i, 0, 0)).save(folder / f"{i}.png")
    config = Teach(data=str(tmp_path / "set"), model=Model(name="resnet8"), device="cpu")
    assert prepared(config, Progress())[0].facts["hr_size"] == 300
    assert "set: read at the images' own hr_size 300, which is slow (--hr_size changes" in capsys.readouterr().err
    Image.new("RGB", (50, 50)).save(tmp_path / "set" / "a" / "0.png")
    prepared(config, Progress())
    assert "set: images differ in size; reading all at hr_size 32 (--hr_size changes it)" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_images_decoded_on_the_fly_give_the_same_run(make: Any, runs: Any, finished: Distill, workers: int) -> None:
    config = make(name="files", images=Images(memory_mb=0, workers=workers))
    distill(config, quiet=True)
    runs.same_states(finished.folder, config.folder, same_config=False)


def test_the_data_set_s_name_where_the_folder_is_given_as_a_dot(
    make: Any, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(drawn)
    result = distill(make(data=".", losses=CE, train_epochs=1, teacher=None), quiet=True)
    assert result["dataset"] == result["config"]["data"] == "shapes"


def test_some_classes_of_a_teacher_that_knows_more(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["disc", "bar"]
    config = make(images=Images(classes=names), train_epochs=1)
    result = distill(config)
    assert result["images"] == {"train": 44, "val": 4, "test": 20}
    line = "the teacher has 2 classes that are not in images.classes; their logits are dropped"
    assert line in capsys.readouterr().err
    assert load(config.folder / "model").classes == tuple(sorted(names))


def test_a_teacher_without_classes_has_none_to_drop(
    make: Any, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["bar", "disc"]
    config, images = make(images=Images(classes=names)), read(drawn, split="train").of_classes(names)
    teacher = build_encoder("resnet8", classes=(), input_size=16, embedding_dim=8)
    assert build_teacher(config, teacher, images, (), 16, Progress()) is not None
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        *({"model": Model(name=name)} for name in ("resnet8x5", "timm:nowhere", "nowhere:at_all")),
        *({"teacher": "nowhere"}, {"teacher_name": "nowhere"}, {"model": Model(weights="nowhere.pt")}),
        {"losses": {"kd": {"weight": 1.0, "temperature": 0.0}}},
    ],
)
def test_names_are_checked_before_images_are_read(make: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(CrossresError, match=r"resnet8x4|nowhere|temperature"):
        distill(make(data="images-that-are-not-there", **wrong), quiet=True)


# the teacher's outputs


def test_deleting_or_damaging_the_cache_changes_nothing(
    make: Any, runs: Any, finished: Distill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = finished.folder.parent / "cache"
    contents = [load_file(file) for file in sorted(filled.rglob("*.safetensors"))]
    assert len(contents) == 2
    cache = tmp_path / "runs" / "cache"
    shutil.copytree(filled, cache)
    distill(make(name="reader"), quiet=True)
    runs.same_runs(finished.folder, make(name="reader").folder)

    shutil.rmtree(cache)
    distill(make(name="deleted"), quiet=True)
    runs.same_runs(finished.folder, make(name="deleted").folder)
    files = sorted(cache.rglob("*.safetensors"))
    runs.same_bits([load_file(file) for file in files], contents)

    files[0].write_bytes(files[0].read_bytes()[:-10])
    files[1].write_bytes(b"")
    capsys.readouterr()
    distill(make(name="damaged"), quiet=True)
    assert capsys.readouterr().err.count("is cut short or damaged; computing it again") == 2
    runs.same_runs(finished.folder, make(name="damaged").folder)
    runs.same_bits([load_file(file) for file in sorted(cache.rglob("*.safetensors"))], contents)


def test_a_cache_filled_by_another_run_changes_nothing(
    make: Any, prepared: Any, runs: Any, finished: Distill
) -> None:
    # whoever filled it, with whatever batch size and seed, it holds the same bits
    prepared(make(name="filler", train_batch_size=37, train_seed=5))
    distill(make(name="reader"), quiet=True)
    assert len(list((make().folder.parent / "cache").rglob("*.safetensors"))) == 2  # for all seeds, one for each view
    runs.same_states(finished.folder, make(name="reader").folder)


# kd reads logits, which the cache rounds to float16, and the training carries that on
@pytest.mark.parametrize(("views", "kd", "tolerance"), [("own", 0, 1e-3), ("own", 1, 2e-2), ("mirrored", 1, 2e-2)])
def test_the_live_teacher_gives_the_cached_run_where_nothing_is_shifted(
    make: Any, runs: Any, views: Any, kd: int, tolerance: float
) -> None:
    losses = {**CE, "crrcd_paper": {"weight": 1.0, "anchors": 4, "width": 16}, "kd": {"weight": float(kd)}}
    how = {"train_epochs": 2, "teacher_views": views, "losses": losses, "augment": Augment(shift=0)}
    configs = [make(name=name, teacher_cache=cached, **how) for name, cached in (("cached", True), ("live", False))]
    for config in configs:
        distill(config, quiet=True)
    for cached_row, live_row in zip(*(runs.rows(config.folder) for config in configs), strict=True):
        assert live_row["losses"] == pytest.approx(cached_row["losses"], rel=tolerance)


def test_the_live_teacher_reads_the_scene_that_the_student_reads(make: Any, prepared: Any, tmp_path: Path) -> None:
    config = make(train_epochs=1, teacher_cache=False, augment=Augment(shift=3, flip=True))
    run, loop = prepared(config)
    images: dict[str, list[torch.Tensor]] = {"teacher": [], "student": []}
    run.teacher.register_forward_pre_hook(lambda _, given: images["teacher"].append(given[0]))
    run.student.register_forward_pre_hook(
        lambda student, given: images["student"].append(given[0]) if student.training else None
    )
    loop.train(tmp_path / "state.pt")
    assert not (config.folder.parent / "cache").exists()
    assert len(images["teacher"]) == len(images["student"]) == 88 // 16
    for of_teacher, of_student in zip(images["teacher"], images["student"], strict=True):
        assert torch.equal(degrade(of_teacher, 8), of_student)


def test_a_teacher_that_no_loss_reads_is_not_run(make: Any, prepared: Any) -> None:
    run, _ = prepared(make(losses=CE))
    assert run.cache is None
    assert not run.distiller.needs_teacher
    assert not (make().folder.parent / "cache").exists()


def test_stored_maps_are_of_the_largest_size_compared_and_follow_the_images(make: Any, prepared: Any) -> None:
    losses = {**CE, "crrcd_maps": {"weight": 1.0, "cells": 2}, "sp": {"weight": 1.0}}
    run, loop = prepared(make(losses=losses, augment=Augment(shift=3)))
    kept = run.cache(torch.arange(2), torch.zeros(2, dtype=torch.long)).features
    assert [tuple(maps.shape[2:]) for maps in kept.values()] == [(8, 8), (4, 4), (2, 2)]
    assert run.facts["teacher_maps"] == "moved"
    batch = next(run.train.epoch(0))
    given, still = loop._teacher_outputs(batch, live=False), run.cache(batch.index, batch.view)
    expected = run.cache(batch.index, batch.view, batch.place)
    for path, maps in given.features.items():
        assert torch.equal(maps, expected.features[path])
        assert not torch.equal(maps, still.features[path].float())
    terms, _ = run.distiller(batch.lr, given, batch.label, batch.index)
    assert set(terms) == set(losses)


def test_maps_need_no_memory(make: Any, prepared: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = make(losses={**CE, "at": {"weight": 1.0}})
    run, _ = prepared(replace(config, images=Images(memory_mb=0, workers=0)), Progress())
    assert run.facts["teacher_maps"] == "moved"
    assert "flat images and copies of test images are not looked for" in capsys.readouterr().err


def test_what_the_images_are_taken_for(
    prepared: Any, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(drawn, tmp_path / "narrow")
    files = sorted((folder / "train" / "bar").glob("*.png"))
    for file in files:
        values = np.asarray(Image.open(file).convert("L")).astype(np.uint16)
        Image.fromarray(51_000 + 4 * values).save(file)
    prepared(Teach(data=str(folder), model=Model(name="resnet8"), hr_size=16), Progress())
    said = capsys.readouterr().err
    assert f"{folder}: 4 classes: bar, cross, disc, frame; train 88, val 8, test 40 images\n" in said
    flat = int(re.search(r"narrow: (\d+) of 88 training images are flat, their values within 5 of 256", said)[1])
    assert 20 <= flat <= 24
