"""Relations between samples as vectors, and their contrast: what relational contrastive methods share."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.contrast import contrast, identities, may_contrast, unit
from crossres.losses.queue import Queue


class Relation(nn.Module):
    r"""Feature relation module: :math:`v_{ij} = W_d\,\mathrm{relu}( \dots \mathrm{relu}(A a_i - B b_j))`.

    The first layer is linear, so ``A a`` and ``B b`` are computed once a sample and broadcast over pairs.
    No layer has a bias: equal embeddings have the relation 0.

    Args:
        anchor_dim: width of a.
        other_dim: width of b; None where both live in one space: then B is A.
        hidden: width between the layers.
        width: width of the relation.
        depth: number of linear layers, the first (A and B) included; 1 is ``A a_i - B b_j`` alone.
    """

    def __init__(self, anchor_dim: int, other_dim: int | None, hidden: int, width: int, depth: int) -> None:
        super().__init__()
        first = hidden if depth > 1 else width
        self.anchor = nn.Linear(anchor_dim, first, bias=False)
        self.other = None if other_dim is None else nn.Linear(other_dim, first, bias=False)
        outputs = [hidden] * (depth - 2) + [width] if depth > 1 else []
        self.layers = nn.ModuleList(nn.Linear(hidden, out, bias=False) for out in outputs)

    def forward(self, anchor: Tensor, other: Tensor, length: float = 1.0) -> Tensor:
        """Relate each anchor (a, anchor_dim) to each other (K, other_dim): float32 (a, K, width) of one length."""
        # Added with its sign turned, since autograd then turns (K, hidden) numbers and not (a, K, hidden).
        project = self.anchor if self.other is None else self.other
        relation: Tensor = self.anchor(anchor)[:, None] + -project(other)
        for layer in self.layers:
            relation = layer(F.relu(relation, inplace=True))
        return unit(relation.float(), length)


def relational_contrast(
    teacher: Tensor,
    student: Tensor,
    label: Tensor | None,
    index: Tensor | None,
    *,
    relations: tuple[Relation, Relation],
    tau: float,
    anchors: int,
    critic: Literal["sigmoid", "softmax"],
    reduction: Literal["sum", "mean"],
    both_directions: bool,
    layer_dtype: torch.dtype,
    queue: Queue | None = None,
) -> Tensor:
    """Contrast the teacher's relations of drawn anchors to all samples with those of its anchors to the student's.

    Args:
        teacher: (B, teacher_dim).
        student: (B, student_dim).
        label: (B,), where samples of one class are no negatives of each other.
        index: (B,), where the same image may come twice.
        relations: of two teacher's embeddings, and of a teacher's and a student's.
        tau: temperature, above 0.
        anchors: anchors drawn from torch's global generator; 0, or more than the batch holds, takes all.
        critic: see `contrast`.
        reduction: see `contrast`.
        both_directions: contrast the student's relation with the teacher's, too.
        layer_dtype: what the relations' products are computed in.
        queue: past student embeddings, further negatives; not written.

    Returns:
        The mean over the pairs of different images, a scalar; 0 for a batch of 1.
    """
    size = student.shape[0]
    every = not 0 < anchors < size
    anchor = (
        torch.arange(size, device=student.device) if every else torch.randperm(size, device=student.device)[:anchors]
    )
    identity = other_identity = identities(index, student)
    other_label, others = label, student
    if queue is not None:
        others = torch.cat([student, queue.read()])
        other_identity = torch.cat([identity, queue.identity])
        if label is not None:
            other_label = torch.cat([label, queue.label])
    # (B, K): negatives of the positive j; then, for each anchor, without the anchor itself.
    allowed = may_contrast(label, identity, other_label, other_identity)
    if queue is not None:
        allowed[:, size:] &= queue.filled
    not_anchor = identity[anchor, None] != other_identity
    pair = not_anchor[:, :size].float()

    of_teacher, across = relations
    # the modules' products are most of the cost, and the only part that does without float32
    with torch.autocast(student.device.type, layer_dtype, enabled=layer_dtype != torch.float32):
        u = of_teacher(teacher[anchor], teacher, length=1 / tau)
        v = across(teacher[anchor], others)
    scores = u @ v.transpose(1, 2)
    negatives = allowed & not_anchor[:, None]
    rows = contrast(scores, negatives, critic, reduction)
    if both_directions:
        back = scores[..., :size].transpose(1, 2)
        rows = rows + contrast(back, negatives[..., :size], critic, reduction)
    # A batch of 1 has no pair; its relations are computed all the same: every parameter has a gradient.
    return (rows * pair).sum() / pair.sum().clamp(min=1)
