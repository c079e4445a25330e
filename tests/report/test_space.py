"""Relations of two spaces: against naive loops, and where they are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crossres.report.space import agreement, first_of, largest_classes, principal_map, relations

RNG = np.random.default_rng(0)
LABEL = np.repeat(np.arange(5), 6)
TEACHER = RNG.normal(size=(30, 7)) + 2 * RNG.normal(size=(5, 7))[LABEL]
STUDENT = TEACHER[:, :4] + RNG.normal(size=(30, 4))


def test_relations_are_cosines_without_the_mean() -> None:
    similarity = relations(TEACHER)
    centred = TEACHER - TEACHER.mean(0)
    for i, a in enumerate(centred):
        for j, b in enumerate(centred):
            assert similarity[i, j] == pytest.approx(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))
    assert not relations(np.ones((4, 3))).any()


def test_agreement_against_loops() -> None:
    teacher, student = relations(TEACHER), relations(STUDENT)
    agreed = agreement(teacher, student, LABEL)
    shared = 0
    for i in range(30):
        near = [sorted((j for j in range(30) if j != i), key=lambda j: -of[i, j])[:10] for of in (teacher, student)]
        shared += len({*near[0]} & {*near[1]})
    assert agreed.overlap == pytest.approx(100 * shared / 300)
    assert agreed.chance == pytest.approx(100 * 10 / 29)
    pairs = [(i, j) for i in range(30) for j in range(i)]
    across = [(i, j) for i, j in pairs if LABEL[i] != LABEL[j]]
    for chosen, value in ((pairs, agreed.correlation), (across, agreed.across)):
        sides = [[of[i, j] for i, j in chosen] for of in (teacher, student)]
        assert value == pytest.approx(np.corrcoef(*sides)[0, 1])


def test_the_same_space_keeps_all_and_a_collapsed_one_has_no_correlation() -> None:
    turn, _ = np.linalg.qr(RNG.normal(size=(7, 7)))
    same = agreement(relations(TEACHER), relations(3 * TEACHER @ turn + 1), LABEL)
    assert (same.overlap, same.correlation, same.across) == pytest.approx((100, 1, 1))
    collapsed = agreement(relations(TEACHER), relations(np.ones((30, 2))), LABEL)
    assert math.isnan(collapsed.correlation)
    smallest = agreement(relations(TEACHER[:3]), relations(STUDENT[:3]), np.array([0, 0, 1]))
    assert (smallest.neighbours, smallest.chance) == (1, 50)


def test_a_map_shows_the_two_strongest_directions_and_lies_as_another() -> None:
    points, shown = principal_map(TEACHER)
    variance = np.sort(np.linalg.eigvalsh(np.cov(TEACHER.T)))[::-1]
    assert shown == pytest.approx(100 * variance[:2].sum() / variance.sum())
    assert (points**2).mean() == pytest.approx(1)
    # a mirrored and turned copy comes to lie on the first
    turn, _ = np.linalg.qr(RNG.normal(size=(7, 7)))
    turned, _ = principal_map(-5 * TEACHER @ turn, points)
    assert turned == pytest.approx(points)
    line, shown = principal_map(np.arange(4.0)[:, None])
    assert (line.shape, shown) == ((4, 2), pytest.approx(100))
    assert not principal_map(np.ones((4, 3)))[0].any()


def test_the_classes_shown() -> None:
    label = np.array([3, 1, 1, 0, 3, 1, 0])
    assert largest_classes(label, 2) == [0, 1]
    assert largest_classes(label, 9) == [0, 1, 3]
    assert first_of(label, [1, 3], 2).tolist() == [1, 2, 0, 4]
