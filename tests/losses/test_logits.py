"""DKD and DIST against explicit loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from crossres.losses.dist import DIST
from crossres.losses.dkd import DKD
from crossres.losses.kd import KD

CLASSES, SIZE = 5, 4
LABEL = torch.tensor([0, 4, 2, 2])


def logits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = 3 * torch.randn(2, SIZE, CLASSES, generator=generator)
    return teacher, student.requires_grad_()


def softmax(row: list[torch.Tensor]) -> list[torch.Tensor]:
    total = sum(torch.exp(x) for x in row)
    return [torch.exp(x) / total for x in row]


def kl(p: list[torch.Tensor], q: list[torch.Tensor]) -> torch.Tensor:
    return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True))


def naive_dkd(loss: DKD, teacher, student, label) -> torch.Tensor:
    total = 0.0
    for z_t, z_s, y in zip(teacher, student, label.tolist(), strict=True):
        p_t, p_s = (softmax([x / loss.temperature for x in z]) for z in (z_t, z_s))
        others = [c for c in range(CLASSES) if c != y]
        true = kl([p_t[y], 1 - p_t[y]], [p_s[y], 1 - p_s[y]])
        rest = kl([p_t[c] / (1 - p_t[y]) for c in others], [p_s[c] / (1 - p_s[y]) for c in others])
        total = total + (loss.alpha * true + loss.beta * rest) * loss.temperature**2 / SIZE
    return total


def pearson(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    a_mean, b_mean = sum(a) / len(a), sum(b) / len(b)
    a, b = [x - a_mean for x in a], [x - b_mean for x in b]
    return sum(x * y for x, y in zip(a, b, strict=True)) / torch.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def naive_dist(loss: DIST, teacher, student, label) -> torch.Tensor:  # noqa: ARG001
    p_t, p_s = ([softmax([x / loss.tau for x in z]) for z in zs] for zs in (teacher, student))
    between = sum(1 - pearson(p_t[i], p_s[i]) for i in range(SIZE)) / SIZE
    within = sum(1 - pearson([p[c] for p in p_t], [p[c] for p in p_s]) for c in range(CLASSES)) / CLASSES
    return loss.tau**2 * (loss.beta * between + loss.gamma * within)


@pytest.mark.parametrize(
    ("loss", "naive"),
    [
        (DKD(CLASSES, CLASSES), naive_dkd),
        (DKD(CLASSES, CLASSES, alpha=0.5, beta=2, temperature=1), naive_dkd),
        (DIST(CLASSES, CLASSES), naive_dist),
        (DIST(CLASSES, CLASSES, beta=1, gamma=3, tau=1), naive_dist),
    ],
)
def test_equals_the_explicit_loop(loss, naive) -> None:
    teacher, student = logits()
    value = loss(teacher, student, LABEL)
    (got,) = torch.autograd.grad(value, student)
    doubled = student.detach().double().requires_grad_()
    expected = naive(loss, teacher.double(), doubled, LABEL)
    (want,) = torch.autograd.grad(expected, doubled)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def test_dkd_of_two_classes_is_kd() -> None:
    """With two classes nothing is left to distribute among the others, so only KD's own term remains."""
    teacher, student = (z[:, :2] for z in logits())
    label = torch.tensor([0, 1, 1, 0])
    decoupled = DKD(2, 2, alpha=1, beta=8)(teacher, student, label)
    assert decoupled.item() == pytest.approx(KD(2, 2)(teacher, student).item(), rel=1e-5)


def test_dist_ignores_what_a_correlation_ignores() -> None:
    """A teacher as sharp as another but shifted in all logits has the same probabilities."""
    teacher, student = logits()
    loss = DIST(CLASSES, CLASSES)
    assert loss(teacher + 7, student).item() == pytest.approx(loss(teacher, student).item(), rel=1e-5)


@pytest.mark.parametrize("loss", [DKD(CLASSES, CLASSES), DIST(CLASSES, CLASSES)])
def test_extreme_and_equal_logits_are_finite(loss) -> None:
    for teacher in (torch.zeros(SIZE, CLASSES), 1000 * torch.eye(CLASSES)[:SIZE]):
        student = torch.zeros(SIZE, CLASSES, requires_grad=True)
        value = loss(teacher, student, LABEL)
        value.backward()
        assert math.isfinite(value.item())
        assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", [DKD, DIST])
def test_other_class_counts_are_refused(loss) -> None:
    with pytest.raises(ValueError, match=rf"^{loss.__name__}: teacher has 4 classes and student 5"):
        loss(4, 5)
