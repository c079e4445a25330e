"""Similarity-preserving distillation."""

import torch.nn.functional as F
from torch import Tensor

from crossres.losses.maps import MapLoss, Maps


class SP(MapLoss):
    r"""Similarity-preserving distillation (arXiv 1907.09682): which samples activate alike.

    .. math::
        G = F F^\top \text{ with rows of unit length}, \quad L = \frac{1}{B^2} \sum_{ij} (G^t_{ij} - G^s_{ij})^2

    with F the last stage's maps, a row a sample, (B, C H W). Published weight 3,000.
    """

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        t, s = teacher[-1].flatten(1), student[-1].flatten(1)
        return (F.normalize(t @ t.T) - F.normalize(s @ s.T)).square().mean()
