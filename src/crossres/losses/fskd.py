"""Feature similarity for low resolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from crossres.losses.contrast import unit
from crossres.losses.maps import ProjectedMapLoss


class FSKD(ProjectedMapLoss):
    r"""Feature similarity (F-SKD, arXiv 2303.04681): maps of the same direction, whatever their length.

    .. math:: L = \operatorname{mean}_{\text{stages}} \operatorname{mean}_b \big[ 1 - \cos(F^t_b, F^s_b) \big]

    with F_b a sample's whole map, (C H W,). Published weight 20. The paper's networks have equal widths; where they
    differ, a 1x1 convolution, trained with the student, brings the student's map to the teacher's channels (ours).

    Args:
        teacher_dim: shapes of the teacher's maps.
        student_dim: shapes of the student's maps.
        match: how a pair is brought to one size, see `MapLoss`.

    Shapes:
        lists of (B, C, H, W) -> scalar.
    """

    def compute(
        self, teacher: Sequence[Tensor], student: Sequence[Tensor], label: Tensor | None, index: Tensor | None
    ) -> Tensor:
        loss = student[0].new_zeros(())
        for t, s, project in zip(teacher, student, self.projections, strict=True):
            cosine = (unit(t.flatten(1)) * unit(project(s).flatten(1))).sum(1)
            loss = loss + 1 - cosine.mean()
        return loss / len(teacher)
