"""Attention transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from crossres.losses.base import Shape, demand
from crossres.losses.contrast import unit
from crossres.losses.maps import MapLoss


class AT(MapLoss):
    r"""Attention transfer (arXiv 1612.03928): where the channels' energy lies.

    .. math::
        Q = \operatorname{mean}_c |F_c|^p, \quad
        L = \sum_{\text{stages}} \operatorname{mean}_{b, x}
            \Big( \frac{Q^t_b}{|Q^t_b|} - \frac{Q^s_b}{|Q^s_b|} \Big)_x^2

    Published weight 1,000, for images of 32 x 32. The mean runs over the cells of unit vectors, so a map with fewer
    cells weighs more: images of 8 x 8, with 16 times fewer cells, need 62.5 for the same pull.

    Args:
        teacher_dim: shapes of the teacher's maps.
        student_dim: shapes of the student's maps.
        power: p, at least 1.
        match: how a pair is brought to one size, see `MapLoss`.

    Shapes:
        lists of (B, C, H, W) -> scalar.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        teacher_dim: Sequence[Shape],
        student_dim: Sequence[Shape],
        *,
        power: float = 2.0,
        match: Literal["pool", "bilinear"] = "pool",
    ) -> None:
        super().__init__(teacher_dim, student_dim, match=match)
        demand("AT", "power", power, power >= 1, "power >= 1")
        self.power = power

    def compute(
        self,
        teacher: Sequence[Tensor],
        student: Sequence[Tensor],
        label: Tensor | None,
        index: Tensor | None,
    ) -> Tensor:
        loss = student[0].new_zeros(())
        for t, s in zip(teacher, student, strict=True):
            loss = loss + (self._attention(t) - self._attention(s)).square().mean()
        return loss

    def _attention(self, maps: Tensor) -> Tensor:
        """Return unit vectors (B, H W)."""
        return unit(maps.abs().pow(self.power).mean(1).flatten(1))
