"""Teachers: frozen, and in the data's order of classes."""

import pytest
import torch

from crossres.core.errors import CrossresError
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import from_pretrained, save_pretrained
from crossres.models.teachers import frozen_teacher

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def saved(tmp_path):
    encoder = build_encoder("resnet8", classes=CLASSES, input_size=8)
    save_pretrained(encoder, tmp_path / "teacher")
    return tmp_path / "teacher"


def test_a_teacher_is_frozen(saved):
    teacher = frozen_teacher(from_pretrained(saved), CLASSES, "the teacher")
    assert not teacher.training
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert teacher.classes == CLASSES


def test_rows_follow_the_data(saved):
    images = torch.rand(4, 3, 8, 8)
    expected = frozen_teacher(from_pretrained(saved), CLASSES, "the teacher")(images).logits
    teacher = frozen_teacher(from_pretrained(saved), ["cat", "ant", "bee"], "the teacher")
    assert teacher.classes == ("cat", "ant", "bee")
    torch.testing.assert_close(teacher(images).logits, expected[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("ant", "bee"), "knows 3 classes, the data has 2: its 'cat' is not in the data"),
        (("ant", "bee", "dog"), "the data has 3: the data's 'dog' is unknown to it"),
        (("ant", "bee", "cat", "cat"), "names a class twice"),
    ],
)
def test_other_classes_are_refused(saved, classes, message):
    with pytest.raises(CrossresError, match=message):
        frozen_teacher(from_pretrained(saved), classes, "the teacher")


def test_a_teacher_that_may_know_more_keeps_the_rows_of_the_data(saved):
    images = torch.rand(4, 3, 8, 8)
    expected = frozen_teacher(from_pretrained(saved), CLASSES, "the teacher")(images).logits
    teacher = frozen_teacher(from_pretrained(saved), ["cat", "ant"], "the teacher", may_know_more=True)
    assert teacher.classes == ("cat", "ant")
    torch.testing.assert_close(teacher(images).logits, expected[:, [2, 0]])
    for classes in (("ant", "dog"), ("ant", "ant")):
        with pytest.raises(CrossresError, match=r"'dog' is unknown to it|names a class twice"):
            frozen_teacher(from_pretrained(saved), classes, "the teacher", may_know_more=True)


def test_a_teacher_without_classifier_fits_any_classes(tmp_path):
    save_pretrained(build_encoder("resnet8", classes=(), input_size=8), tmp_path / "t")
    assert (
        frozen_teacher(from_pretrained(tmp_path / "t"), CLASSES, "the teacher")(torch.rand(1, 3, 8, 8)).logits is None
    )
