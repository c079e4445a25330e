"""What a model loses on images that are not as trained: natural ones, other degradations, intervals over groups."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossres import CrossresError, Evaluate, evaluate, load, read
from crossres.commands.main import main
from crossres.config import options as parts
from crossres.evaluation.discrepancy import natural_sets
from crossres.evaluation.prepare import read_split
from crossres.evaluation.statistics import resampled_shares

GROUP = r"(\w+/\d)\d\.png$"


@pytest.fixture(scope="module")
def student(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a student of labels alone at 8 x 8."""
    from crossres import Distill, Model, Train, distill

    runs = tmp_path_factory.mktemp("discrepancy")
    config = Distill(
        data=str(drawn),
        runs=str(runs),
        hr_size=16,
        lr_size=8,
        model=Model(name="resnet8"),
        device="cpu",
        train=Train(epochs=3, batch_size=24),
        precision="float32",
    )
    distill(config, quiet=True)
    return config.folder


@pytest.fixture
def far(drawn: Path, tmp_path: Path) -> Path:
    """The test images as another camera would give them: 8 x 8, bright, in a folder without splits."""
    images = read(drawn, split="test")
    for i in range(len(images)):
        place = tmp_path / "far" / images.path(i).removeprefix("test/")
        place.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(images.image(i)).resize((8, 8), Image.Resampling.BOX)
        small.point(lambda value: 128 + value // 2).save(place)
    return tmp_path / "far"


def test_natural_images_and_other_degradations_beside_those_as_trained(
    student: Path, drawn: Path, far: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Evaluate(model=str(student), data=str(drawn), natural=[str(far)], images=parts.TestImages(group=GROUP))
    result = evaluate(options)
    first, *others = result["discrepancy"]
    assert (first["name"], first["images"], first["groups"], first["drop"]) == ("as trained", 40, 4, 0)
    assert first["top1"] == result["top1"]
    line = "shapes: 4 of the groups are in the training and in the test images of far, first 'bar/0': results will be"
    assert line in capsys.readouterr().err
    assert [row["name"] for row in others] == ["far", "blur, noise, JPEG", "nearest"]
    for row in others:
        assert row["drop"] == pytest.approx(first["top1"] - row["top1"])
        assert row["interval"][0] <= row["drop"] <= row["interval"][1]
    alone = evaluate(Evaluate(model=str(student), data=str(far), native=True, split="all"))
    assert others[0]["top1"] == alone["top1"]
    assert others[0]["class_mean"] == alone["class_mean"]
    words = [str(student), str(drawn), "--natural", str(far), "--images.group", GROUP]
    assert main(["evaluate", *words]) == 0
    printed = capsys.readouterr().out
    assert f"{others[0]['drop']:+.2f}" in printed
    assert "95 % interval" in printed
    # of classes of unequal size the mean over classes stands beside it
    right = alone["confusion"]
    kept = max(range(4), key=lambda i: abs(right[i][i] - 2.5 * alone["top1"] / 100))
    for i, name in enumerate(alone["classes"]):
        for path in sorted((far / name).glob("*"))[: 0 if i == kept else 9]:
            path.unlink()
    assert main(["evaluate", *words]) == 0
    assert re.search(r"far: mean over classes .* %, commonest class 76\.92 % of the images", capsys.readouterr().out)


def test_what_cannot_be_judged_is_refused(student: Path, drawn: Path, far: Path) -> None:
    def line(**options: Any) -> str:
        with pytest.raises(CrossresError) as caught:
            evaluate(Evaluate(model=str(student), data=str(drawn), **options))
        return str(caught.value)

    assert line(natural=["nowhere"]).startswith("there is no data set 'nowhere'")
    (far / "ghost").mkdir()
    Image.new("RGB", (8, 8)).save(far / "ghost" / "00.png")
    assert line(natural=[str(far)]).startswith("far: class 'ghost' is unknown to the model")
    assert "cannot be combined with native images" in line(natural=[str(far)], native=True)


def test_sets_of_one_name_of_fewer_classes_and_of_one_group(
    student: Path, drawn: Path, far: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(far / "disc")
    again = shutil.copytree(far, tmp_path / "other" / "far")
    options = Evaluate(model=str(student), data=str(drawn), natural=[str(far), str(again)])
    options.images = parts.TestImages(classes=["bar", "disc"], group=r"(\w)\w+/\d+\.png$")
    first, one, two, *_ = evaluate(options)["discrepancy"]
    assert (one["name"], two["name"]) == ("far", "other/far")
    told = capsys.readouterr().err
    assert "far: it has 1 of the 2 classes, not 'disc'" in told
    assert "other/far: all its images are of one group, so nothing is drawn for an interval" in told
    assert (first["images"], one["images"], one["groups"]) == (20, 10, 1)
    assert one["interval"] is None
    # nor where the images as trained are of one group: they would not vary
    options.images = parts.TestImages(classes=["bar", "disc"], group=r"(test)/")
    first, one, *_ = evaluate(options)["discrepancy"]
    assert (first["groups"], one["groups"]) == (1, 10)
    assert one["interval"] is None


def test_a_set_of_the_trainings_name_without_its_groups_is_judged(
    drawn: Path, far: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = far.rename(far.parent / drawn.name)
    encoder = load(student)
    encoder.info["group"] = "track([0-9]+)"
    (images,) = natural_sets(encoder, Evaluate(model=str(student), data="elsewhere", natural=[str(other)]))
    assert images.groups is None
    told = capsys.readouterr().err
    assert "each of its images counts alone" in told
    assert "it may have seen" not in told


def test_a_set_that_is_split_in_another_way_than_for_the_training_is_told(
    drawn: Path, far: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, own = load(student), r"\w+/\d+\.png$"  # each image alone
    line = f"{far}: the model was trained with images.group None, not {own}: it may have seen these test images"
    grouped = Evaluate(model=str(student), data=str(far), images=parts.TestImages(group=own))
    for info, options, told in (
        ({"dataset": "far"}, grouped, line),
        ({"dataset": "far"}, replace(grouped, images=parts.TestImages()), ""),
        ({"dataset": "far", "group": own}, grouped, ""),
        ({"dataset": "shapes"}, replace(grouped, data=str(drawn)), ""),  # splits of its own
    ):
        encoder.info |= {"group": None, **info}
        read_split(options, "test", encoder)
        assert capsys.readouterr().err.startswith(told or "\0") == bool(told)
    encoder.info |= {"dataset": "shapes", "natural": "far", "group": None}
    natural_sets(encoder, replace(grouped, data=str(drawn), natural=[str(far)]))
    told = capsys.readouterr().err
    assert line in told
    assert f"{far}: the model was trained on a set of this name; its test split is judged" in told


def test_natural_sets_are_read_before_the_rest_is_judged(
    student: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossres.evaluation.classification.evaluate_encoder", None)
    with pytest.raises(CrossresError, match=r"^there is no data set 'nowhere'"):
        evaluate(Evaluate(model=str(student), data=str(drawn), natural=["nowhere"]))


def test_resampled_groups_vary_more_than_resampled_images() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 20)
    right = np.repeat(rng.random(60) < 0.7, 20)  # a track is all right or all wrong
    of_groups, of_images = resampled_shares(right, groups), resampled_shares(right, None)
    share = right.mean()
    assert of_groups.mean() == pytest.approx(share, abs=0.01)
    # the standard errors of 60 and of 1,200 independent tests
    assert of_groups.std() == pytest.approx(np.sqrt(share * (1 - share) / 60), rel=0.1)
    assert of_images.std() == pytest.approx(np.sqrt(share * (1 - share) / 1200), rel=0.1)
    # two results on the same images are resampled alike
    assert (resampled_shares(~right, groups) == pytest.approx(1 - of_groups)) is True
    assert not np.array_equal(of_groups, resampled_shares(right, groups, seed=1))
