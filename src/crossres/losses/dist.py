"""Distillation from a stronger teacher."""

import torch.nn.functional as F
from torch import Tensor

from crossres.losses.base import Loss, demand


class DIST(Loss):
    r"""DIST (arXiv 2205.10536): correlations of the class probabilities, over classes and over samples.

    .. math::
        L = \tau^2 \Big[ \beta \operatorname{mean}_i \big(1 - \rho(p^t_{i:}, p^s_{i:})\big)
            + \gamma \operatorname{mean}_c \big(1 - \rho(p^t_{:c}, p^s_{:c})\big) \Big],
        \quad p = \mathrm{softmax}(z / \tau)

    with rho Pearson's correlation, whose lengths' product is at least 1e-8 (published code: plus 1e-8). The defaults
    are the published ones for CIFAR-100, weight 1.

    Args:
        teacher_dim: number of classes C of the teacher.
        student_dim: number of classes of the student, equal to ``teacher_dim``.
        beta: weight of the correlation within a sample.
        gamma: weight of the correlation within a class.
        tau: temperature.

    Shapes:
        teacher logits (B, C), student logits (B, C) -> scalar.
    """

    reads = "logits"
    same_classes = True

    def __init__(
        self, teacher_dim: int, student_dim: int, *, beta: float = 2.0, gamma: float = 2.0, tau: float = 4.0
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        self.beta = demand("DIST", "beta", beta, beta >= 0, "beta >= 0")
        self.gamma = demand("DIST", "gamma", gamma, gamma >= 0, "gamma >= 0")
        self.tau = demand("DIST", "tau", tau, tau > 0, "tau > 0")

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        target, guess = F.softmax(teacher / self.tau, dim=1), F.softmax(student / self.tau, dim=1)
        between = 1 - _correlation(target, guess).mean()
        within = 1 - _correlation(target.T, guess.T).mean()
        return self.tau**2 * (self.beta * between + self.gamma * within)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of each row, (n,)."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1, eps=1e-8)
