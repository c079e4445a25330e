"""RKD, HORKD, PKT, CC and the octuplet loss against explicit loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from crossres.losses.cc import CC
from crossres.losses.horkd import HORKD
from crossres.losses.octuplet import Octuplet
from crossres.losses.pkt import PKT
from crossres.losses.rkd import RKD

TEACHER, STUDENT, SIZE = 7, 5, 6


def embeddings(seed: int = 0, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(size, TEACHER, generator=generator)
    return teacher, torch.randn(size, STUDENT, generator=generator).requires_grad_()


def huber(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def naive_rkd(loss: RKD | HORKD, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    size = len(student)

    def distance(e, i, j):
        lengths = [torch.dist(e[a], e[b]) for a in range(size) for b in range(size) if a != b]
        return torch.dist(e[i], e[j]) / (sum(lengths) / len(lengths)) if i != j else e.new_zeros(())

    def angle(e, j, i, k):
        if j in (i, k):
            return e.new_zeros(())
        a, b = e[i] - e[j], e[k] - e[j]
        return a @ b / (a @ a).sqrt() / (b @ b).sqrt()

    def unlike(e, f, by_distance, by_angle):
        pairs = [huber(distance(e, i, j) - distance(f, i, j)) for i in range(size) for j in range(size)]
        triplets = [
            huber(angle(e, j, i, k) - angle(f, j, i, k))
            for j in range(size)
            for i in range(size)
            for k in range(size)
        ]
        return by_distance * sum(pairs) / len(pairs) + by_angle * sum(triplets) / len(triplets)

    if isinstance(loss, RKD):
        return unlike(teacher, student, loss.distance, loss.angle)
    if loss.assistant is None:
        return unlike(teacher, student, loss.pair, loss.triplet)
    bridge = torch.stack([loss.assistant.weight.double() @ x + loss.assistant.bias.double() for x in teacher])
    first, second = (unlike(*two, loss.pair, loss.triplet) for two in ((teacher, bridge), (bridge, student)))
    return first + second


def naive_pkt(loss: PKT, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    size = len(student)

    def probability(e, i):
        near = [(1 + e[i] @ e[j] / (e[i] @ e[i]).sqrt() / (e[j] @ e[j]).sqrt()) / 2 for j in range(size)]
        return [x / sum(near) for x in near]

    total = 0.0
    for i in range(size):
        for p, q in zip(probability(teacher, i), probability(student, i), strict=True):
            total = total + p * torch.log((p + 1e-7) / (q + 1e-7)) / size**2
    return total


def naive_cc(loss: CC, teacher: torch.Tensor, student: torch.Tensor, gamma: float, order: int) -> torch.Tensor:  # noqa: ARG001
    size = len(student)

    def kernel(e, i, j):
        cosine = e[i] @ e[j] / (e[i] @ e[i]).sqrt() / (e[j] @ e[j]).sqrt()
        return sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))

    pairs = [(kernel(teacher, i, j) - kernel(student, i, j)) ** 2 for i in range(size) for j in range(size)]
    return sum(pairs) / len(pairs)


CASES = [
    (RKD(TEACHER, STUDENT), naive_rkd),
    (RKD(TEACHER, STUDENT, distance=0), naive_rkd),
    (RKD(TEACHER, STUDENT, angle=0, distance=3), naive_rkd),
    (HORKD(TEACHER, STUDENT), naive_rkd),
    (HORKD(TEACHER, STUDENT, pair=3, triplet=0), naive_rkd),
    (HORKD(TEACHER, STUDENT, assistant=4), naive_rkd),
    (PKT(TEACHER, STUDENT), naive_pkt),
    (CC(TEACHER, STUDENT), lambda *given: naive_cc(*given, gamma=0.4, order=2)),
    (CC(TEACHER, STUDENT, gamma=1.5, order=4), lambda *given: naive_cc(*given, gamma=1.5, order=4)),
]


@pytest.mark.parametrize(("loss", "naive"), CASES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_equals_the_explicit_loop(loss, naive, scale: float, same_gradients) -> None:
    teacher, student = embeddings()
    value = loss(teacher * scale, student)
    doubled = student.detach().double().requires_grad_()
    expected = naive(loss, (teacher * scale).double(), doubled)
    same_gradients(loss, value, expected, student, doubled, value_rtol=1e-4, rtol=2e-4)


@pytest.mark.parametrize("loss", [RKD(4, 4), HORKD(4, 4), PKT(4, 4), CC(4, 4)])
def test_the_teacher_itself_costs_nothing_and_moves_nothing(loss) -> None:
    student = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    value = loss(student.detach(), student)
    value.backward()
    assert abs(value.item()) < 1e-6
    assert student.grad.abs().max() < 1e-5


@pytest.mark.parametrize(
    "loss", [RKD(TEACHER, STUDENT), HORKD(TEACHER, STUDENT, assistant=3), PKT(TEACHER, STUDENT), CC(TEACHER, STUDENT)]
)
@pytest.mark.parametrize("size", [1, 5])
def test_equal_embeddings_and_a_batch_of_one_are_finite(loss, size: int) -> None:
    student = torch.zeros(size, STUDENT, requires_grad=True)
    value = loss(torch.ones(size, TEACHER), student)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("apart", [0.0, 1e-3])
@pytest.mark.parametrize("loss", [RKD(64, 128), HORKD(64, 128)])
def test_equal_embeddings_have_no_gradient_of_rounding(loss, apart: float) -> None:
    torch.manual_seed(7)
    teacher, student = torch.randn(8, 64), torch.randn(8, 128)
    student[1] = student[0] + apart * torch.randn(128)
    grads = []
    for dtype in (torch.float32, torch.float64):
        given = student.detach().to(dtype, copy=True).requires_grad_()
        loss.compute(teacher.to(dtype), given, None, None).backward()
        grads.append(given.grad.double())
    assert (grads[0] - grads[1]).norm() < 1e-3 * grads[1].norm()
    if not apart and isinstance(loss, RKD):
        assert grads[0].norm().item() == pytest.approx(0.101, abs=0.001)


LABEL = torch.tensor([0, 1, 0, 2, 1, 0])


def naive_octuplet(loss: Octuplet, teacher: torch.Tensor, student: torch.Tensor, label: list[int]) -> torch.Tensor:
    if student.shape[1] != teacher.shape[1]:
        student = torch.stack([loss.layer.weight.double() @ x for x in student])
    total = 0.0
    for anchor, other in ((teacher, student), (student, teacher), (student, student)):
        terms = []
        for i, a in enumerate(anchor):
            positive = [(a - b).square().sum().sqrt() for j, b in enumerate(other) if label[j] == label[i] and j != i]
            negative = [(a - b).square().sum().sqrt() for j, b in enumerate(other) if label[j] != label[i]]
            if positive and negative:
                terms.append(max(max(positive) - min(negative) + loss.margin, a.new_zeros(())))
        total = total + (sum(terms) / len(terms) if terms else 0.0)
    return total


@pytest.mark.parametrize("teacher_dim", [TEACHER, STUDENT])
@pytest.mark.parametrize("margin", [0.1, 3.0])
def test_octuplet_equals_the_explicit_loop(teacher_dim: int, margin: float, same_gradients) -> None:
    torch.manual_seed(0)
    teacher, student = embeddings()[0][:, :teacher_dim], embeddings()[1]
    loss = Octuplet(teacher_dim, STUDENT, margin=margin)
    value = loss(teacher, student, LABEL)
    doubled = student.detach().double().requires_grad_()
    expected = naive_octuplet(loss, teacher.double(), doubled, LABEL.tolist())
    same_gradients(loss, value, expected, student, doubled, value_rtol=1e-4)


@pytest.mark.parametrize("label", [[0, 0, 0], [0, 1, 2], [0]])
def test_octuplet_without_a_triplet_is_0(label: list[int]) -> None:
    teacher, student = embeddings(size=len(label))
    value = Octuplet(TEACHER, STUDENT)(teacher, student, torch.tensor(label))
    value.backward()
    assert value.item() == 0
    assert student.grad.isfinite().all()
