"""Hybrid-order relations."""

from torch import Tensor, nn

from crossres.losses.base import Loss, demand
from crossres.losses.geometry import unlike


class HORKD(Loss):
    r"""Hybrid-order relational distillation, after arXiv 2409.05384: relations of pairs and of triplets.

    .. math::
        R(a, b) = \lambda_2 \operatorname{mean}_{ij} l(\psi^a_{ij}, \psi^b_{ij})
            + \lambda_3 \operatorname{mean}_{ijk} l(\phi^a_{ijk}, \phi^b_{ijk}), \quad
        L = R(e^t, e^s) \quad \text{or} \quad R(e^t, e^a) + R(e^a, e^s)

    with psi, phi and l as in `RKD`. Only the abstract was available: weights and forms are not the paper's. Its
    assistant stream is here a narrower linear map of the teacher's embedding, trained with the student.

    Args:
        pair: lambda_2.
        triplet: lambda_3.
        assistant: width of the assistant's embedding; 0 for none.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim) -> scalar; 0 for a batch of 1. The triplets take memory
        and time of B^3.
    """

    def __init__(
        self, teacher_dim: int, student_dim: int, *, pair: float = 1.0, triplet: float = 2.0, assistant: int = 0
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        self.pair = demand("HORKD", "pair", pair, pair >= 0, "pair >= 0")
        self.triplet = demand("HORKD", "triplet", triplet, triplet >= 0, "triplet >= 0")
        demand("HORKD", "assistant", assistant, assistant >= 0, "assistant >= 0 (0 leaves it out)")
        self.assistant = nn.Linear(teacher_dim, assistant) if assistant else None

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        if self.assistant is None:
            return unlike(teacher, student, self.pair, self.triplet)
        bridge = self.assistant(teacher)
        return unlike(teacher, bridge, self.pair, self.triplet) + unlike(bridge, student, self.pair, self.triplet)
