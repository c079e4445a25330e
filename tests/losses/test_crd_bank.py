"""CRD's published form: its equations written out anew, its memory and its draws."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from crossres.losses.crd import CRD

TEACHER, STUDENT, WIDTH = 7, 5, 4
EPS = 1e-7


def training_labels(size: int) -> torch.Tensor:
    # Classes of uneven size, not sorted, and not numbered from 0.
    return torch.tensor([(3, 3, 8, 3, 11, 8, 3)[i % 7] for i in range(size)])


def built(size: int, **options) -> CRD:
    torch.manual_seed(0)
    loss = CRD(TEACHER, STUDENT, form="bank", width=WIDTH, **options)
    loss.prepare(training_labels(size))
    return loss


def batch(size: int, seed: int, count: int = 6) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(count, TEACHER, generator=generator)
    student = torch.randn(count, STUDENT, generator=generator)
    index = torch.randperm(size, generator=generator)[:count]
    return teacher, student.requires_grad_(), training_labels(size)[index], index


def project(layer, x):
    y = layer.weight.double() @ x + layer.bias.double()
    return y / torch.sqrt((y * y).sum())


def published(loss, state, teacher, student, index, chosen):
    """One step in float64; ``state`` holds both memories and both Z (None before the first batch)."""
    size, m = len(state["student"]), chosen.shape[1] - 1
    f = {
        "student": [project(loss.student_layer, x) for x in student],
        "teacher": [project(loss.teacher_layer, x) for x in teacher.double()],
    }
    before = {side: state[side].clone() for side in ("student", "teacher")}
    total = 0.0
    for anchor, memory in (("student", "teacher"), ("teacher", "student")):
        scores = [
            [torch.exp(before[memory][k] @ f[anchor][b] / loss.tau) for k in chosen[b].tolist()]
            for b in range(len(index))
        ]
        if state["z"][anchor] is None:
            flat = [x.item() for row in scores for x in row]
            state["z"][anchor] = sum(flat) / len(flat) * size
        noise = m / size
        for row in scores:
            p = [x / state["z"][anchor] for x in row]
            total = total - torch.log(p[0] / (p[0] + noise + EPS)) / len(index)
            for x in p[1:]:
                total = total - torch.log(noise / (x + noise + EPS)) / len(index)
    for side in ("student", "teacher"):
        for b, k in enumerate(index.tolist()):
            mixed = loss.bank.momentum * state[side][k] + (1 - loss.bank.momentum) * f[side][b].detach()
            state[side][k] = mixed / torch.sqrt((mixed * mixed).sum())
    return total


# 40 images go through all products, 300 through a copy of the chosen rows.
@pytest.mark.parametrize("size", [40, 300])
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_equals_the_published_equations_over_three_steps(size, momentum, same_gradients) -> None:
    loss = built(size, negatives=20, momentum=momentum, tau=0.07)
    state = {
        "student": loss.bank.student_memory.double().clone(),
        "teacher": loss.bank.teacher_memory.double().clone(),
        "z": {"student": None, "teacher": None},
    }
    for step in range(3):
        teacher, student, label, index = batch(size, step)
        torch.manual_seed(step)
        chosen = torch.cat([index[:, None], loss.bank.draw(index)], dim=1)
        doubled = student.detach().double().requires_grad_()
        expected = published(loss, state, teacher, doubled, index, chosen)
        torch.manual_seed(step)
        value = loss(teacher, student, label, index)
        same_gradients(loss, value, expected, student, doubled)
        torch.testing.assert_close(loss.bank.student_memory.double(), state["student"], rtol=0, atol=1e-6)
        torch.testing.assert_close(loss.bank.teacher_memory.double(), state["teacher"], rtol=0, atol=1e-6)
        z = torch.tensor([state["z"]["student"], state["z"]["teacher"]])
        torch.testing.assert_close(loss.bank.log_z.exp(), z, rtol=1e-5, atol=0)


def test_memory_starts_uniform() -> None:
    loss = CRD(TEACHER, STUDENT, form="bank")
    loss.prepare(training_labels(500))
    bound = 1 / math.sqrt(128 / 3)
    for memory in (loss.bank.student_memory, loss.bank.teacher_memory):
        assert memory.shape == (500, 128)
        assert memory.abs().max() <= bound
        assert memory.var().item() == pytest.approx(bound**2 / 3, rel=0.02)
    assert not torch.equal(loss.bank.student_memory, loss.bank.teacher_memory)


@pytest.mark.parametrize("same_class", [False, True])
def test_negatives_are_uniform_over_all_images_they_may_be(same_class) -> None:
    size, draws = 30, 60_000
    loss = built(size, negatives=draws, same_class_negatives=same_class)
    label = training_labels(size)
    chosen = loss.bank.draw(torch.arange(size))
    for i in range(size):
        may = torch.arange(size) != i if same_class else label != label[i]
        counts = torch.bincount(chosen[i], minlength=size)
        assert counts[~may].sum() == 0
        share = draws / int(may.sum())
        # Six standard deviations of a binomial count.
        assert (counts[may] - share).abs().max() < 6 * math.sqrt(share)


def test_buffers_do_not_grow_with_the_square_of_the_data() -> None:
    loss = built(2000, negatives=5)
    assert sum(buffer.numel() for buffer in loss.buffers()) < 2000 * (2 * WIDTH + 3)


def test_resume_restores_memory_and_z() -> None:
    loss = built(40, negatives=8)
    loss(*batch(40, 0))
    torch.manual_seed(99)
    resumed = CRD(TEACHER, STUDENT, form="bank", width=WIDTH, negatives=8)
    resumed.prepare(training_labels(40))
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    values = []
    for one in (loss, resumed):
        torch.manual_seed(7)
        values.append(one(*batch(40, 1)))
    assert torch.equal(values[0], values[1])
    assert torch.equal(loss.bank.teacher_memory, resumed.bank.teacher_memory)


def test_a_tiny_temperature_does_not_overflow() -> None:
    loss = built(40, negatives=8, tau=1e-3)
    for seed in range(2):
        teacher, student, label, index = batch(40, seed)
        value = loss(teacher, student, label, index)
        value.backward()
        assert value.isfinite()
        assert student.grad.isfinite().all()


def test_what_the_bank_cannot_do_is_refused_in_one_line() -> None:
    loss = built(40, negatives=8)
    teacher, student, label, index = batch(40, 0)
    with pytest.raises(ValueError, match=r"^CRD: form='bank' needs the index of each sample, got None$"):
        loss(teacher, student, label)
    index[2] = 40
    with pytest.raises(ValueError, match=r"^CRD: index runs from \d+ to 40, expected 0\.\.39$"):
        loss(teacher, student, label, index)
    unprepared = CRD(TEACHER, STUDENT, form="bank")
    with pytest.raises(ValueError, match=r"^CRD: form='bank' needs prepare\(label\)[^\n]*$"):
        unprepared(teacher, student, label, index)
    with pytest.raises(ValueError, match=r"^CRD: the 5 training labels hold one class[^\n]*$"):
        unprepared.prepare(torch.zeros(5, dtype=torch.int64))
