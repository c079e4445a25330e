"""Cross-entropy and KD against loops in plain Python, and their gradients against the textbook's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crossres.losses.ce import CE
from crossres.losses.kd import KD


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(x / temperature) for x in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(("size", "classes"), [(1, 3), (5, 7)])
def test_ce(smoothing: float, size: int, classes: int) -> None:
    student = torch.randn(size, classes, generator=torch.Generator().manual_seed(0)).requires_grad_()
    label = torch.arange(size) % classes
    value = CE(1, classes, label_smoothing=smoothing)(None, student, label)
    value.backward()
    expected, gradient = 0.0, np.zeros((size, classes))
    for i, row in enumerate(student.tolist()):
        for c, p in enumerate(softmax(row)):
            target = (1 - smoothing) * (c == int(label[i])) + smoothing / classes
            expected -= target * math.log(p) / size
            gradient[i, c] = (p - target) / size
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(student.grad.numpy(), gradient, atol=1e-6)


@pytest.mark.parametrize("label", [[0, 3], [-100, 1]])
def test_ce_refuses_labels_outside_the_classes(label: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^CE: labels run from .* expected 0\.\.2$"):
        CE(3, 3)(None, torch.zeros(2, 3), torch.tensor(label))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("size", "classes"), [(1, 3), (5, 7)])
def test_kd(temperature: float, size: int, classes: int) -> None:
    teacher, student = 3 * torch.randn(2, size, classes, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    value = KD(classes, classes, temperature=temperature)(teacher, student)
    value.backward()
    expected, gradient = 0.0, np.zeros((size, classes))
    for i in range(size):
        target, guess = softmax(teacher[i].tolist(), temperature), softmax(student[i].tolist(), temperature)
        for c in range(classes):
            expected += target[c] * math.log(target[c] / guess[c]) / size * temperature**2
            gradient[i, c] = temperature * (guess[c] - target[c]) / size
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(student.grad.numpy(), gradient, atol=1e-6)


def test_kd_of_equal_and_of_extreme_logits() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    assert KD(3, 3)(logits, logits).item() == 0
    assert KD(3, 3)(logits, -logits).isfinite()


def test_kd_refuses_different_class_counts() -> None:
    with pytest.raises(ValueError, match=r"^KD: teacher has 10 classes and student 5, expected the same$"):
        KD(10, 5)
