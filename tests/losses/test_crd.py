"""CRD's batch form against explicit loops, in float64."""

from __future__ import annotations

import pytest
import torch

from crossres.losses.crd import CRD

TEACHER, STUDENT, SIZE = 7, 5, 8
LABEL = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


def pair_of_batches(seed: int = 0, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, TEACHER, generator=generator), torch.randn(size, STUDENT, generator=generator)


def naive(loss, teacher, student, label):
    """Both anchors' terms, a pair at a time."""
    weight = {name: value.double() for name, value in loss.named_parameters()}

    def project(side, x):
        y = weight[f"{side}_layer.weight"] @ x + weight[f"{side}_layer.bias"]
        return y / torch.sqrt((y * y).sum())

    t = [project("teacher", x) for x in teacher]
    s = [project("student", x) for x in student]
    classes = [None] * len(t) if label is None or loss.same_class_negatives else label.tolist()

    def one_way(anchors, others):
        total = 0.0
        for i, anchor in enumerate(anchors):
            negatives = [
                anchor @ other / loss.tau
                for k, other in enumerate(others)
                if k != i and (classes[i] is None or classes[k] != classes[i])
            ]
            positive = anchor @ others[i] / loss.tau
            term = torch.log(sum(torch.exp(x) for x in [positive, *negatives])) - positive
            total = total + term / len(anchors)
        return total

    return one_way(s, t) + one_way(t, s)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("same_class", [False, True])
def test_batch_form_equals_the_explicit_loop(same_class, labelled, same_gradients) -> None:
    torch.manual_seed(0)
    loss = CRD(TEACHER, STUDENT, tau=0.2, width=6, same_class_negatives=same_class)
    teacher, student = pair_of_batches()
    label = LABEL if labelled else None
    value = loss(teacher, student.requires_grad_(), label)
    doubled = student.detach().double().requires_grad_()
    same_gradients(loss, value, naive(loss, teacher.double(), doubled, label), student, doubled)


def test_an_image_is_not_a_negative_of_its_own_copy() -> None:
    torch.manual_seed(0)
    loss = CRD(TEACHER, STUDENT, same_class_negatives=True)
    teacher, student = (torch.cat([x, x]) for x in pair_of_batches(size=1))
    assert loss(teacher, student, None, torch.tensor([3, 3])).item() == 0
    assert loss(teacher, student, None, torch.tensor([3, 4])).item() > 0


@pytest.mark.parametrize(("size", "label"), [(1, [0]), (4, [0, 0, 0, 0])])
def test_without_negatives_it_is_0(size, label) -> None:
    torch.manual_seed(0)
    teacher, student = pair_of_batches(size=size)
    student.requires_grad_()
    value = CRD(TEACHER, STUDENT)(teacher, student, torch.tensor(label))
    assert value.item() == 0
    value.backward()
    assert student.grad.isfinite().all()


def test_identical_embeddings_are_finite() -> None:
    loss = CRD(TEACHER, STUDENT)
    with torch.no_grad():
        loss.student_layer.bias.zero_()
    student = torch.zeros(SIZE, STUDENT, requires_grad=True)
    value = loss(torch.ones(SIZE, TEACHER), student, LABEL)
    value.backward()
    assert value.isfinite()
    for tensor in (student, *loss.parameters()):
        assert tensor.grad.isfinite().all()
