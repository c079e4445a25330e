"""Feature similarity for low resolution."""

from torch import Tensor

from crossres.losses.geometry import mean_cosine
from crossres.losses.maps import Maps, ProjectedMapLoss


class FSKD(ProjectedMapLoss):
    r"""Feature similarity (F-SKD, arXiv 2303.04681): maps of the same direction, whatever their length.

    .. math:: L = \operatorname{mean}_{\text{stages}} \operatorname{mean}_b \big[ 1 - \cos(F^t_b, F^s_b) \big]

    with F_b a sample's whole map, (C H W,). Published weight 20. Where widths differ, a 1x1 convolution, trained with
    the student, brings its map to the teacher's channels (ours).
    """

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        loss = student[0].new_zeros(())
        for t, s, project in zip(teacher, student, self.projections, strict=True):
            loss = loss + 1 - mean_cosine(t.flatten(1), project(s).flatten(1))
        return loss / len(teacher)
