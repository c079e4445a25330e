"""Hybrid-order relations."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import Loss, demand
from crossres.losses.geometry import angles, distances


class HORKD(Loss):
    r"""Hybrid-order relational distillation, after arXiv 2409.05384: relations of pairs and of triplets.

    .. math::
        R(a, b) = \lambda_2 \operatorname{mean}_{ij} l(\psi^a_{ij}, \psi^b_{ij})
            + \lambda_3 \operatorname{mean}_{ijk} l(\phi^a_{ijk}, \phi^b_{ijk}), \quad
        L = R(e^t, e^s) \quad \text{or} \quad R(e^t, e^a) + R(e^a, e^s)

    with psi the distances in units of their mean, phi the cosines of the angles and l the Huber loss, as in `RKD`.
    Our reading: the abstract alone is at hand, so weights and forms are not the paper's. Its assistant stream, "a
    bridge to help knowledge transfer", is here a narrower linear map of the teacher's embedding, trained with the
    student: its relations stay those of the teacher as far as they fit, and the student follows its relations.

    Args:
        teacher_dim: width of the teacher's embedding.
        student_dim: width of the student's embedding.
        pair: lambda_2, at least 0.
        triplet: lambda_3, at least 0.
        assistant: width of the assistant's embedding; 0 leaves the assistant out.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim) -> scalar; 0 for a batch of 1. The triplets take memory
        and time of B^3.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self, teacher_dim: int, student_dim: int, *, pair: float = 1.0, triplet: float = 2.0, assistant: int = 0
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        demand("HORKD", "pair", pair, pair >= 0, "pair >= 0")
        demand("HORKD", "triplet", triplet, triplet >= 0, "triplet >= 0")
        demand("HORKD", "assistant", assistant, assistant >= 0, "assistant >= 0 (0 leaves it out)")
        self.pair = pair
        self.triplet = triplet
        self.assistant = nn.Linear(teacher_dim, assistant) if assistant else None

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        if self.assistant is None:
            return self._unlike(teacher, student)
        bridge = self.assistant(teacher)
        return self._unlike(teacher, bridge) + self._unlike(bridge, student)

    def _unlike(self, target: Tensor, ours: Tensor) -> Tensor:
        loss = ours.sum() * 0
        if self.pair:
            loss = loss + self.pair * F.smooth_l1_loss(distances(ours), distances(target))
        if self.triplet:
            loss = loss + self.triplet * F.smooth_l1_loss(angles(ours), angles(target))
        return loss
