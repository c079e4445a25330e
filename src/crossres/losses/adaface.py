"""AdaFace."""

import math

import torch
from torch import Tensor, nn

from crossres.losses.base import demand
from crossres.losses.margin import NEAR_ONE, MarginHead


class AdaFace(MarginHead):
    r"""AdaFace (Kim et al. 2022, arXiv 2204.00964): the margin follows the embedding's length, a sign of quality.

    .. math::
        \hat n_i = \mathrm{clip}\Big( \frac{|e_i| - \mu}{\sigma / h}, -1, 1 \Big), \quad
        z_{iy_i} = \cos\big(\theta_{iy_i} - m \hat n_i\big) - m (\hat n_i + 1)

    :math:`\mu` and :math:`\sigma` are running means of the lengths' mean and standard deviation (over n - 1) in a
    batch; no gradient flows through :math:`\hat n`, and the angle stays inside :math:`0..\pi`. The rest as in
    `CosFace`.

    Args:
        margin: m.
        scale: s.
        concentration: h.
        momentum: of the running means, 0..1. The first batch sets them (the authors' code starts from 20 and 100).

    Shapes:
        student (B, student_dim), label (B,) -> scalar.
    """

    def __init__(
        self,
        teacher_dim: int,
        student_dim: int,
        *,
        margin: float = 0.4,
        scale: float = 64.0,
        concentration: float = 0.333,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(teacher_dim, student_dim, margin=margin, scale=scale)
        self.concentration = demand("AdaFace", "concentration", concentration, concentration > 0, "concentration > 0")
        self.momentum = demand("AdaFace", "momentum", momentum, 0 <= momentum <= 1, "0 <= momentum <= 1")
        # a deviation below 0 means that no batch was seen
        self.mean = nn.Buffer(torch.zeros(()))
        self.deviation = nn.Buffer(torch.full((), -1.0))

    def with_margin(self, cosine: Tensor, length: Tensor) -> Tensor:
        length = length.detach().clamp(1e-3, 100)
        mean, deviation = length.mean(), length.std(correction=min(1, len(length) - 1))
        known, kept = self.deviation >= 0, self.momentum if self.training else 1.0
        mean = torch.where(known, torch.lerp(mean, self.mean, kept), mean)
        deviation = torch.where(known, torch.lerp(deviation, self.deviation, kept), deviation)
        if self.training:
            self.mean.copy_(mean)
            self.deviation.copy_(deviation)
        quality = ((length - mean) / (deviation / self.concentration + 1e-3)).clamp(-1, 1)
        angle = (cosine.acos() - self.margin * quality).clamp(NEAR_ONE, math.pi - NEAR_ONE)
        return angle.cos() - self.margin * (quality + 1)
