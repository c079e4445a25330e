"""Neuron selectivity transfer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from crossres.losses.contrast import unit
from crossres.losses.maps import MapLoss


class NST(MapLoss):
    r"""Neuron selectivity transfer (arXiv 1707.01219): the channels' patterns as two distributions.

    .. math::
        k(a, b) = \langle a, b \rangle^2, \quad
        L = \sum_{\text{stages}} \operatorname{mean}_b \Big[ \operatorname{mean}_{cc'} k(t_c, t_{c'})
            + \operatorname{mean}_{cc'} k(s_c, s_{c'}) - 2 \operatorname{mean}_{cc'} k(s_c, t_{c'}) \Big]

    the squared maximum mean discrepancy between the unit vectors t_c and s_c of a sample's channels, which may
    differ in number. Published weight 50.

    Args:
        teacher_dim: shapes of the teacher's maps.
        student_dim: shapes of the student's maps.
        match: how a pair is brought to one size, see `MapLoss`.

    Shapes:
        lists of (B, C, H, W) -> scalar.
    """

    def compute(
        self,
        teacher: Sequence[Tensor],
        student: Sequence[Tensor],
        label: Tensor | None,
        index: Tensor | None,
    ) -> Tensor:
        loss = student[0].new_zeros(())
        for maps in zip(teacher, student, strict=True):
            t, s = (unit(x.flatten(2)) for x in maps)
            loss = loss + _kernel(t, t) + _kernel(s, s) - 2 * _kernel(s, t)
        return loss


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.transpose(1, 2)).square().mean()
