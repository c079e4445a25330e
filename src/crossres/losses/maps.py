"""What the losses on feature maps share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.base import Loss, Shape, demand


class MapLoss(Loss):
    """A loss on feature maps, a pair of maps for each stage.

    Teacher and student see the scene at two resolutions, so the maps of a pair differ in size. All methods bring
    them to one size in the same way: ``match="pool"`` averages the larger one over the cells of the smaller one's
    grid (adaptive average pooling), ``match="bilinear"`` resizes it there (antialiased).

    Args:
        teacher_dim: (channels, height, width) of each of the teacher's maps, from the first stage to the last.
        student_dim: of the student's, as many.
        match: how a pair is brought to one size.

    Raises:
        ValueError: no stages, or a different number of them.
    """

    reads: ClassVar[str] = "features"

    def __init__(
        self,
        teacher_dim: Sequence[Shape],
        student_dim: Sequence[Shape],
        *,
        match: Literal["pool", "bilinear"] = "pool",
    ) -> None:
        super().__init__(0, 0)
        name = type(self).__name__
        demand(name, "match", match, match in ("pool", "bilinear"), "'pool' or 'bilinear'")
        if not student_dim or len(teacher_dim) != len(student_dim):
            raise ValueError(
                f"{name}: {len(teacher_dim)} maps of the teacher and {len(student_dim)} of the student, "
                "expected the same number, at least 1"
            )
        self.teacher_shapes = [tuple(shape) for shape in teacher_dim]
        self.student_shapes = [tuple(shape) for shape in student_dim]
        self.match = match
        #: (height, width) that each pair is compared at
        self.sizes = [
            (min(t[1], s[1]), min(t[2], s[2])) for t, s in zip(self.teacher_shapes, self.student_shapes, strict=True)
        ]

    def _batch_of(self, side: str, given: Any, size: int | None = None) -> int:
        shapes = self.teacher_shapes if side == "teacher" else self.student_shapes
        name = type(self).__name__
        if isinstance(given, Tensor) or len(given) != len(shapes):
            raise ValueError(f"{name}: {side} holds {len(given)} maps, expected a list of {len(shapes)}")
        size = len(given[0]) if size is None else size
        for stage, (tensor, shape) in enumerate(zip(given, shapes, strict=True)):
            # a teacher's map may come pooled already, from its cache
            pooled = (shape[0], *self.sizes[stage])
            if tuple(tensor.shape) not in ((size, *shape), (size, *pooled)):
                raise ValueError(f"{name}: {side} map {stage} is {tuple(tensor.shape)}, expected {(size, *shape)}")
        return size

    def _plain(self, teacher: Any, student: Any) -> tuple[Any, Any]:
        return (
            [resized(t.detach().float(), size, self.match) for t, size in zip(teacher, self.sizes, strict=True)],
            [resized(s.float(), size, self.match) for s, size in zip(student, self.sizes, strict=True)],
        )


class ProjectedMapLoss(MapLoss):
    """A loss on feature maps that has a way from the student's channels to the teacher's, for each pair of maps.

    Arguments and errors as of `MapLoss`.
    """

    def __init__(
        self,
        teacher_dim: Sequence[Shape],
        student_dim: Sequence[Shape],
        *,
        match: Literal["pool", "bilinear"] = "pool",
    ) -> None:
        super().__init__(teacher_dim, student_dim, match=match)
        self.projections = to_teachers_channels(self.teacher_shapes, self.student_shapes)


def to_teachers_channels(teacher: Sequence[Sequence[int]], student: Sequence[Sequence[int]]) -> nn.ModuleList:
    """Return for each pair of maps a 1x1 convolution to the teacher's channels, or nothing where they are equal."""
    return nn.ModuleList(
        nn.Identity() if t[0] == s[0] else nn.Conv2d(s[0], t[0], 1, bias=False)
        for t, s in zip(teacher, student, strict=True)
    )


def resized(maps: Tensor, size: tuple[int, int], match: str) -> Tensor:
    """Bring maps (B, C, h, w) to a size (height, width) as `MapLoss` declares it."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    if match == "pool":
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size, mode="bilinear", antialias=True, align_corners=False)
