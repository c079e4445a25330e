"""A student trained on natural images beside shrunk ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossres import CrossresError, Distill, Evaluate, distill, evaluate, read
from crossres.config import options as parts
from crossres.config.options import Augment, Images, Model, Train
from crossres.config.reading import from_config
from crossres.core.progress import Progress
from crossres.data.images import ArrayItems, ImageSet
from crossres.evaluation.prepare import CPU
from crossres.training.classification import Classification
from crossres.training.natural import _of_other_classes, _without_tested
from crossres.training.prepare import build_loaders
from crossres.training.processes import fabric_of

GROUP = r"(\w+/\d\d?)\d\.png$"  # ten images each


@pytest.fixture(scope="module")
def shapes(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn images; the test images are of groups of their own."""
    folder = shutil.copytree(drawn, tmp_path_factory.mktemp("grouped") / "shapes")
    for file in sorted((folder / "test").glob("*/*.png")):
        file.rename(file.with_name(f"5{file.name[1:]}"))
    return folder


@pytest.fixture(scope="module")
def camera(shapes: Path, photographed: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training images as another camera gives them: bright, 8 x 8, in a folder without splits."""
    return photographed(shapes, tmp_path_factory.mktemp("camera") / "far", lambda value: 128 + value // 2)


def config(shapes: Path, camera: Path, teacher: Path | None, runs: Path, **options: Any) -> Distill:
    settings: dict[str, Any] = {
        "data": str(shapes),
        "natural": str(camera),
        "teacher": str(teacher) if teacher else None,
        "runs": str(runs),
        "lr_size": 8,
        "hr_size": 16,
        "model": Model(name="resnet8"),
        "augment": Augment(shift=0, flip=False),
        "images": Images(group=GROUP),
        "train": Train(epochs=1, batch_size=16, val_fraction=0.3),
        "precision": "float32",
        "device": "cpu",
    }
    return Distill(**(settings | options))


def test_a_run_with_natural_images(
    shapes: Path, camera: Path, drawn_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = config(shapes, camera, drawn_teacher, tmp_path)
    result = distill(run)
    lines = capsys.readouterr().err
    # the camera's groups are split into training and test, and HR images of those that are tested are left out
    tested = 96 - len(read(camera, split="train", group=GROUP))
    assert 0 < tested < 48
    assert re.search(r"^shapes: \d+ HR images left out: far tests their groups$", lines, re.M)
    counts = result["images"]
    assert counts["natural"] + counts["val"] + tested == 96
    assert counts["natural"] == counts["train"]
    assert f"far: {counts['natural']} natural images fill 50% of each batch; {counts['val']} held out with" in lines
    assert (
        f"far: {counts['natural']} of {counts['natural']} natural images have an HR image of their group\n" in lines
    )
    assert result["config"]["natural"] == "far"
    # what was held out is what it is judged on
    judged = evaluate(
        Evaluate(model=str(run.folder), data=str(shapes), natural=[str(camera)], images=parts.TestImages(group=GROUP))
    )
    assert judged["discrepancy"][1]["images"] == tested


def test_a_stored_and_a_live_teacher_see_the_same_images(
    shapes: Path, camera: Path, drawn_teacher: Path, tmp_path: Path
) -> None:
    for name, cached in (("stored", True), ("live", False)):
        one_step = Train(epochs=1, batch_size=124, val_fraction=0.3)
        distill(config(shapes, camera, drawn_teacher, tmp_path, name=name, teacher_cache=cached, train=one_step))
    first, second = (json.loads((tmp_path / n / "metrics.jsonl").read_text()) for n in ("stored", "live"))
    for name, value in first["losses"].items():
        assert value == pytest.approx(second["losses"][name], rel=2e-3), name  # stored maps are float16


def test_a_resumed_run_equals_an_uninterrupted_one(
    shapes: Path, camera: Path, drawn_teacher: Path, tmp_path: Path, runs: Any, pause: Any
) -> None:
    losses = {"ce": {"weight": 1.0}, "crrcd_images": {"weight": 4.0}, "crrcd_maps": {"weight": 4.0}, **pause.losses}
    options: dict[str, Any] = {"losses": losses, "train": Train(epochs=2, batch_size=16, val_fraction=0.3)}
    straight, broken = (
        config(shapes, camera, drawn_teacher, tmp_path, name=name, **options) for name in ("whole", "broken")
    )
    counts = distill(straight, quiet=True)["images"]
    pause.after((counts["train"] + counts["natural"]) // 16 + 2)
    with pytest.raises(KeyboardInterrupt):
        distill(broken, quiet=True)
    torch.rand(3)
    distill(broken, resume=True, quiet=True)
    runs.same_runs(straight.folder, broken.folder)


def test_crops_at_a_range_of_sizes_stay_as_they_are(shapes: Path, camera: Path, tmp_path: Path) -> None:
    """Only the shrunk images are of the sizes between; crops and validation are read at the largest."""
    run = from_config(config(shapes, camera, None, tmp_path, lr_size=(4, 8)))
    task = Classification(run)
    progress, fabric = Progress(quiet=True), fabric_of(run, CPU)
    sets = task.images(progress)
    _, natural, val, test = build_loaders(run, task, sets, (16, (4, 8)), fabric, CPU, progress)
    assert natural is not None
    assert val is not None
    assert (natural.lr_size, val.lr_size, test.lr_size) == (8, 8, (4, 8))
    batch = next(iter(natural.epoch(0)))
    stored = natural.images.pixels(8).float() / 255
    assert torch.allclose(batch.lr, stored[batch.index], atol=1e-6)


def test_copies_between_a_sets_own_splits_are_counted(
    shapes: Path, camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = shutil.copytree(camera, tmp_path / "far" / "train")
    for file in sorted(far.glob("*/2*.png")):
        (far.parent / "test" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, far.parent / "test" / file.parent.name / file.name)
    distill(config(shapes, far.parent, None, tmp_path, images=Images()))
    assert "far: 16 of its training images are test images, too (first: " in capsys.readouterr().err


def test_a_resumed_run_asks_for_the_same_natural_images(shapes: Path, camera: Path, tmp_path: Path) -> None:
    own = shutil.copytree(camera, tmp_path / "far")
    run = config(shapes, own, None, tmp_path, train=Train(epochs=2, batch_size=16, val_fraction=0.3))
    whole = distill(run)
    for name in ("result.json", "model"):
        path = run.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    Image.new("RGB", (9, 9)).save(next(own.glob("bar/*1.png")))
    with pytest.raises(CrossresError, match=r"^the (natural|val) images changed since the run began"):
        distill(run, resume=True)
    assert whole["images"]["natural"] > 0


def test_natural_images_that_cannot_be_paired(
    shapes: Path, camera: Path, drawn_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(**options: Any) -> str:
        with pytest.raises(CrossresError) as caught:
            distill(config(shapes, camera, drawn_teacher, tmp_path, **options))
        return str(caught.value)

    # those of groups that no HR image has are paired by class
    other = shutil.copytree(camera, tmp_path / "other")
    for file in sorted(other.glob("*/*.png")):
        file.rename(file.with_name(f"9{file.name}"))
    assert distill(config(shapes, other, drawn_teacher, tmp_path, name="others"))["images"]["natural"] == 40
    # those of the test's groups are left out
    for file in sorted(other.glob("*/*.png")):
        file.rename(file.with_name(f"5{file.name[2:]}"))
    assert line(natural=str(other)) == "other: no natural image is left to train on; check images.group"
    assert "natural images left out: their groups are of the test" in capsys.readouterr().err
    ghost = shutil.copytree(camera, tmp_path / "ghosts")
    (ghost / "bar").rename(ghost / "ghost")
    assert line(natural=str(ghost)) == "ghosts: class 'ghost' has no HR image in shapes to learn from"
    assert line(natural_share=1.0) == "natural_share: 1 is outside 0.001..0.999"
    # without groups they are paired by class, and a share of each class is held out
    plain = distill(config(shapes, camera, drawn_teacher, tmp_path, name="plain", images=Images()))
    assert plain["images"]["natural"] + plain["images"]["val"] == 96 - 4 * 5
    line_of_both = line(train=Train(batch_size=16, images_per_class=2))
    assert line_of_both.startswith("train.images_per_class: natural images are drawn whatever their class")


def test_which_natural_images_choose_the_epoch(
    shapes: Path, camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of groups that no HR image has, a share; fewer than 20 choose nothing."""
    other = shutil.copytree(camera, tmp_path / "other")
    for file in sorted(other.glob("*/*.png")):
        file.rename(file.with_name(f"9{file.name}"))
    distill(config(shapes, other, None, tmp_path))
    told = capsys.readouterr().err
    assert "other: 40 natural images fill 50% of each batch; 40 held out with their groups choose" in told
    assert "other: 0 of 40 natural images have an HR image of their group; check that images.group" in told
    few = tmp_path / "few"
    for name in ("bar", "cross"):
        (few / name).mkdir(parents=True)
        for file in sorted((other / name).glob("*.png"))[:14]:
            shutil.copy(file, few / name)
    distill(config(shapes, few, None, tmp_path, name="few"))
    assert "choose the epoch" not in capsys.readouterr().err


def grouped(labels: list[int], groups: list[str]) -> ImageSet:
    """Black images of classes a and b, in groups."""
    made = ImageSet(ArrayItems(np.zeros((len(labels), 4, 4), np.uint8)), np.array(labels), ["a", "b"], "set")
    made.groups = np.array(groups)
    return made


def test_groups_whose_hr_images_are_of_other_classes_are_counted() -> None:
    train = grouped([0, 0, 1], ["x", "y", "y"])
    assert _of_other_classes(grouped([1, 1, 0, 1], ["x", "y", "y", "z"]), train) == 1


def test_a_class_all_of_whose_hr_images_are_left_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    left = _without_tested(grouped([0, 0, 1], ["x", "y", "z"]), grouped([0, 1], ["x", "z"]), Progress())
    assert left.groups.tolist() == ["y"]
    line = "set: 2 HR images left out: set tests their groups; none is left of class 'b'\n"
    assert capsys.readouterr().err == line
