"""Attention similarity for low resolution."""

from torch import Tensor

from crossres.losses.geometry import mean_cosine
from crossres.losses.maps import Maps, ProjectedMapLoss


class ASKD(ProjectedMapLoss):
    r"""Attention similarity (A-SKD, arXiv 2209.14498): the LR student is to look where the HR teacher looks.

    .. math::
        L = \sum_{\text{stages}} \operatorname{mean}_b \big[ 1 - \cos(Q^t, Q^s) \big]
            + \operatorname{mean}_b \big[ 1 - \cos(R^t, R^s) \big], \quad
        Q = \operatorname{mean}_c |F_c|, \quad R_c = \operatorname{mean}_x |F_{c x}|

    The paper reads both attentions, over space Q and over channels R, from its networks' attention modules (CBAM);
    ours is the mean activation. Where channels differ, R is that of the student's map behind a 1x1 convolution to the
    teacher's channels, trained with the student. Published weight 5, for faces.
    """

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        loss = student[0].new_zeros(())
        for t, s, project in zip(teacher, student, self.projections, strict=True):
            loss = loss + (1 - mean_cosine(t.abs().mean(1).flatten(1), s.abs().mean(1).flatten(1)))
            loss = loss + (1 - mean_cosine(t.abs().mean((2, 3)), project(s).abs().mean((2, 3))))
        return loss
