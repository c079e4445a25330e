"""Runs that are not as they were, and teachers that are elsewhere: what the page says and shows then."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crossres import CrossresError, load

#: a name that would be an element, an entity, an end of an attribute and a formula
HOSTILE = '<b>&amp;"$x_y$'


def test_names_are_not_html_and_changes_are_noted(
    drawn: Path, drawn_teacher: Path, page_of: Callable[..., Any], train: Callable[..., Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    for split in ("train", "test"):
        (data / split / "bar").rename(data / split / HOSTILE)
        for file in (data / split).rglob("*.png"):
            file.rename(file.with_name(f"{HOSTILE}{file.name}"))
    run = train(tmp_path, HOSTILE, data, {"ce": 1.0})
    page = page_of(run, images=40)
    assert page.loads_nothing()
    assert page.text["h2"] == [HOSTILE]
    assert "<b>&amp;" not in page.source  # as it would be unescaped
    assert HOSTILE in page.text["text"]  # of a drawing: an axis of the confusion matrix
    assert HOSTILE in page.texts("td")
    assert any(HOSTILE in where and where.endswith(".png") for where in page.text["p"])
    assert "taught by labels alone" in page.texts("p")
    assert "Embeddings" in page.text["h3"]

    (run / "metrics.jsonl").unlink()
    config = run / "config.yaml"
    config.write_text(re.sub(r"(?m)^teacher: .*$", "teacher: runs/lost", config.read_text()))
    other = tmp_path / "other"
    shutil.copytree(data, other)
    (other / "test" / "disc" / f"{HOSTILE}00.png").unlink()
    page = page_of(run, data=other, images=0)
    notes = page.texts("p")
    assert "These may be other images: the fingerprint of other is not that of the run's test images" in notes
    assert "The run's teacher is not at runs/lost: the page shows the student alone. --teacher names one." in notes
    assert "no readable metrics.jsonl" in notes
    assert "Learning curves" not in page.text["h3"]
    # a teacher that is named has to fit
    (tmp_path / "page.html").unlink()
    with pytest.raises(CrossresError, match=r"^the teacher .*teacher"):
        page_of(run, teacher=drawn_teacher)
    assert not (tmp_path / "page.html").exists()


def test_a_teacher_that_is_a_plain_checkpoint(
    drawn: Path, drawn_teacher: Path, page_of: Callable[..., Any], train: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "teacher.pth"
    torch.save(load(drawn_teacher).state_dict(), checkpoint)
    plain = {"teacher": str(checkpoint), "teacher_name": "resnet8"}
    run = train(tmp_path, "student", drawn, {"ce": 1.0, "kd": 1.0}, **plain)
    page = page_of(run, images=0)
    assert {"Teacher at 16x16", "Teacher on 8x8, enlarged"} <= {*page.text["th"]}
    assert "Does the student keep the relations?" in page.text["h3"]
    # the same network as the saved teacher, so the same numbers
    saved = page_of(run, images=0, teacher=drawn_teacher)
    assert [cell for cell in page.text["b"] if "%" in cell] == [cell for cell in saved.text["b"] if "%" in cell]

    # other training images normalise it otherwise: it is not the one that taught
    other = tmp_path / "other"
    shutil.copytree(drawn, other)
    shutil.rmtree(other / "train" / "disc")
    shutil.copytree(other / "train" / "bar", other / "train" / "disc")
    page = page_of(run, images=0, data=other)
    notes = page.texts("p")
    assert "is a plain checkpoint, and it or the training images that it is normalised by have changed" in notes
    assert "Teacher at 16x16" not in page.text["th"]
