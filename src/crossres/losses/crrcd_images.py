"""Cross-resolution relational contrastive distillation between images, in the teacher's own space."""

from torch import Tensor, nn

from crossres.losses.base import Loss, demand
from crossres.losses.contrast import contrast, mean_over, pairs_of
from crossres.losses.geometry import standardised, unit


class CRRCDImages(Loss):
    r"""CRRCD between images, in the teacher's own space (ours, after arXiv 2409.02555).

    With :math:`z_i` the teacher's embedding of image i, each number standardised over the batch, the teacher's
    relation of an anchor i and another image j is pulled to that of the teacher's i and the student's :math:`e^s_j`,
    and pushed from those of i and other images k, by default of other classes than j:

    .. math::
        u_{ij} = z_i - z_j, \quad v_{ij} = z_i - B e^s_j, \quad
        g(u, v) = \exp(\langle u / |u|, v / |v| \rangle / \tau)

        L = \operatorname{mean}_{ij} \Big[
            - \log \frac{g(u_{ij}, v_{ij})}{g(u_{ij}, v_{ij}) + \sum_k g(u_{ij}, v_{ik})} \Big]

    Only B, a linear layer, is learned. (`CRRCDPaper` learns both relations, so that the teacher's may give way to the
    student.) `CRRCDMaps` is the same over the cells of a map.

    Args:
        tau: temperature.
        anchors: images i drawn per batch; 0, or more than the batch holds, takes all.
        same_class_negatives: whether images of j's class may be negatives. Without labels all images may.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim), label (B,), index (B,) -> scalar. A batch of 1 has no pair
        and a loss of 0, and so has a pair without a negative.
    """

    def __init__(
        self,
        teacher_dim: int,
        student_dim: int,
        *,
        tau: float = 0.1,
        anchors: int = 16,
        same_class_negatives: bool = False,
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        self.tau = demand("CRRCDImages", "tau", tau, tau > 0, "tau > 0")
        self.anchors = demand("CRRCDImages", "anchors", anchors, anchors >= 0, "anchors >= 0 (0 takes all)")
        self.same_class_negatives = same_class_negatives
        self.projection = nn.Linear(student_dim, teacher_dim, bias=False)

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        label = None if self.same_class_negatives else label
        anchor, pair, negatives = pairs_of(self.anchors, student, label, index)
        z = standardised(teacher, (0,))
        u = unit(z[anchor][:, None] - z, 1 / self.tau)
        v = unit(z[anchor][:, None] - self.projection(student))
        return mean_over(contrast(u @ v.transpose(1, 2), negatives, "softmax"), pair)
