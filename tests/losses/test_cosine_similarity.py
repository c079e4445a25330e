"""Embedding regression and KD on similarity rows against explicit loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from crossres.losses.cosine import Cosine
from crossres.losses.similarity import Similarity

SIZE = 6


def embeddings(teacher: int, student: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SIZE, teacher, generator=generator), torch.randn(SIZE, student, generator=generator)


def cosine(a, b):
    return a @ b / (a @ a).sqrt() / (b @ b).sqrt()


def naive_cosine(loss, teacher, student):
    matrix = None if isinstance(loss.layer, torch.nn.Identity) else loss.layer.weight.double()
    terms = [1 - cosine(t, s if matrix is None else matrix @ s) for t, s in zip(teacher, student, strict=True)]
    return sum(terms) / SIZE


def naive_similarity(loss, teacher, student):
    total = 0
    for i in range(SIZE):
        others = [j for j in range(SIZE) if j != i]
        p, q = (
            torch.stack([cosine(side[i], side[j]) / loss.tau for j in others]).softmax(0)
            for side in (teacher, student)
        )
        total = total + sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True))
    return total / SIZE


@pytest.mark.parametrize("widths", [(7, 7), (7, 5)])
@pytest.mark.parametrize(("kind", "naive"), [(Cosine, naive_cosine), (Similarity, naive_similarity)])
def test_equals_the_loop(kind, naive, widths):
    torch.manual_seed(0)
    loss = kind(*widths)
    teacher, student = embeddings(*widths)
    student.requires_grad_()
    value = loss(teacher, student)
    value.backward()
    twin = student.detach().double().requires_grad_()
    expected = naive(loss, teacher.double(), twin)
    expected.backward()
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(student.grad.double(), twin.grad, rtol=1e-4, atol=1e-5)


def test_a_student_like_its_teacher_costs_nothing():
    teacher, _ = embeddings(7, 7)
    turned = teacher @ torch.linalg.qr(torch.randn(7, 7))[0]
    assert float(Cosine(7, 7)(teacher, 3 * teacher)) == pytest.approx(0, abs=1e-6)
    assert float(Cosine(7, 7)(teacher, -teacher)) == pytest.approx(2, abs=1e-6)
    # relations do not see a rotation, the regression does
    assert float(Similarity(7, 7)(teacher, turned)) == pytest.approx(0, abs=1e-5)
    assert float(Cosine(7, 7)(teacher, turned)) > 0.1


def test_too_few_rows_give_zero_and_a_gradient():
    for size in (1, 2):
        teacher, student = torch.randn(size, 4), torch.randn(size, 3).requires_grad_()
        value = Similarity(4, 3)(teacher, student)
        value.backward()
        assert float(value) == 0
        assert not math.isnan(float(student.grad.sum()))
