"""The teacher as a config names it, and the student as it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crossres import CrossresError, Distill, Model, Teach, distill, load, read
from crossres.config.reading import from_config
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import save_pretrained
from crossres.training.networks import build_student, check_networks

CE = {"ce": {"weight": 1.0}}


def test_a_teacher_from_a_plain_checkpoint(make: Any, prepared: Any, drawn_teacher: Path, tmp_path: Path) -> None:
    saved = load(drawn_teacher)
    torch.save({"state_dict": saved.state_dict()}, tmp_path / "teacher.pth")
    config = make(train_epochs=1, teacher=str(tmp_path / "teacher.pth"), teacher_name="resnet8")
    result = distill(config, quiet=True)
    assert result["teacher"]["name"] == "resnet8"
    assert result["teacher"]["top1_hr"] is None  # a checkpoint does not say
    run, _ = prepared(replace(config, name="same"))
    assert torch.equal(run.teacher.classifier.weight, saved.classifier.weight)  # type: ignore[union-attr]
    assert run.teacher.input_size == 16
    with pytest.raises(CrossresError, match="does not fit the architecture 'resnet14'"):
        prepared(replace(config, teacher_name="resnet14", name="other"))


def test_weights_of_a_saved_model_keep_their_classes_and_normalisation(
    make: Any, drawn: Path, drawn_teacher: Path, tmp_path: Path
) -> None:
    saved = load(drawn_teacher)
    order = [2, 0, 3, 1]
    turned = build_encoder(
        "resnet8", classes=[saved.classes[i] for i in order], input_size=16, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]
    )
    turned.load_state_dict(saved.state_dict())
    with torch.no_grad():
        turned.classifier.weight.copy_(saved.classifier.weight[order])  # type: ignore[union-attr]
        turned.classifier.bias.copy_(saved.classifier.bias[order])  # type: ignore[union-attr]
    save_pretrained(turned, tmp_path / "turned")
    config = make(losses=CE, teacher=None, model=Model(name="resnet8", weights=str(tmp_path / "turned")))
    images = read(str(drawn), split="train")
    student = build_student(from_config(config), images, images.classes, 16, 8)
    assert student.classes == saved.classes
    assert torch.equal(student.classifier.weight, saved.classifier.weight)  # type: ignore[union-attr]
    assert student.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert student.std.flatten().tolist() == pytest.approx([0.5, 0.6, 0.7])


def test_a_student_is_normalised_by_the_training_images_and_reads_the_largest_size(make: Any, drawn: Path) -> None:
    images = read(str(drawn), split="train")
    config = from_config(make(losses=CE, teacher=None, lr_size=(4, 8)))
    student = build_student(config, images, images.classes, 16, (4, 8))
    pixels = torch.stack([images.sample(i, 16, "crop") for i in range(len(images))]).double() / 255
    assert student.mean.flatten().tolist() == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-5)
    assert student.std.flatten().tolist() == pytest.approx(pixels.std((0, 2, 3)).tolist(), rel=1e-2)
    assert student.input_size == 8
    sized = from_config(make(losses=CE, teacher=None, model=Model(name="resnet8", input_size=12, embedding_dim=7)))
    student = build_student(sized, images, images.classes, 16, 8)
    assert (student.input_size, student.embedding_dim) == (12, 7)


def test_names_are_checked_without_the_images(make: Any) -> None:
    teacher = check_networks(from_config(make()), None)
    assert teacher is not None
    assert teacher.classes == ("bar", "cross", "disc", "frame")
    assert check_networks(from_config(make(teacher=None, losses=CE)), None) is None
    assert check_networks(from_config(Teach()), None) is None
    assert check_networks(from_config(make(teacher="(in memory)")), teacher) is teacher
    with pytest.raises(CrossresError, match=r"^there is no checkpoint nowhere\.pt$"):
        check_networks(from_config(Distill(model=Model(weights="nowhere.pt"))), None)
