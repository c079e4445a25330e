"""Knowledge review."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import demand
from crossres.losses.maps import MapLoss, Maps, Shapes

#: Sides of the pooled levels of the hierarchical context loss, beside the map itself.
LEVELS = (4, 2, 1)


class Fusion(nn.Module):
    """Attention-based fusion of a stage's map (of ``width`` channels) with the map handed up from the deeper stages.

    ``middle`` channels are handed to the shallower stage, ``out`` are the teacher's map's; the deepest stage has
    nothing to fuse with.
    """

    def __init__(self, width: int, middle: int, out: int, fuses: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(width, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.leave = nn.Sequential(nn.Conv2d(middle, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.attention = nn.Conv2d(2 * middle, 2, 1) if fuses else None

    def forward(self, maps: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the map to compare (B, out, H, W) and what the shallower stage gets (B, middle, H, W)."""
        x = self.enter(maps)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, x.shape[2:], mode="nearest")
            share = torch.sigmoid(self.attention(torch.cat([x, deeper], dim=1)))
            x = x * share[:, :1] + deeper * share[:, 1:]
        return self.leave(x), x


class ReviewKD(MapLoss):
    r"""Knowledge review (arXiv 2104.09044): a stage of the teacher teaches that stage and the deeper ones.

    From the deepest stage to the first, the student's map is fused with the rest of the deeper stages
    (:class:`Fusion`) and compared with the teacher's at several scales (hierarchical context loss):

    .. math::
        L = \sum_{\text{stages}} \frac{\sum_l w_l \operatorname{mean} (P_l F^t - P_l G^s)^2}{\sum_l w_l}

    with P_l the map itself (w = 1) and its averages over grids of side 4, 2 and 1, as far as they are smaller than
    the map, with w = 1/2, 1/4, 1/8. Ours: without the embedding, which the paper reviews as a last stage; maps behind
    a stage's last ReLU, not before. Published weight for CIFAR-100 0.6 to 8 (5 for resnet32x4 to resnet8x4), rising
    over the first 20 epochs.

    Args:
        width: channels handed from stage to stage; 0 takes the student's widest map's, at most 512.
    """

    def __init__(self, teacher_dim: Shapes, student_dim: Shapes, *, width: int = 0) -> None:
        super().__init__(teacher_dim, student_dim)
        demand("ReviewKD", "width", width, width >= 0, "width >= 0")
        middle = width or min(512, max(narrow for _, narrow in self.channels))
        last = len(self.sizes) - 1
        self.fusions = nn.ModuleList(
            Fusion(narrow, middle, wide, fuses=stage < last) for stage, (wide, narrow) in enumerate(self.channels)
        )

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        loss = student[0].new_zeros(())
        deeper: Tensor | None = None
        for stage in reversed(range(len(student))):
            compared, deeper = self.fusions[stage](student[stage], deeper)
            loss = loss + _at_all_scales(compared, teacher[stage])
        return loss


def _at_all_scales(student: Tensor, teacher: Tensor) -> Tensor:
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for level in LEVELS:
        if level < student.shape[2]:
            weight /= 2
            total += weight
            a, b = (F.adaptive_avg_pool2d(x, level) for x in (student, teacher))
            loss = loss + weight * F.mse_loss(a, b)
    return loss / total
