"""CRRCD between images in the teacher's space against loops over anchors, pairs and negatives, in float64."""

from __future__ import annotations

import pytest
import torch

from crossres.losses.crrcd_images import CRRCDImages

TEACHER, STUDENT, B = 7, 5, 8
LABEL = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


def naive(loss: CRRCDImages, teacher, student, label, index, anchors) -> torch.Tensor:
    weight = loss.projection.weight.double()
    z = torch.empty_like(teacher)
    for number in range(TEACHER):
        values = teacher[:, number]
        z[:, number] = (values - values.mean()) / torch.sqrt(((values - values.mean()) ** 2).mean() + 1e-5)

    def same(a: int, b: int) -> bool:
        return a == b if index is None else bool(index[a] == index[b])

    total, pairs = 0.0, 0
    for i in anchors:
        for j in range(B):
            if same(i, j):
                continue
            u = z[i] - z[j]
            scores = []
            for k in range(B):
                negative = not same(i, k) and not same(j, k) and (label is None or label[k] != label[j])
                if k == j or negative:
                    v = z[i] - weight @ student[k]
                    scores.append((u @ v) / torch.sqrt((u @ u) * (v @ v)) / loss.tau)
                if k == j:
                    positive = scores[-1]
            total, pairs = total + torch.logsumexp(torch.stack(scores), 0) - positive, pairs + 1
    return total / pairs


@pytest.mark.parametrize("anchors", [0, 3])
@pytest.mark.parametrize("label", [None, LABEL])
@pytest.mark.parametrize("index", [None, torch.tensor([4, 7, 7, 2, 9, 1, 0, 3])])
def test_it_is_the_equation(
    anchors: int, label: torch.Tensor | None, index: torch.Tensor | None, same_gradients
) -> None:
    generator = torch.Generator().manual_seed(2)
    teacher, student = (torch.randn(B, width, generator=generator) for width in (TEACHER, STUDENT))
    torch.manual_seed(1)
    loss = CRRCDImages(TEACHER, STUDENT, tau=0.3, anchors=anchors)
    student.requires_grad_()
    torch.manual_seed(3)
    value = loss(teacher, student, label, index)
    torch.manual_seed(3)
    drawn = torch.randperm(B)[:anchors].tolist() if anchors else range(B)
    doubled = student.detach().double().requires_grad_()
    expected = naive(loss, teacher.double(), doubled, label, index, drawn)
    same_gradients(loss, value, expected, student, doubled)


def test_images_of_a_class_may_be_negatives() -> None:
    torch.manual_seed(1)
    loss = CRRCDImages(TEACHER, STUDENT, same_class_negatives=True, anchors=0)
    teacher, student = torch.randn(B, TEACHER), torch.randn(B, STUDENT)
    assert torch.equal(loss(teacher, student, LABEL), loss(teacher, student, None))


def test_a_student_in_the_teachers_space_has_the_least_loss() -> None:
    torch.manual_seed(0)
    loss = CRRCDImages(TEACHER, TEACHER, anchors=0)
    with torch.no_grad():
        loss.projection.weight.copy_(torch.eye(TEACHER))
    teacher = torch.randn(B, TEACHER)
    same = (teacher - teacher.mean(0)) / teacher.std(0, correction=0)
    values = [loss(teacher, student, LABEL).item() for student in (same, same.flip(0), torch.randn_like(same))]
    assert values[0] < 0.1 * min(values[1:])


@pytest.mark.parametrize(("options", "message"), [({"tau": 0.0}, "tau > 0"), ({"anchors": -1}, "anchors >= 0")])
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CRRCDImages(TEACHER, STUDENT, **options)
