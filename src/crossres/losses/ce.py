"""Cross-entropy against the labels."""

import torch.nn.functional as F
from torch import Tensor

from crossres.losses.base import Loss, demand, demand_within


class CE(Loss):
    r"""Cross-entropy of the student's logits, the mean over the batch.

    .. math:: L = -\frac{1}{B} \sum_i \sum_c q_{ic} \log \mathrm{softmax}(z_i)_c

    with :math:`q` one-hot, or :math:`(1 - \epsilon)` one-hot plus :math:`\epsilon / C` under label smoothing.

    Args:
        teacher_dim: ignored; every loss is built from the same two widths.
        student_dim: number of classes C.
        label_smoothing: epsilon, in 0..1 (1 excluded).

    Shapes:
        student logits (B, C), label (B,) int64 in 0..C-1 -> scalar.

    Raises:
        ValueError: ``label_smoothing`` out of range; no labels; on the CPU, a label outside 0..C-1 (a check
            on a GPU would make every step wait for the device).
    """

    reads = "logits"
    needs_teacher = False
    needs_label = True

    def __init__(self, teacher_dim: int, student_dim: int, *, label_smoothing: float = 0.0) -> None:
        super().__init__(teacher_dim, student_dim)
        demand("CE", "label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "0 <= label_smoothing < 1")
        self.label_smoothing = label_smoothing

    def compute(self, teacher: Tensor | None, student: Tensor, label: Tensor, index: Tensor | None) -> Tensor:
        demand_within("CE", "labels run", label, self.student_dim)
        return F.cross_entropy(student, label, label_smoothing=self.label_smoothing)
