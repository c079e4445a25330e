"""FitNets: hints of an intermediate layer."""

import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import demand
from crossres.losses.maps import MapLoss, Maps, Shapes


class FitNet(MapLoss):
    r"""FitNets (arXiv 1412.6550): the student's map, through a regressor, is to equal the teacher's hint.

    .. math:: L = \operatorname{mean} \big( F^t - \mathrm{relu}(\mathrm{BN}(R * F^s)) \big)^2

    with R a 1x1 convolution, trained with the student in one stage, as in the CRD benchmark (published weight there
    100).

    Args:
        stage: which pair of maps, counted from 0; -1 takes the middle one.
    """

    def __init__(self, teacher_dim: Shapes, student_dim: Shapes, *, stage: int = -1) -> None:
        super().__init__(teacher_dim, student_dim)
        stages = len(self.sizes)
        demand("FitNet", "stage", stage, -1 <= stage < stages, f"-1..{stages - 1}")
        self.stage = stages // 2 if stage == -1 else stage
        wide, narrow = self.channels[self.stage]
        self.regressor = nn.Conv2d(narrow, wide, 1)
        self.norm = nn.BatchNorm2d(wide)

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        guess = F.relu(self.norm(self.regressor(student[self.stage])))
        return F.mse_loss(guess, teacher[self.stage])
