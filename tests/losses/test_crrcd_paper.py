"""CRRCD of the paper against explicit loops over anchors, pairs and negatives, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from crossres.losses.crrcd_paper import CRRCDPaper

TEACHER, STUDENT, SIZE = 7, 5, 8
LABEL = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


def pair_of_batches(seed: int = 0, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, TEACHER, generator=generator), torch.randn(size, STUDENT, generator=generator)


def relation(first_a, first_b, layers, a, b):
    """W_d relu(... relu(A a - B b)) of one pair, to unit length."""
    out = first_a @ a - first_b @ b
    for layer in layers:
        out = layer @ torch.where(out > 0, out, torch.zeros_like(out))
    return out / torch.sqrt((out * out).sum())


def naive(loss: CRRCDPaper, teacher, student, label, anchors, *, sigmoid, mean, same_class, both=False):
    """The equation, a pair and a negative at a time."""
    weight = {name: value.double() for name, value in loss.named_parameters()}

    def stack(module):
        return [value for name, value in weight.items() if name.startswith(f"{module}.layers")]

    shared = weight["teacher_relation.anchor.weight"]
    for_a, for_b = weight["cross_relation.anchor.weight"], weight["cross_relation.other.weight"]
    size = len(student)

    def one(positive, negatives):
        if not sigmoid:
            return torch.log(sum(torch.exp(x) for x in [positive, *negatives])) - positive
        term = -torch.log(torch.sigmoid(positive))
        scale = len(negatives) if mean else 1
        for x in negatives:
            term = term - torch.log(1 - torch.sigmoid(x)) / scale
        return term

    total, pairs = 0.0, 0
    for i in anchors:
        for j in range(size):
            if i == j:
                continue
            u = relation(shared, shared, stack("teacher_relation"), teacher[i], teacher[j])
            v = relation(for_a, for_b, stack("cross_relation"), teacher[i], student[j])
            positive = u @ v / loss.tau
            negatives, back = [], []
            for k in range(size):
                if k in (i, j) or (label is not None and not same_class and label[k] == label[j]):
                    continue
                w = relation(for_a, for_b, stack("cross_relation"), teacher[i], student[k])
                negatives.append(u @ w / loss.tau)
                w = relation(shared, shared, stack("teacher_relation"), teacher[i], teacher[k])
                back.append(v @ w / loss.tau)
            total, pairs = total + one(positive, negatives) + (one(positive, back) if both else 0), pairs + 1
    return total / pairs


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("anchors", [0, 3])
@pytest.mark.parametrize("same_class", [False, True])
@pytest.mark.parametrize(("critic", "reduction"), [("sigmoid", "mean"), ("sigmoid", "sum"), ("softmax", "mean")])
def test_equals_the_explicit_loop(depth, anchors, same_class, critic, reduction, same_gradients) -> None:
    torch.manual_seed(depth)
    loss = CRRCDPaper(
        TEACHER,
        STUDENT,
        tau=0.2,
        width=6,
        hidden=16,
        depth=depth,
        anchors=anchors,
        same_class_negatives=same_class,
        critic=critic,
        reduction=reduction,
    )
    teacher, student = pair_of_batches()
    student.requires_grad_()
    torch.manual_seed(3)
    value = loss(teacher, student, LABEL)
    torch.manual_seed(3)
    drawn = torch.randperm(SIZE)[:anchors].tolist() if anchors else range(SIZE)
    doubled = student.detach().double().requires_grad_()
    options = {"sigmoid": critic == "sigmoid", "mean": reduction == "mean", "same_class": same_class}
    expected = naive(loss, teacher.double(), doubled, LABEL, drawn, **options)
    same_gradients(loss, value, expected, student, doubled)


@pytest.mark.parametrize("anchors", [0, 3])
@pytest.mark.parametrize("critic", ["sigmoid", "softmax"])
def test_both_directions_equal_the_explicit_loop(anchors, critic, same_gradients) -> None:
    torch.manual_seed(0)
    loss = CRRCDPaper(TEACHER, STUDENT, width=6, hidden=16, anchors=anchors, critic=critic, both_directions=True)
    teacher, student = pair_of_batches()
    torch.manual_seed(3)
    value = loss(teacher, student.requires_grad_(), LABEL)
    torch.manual_seed(3)
    drawn = torch.randperm(SIZE)[:anchors].tolist() if anchors else range(SIZE)
    doubled = student.detach().double().requires_grad_()
    options = {"sigmoid": critic == "sigmoid", "mean": True, "same_class": False, "both": True}
    same_gradients(loss, value, naive(loss, teacher.double(), doubled, LABEL, drawn, **options), student, doubled)


@pytest.mark.parametrize("critic", ["sigmoid", "softmax"])
def test_without_labels_every_other_sample_is_a_negative(critic) -> None:
    torch.manual_seed(0)
    loss = CRRCDPaper(TEACHER, STUDENT, width=6, hidden=12, anchors=0, critic=critic)
    every = CRRCDPaper(TEACHER, STUDENT, width=6, hidden=12, anchors=0, critic=critic, same_class_negatives=True)
    every.load_state_dict(loss.state_dict())
    teacher, student = pair_of_batches()
    assert torch.equal(loss(teacher, student), every(teacher, student, LABEL))
    assert not torch.equal(loss(teacher, student), loss(teacher, student, LABEL))


@pytest.mark.parametrize("critic", ["sigmoid", "softmax"])
def test_an_image_is_not_a_negative_of_its_own_copy(critic) -> None:
    torch.manual_seed(0)
    loss = CRRCDPaper(TEACHER, STUDENT, width=6, hidden=12, anchors=0, critic=critic, same_class_negatives=True)
    teacher, student = pair_of_batches(size=2)
    twice = [torch.cat([x, x]) for x in (teacher, student)]
    index = torch.tensor([4, 9])
    # two images, each twice: a pair (i, j) of them has no negative
    value = loss(*twice, None, torch.cat([index, index]))
    torch.testing.assert_close(value, loss(teacher, student, None, index))
    # without an index the copies are images of their own
    assert not torch.equal(loss(*twice), value)


@pytest.mark.parametrize("critic", ["sigmoid", "softmax"])
def test_batch_of_one_is_zero_with_a_gradient(critic) -> None:
    loss = CRRCDPaper(TEACHER, STUDENT, critic=critic)
    for step in range(2):
        teacher, student = pair_of_batches(step, size=1)
        value = loss(teacher, student.requires_grad_(), LABEL[:1])
        assert value.item() == 0
        value.backward()
        assert torch.equal(student.grad, torch.zeros_like(student))
        assert all(parameter.grad is not None for parameter in loss.parameters())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_class_keeps_only_the_positive_term(reduction) -> None:
    torch.manual_seed(0)
    teacher, student = pair_of_batches()
    label = torch.zeros(SIZE, dtype=torch.int64)
    loss = CRRCDPaper(TEACHER, STUDENT, anchors=0, reduction=reduction)
    expected = naive(
        loss,
        teacher.double(),
        student.double(),
        label,
        range(SIZE),
        sigmoid=True,
        mean=False,
        same_class=False,
    )
    assert loss(teacher, student, label).item() == pytest.approx(expected.item(), rel=1e-5)
    assert CRRCDPaper(TEACHER, STUDENT, critic="softmax")(teacher, student, label).item() == 0


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("critic", ["sigmoid", "softmax"])
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_identical_embeddings_are_finite(fill, critic, depth) -> None:
    loss = CRRCDPaper(TEACHER, STUDENT, critic=critic, depth=depth)
    student = torch.full((SIZE, STUDENT), fill, requires_grad=True)
    value = loss(torch.full((SIZE, TEACHER), fill), student, LABEL)
    value.backward()
    if critic == "sigmoid":
        # The teacher's relation is 0, so every score is 0 and h is a half.
        assert value.item() == pytest.approx(2 * math.log(2), abs=2e-2)
    for tensor in (student, *loss.parameters()):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() < 1e5


@pytest.mark.parametrize("critic", ["sigmoid", "softmax"])
def test_a_tiny_temperature_does_not_overflow(critic) -> None:
    loss = CRRCDPaper(TEACHER, STUDENT, tau=1e-4, critic=critic)
    teacher, student = pair_of_batches()
    value = loss(teacher, student.requires_grad_(), LABEL)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_anchors_follow_the_seed() -> None:
    torch.manual_seed(0)
    loss = CRRCDPaper(TEACHER, STUDENT, anchors=2)
    teacher, student = pair_of_batches()
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(loss(teacher, student, LABEL).item())
    assert values[0] == values[1] != values[2]


def test_widths_and_depth_mean_what_they_say() -> None:
    def shapes(depth: int) -> list[tuple[int, ...]]:
        loss = CRRCDPaper(TEACHER, STUDENT, width=6, hidden=9, depth=depth)
        return [tuple(value.shape) for value in loss.cross_relation.parameters()]

    assert shapes(1) == [(6, TEACHER), (6, STUDENT)]
    assert shapes(2) == [(9, TEACHER), (9, STUDENT), (6, 9)]
    assert shapes(3) == [(9, TEACHER), (9, STUDENT), (9, 9), (6, 9)]
