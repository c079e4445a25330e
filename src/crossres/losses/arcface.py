"""ArcFace."""

import math

import torch
from torch import Tensor

from crossres.losses.margin import MarginHead


class ArcFace(MarginHead):
    r"""ArcFace (Deng et al. 2019, arXiv 1801.07698): :math:`z_{iy_i} = \cos(\theta_{iy_i} + m)`.

    Beyond :math:`\theta = \pi - m` it goes on as :math:`\cos\theta - m \sin m`, as in the authors' code. The rest as
    in `CosFace`.

    Args:
        margin: m, in radians.
        scale: s.

    Shapes:
        student (B, student_dim), label (B,) -> scalar.
    """

    def __init__(self, teacher_dim: int, student_dim: int, *, margin: float = 0.5, scale: float = 64.0) -> None:
        super().__init__(teacher_dim, student_dim, margin=margin, scale=scale)

    def with_margin(self, cosine: Tensor, length: Tensor) -> Tensor:
        sine = (1 - cosine.square()).sqrt()
        added = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), added, beyond)
