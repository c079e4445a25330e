"""Flow of the solution procedure."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from crossres.losses.base import demand
from crossres.losses.maps import Maps, ProjectedMapLoss, Shapes


class FSP(ProjectedMapLoss):
    r"""FSP matrices (Yim et al., CVPR 2017): how a stage's channels go with the next one's.

    .. math::
        G_{cd} = \operatorname{mean}_x F^{(n)}_{c x} F^{(n+1)}_{d x}, \quad
        L = \sum_n \operatorname{mean}_{b, c, d} (G^t - G^s)^2

    the larger map of the two stages pooled to the smaller one. Where widths differ, a 1x1 convolution, trained with
    the student, brings its map to the teacher's channels (ours). It trains alone for the first ``pretrain`` of the
    run and is 0 afterwards. So does the CRD benchmark, with a factor of 1, not its weight of 50. That code also
    compares the stem's map. Outside a `Distiller`, set ``pretraining`` to True in its stage.

    Args:
        pretrain: share of the training in which it trains alone; CRD benchmark: 30 epochs before 240; 0 keeps it
            beside the other losses throughout.

    Shapes:
        built from lists of (C, H, W), at least two stages, called on lists of (B, C, H, W) -> scalar.

    Raises:
        ValueError: one stage only, or an option out of range.
    """

    def __init__(self, teacher_dim: Shapes, student_dim: Shapes, *, pretrain: float = 0.125) -> None:
        super().__init__(teacher_dim, student_dim)
        if len(self.sizes) < 2:
            raise ValueError("FSP: one stage has no flow to a next one, expected the maps of at least 2")
        self.pretrain = demand("FSP", "pretrain", pretrain, 0 <= pretrain < 1, "0 <= pretrain < 1")

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        if self.pretrain and not self.pretraining:
            return student[0].sum() * 0
        loss = student[0].new_zeros(())
        student = [project(s) for project, s in zip(self.projections, student, strict=True)]
        for t, s in zip(_flows(teacher), _flows(student), strict=True):
            loss = loss + (t - s).square().mean()
        return loss


def _flows(maps: Maps) -> list[Tensor]:
    """Return (B, C_n, C_n+1) for each pair of stages that follow each other."""
    flows = []
    for first, second in pairwise(maps):
        size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
        a, b = (F.adaptive_avg_pool2d(x, size).flatten(2) for x in (first, second))
        flows.append(a @ b.transpose(1, 2) / a.shape[2])
    return flows
