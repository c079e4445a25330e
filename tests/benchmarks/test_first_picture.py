"""The README's first picture: its numbers and answers are those of the results."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

from crossres.core.files import decode_bits
from crossres.data.images import ImageSet
from crossres.data.readers import read

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import first_picture

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    if "CROSSRES_DATA" not in os.environ:
        pytest.skip("CROSSRES_DATA is not set: it is the folder that holds cifar100/")
    return read(os.environ["CROSSRES_DATA"] + "/cifar100", split="test", label_column="fine_label")


def test_the_bars_are_those_of_the_tables() -> None:
    with Path("results/methods-8x8/comparison.csv").open() as file:
        table = {row["method"]: float(row["top1"]) for row in csv.DictReader(file)}
    enlarged, labels, ours, teacher = (values for _, values, _ in first_picture.bars())
    assert [len(labels), len(ours)] == [3, 3]
    assert mean(labels) == pytest.approx(table["ce"])
    assert mean(ours) == pytest.approx(table["crrcd"])
    pages = "".join(page.read_text() for page in (Path("README.md"), *Path("docs").rglob("*.md")))
    assert f"| 8x8, enlarged to 32 | {enlarged[0]:.2f} |" in pages
    assert f"| 32x32 | {teacher[0]:.2f} |" in pages


def test_the_students_answers_are_those_that_its_training_recorded() -> None:
    answers = json.loads(first_picture.ANSWERS.read_text())
    result = json.loads((first_picture.METHODS / f"{answers['student']}.json").read_text())
    right = decode_bits(result["right_best_val"], result["images"]["test"])  # of the epoch that was saved
    assert [row["student"] == row["label"] for row in answers["images"]] == [
        bool(right[row["index"]]) for row in answers["images"]
    ]


def test_the_images_are_the_first_of_a_shuffle(images: ImageSet) -> None:
    answers = json.loads(first_picture.ANSWERS.read_text())
    positions = first_picture.chosen_images(images)
    assert [row["index"] for row in answers["images"]] == positions
    labels = [images.classes[images.labels[position]] for position in positions]
    assert [row["label"] for row in answers["images"]] == labels
    assert len(set(labels)) == first_picture.SHOWN


def test_the_picture_is_drawn_from_what_is_stored(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = json.loads(first_picture.ANSWERS.read_text())
    shown = images.subset([row["index"] for row in answers["images"]])
    assert first_picture.answers_of(first_picture.TEACHER, shown) == [row["teacher"] for row in answers["images"]]
    out = tmp_path / "first.png"
    monkeypatch.setattr(sys, "argv", ["first_picture.py", "--out", str(out)])
    first_picture.main()
    assert out.stat().st_size < 200_000
    with Image.open(out) as picture:
        assert picture.width == 1600
