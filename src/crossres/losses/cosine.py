"""Embedding regression by cosine."""

import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import Loss


class Cosine(Loss):
    r"""Embedding regression: the student's embedding points where the teacher's does.

    .. math:: L = \operatorname{mean}_i \big( 1 - \cos(e^t_i, W e^s_i) \big)

    With equal widths there is no W: the student shares its teacher's space, and its LR probes can be compared with
    the teacher's HR gallery. Else W is a linear layer, trained with the student and dropped. Needs no labels.

    Source: e.g. Ge et al. 2019 (arXiv 1811.09998), in its angular form.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim) -> scalar in 0..2.
    """

    def __init__(self, teacher_dim: int, student_dim: int) -> None:
        super().__init__(teacher_dim, student_dim)
        self.layer = nn.Identity() if teacher_dim == student_dim else nn.Linear(student_dim, teacher_dim, bias=False)

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        return 1 - F.cosine_similarity(teacher, self.layer(student), dim=1, eps=1e-6).mean()
