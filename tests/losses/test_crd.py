"""CRD's batch and queue forms against explicit loops, in float64."""

from __future__ import annotations

import pytest
import torch

from crossres.losses import CRD

TEACHER, STUDENT, SIZE = 7, 5, 8
LABEL = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


def pair_of_batches(seed: int = 0, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, TEACHER, generator=generator), torch.randn(size, STUDENT, generator=generator)


def naive(loss, teacher, student, label, past=()):
    """Both anchors' terms, a pair at a time; ``past`` holds (teacher embedding, label) of the queue."""
    weight = {name: value.double() for name, value in loss.named_parameters()}

    def project(side, x):
        y = weight[f"{side}_layer.weight"] @ x + weight[f"{side}_layer.bias"]
        return y / torch.sqrt((y * y).sum())

    t = [project("teacher", x) for x in teacher]
    s = [project("student", x) for x in student]
    classes = [None] * len(t) if label is None or loss.same_class_negatives else label.tolist()

    def one_way(anchors, others, extra):
        total = 0.0
        for i, anchor in enumerate(anchors):
            negatives = [
                anchor @ other / loss.tau
                for k, other in enumerate(others)
                if k != i and (classes[i] is None or classes[k] != classes[i])
            ]
            negatives += [anchor @ o / loss.tau for o, c in extra if classes[i] is None or c != classes[i]]
            positive = anchor @ others[i] / loss.tau
            if loss.critic == "softmax":
                term = torch.log(sum(torch.exp(x) for x in [positive, *negatives])) - positive
            else:
                term = -torch.log(torch.sigmoid(positive))
                for x in negatives:
                    scale = len(negatives) if loss.reduction == "mean" else 1
                    term = term - torch.log(1 - torch.sigmoid(x)) / scale
            total = total + term / len(anchors)
        return total

    return one_way(s, t, [(project("teacher", x), c) for x, c in past]) + one_way(t, s, [])


def compare(loss, value, expected, student, doubled) -> None:
    weights = list(loss.parameters())
    got = torch.autograd.grad(value, [student, *weights])
    want = torch.autograd.grad(expected, [doubled, *weights])
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("same_class", [False, True])
@pytest.mark.parametrize(("critic", "reduction"), [("sigmoid", "mean"), ("sigmoid", "sum"), ("softmax", "mean")])
def test_batch_form_equals_the_explicit_loop(critic, reduction, same_class, labelled) -> None:
    torch.manual_seed(0)
    loss = CRD(
        TEACHER,
        STUDENT,
        tau=0.2,
        width=6,
        critic=critic,
        reduction=reduction,
        same_class_negatives=same_class,
    )
    teacher, student = pair_of_batches()
    label = LABEL if labelled else None
    value = loss(teacher, student.requires_grad_(), label)
    doubled = student.detach().double().requires_grad_()
    compare(loss, value, naive(loss, teacher.double(), doubled, label), student, doubled)


@pytest.mark.parametrize("same_class", [False, True])
@pytest.mark.parametrize("critic", ["sigmoid", "softmax"])
def test_queue_form_equals_the_explicit_loop_with_layers_that_learn(critic, same_class) -> None:
    torch.manual_seed(0)
    options = {"form": "queue", "queue_size": 11, "tau": 0.2, "width": 6, "critic": critic}
    loss = CRD(TEACHER, STUDENT, same_class_negatives=same_class, **options)
    past: list = []
    for step in range(4):
        teacher, student = pair_of_batches(step, size=5)
        label = LABEL[step : step + 5]
        value = loss(teacher, student.requires_grad_(), label)
        doubled = student.detach().double().requires_grad_()
        compare(loss, value, naive(loss, teacher.double(), doubled, label, past), student, doubled)
        past = (past + list(zip(teacher.double(), label.tolist(), strict=True)))[-11:]
        with torch.no_grad():
            # The queue holds the layer's input, so past entries follow the layer.
            loss.teacher_layer.weight.add_(torch.randn_like(loss.teacher_layer.weight), alpha=0.1)


def test_queue_never_holds_an_image_against_itself() -> None:
    torch.manual_seed(0)
    loss = CRD(TEACHER, STUDENT, form="queue", queue_size=1, same_class_negatives=True)
    teacher, student = pair_of_batches(size=1)
    for _ in range(2):
        assert loss(teacher, student, None, torch.tensor([3])).item() == 0
    assert loss(teacher, student, None, torch.tensor([4])).item() > 0


@pytest.mark.parametrize("form", ["batch", "queue"])
@pytest.mark.parametrize(("size", "label"), [(1, [0]), (4, [0, 0, 0, 0])])
def test_without_negatives_the_positive_term_is_left(form, size, label) -> None:
    torch.manual_seed(0)
    teacher, student = pair_of_batches(size=size)
    student.requires_grad_()
    value = CRD(TEACHER, STUDENT, form=form)(teacher, student, torch.tensor(label))
    assert value.item() == 0
    value.backward()
    assert student.grad.isfinite().all()
    sigmoid = CRD(TEACHER, STUDENT, form=form, critic="sigmoid")
    expected = naive(sigmoid, teacher.double(), student.double(), torch.tensor(label))
    assert sigmoid(teacher, student, torch.tensor(label)).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("critic", ["sigmoid", "softmax"])
def test_identical_embeddings_are_finite(critic) -> None:
    loss = CRD(TEACHER, STUDENT, critic=critic)
    with torch.no_grad():
        loss.student_layer.bias.zero_()
    student = torch.zeros(SIZE, STUDENT, requires_grad=True)
    value = loss(torch.ones(SIZE, TEACHER), student, LABEL)
    value.backward()
    assert value.isfinite()
    for tensor in (student, *loss.parameters()):
        assert tensor.grad.isfinite().all()
