"""Flow of the solution procedure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from crossres.losses.base import MapLoss, Shape


class FSP(MapLoss):
    r"""FSP matrices (Yim et al., CVPR 2017): how a stage's channels go with the next one's.

    .. math::
        G_{cd} = \operatorname{mean}_x F^{(n)}_{c x} F^{(n+1)}_{d x}, \quad
        L = \sum_n \operatorname{mean}_{b, c, d} (G^t - G^s)^2

    the larger map of the two stages pooled to the smaller one. It compares channel by channel, so teacher and
    student need the same widths. Published weight 50, there in a training of its own before the main one; here
    beside the other losses.

    Args:
        teacher_dim: shapes of the teacher's maps, at least two.
        student_dim: shapes of the student's maps, with the teacher's channels.
        match: how a pair is brought to one size, see `MapLoss`.

    Shapes:
        lists of (B, C, H, W) -> scalar.

    Raises:
        ValueError: one stage only, or widths that differ.
    """

    def __init__(
        self,
        teacher_dim: Sequence[Shape],
        student_dim: Sequence[Shape],
        *,
        match: Literal["pool", "bilinear"] = "pool",
    ) -> None:
        super().__init__(teacher_dim, student_dim, match=match)
        if len(self.sizes) < 2:
            raise ValueError("FSP: one stage has no flow to a next one, expected the maps of at least 2")
        widths = [[shape[0] for shape in shapes] for shapes in (self.teacher_shapes, self.student_shapes)]
        if widths[0] != widths[1]:
            raise ValueError(
                f"FSP: the teacher's maps have {widths[0]} channels, the student's {widths[1]}; equal ones"
            )

    def compute(
        self,
        teacher: Sequence[Tensor],
        student: Sequence[Tensor],
        label: Tensor | None,
        index: Tensor | None,
    ) -> Tensor:
        loss = student[0].new_zeros(())
        for t, s in zip(_flows(teacher), _flows(student), strict=True):
            loss = loss + (t - s).square().mean()
        return loss


def _flows(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return (B, C_n, C_n+1) for each pair of stages that follow each other."""
    flows = []
    for first, second in pairwise(maps):
        size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
        a, b = (F.adaptive_avg_pool2d(x, size).flatten(2) for x in (first, second))
        flows.append(a @ b.transpose(1, 2) / a.shape[2])
    return flows
