"""Cross-resolution relational contrastive distillation."""

from typing import Literal

from torch import Tensor

from crossres.losses.base import demand
from crossres.losses.contrast import Relation, RelationalLoss


class CRRCDPaper(RelationalLoss):
    r"""Cross-resolution relational contrastive distillation (arXiv 2409.02555).

    For each pair of an anchor i and another sample j, the relation of the two teacher embeddings is pulled to
    the relation of the teacher's i and the student's j, and pushed from that of i and other samples k:

    .. math::
        v^t_{ij} = W_2\,\mathrm{relu}(W_1 (e^t_i - e^t_j)), \quad
        v^{ts}_{ij} = W'_2\,\mathrm{relu}(A e^t_i - B e^s_j), \quad
        h(u, v) = \sigma(\langle u / |u|, v / |v| \rangle / \tau)

        L = \operatorname{mean}_{ij} \Big[ -\log h(v^t_{ij}, v^{ts}_{ij})
            - \sum_k \log(1 - h(v^t_{ij}, v^{ts}_{ik})) \Big]

    Our reading, where the paper's details were not available: no pair i = j; neither i nor j is a negative of the
    pair (i, j); i runs over ``anchors`` samples, drawn anew at each call from torch's global generator; the teacher's
    module has one first layer for both embeddings, the cross-resolution module one for each; no layer has a bias; the
    mean runs over the pairs; every default below.

    Both relations are learned here (``--method crrcd-paper``). `CRRCDImages` and `CRRCDMaps`, which ``--method
    crrcd`` adds to cross-entropy, share one form. An anchor a of the teacher's is related to a sample x by
    :math:`a - e^t_x` and by :math:`a - B e^s_x`, and the softmax critic picks the latter among those of other
    samples. Only B is learned. Samples and anchors are images in the first; in the second they are cells and the mean
    of their image.

    Args:
        tau: temperature of the critic.
        width: width of a relation.
        hidden: width between the relation module's layers.
        depth: linear layers in a relation module, at least 1: 1 is ``A a_i - B b_j`` (of ``width``), 2 the form
            above, each further one adds relu and a hidden x hidden layer.
        anchors: anchors i drawn per batch; 0, or more than the batch holds, takes all.
        same_class_negatives: whether samples of j's class may be negatives. Without labels all samples may.
        critic: "sigmoid" as above, or "softmax": InfoNCE over j and its negatives.
        both_directions: add the same loss the other way: v^ts_ij is pulled to v^t_ij and pushed from the v^t_ik.
        reduction: of the sigmoid critic's negatives: "sum" as above; "mean" divides by their number, so that the two
            terms keep their balance at every batch size.

    Shapes:
        teacher (B, teacher_dim), student (B, student_dim), label (B,), index (B,) -> scalar. A batch of 1 has
        no pair and a loss of 0. Where a pair has no negative, the sigmoid critic keeps its first term and the
        softmax critic gives 0.
    """

    def __init__(
        self,
        teacher_dim: int,
        student_dim: int,
        *,
        tau: float = 0.1,
        width: int = 128,
        hidden: int = 128,
        depth: int = 2,
        anchors: int = 16,
        same_class_negatives: bool = False,
        critic: Literal["sigmoid", "softmax"] = "sigmoid",
        both_directions: bool = False,
        reduction: Literal["sum", "mean"] = "mean",
    ) -> None:
        super().__init__(teacher_dim, student_dim, tau, width, anchors, critic)
        demand("CRRCDPaper", "hidden", hidden, hidden >= 1, "hidden >= 1")
        demand("CRRCDPaper", "depth", depth, depth >= 1, "depth >= 1")
        self.reduction = demand("CRRCDPaper", "reduction", reduction, reduction in ("sum", "mean"), "'sum' or 'mean'")
        self.both_directions = both_directions
        self.same_class_negatives = same_class_negatives
        self.teacher_relation = Relation(teacher_dim, None, hidden, width, depth)
        self.cross_relation = Relation(teacher_dim, student_dim, hidden, width, depth)

    def compute(self, teacher: Tensor, student: Tensor, label: Tensor | None, index: Tensor | None) -> Tensor:
        return self.relate(teacher, student, None if self.same_class_negatives else label, index)
