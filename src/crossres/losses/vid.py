"""Variational information distillation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import demand
from crossres.losses.maps import MapLoss, Maps, Shapes

EPSILON = 1e-5


class VID(MapLoss):
    r"""Variational information distillation (arXiv 1904.05835): how well the student's map predicts the teacher's.

    .. math::
        L = \sum_{\text{stages}} \operatorname{mean}_{b, c, x} \frac{1}{2} \Big[
            \frac{(F^t - \mu(F^s))^2}{\sigma_c^2} + \log \sigma_c^2 \Big], \quad
        \sigma_c^2 = \log(1 + e^{a_c}) + \epsilon

    with mu three 1x1 convolutions with relu between, a a parameter for each of the teacher's channels, and epsilon
    1e-5. Published weight 1.

    Args:
        variance: sigma squared at the start.

    Shapes:
        built from lists of (C, H, W), called on lists of (B, C, H, W) -> scalar; it may be negative.
    """

    def __init__(self, teacher_dim: Shapes, student_dim: Shapes, *, variance: float = 5.0) -> None:
        super().__init__(teacher_dim, student_dim)
        demand("VID", "variance", variance, variance > EPSILON, f"variance > {EPSILON:g}")
        start = math.log(math.expm1(variance - EPSILON))
        self.regressors = nn.ModuleList()
        for wide, narrow in self.channels:
            first, second, third = (nn.Conv2d(width, wide, 1, bias=False) for width in (narrow, wide, wide))
            self.regressors.append(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third))
        self.scales = nn.ParameterList(torch.full((wide,), start) for wide, _ in self.channels)

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        loss = student[0].new_zeros(())
        for t, s, regressor, scale in zip(teacher, student, self.regressors, self.scales, strict=True):
            variance = (F.softplus(scale) + EPSILON)[:, None, None]
            loss = loss + 0.5 * ((t - regressor(s)).square() / variance + variance.log()).mean()
        return loss
