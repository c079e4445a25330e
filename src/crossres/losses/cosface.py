"""CosFace."""

from torch import Tensor

from crossres.losses.margin import MarginHead


class CosFace(MarginHead):
    r"""CosFace (Wang et al. 2018, arXiv 1801.09414): :math:`z_{iy_i} = \cos\theta_{iy_i} - m`.

    Softmax over the scaled cosines to a prototype for each identity (:class:`MarginHead`). With a margin of 0 it is
    the normalised softmax (arXiv 1704.06369).

    Args:
        margin: m, in units of the cosine.
        scale: s.

    Shapes:
        student (B, student_dim), label (B,) -> scalar.
    """

    def __init__(self, teacher_dim: int, student_dim: int, *, margin: float = 0.35, scale: float = 64.0) -> None:
        super().__init__(teacher_dim, student_dim, margin=margin, scale=scale)

    def with_margin(self, cosine: Tensor, length: Tensor) -> Tensor:
        return cosine - self.margin
