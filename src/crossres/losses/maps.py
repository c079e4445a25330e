"""Losses on feature maps: a pair of maps for each stage, at one size."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import Loss, Shape

#: (channels, height, width) of each map of a network
Shapes = Sequence[Shape]
#: maps of a batch, (B, channels, height, width) each
Maps = Sequence[Tensor]


class MapLoss(Loss):
    """A loss on feature maps, a pair of maps for each stage.

    Teacher and student see the scene at two resolutions, so the maps of a pair differ in size. Every method compares
    them at the smaller one's size: the larger map is averaged over the cells of its grid (adaptive average pooling).

    Args:
        teacher_dim: (channels, height, width) of each of the teacher's maps, from the first stage to the last.
        student_dim: of the student's, as many.

    Shapes:
        built from lists of (C, H, W), called on lists of (B, C, H, W) -> scalar.

    Raises:
        ValueError: no stages, or a different number of them.
    """

    reads = "features"

    def __init__(self, teacher_dim: Shapes, student_dim: Shapes) -> None:
        super().__init__(0, 0)
        if not student_dim or len(teacher_dim) != len(student_dim):
            counts = f"{len(teacher_dim)} maps of the teacher and {len(student_dim)} of the student"
            raise ValueError(f"{type(self).__name__}: {counts}, expected the same number, at least 1")
        self.shapes = {"teacher": teacher_dim, "student": student_dim}
        pairs = list(zip(teacher_dim, student_dim, strict=True))
        #: channels of the teacher's and of the student's map of each pair
        self.channels = [(t[0], s[0]) for t, s in pairs]
        #: (height, width) that each pair is compared at
        self.sizes = [(min(t[1], s[1]), min(t[2], s[2])) for t, s in pairs]

    def _batch_of(self, side: str, given: Any, size: int | None = None) -> int:
        shapes, name = self.shapes[side], type(self).__name__
        if isinstance(given, Tensor) or len(given) != len(shapes):
            raise ValueError(f"{name}: {side} holds {len(given)} maps, expected a list of {len(shapes)}")
        size = len(given[0]) if size is None else size
        for stage, (tensor, shape, smallest) in enumerate(zip(given, shapes, self.sizes, strict=True)):
            # a teacher's map may come averaged already, from its cache
            high, low = (size, *shape), (size, shape[0], *smallest)
            if tensor.ndim != 4 or not all(a <= b <= c for a, b, c in zip(low, tensor.shape, high, strict=True)):
                raise ValueError(f"{name}: {side} map {stage} is {tuple(tensor.shape)}, expected {high}")
        return size

    def _plain(self, teacher: Any, student: Any) -> tuple[Any, Any]:
        return (
            [pooled(t.detach().float(), size) for t, size in zip(teacher, self.sizes, strict=True)],
            [pooled(s.float(), size) for s, size in zip(student, self.sizes, strict=True)],
        )


class ProjectedMapLoss(MapLoss):
    """A `MapLoss` with 1x1 convolutions from the student's channels to the teacher's, where they differ."""

    def __init__(self, teacher_dim: Shapes, student_dim: Shapes) -> None:
        super().__init__(teacher_dim, student_dim)
        self.projections = nn.ModuleList(
            nn.Identity() if wide == narrow else nn.Conv2d(narrow, wide, 1, bias=False)
            for wide, narrow in self.channels
        )


def pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average maps (B, C, h, w) over the cells of a grid of (height, width)."""
    return maps if tuple(maps.shape[2:]) == tuple(size) else F.adaptive_avg_pool2d(maps, size)
