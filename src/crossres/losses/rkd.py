"""Relational knowledge distillation."""

from torch import Tensor

from crossres.losses.base import Loss, demand
from crossres.losses.geometry import unlike


class RKD(Loss):
    r"""Relational knowledge distillation (arXiv 1904.05068): distances and angles between samples.

    .. math::
        \psi_{ij} = |e_i - e_j| / \mu, \quad
        \phi_{ijk} = \cos \angle (e_i - e_j, e_k - e_j), \quad
        L = \lambda_d \operatorname{mean}_{ij} l(\psi^t_{ij}, \psi^s_{ij})
          + \lambda_a \operatorname{mean}_{ijk} l(\phi^t_{ijk}, \phi^s_{ijk})

    with mu the mean distance of the batch's different pairs and l the Huber loss (delta 1). The means run over all
    B^2 pairs and B^3 triplets, as in the published code; published weight 1.

    Args:
        distance: lambda_d.
        angle: lambda_a.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim) -> scalar; 0 for a batch of 1. The angles take
        memory and time of B^3.
    """

    def __init__(self, teacher_dim: int, student_dim: int, *, distance: float = 25.0, angle: float = 50.0) -> None:
        super().__init__(teacher_dim, student_dim)
        self.distance = demand("RKD", "distance", distance, distance >= 0, "distance >= 0")
        self.angle = demand("RKD", "angle", angle, angle >= 0, "angle >= 0")

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        return unlike(teacher, student, self.distance, self.angle)
