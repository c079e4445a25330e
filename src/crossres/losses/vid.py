"""Variational information distillation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import Shape, demand
from crossres.losses.maps import MapLoss


class VID(MapLoss):
    r"""Variational information distillation (arXiv 1904.05835): how well the student's map predicts the teacher's.

    .. math::
        L = \sum_{\text{stages}} \operatorname{mean}_{b, c, x} \frac{1}{2} \Big[
            \frac{(F^t - \mu(F^s))^2}{\sigma_c^2} + \log \sigma_c^2 \Big], \quad
        \sigma_c^2 = \log(1 + e^{a_c}) + \epsilon

    with mu three 1x1 convolutions with relu between, a a parameter for each of the teacher's channels, and epsilon
    1e-5. Published weight 1.

    Args:
        teacher_dim: shapes of the teacher's maps.
        student_dim: shapes of the student's maps.
        variance: sigma squared at the start, above 0.
        match: how a pair is brought to one size, see `MapLoss`.

    Shapes:
        lists of (B, C, H, W) -> scalar; it may be negative.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        teacher_dim: Sequence[Shape],
        student_dim: Sequence[Shape],
        *,
        variance: float = 5.0,
        match: Literal["pool", "bilinear"] = "pool",
    ) -> None:
        super().__init__(teacher_dim, student_dim, match=match)
        demand("VID", "variance", variance, variance > EPSILON, f"variance > {EPSILON:g}")
        start = math.log(math.expm1(variance - EPSILON))
        self.regressors = nn.ModuleList(
            _regressor(s[0], t[0]) for t, s in zip(self.teacher_shapes, self.student_shapes, strict=True)
        )
        self.scales = nn.ParameterList(torch.full((t[0],), start) for t in self.teacher_shapes)

    def compute(
        self,
        teacher: Sequence[Tensor],
        student: Sequence[Tensor],
        label: Tensor | None,
        index: Tensor | None,
    ) -> Tensor:
        loss = student[0].new_zeros(())
        for t, s, regressor, scale in zip(teacher, student, self.regressors, self.scales, strict=True):
            variance = (F.softplus(scale) + EPSILON)[:, None, None]
            loss = loss + 0.5 * ((t - regressor(s)).square() / variance + variance.log()).mean()
        return loss


EPSILON = 1e-5


def _regressor(student: int, teacher: int) -> nn.Sequential:
    layers = (nn.Conv2d(student, teacher, 1, bias=False), nn.Conv2d(teacher, teacher, 1, bias=False))
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), nn.Conv2d(teacher, teacher, 1, bias=False))
