"""Distillation of similarity rows, for teachers without logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from crossres.losses.base import Loss, demand
from crossres.losses.geometry import cosines


class Similarity(Loss):
    r"""KD on similarity rows: a sample's similarities to the rest of the batch stand in for logits.

    .. math::
        L = \operatorname{mean}_i \mathrm{KL}\big(
            \mathrm{softmax}_{j \ne i} \cos(t_i, t_j) / \tau \;\big\|\;
            \mathrm{softmax}_{j \ne i} \cos(s_i, s_j) / \tau \big)

    Needs no labels and no equal widths. Source: SEED (Fang et al. 2021, arXiv 2101.04731), with the batch for its
    queue and without j = i.

    Args:
        tau: temperature of both rows.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim) -> scalar; 0 for a batch of 1 or 2.
    """

    def __init__(self, teacher_dim: int, student_dim: int, *, tau: float = 0.1) -> None:
        super().__init__(teacher_dim, student_dim)
        self.tau = demand("Similarity", "tau", tau, tau > 0, "tau > 0")

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        size = len(student)
        if size < 2:
            return student.sum() * 0
        # each row without its own column, (B, B - 1)
        others = ~torch.eye(size, dtype=torch.bool, device=student.device)
        rows = [(cosines(side) / self.tau)[others].view(size, size - 1) for side in (teacher, student)]
        of_teacher, of_student = (F.log_softmax(row, dim=1) for row in rows)
        return F.kl_div(of_student, of_teacher, reduction="batchmean", log_target=True)
