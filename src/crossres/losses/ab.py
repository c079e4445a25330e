"""Activation boundaries."""

from torch import Tensor, nn

from crossres.losses.base import demand
from crossres.losses.maps import MapLoss, Maps, Shapes


class AB(MapLoss):
    r"""Activation boundaries (arXiv 1811.03233): which neurons fire, not how strongly.

    .. math::
        L = \frac{3}{1000 B} \sum_n 2^{n - N} \sum
            \big[ (s + m)^2 [s > -m, t \le 0] + (s - m)^2 [s \le m, t > 0] \big]

    with t a teacher's map before its activation, s the student's through a connector (1x1 convolution and batch norm)
    and n = 1..N the stages. 3 / 1000 is the CRD benchmark's; published weight 1. It trains alone for the first
    ``pretrain`` of the run and is 0 afterwards.

    Name the modules just before an activation in ``stages``, such as a wide residual network's ``[block2.layer.0.bn1,
    block3.layer.0.bn1, bn1]`` and a resnet8x4's ``[layer1.0.joined, layer2.0.joined, layer3.0.joined]``. As a sum
    over the cells it weighs at 8x8 a sixteenth of what it does at 32x32. Outside a `Distiller`, set ``pretraining``
    to True in its stage.

    Args:
        margin: m.
        pretrain: share of the training in which it trains alone; published: 30 epochs before 240.
    """

    def __init__(
        self, teacher_dim: Shapes, student_dim: Shapes, *, margin: float = 1.0, pretrain: float = 0.125
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        self.margin = demand("AB", "margin", margin, margin > 0, "margin > 0")
        self.pretrain = demand("AB", "pretrain", pretrain, 0 < pretrain < 1, "0 < pretrain < 1")
        self.connectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(narrow, wide, 1, bias=False), nn.BatchNorm2d(wide))
            for wide, narrow in self.channels
        )

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        if not self.pretraining:
            return student[0].sum() * 0
        loss = student[0].new_zeros(())
        for stage, (t, s, connector) in enumerate(zip(teacher, student, self.connectors, strict=True)):
            s = connector(s)
            silent = (s + self.margin).square() * ((s > -self.margin) & (t <= 0))
            firing = (s - self.margin).square() * ((s <= self.margin) & (t > 0))
            loss = loss + (silent + firing).sum() / 2 ** (len(teacher) - 1 - stage)
        return loss * (3 / 1000 / len(student[0]))
