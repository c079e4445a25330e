"""CRRCD inside an image against explicit loops over stages, images, cells and negatives, in float64."""

from __future__ import annotations

import pytest
import torch

from crossres.losses.crrcd_maps import CRRCDMaps

#: a teacher at 8 x 8 and 4 x 4, a student at 4 x 4 and 2 x 2, of other widths
TEACHER, STUDENT = [(3, 8, 8), (5, 4, 4)], [(4, 4, 4), (2, 2, 2)]
LABEL = torch.tensor([0, 1, 2, 0, 1])
B = len(LABEL)


def maps(shapes: list[tuple[int, int, int]], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, *shape, generator=generator) for shape in shapes]


def averaged(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Means over the cells of a grid, a cell at a time."""
    down, right = x.shape[2] // height, x.shape[3] // width
    out = x.new_zeros(*x.shape[:2], height, width)
    for row in range(height):
        for column in range(width):
            block = x[:, :, down * row : down * (row + 1), right * column : right * (column + 1)]
            out[:, :, row, column] = block.mean((2, 3))
    return out


def convolved(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A 3 x 3 convolution with zeros around the map, a cell and a neighbour at a time."""
    height, width = x.shape[2:]
    out = []
    for row in range(height):
        for column in range(width):
            total = x.new_zeros(len(x), len(weight))
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= row + down < height and 0 <= column + right < width:
                        total = total + x[:, :, row + down, column + right] @ weight[:, :, down + 1, right + 1].T
            out.append(total)
    return torch.stack(out, -1).view(len(x), len(weight), height, width)


def naive(loss: CRRCDMaps, teacher, student, label, index, side: int) -> torch.Tensor:
    """The equation, a cell and a negative at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for stage, (t, s) in enumerate(zip(teacher, student, strict=True)):
        height, width = (min(side, cells) for cells in s.shape[2:])
        t, s = averaged(t, height, width), averaged(s, height, width)
        z = torch.empty_like(t)
        for channel in range(t.shape[1]):
            values = t[:, channel]
            spread = torch.sqrt(((values - values.mean()) ** 2).mean() + 1e-5)
            z[:, channel] = (values - values.mean()) / spread
        z, projected = z.flatten(2), convolved(s, loss.projections[stage].weight.double()).flatten(2)
        cells = z.shape[2]
        mean = [sum(z[i, :, p] for p in range(cells)) / cells for i in range(B)]

        def score(i, p, k, q, z=z, projected=projected, mean=mean):
            u, v = mean[i] - z[i, :, p], mean[k] - projected[k, :, q]
            return (u @ v) / torch.sqrt((u @ u) * (v @ v)) / loss.tau

        groups = max(1, B // loss.group) if loss.group else 1
        group = B // groups
        grouped = groups * group
        for i in range(B):
            for p in range(cells):
                positive = score(i, p, i, p)
                inside = torch.stack([score(i, p, i, q) for q in range(cells)])
                total = total + (torch.logsumexp(inside, 0) - positive) / 2 / (B * cells * len(teacher))
                if i >= grouped:
                    continue
                across = [positive]
                for k in range(i % groups, grouped, groups):
                    same_image = k == i if index is None else index[k] == index[i]
                    if not same_image and (label is None or label[k] != label[i]):
                        across.append(score(i, p, k, p))
                across = torch.logsumexp(torch.stack(across), 0) - positive
                total = total + across / 2 / (grouped * cells * len(teacher))
    return total


@pytest.mark.parametrize("group", [0, 2, 5, 16])
@pytest.mark.parametrize("side", [2, 8])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("index", [None, torch.tensor([4, 7, 7, 2, 9])])
def test_it_is_the_equation(group: int, side: int, labels: bool, index: torch.Tensor | None, same_gradients) -> None:
    torch.manual_seed(1)
    loss = CRRCDMaps(TEACHER, STUDENT, tau=0.3, cells=side, group=group)
    label = LABEL if labels else None
    teacher, student = maps(TEACHER, 1), [x.requires_grad_() for x in maps(STUDENT, 2)]
    value = loss(teacher, student, label, index)
    doubled = [x.detach().double().requires_grad_() for x in student]
    expected = naive(loss, [x.double() for x in teacher], doubled, label, index, side)
    same_gradients(loss, value, expected, student, doubled)


@pytest.mark.parametrize("size", [(3, 3), (2, 5), (3, 1)])
def test_maps_may_be_of_any_shape(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    shapes = [(3, 2 * size[0], 2 * size[1])], [(4, *size)]
    loss = CRRCDMaps(*shapes, group=2)
    teacher, student = maps(shapes[0], 1), maps(shapes[1], 2)
    expected = naive(loss, [teacher[0].double()], [student[0].double()], LABEL, None, 8)
    assert loss(teacher, student, LABEL).item() == pytest.approx(expected.item(), rel=1e-5)


def test_images_of_a_class_may_be_negatives() -> None:
    torch.manual_seed(1)
    loss = CRRCDMaps(TEACHER, STUDENT, same_class_negatives=True)
    teacher, student = maps(TEACHER, 1), maps(STUDENT, 2)
    assert torch.equal(loss(teacher, student, LABEL), loss(teacher, student, None))


def test_a_student_that_has_the_teachers_relations_has_the_least_loss() -> None:
    """And one whose cells are shuffled has more: it is the place that counts."""
    torch.manual_seed(0)
    shapes = [(6, 4, 4)]
    loss = CRRCDMaps(shapes, shapes)
    with torch.no_grad():
        loss.projections[0].weight.zero_()[:, :, 1, 1] = torch.eye(6)
    teacher = [torch.randn(B, 6, 4, 4)]
    same = (teacher[0] - teacher[0].mean((0, 2, 3), keepdim=True)) / teacher[0].std((0, 2, 3), keepdim=True)
    shuffled = same.flatten(2)[:, :, torch.randperm(16)].view_as(same)
    values = [loss(teacher, [student], LABEL).item() for student in (same, shuffled, torch.randn_like(same))]
    assert values[0] < 0.1 * min(values[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "tau > 0"),
        ({"cells": 1}, "cells >= 2"),
        ({"group": -1}, "group >= 2, or 0"),
        ({"group": 1}, "group >= 2, or 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CRRCDMaps(TEACHER, STUDENT, **options)


def test_a_map_of_one_cell_has_no_relation_and_is_left_out() -> None:
    teacher, student = maps(TEACHER, 1), maps(STUDENT, 2)
    torch.manual_seed(1)
    alone = CRRCDMaps(TEACHER, STUDENT)
    torch.manual_seed(1)
    beside = CRRCDMaps([*TEACHER, (7, 2, 2)], [*STUDENT, (8, 1, 1)])
    value = beside([*teacher, torch.randn(B, 7, 2, 2)], [*student, torch.randn(B, 8, 1, 1)], LABEL)
    assert torch.equal(value, alone(teacher, student, LABEL))
    with pytest.raises(
        ValueError, match=r"every map is of one cell; take a larger lr_size or --method crrcd-images$"
    ):
        CRRCDMaps([(7, 2, 2)], [(8, 1, 1)])


def test_one_image_is_contrasted_with_itself_alone() -> None:
    torch.manual_seed(0)
    value = CRRCDMaps([(6, 4, 4)], [(6, 4, 4)])([torch.randn(1, 6, 4, 4)], [torch.randn(1, 6, 4, 4)], LABEL[:1])
    assert torch.isfinite(value)
    assert value > 0
