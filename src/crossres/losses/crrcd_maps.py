"""Cross-resolution relational contrastive distillation inside an image: the relations of its cells."""

from typing import Any

import torch
from torch import Tensor, nn

from crossres.losses.base import demand
from crossres.losses.contrast import contrast, different
from crossres.losses.geometry import standardised, unit
from crossres.losses.maps import MapLoss, Maps, Shapes, pooled


class CRRCDMaps(MapLoss):
    r"""CRRCD's relations inside an image (ours, after arXiv 2409.02555): of each cell of a map to its image.

    With :math:`z_{ip}` the teacher's map at cell p of image i, each channel standardised over the batch, and
    :math:`a_i` its mean over the cells, the teacher's relation of the two is pulled to that of :math:`a_i` and the
    student's cell :math:`e^s_{ip}`. It is pushed from those of the image's other cells q, and from those of the same
    cell of other images k of i's group, by default of other classes, as the batch is dealt into groups:

    .. math::
        u_{ip} = a_i - z_{ip}, \quad v_{ip} = a_i - (B e^s)_{ip}, \quad
        g(u, v) = \exp(\langle u / |u|, v / |v| \rangle / \tau)

        L = \operatorname{mean}_{\text{stages}} \operatorname{mean}_{ip} \Big[
            - \tfrac12 \log \frac{g(u_{ip}, v_{ip})}{g(u_{ip}, v_{ip}) + \sum_q g(u_{ip}, v_{iq})}
            - \tfrac12 \log \frac{g(u_{ip}, v_{ip})}{g(u_{ip}, v_{ip}) + \sum_k g(u_{ip}, v_{kp})} \Big]

    B is a 3x3 convolution of each stage; nothing else is learned. A stage that is compared at one cell is left out.
    Relating cells to nothing instead of :math:`a_i` came to the same on test images (results/anchor).

    Args:
        tau: temperature.
        cells: largest side of the grid of cells, from 2; a larger map is averaged over it.
        group: least images of a group, from 2; 0, or more than the batch holds, makes one of all. Images left over
            are contrasted inside the image alone.
        same_class_negatives: whether images of i's class may be negatives. Without labels all images may.

    Raises:
        ValueError: every stage is compared at one cell, too.
    """

    def __init__(
        self,
        teacher_dim: Shapes,
        student_dim: Shapes,
        *,
        tau: float = 0.1,
        cells: int = 8,
        group: int = 16,
        same_class_negatives: bool = False,
    ) -> None:
        super().__init__(teacher_dim, student_dim)
        self.tau = demand("CRRCDMaps", "tau", tau, tau > 0, "tau > 0")
        demand("CRRCDMaps", "cells", cells, cells >= 2, "cells >= 2")
        self.group = demand("CRRCDMaps", "group", group, group == 0 or group >= 2, "group >= 2, or 0")
        self.sizes = [(min(height, cells), min(width, cells)) for height, width in self.sizes]
        self.stages = [stage for stage, size in enumerate(self.sizes) if size != (1, 1)]
        if not self.stages:
            raise ValueError("CRRCDMaps: every map is of one cell; take a larger lr_size or --method crrcd-images")
        self.same_class_negatives = same_class_negatives
        widths = [self.channels[stage] for stage in self.stages]
        self.projections = nn.ModuleList(nn.Conv2d(narrow, wide, 3, padding=1, bias=False) for wide, narrow in widths)

    def _plain(self, teacher: Any, student: Any) -> tuple[Any, Any]:
        # the convolution takes the student's maps as they are
        return [t.detach() for t in teacher], student

    def compute(self, teacher: Maps, student: Maps, label: Tensor | None, index: Tensor | None) -> Tensor:
        size, device = len(student[0]), student[0].device
        groups = max(1, size // self.group) if self.group else 1
        group = size // groups
        _, others = different(student[0], None if self.same_class_negatives else label, index)
        # image i is of group i % groups, since those of a class may lie side by side; (groups, group, group)
        others = others[: groups * group, : groups * group].view(group, groups, group, groups)
        others = others.diagonal(dim1=1, dim2=3).permute(2, 0, 1)
        loss = torch.zeros((), device=device)
        for stage, project in zip(self.stages, self.projections, strict=True):
            # (images, cells, channels), in this order in memory, too: several times as fast
            z = standardised(pooled(teacher[stage].float(), self.sizes[stage]).flatten(2).mT.contiguous(), (0, 1))
            mean = z.mean(1, keepdim=True)
            # the convolution is most of the cost, and the only part that does without float32
            with torch.autocast(device.type, self.layer_dtype, enabled=self.layer_dtype != torch.float32):
                projected = project(pooled(student[stage], self.sizes[stage]).to(self.layer_dtype))
            u = unit(mean - z, 1 / self.tau)
            v = unit(mean - projected.float().flatten(2).mT)
            other_cells = ~torch.eye(u.shape[1], dtype=torch.bool, device=device)
            inside = contrast(u @ v.transpose(1, 2), other_cells, "softmax")
            # (cells, groups, images of a group, channels)
            u, v = (x[: groups * group].reshape(group, groups, *x.shape[1:]).permute(2, 1, 0, 3) for x in (u, v))
            across = contrast(u @ v.transpose(2, 3), others, "softmax")
            loss = loss + (inside.mean() + across.mean()) / 2
        return loss / len(self.stages)
