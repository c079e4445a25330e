"""Contrast of a positive with its negatives, of which samples of a batch, and of learned relations of pairs."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import Loss, demand
from crossres.losses.geometry import unit

Critic = Literal["sigmoid", "softmax"]
Reduction = Literal["sum", "mean"]


def different(student: Tensor, label: Tensor | None, index: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return two bool (B, B) masks: pairs of different images, and those that are negatives of each other.

    Negatives differ in class, too, where there are labels. Without ``index`` no image comes twice.
    """
    image = torch.arange(len(student), device=student.device) if index is None else index
    images = image[:, None] != image
    return images, images if label is None else images & (label[:, None] != label)


def pairs_of(
    anchors: int, student: Tensor, label: Tensor | None, index: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw anchors i of a batch, by torch's global generator; for ``anchors`` 0 or too many all are.

    Returns:
        positions of the anchors (a,); bool (a, B): pairs of different images i and j; bool (a, B, B): the negatives
        of the positive j, without the anchor itself. Of label and index see `different`.
    """
    size, device = len(student), student.device
    every = not 0 < anchors < size
    anchor = torch.arange(size, device=device) if every else torch.randperm(size, device=device)[:anchors]
    others, negatives = different(student, label, index)
    pair = others[anchor]
    return anchor, pair, negatives & pair[:, None]


def mean_over(rows: Tensor, pair: Tensor) -> Tensor:
    """Return the mean of ``rows`` over the pairs; 0 for a batch of 1, which has none.

    Its relation is in the sum all the same: every parameter has a gradient.
    """
    return (rows * pair.float()).sum() / pair.float().sum().clamp(min=1)


def contrast(scores: Tensor, allowed: Tensor, critic: Critic, reduction: Reduction = "mean") -> Tensor:
    """Return the contrastive loss of each row.

    Row b's positive is column b. With x = scores and N_b the allowed columns of row b:

    - sigmoid: ``-log s(x_bb) - sum_{k in N_b} log(1 - s(x_bk))``, the sum divided by ``|N_b|`` for "mean";
      in log-sigmoid form, so no score overflows. Without negatives only the first term is left.
    - softmax: ``-log(exp(x_bb) / (exp(x_bb) + sum_{k in N_b} exp(x_bk)))``, 0 without negatives.

    Args:
        scores: (..., B, B), already divided by the temperature.
        allowed: bool (..., B, B) or what is repeated to that, True for a negative and False for the others,
            column b of row b among them.
        critic: as above.
        reduction: of the sigmoid critic's negatives; the softmax critic has no use for it.

    Returns:
        (..., B)
    """
    if critic == "softmax":
        # 0 for the positive and its negatives, -inf for the others
        others = torch.full(allowed.shape, -torch.inf, device=scores.device).masked_fill_(allowed, 0)
        others.diagonal(dim1=-2, dim2=-1).zero_()
        target = torch.arange(scores.shape[-2], device=scores.device).expand(scores.shape[:-1])
        rows = F.cross_entropy((scores + others).flatten(0, -2), target.flatten(), reduction="none")
        return rows.view(scores.shape[:-1])
    positive = scores.diagonal(dim1=-2, dim2=-1)
    pushed = (F.softplus(scores) * allowed).sum(-1)
    if reduction == "mean":
        pushed = pushed / allowed.sum(-1).clamp(min=1)
    return F.softplus(-positive) + pushed


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
        """Relate each anchor (a, anchor_dim) to each other (B, other_dim): float32 (a, B, width) of one length."""
        # Added with its sign turned, since autograd then turns (B, hidden) numbers and not (a, B, hidden).
        project = self.anchor if self.other is None else self.other
        relation: Tensor = self.anchor(anchor)[:, None] + -project(other)
        for layer in self.layers:
            relation = layer(F.relu(relation, inplace=True))
        return unit(relation.float(), length)


class RelationalLoss(Loss):
    """A contrast of the teacher's relations with those of its anchors to the student's samples.

    A subclass makes the two relation modules and calls :meth:`relate`; options as of `CRRCDPaper`.
    """

    #: of two of the teacher's embeddings
    teacher_relation: Relation
    #: of one of the teacher's and one of the student's
    cross_relation: Relation

    reduction: Reduction = "mean"
    both_directions = True

    def __init__(
        self, teacher_dim: int, student_dim: int, tau: float, width: int, anchors: int, critic: Critic
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        name = type(self).__name__
        self.tau = demand(name, "tau", tau, tau > 0, "tau > 0")
        demand(name, "width", width, width >= 1, "width >= 1")
        self.anchors = demand(name, "anchors", anchors, anchors >= 0, "anchors >= 0 (0 takes all)")
        self.critic = demand(name, "critic", critic, critic in ("sigmoid", "softmax"), "'sigmoid' or 'softmax'")

    def relate(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        """Return the mean over the pairs of different images, a scalar; 0 for a batch of 1.

        With ``label`` samples of one class are not negatives of each other; by ``index`` an image may come twice.
        """
        anchor, pair, negatives = pairs_of(self.anchors, student, label, index)
        # the modules' products are most of the cost, and the only part that does without float32
        with torch.autocast(student.device.type, self.layer_dtype, enabled=self.layer_dtype != torch.float32):
            u = self.teacher_relation(teacher[anchor], teacher, length=1 / self.tau)
            v = self.cross_relation(teacher[anchor], student)
        scores = u @ v.transpose(1, 2)
        rows = contrast(scores, negatives, self.critic, self.reduction)
        if self.both_directions:
            rows = rows + contrast(scores.transpose(1, 2), negatives, self.critic, self.reduction)
        return mean_over(rows, pair)
