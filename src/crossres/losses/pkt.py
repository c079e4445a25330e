"""Probabilistic knowledge transfer."""

from torch import Tensor

from crossres.losses.base import Loss
from crossres.losses.geometry import cosines

EPSILON = 1e-7


class PKT(Loss):
    r"""Probabilistic knowledge transfer (arXiv 1803.10837): neighbourhoods as probabilities.

    .. math::
        p_{ij} = \frac{(1 + \cos(e_i, e_j)) / 2}{\sum_k (1 + \cos(e_i, e_k)) / 2}, \quad
        L = \operatorname{mean}_{ij} p^t_{ij} \log \frac{p^t_{ij} + \epsilon}{p^s_{ij} + \epsilon}

    with epsilon 1e-7. The mean runs over all B^2 pairs, i = j among them; published weight 30,000.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim) -> scalar.
    """

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        similarities = [(cosines(embedding) + 1) / 2 for embedding in (teacher, student)]
        target, guess = (rows / rows.sum(1, keepdim=True) for rows in similarities)
        return (target * ((target + EPSILON) / (guess + EPSILON)).log()).mean()
