"""CRCD against explicit loops over anchors, pairs and negatives, in float64; and what its options do."""

from __future__ import annotations

import math

import pytest
import torch

from crossres.losses.crcd import CRCD, CRCDGradient

TEACHER, STUDENT, SIZE, CLASSES = 7, 5, 7, 4
LABEL = torch.tensor([0, 1, 2, 0, 1, 3, 0])


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt((x * x).sum() + 1e-8)  # two equal gradients are 0 apart


def naive(loss: CRCD, teacher, student, anchors, label, *, sigmoid: bool) -> torch.Tensor:
    weight = {name: value.double() for name, value in loss.named_parameters()}
    e_t = [unit(weight["teacher_layer.weight"] @ x + weight["teacher_layer.bias"]) for x in teacher]
    e_s = [unit(weight["student_layer.weight"] @ x + weight["student_layer.bias"]) for x in student]

    def between_teachers(i, j):
        inner = weight["teacher_relation.anchor.weight"] @ (e_t[i] - e_t[j])
        return unit(weight["teacher_relation.layers.0.weight"] @ inner.clamp(min=0))

    def across(i, j):
        first, other = (weight[f"cross_relation.{side}.weight"] for side in ("anchor", "other"))
        inner = first @ e_t[i] - other @ e_s[j]
        return unit(weight["cross_relation.layers.0.weight"] @ inner.clamp(min=0))

    def one(positive, negatives):
        if not sigmoid:
            return torch.log(sum(torch.exp(x) for x in [positive, *negatives])) - positive
        pushed = sum(torch.log(1 + torch.exp(x)) for x in negatives)
        return torch.log(1 + torch.exp(-positive)) + pushed / max(1, len(negatives))

    terms = []
    for i in anchors:
        for j in range(SIZE):
            if i == j:
                continue
            u, v = between_teachers(i, j), across(i, j)
            others = [k for k in range(SIZE) if k not in (i, j) and label[k] != label[j]]
            forth = [u @ across(i, k) / loss.tau for k in others]
            back = [v @ between_teachers(i, k) / loss.tau for k in others]
            positive = u @ v / loss.tau
            terms += [one(positive, forth) + one(positive, back)]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("anchors", [0, 3])
@pytest.mark.parametrize("critic", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gradient", [False, True])
def test_equals_the_explicit_loop(anchors: int, critic, gradient: bool, same_gradients) -> None:
    generator = torch.Generator().manual_seed(0)
    widths = (CLASSES, CLASSES) if gradient else (TEACHER, STUDENT)
    teacher, student = (torch.randn(SIZE, width, generator=generator) for width in widths)
    student.requires_grad_()
    torch.manual_seed(1)
    loss = (CRCDGradient if gradient else CRCD)(*widths, tau=0.3, width=9, anchors=anchors, critic=critic)
    torch.manual_seed(2)
    value = loss(teacher, student, LABEL)
    torch.manual_seed(2)
    drawn = torch.randperm(SIZE)[:anchors].tolist() if anchors else list(range(SIZE))
    doubled = student.detach().double().requires_grad_()
    sides = [teacher.double(), doubled]
    if gradient:
        target = torch.eye(CLASSES).double()[LABEL]
        sides = [torch.exp(z) / torch.exp(z).sum(1, keepdim=True) - target for z in sides]
    expected = naive(loss, *sides, drawn, LABEL.tolist(), sigmoid=critic == "sigmoid")
    same_gradients(loss, value, expected, student, doubled)


def test_a_sample_is_no_anchor_of_itself_and_a_batch_of_one_costs_nothing() -> None:
    torch.manual_seed(0)
    loss = CRCD(TEACHER, STUDENT)
    student = torch.randn(1, STUDENT, requires_grad=True)
    value = loss(torch.randn(1, TEACHER), student, torch.tensor([3]))
    value.backward()
    assert value.item() == 0
    same = torch.ones(4, TEACHER)
    assert math.isfinite(loss(same, torch.ones(4, STUDENT), LABEL[:4]).item())


def test_gradients_need_the_same_classes_on_both_sides() -> None:
    with pytest.raises(ValueError, match=r"^CRCDGradient: teacher has 3 classes and student 4, expected the same$"):
        CRCDGradient(3, 4)
