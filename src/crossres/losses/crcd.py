"""Complementary relation contrastive distillation."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.contrast import Relation, RelationalLoss
from crossres.losses.geometry import unit


class CRCD(RelationalLoss):
    r"""Complementary relation contrastive distillation (arXiv 2103.16367): its feature relations.

    Both embeddings go through a linear layer of their own to ``width`` and to unit length: e^t and e^s. The relation
    of a teacher's anchor i and a student's j is contrasted with that of the teacher's i and j, in both directions:

    .. math::
        v^t_{ij} = W_2\,\mathrm{relu}(W_1 (e^t_i - e^t_j)), \quad
        v^{ts}_{ij} = W'_2\,\mathrm{relu}(A e^t_i - B e^s_j), \quad
        L = \operatorname{mean}_{i \ne j} \big[ \ell(v^t_{ij}; v^{ts}_{ij}, v^{ts}_{ik})
            + \ell(v^{ts}_{ij}; v^t_{ij}, v^t_{ik}) \big]

    with l the contrast of the positive with the negatives k, samples of other classes than j. Published: tau 0.05,
    weight 1 beside 0.9 of softened classes, both dropped for the last epochs, 500 negatives from a bank of all
    images. Ours: InfoNCE with negatives from the batch, without the pair i = j. The gradient relations are
    :class:`CRCDGradient`.

    Args:
        tau: temperature of the contrast.
        width: width of the unit vectors and of a relation.
        anchors: anchors i drawn per batch; 0 takes all.
        critic: of l: "softmax" for InfoNCE, "sigmoid" for a term for each negative.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim), label (B,) -> scalar; 0 for a batch of 1. Without labels
        all other samples are negatives.
    """

    def __init__(
        self,
        teacher_dim: int,
        student_dim: int,
        *,
        tau: float = 0.05,
        width: int = 128,
        anchors: int = 0,
        critic: Literal["sigmoid", "softmax"] = "softmax",
    ) -> None:
        super().__init__(teacher_dim, student_dim, tau, width, anchors, critic)
        self.teacher_layer = nn.Linear(teacher_dim, width)
        self.student_layer = nn.Linear(student_dim, width)
        self.teacher_relation = Relation(width, None, width, width, depth=2)
        self.cross_relation = Relation(width, width, width, width, depth=2)

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        return self.relate(unit(self.teacher_layer(teacher)), unit(self.student_layer(student)), label, index)


class CRCDGradient(CRCD):
    r"""The gradient relations of complementary relation contrastive distillation (arXiv 2103.16367).

    The same contrast as `CRCD`, on the cross-entropy's gradient instead of the embedding. The paper takes the
    gradient by the embedding, which needs a teacher that runs along; here it is that by the logits, for which stored
    outputs do:

    .. math:: g_i = \mathrm{softmax}(z_i) - \mathrm{onehot}(y_i)

    Shapes:
        teacher logits (B, C), student logits (B, C), label (B,) -> scalar; 0 for a batch of 1.
    """

    reads = "logits"
    needs_label = True
    same_classes = True

    def compute(self, teacher: Tensor, student: Tensor, label: Any, index: Tensor | None) -> Tensor:
        target = F.one_hot(label, teacher.shape[1])
        of_teacher, of_student = (F.softmax(z, dim=1) - target for z in (teacher, student))
        return super().compute(of_teacher, of_student, label, index)
