"""What the margin heads share: a unit prototype for each identity, cosines, and a margin on the right one."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import Loss, demand, demand_within

#: A cosine nearer to 1 than this has an angle whose derivative is not usable.
NEAR_ONE = 1e-6


class MarginHead(Loss):
    r"""Softmax over scaled cosines to the identities' prototypes, with a margin on the sample's own identity.

    .. math:: L = -\operatorname{mean}_i \log \mathrm{softmax}_c \big( s \, z_{ic} \big)_{y_i}, \quad
        z_{ic} = \cos(e_i, w_c) \text{ for } c \ne y_i

    A subclass says what :math:`z_{iy_i}` is. The prototypes w are made for the training set's identities
    (:meth:`prepare`), trained with the student and thrown away.

    Raises:
        ValueError: an option out of range, or a label that `prepare` has not seen.
    """

    needs_teacher = False
    needs_label = True

    def __init__(self, teacher_dim: int, student_dim: int, *, margin: float, scale: float) -> None:
        super().__init__(teacher_dim, student_dim)
        name = type(self).__name__
        self.margin = demand(name, "margin", margin, 0 <= margin < 1.5, "0 <= margin < 1.5")
        self.scale = demand(name, "scale", scale, scale > 0, "scale > 0")
        self.prototypes = nn.Parameter(torch.empty(0, student_dim))

    def prepare(self, label: Tensor) -> None:
        start = torch.randn(int(label.max()) + 1, self.student_dim)
        self.prototypes = nn.Parameter(F.normalize(start).to(label.device))

    def compute(self, teacher: Tensor | None, student: Tensor, label: Tensor, index: Tensor | None) -> Tensor:
        demand_within(type(self).__name__, "labels run", label, len(self.prototypes))
        length = student.norm(dim=1).clamp(min=NEAR_ONE)
        # a little below 1, also where the product rounds above it
        cosine = (student / length[:, None] @ F.normalize(self.prototypes).T).clamp(NEAR_ONE - 1, 1 - NEAR_ONE)
        own = cosine.gather(1, label[:, None])[:, 0]
        logits = cosine.scatter(1, label[:, None], self.with_margin(own, length)[:, None])
        return F.cross_entropy(self.scale * logits, label)

    @abstractmethod
    def with_margin(self, cosine: Tensor, length: Tensor) -> Tensor:
        """Return z (B,) of each sample's own identity.

        Args:
            cosine: (B,), of the sample to its identity's prototype, inside -1..1.
            length: (B,), of the sample's embedding.
        """
