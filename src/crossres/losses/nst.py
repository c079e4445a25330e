"""Neuron selectivity transfer."""

from torch import Tensor

from crossres.losses.geometry import unit
from crossres.losses.maps import MapLoss, Maps


class NST(MapLoss):
    r"""Neuron selectivity transfer (arXiv 1707.01219): the channels' patterns as two distributions.

    .. math::
        k(a, b) = \langle a, b \rangle^2, \quad
        L = \sum_{\text{stages}} \operatorname{mean}_b \Big[ \operatorname{mean}_{cc'} k(t_c, t_{c'})
            + \operatorname{mean}_{cc'} k(s_c, s_{c'}) - 2 \operatorname{mean}_{cc'} k(s_c, t_{c'}) \Big]

    the squared maximum mean discrepancy between the unit vectors t_c and s_c of a sample's channels. Published weight
    50.
    """

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        loss = student[0].new_zeros(())
        for maps in zip(teacher, student, strict=True):
            t, s = (unit(x.flatten(2)) for x in maps)
            for a, b, sign in ((t, t, 1), (s, s, 1), (s, t, -2)):
                loss = loss + sign * (a @ b.transpose(1, 2)).square().mean()
        return loss
