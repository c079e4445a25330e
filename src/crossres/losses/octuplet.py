"""Octuplet loss."""

import torch
from torch import Tensor, nn

from crossres.losses.base import Loss, demand


class Octuplet(Loss):
    r"""Octuplet loss (arXiv 2207.06726): hard triplets within and across the two resolutions.

    .. math::
        T(a, b) = \operatorname{mean}_i \max\big(0, \max_{p} |a_i - b_p| - \min_{n} |a_i - b_n| + m \big), \quad
        L = T(t, s) + T(s, t) + T(s, s)

    with p another image of i's class and n one of another class; an image without either in the batch is left out of
    the mean (published code: a distance of 0). The paper trains one network on both resolutions; here the teacher t
    is frozen and its T(t, t), a constant, left out. Where widths differ, a linear layer, trained with the student,
    brings its embedding to the teacher's (ours). Published without a cross-entropy, to finetune a trained network.

    Args:
        margin: m, in units of the embeddings' distance.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim), label (B,) -> scalar; 0 where no image has both p and n.
    """

    needs_label = True

    def __init__(self, teacher_dim: int, student_dim: int, *, margin: float = 0.5) -> None:
        super().__init__(teacher_dim, student_dim)
        self.margin = demand("Octuplet", "margin", margin, margin > 0, "margin > 0")
        self.layer = nn.Identity() if teacher_dim == student_dim else nn.Linear(student_dim, teacher_dim, bias=False)

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor, index: Tensor | None) -> Tensor:
        student = self.layer(student)
        same = label[:, None] == label
        negative = ~same
        positive = same & ~torch.eye(len(label), dtype=torch.bool, device=label.device)
        known = positive.any(1) & negative.any(1)
        loss = student.sum() * 0
        for anchor, other in ((teacher, student), (student, teacher), (student, student)):
            squared = anchor.square().sum(1)[:, None] + other.square().sum(1) - 2 * anchor @ other.T
            # the root of 0 has no gradient
            distance = squared.clamp(min=1e-12).sqrt()
            farthest = distance.masked_fill(~positive, -torch.inf).amax(1)
            nearest = distance.masked_fill(~negative, torch.inf).amin(1)
            rows = torch.where(known, farthest - nearest + self.margin, 0.0).clamp(min=0)
            loss = loss + rows.sum() / known.sum().clamp(min=1)
        return loss
