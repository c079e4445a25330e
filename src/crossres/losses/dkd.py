"""Decoupled knowledge distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from crossres.losses.base import Loss, demand


class DKD(Loss):
    r"""Decoupled knowledge distillation (arXiv 2203.08679): the target's probability and the others' apart.

    .. math::
        L = \frac{T^2}{B} \sum_i \big[ \alpha\, \mathrm{KL}(b^t_i \,\|\, b^s_i)
            + \beta\, \mathrm{KL}(\hat p^t_i \,\|\, \hat p^s_i) \big]

    with p = softmax(z / T), b the two probabilities of the true class and of all others together, and
    :math:`\hat p` the probabilities of the others among themselves. Published weight 1 with ``warm_up`` over the
    first 20 of 240 epochs.

    Args:
        teacher_dim: number of classes C of the teacher, at least 2.
        student_dim: number of classes of the student, equal to ``teacher_dim``.
        alpha: weight of the true class's part.
        beta: weight of the others' part.
        temperature: T.

    Shapes:
        teacher logits (B, C), student logits (B, C), label (B,) -> scalar.
    """

    reads = "logits"
    needs_label = True
    same_classes = True

    def __init__(
        self, teacher_dim: int, student_dim: int, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        self.alpha = demand("DKD", "alpha", alpha, alpha >= 0, "alpha >= 0")
        self.beta = demand("DKD", "beta", beta, beta >= 0, "beta >= 0")
        self.temperature = demand("DKD", "temperature", temperature, temperature > 0, "temperature > 0")

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor, index: Tensor | None) -> Tensor:
        (b_t, p_t), (b_s, p_s) = (self._parts(z / self.temperature, label) for z in (teacher, student))
        true = F.kl_div(b_s, b_t, reduction="batchmean", log_target=True)
        others = F.kl_div(p_s, p_t, reduction="batchmean", log_target=True)
        return (self.alpha * true + self.beta * others) * self.temperature**2

    @staticmethod
    def _parts(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return log b (B, 2) and log p-hat (B, C - 1)."""
        # by index: a mask's size would have to be waited for on a GPU
        places = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
        others = logits.gather(1, places + (places >= label[:, None]))
        two = torch.stack([logits.gather(1, label[:, None])[:, 0], others.logsumexp(1)], dim=1)
        return F.log_softmax(two, dim=1), F.log_softmax(others, dim=1)
