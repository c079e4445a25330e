"""Attention transfer."""

import torch.nn.functional as F
from torch import Tensor

from crossres.losses.base import demand
from crossres.losses.maps import MapLoss, Maps, Shapes


class AT(MapLoss):
    r"""Attention transfer (arXiv 1612.03928): where the channels' energy lies.

    .. math::
        Q = \operatorname{mean}_c |F_c|^p, \quad
        L = \sum_{\text{stages}} \operatorname{mean}_{b, x}
            \Big( \frac{Q^t_b}{|Q^t_b|} - \frac{Q^s_b}{|Q^s_b|} \Big)_x^2

    Published weight 1,000 at 32x32. A map with fewer cells weighs more: 8x8 needs 62.5 for the same pull.

    Args:
        power: p, at least 1.
    """

    def __init__(self, teacher_dim: Shapes, student_dim: Shapes, *, power: float = 2.0) -> None:
        super().__init__(teacher_dim, student_dim)
        self.power = demand("AT", "power", power, power >= 1, "power >= 1")

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        loss = student[0].new_zeros(())
        for pair in zip(teacher, student, strict=True):
            # not `unit`, whose floor would meet powers: the loss should not change with a factor of the maps
            t, s = (F.normalize(maps.abs().pow(self.power).mean(1).flatten(1)) for maps in pair)
            loss = loss + (t - s).square().mean()
        return loss
