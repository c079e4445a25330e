"""The one signature of every distillation loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.losses.options import demand

#: Options that every loss has beside its own: its factor, whether that falls to 0, the share in which it rises.
COMMON = ("weight", "decay", "warm_up")
#: channels, height and width of a feature map
Shape = tuple[int, int, int]


class Loss(nn.Module, ABC):
    """A loss built from the two widths it reads and called on teacher and student tensors.

    A subclass sets ``reads`` and writes :meth:`compute`; it knows tensors only: no configs, files, devices.
    Its own parameters (projections, relation modules) are trained with the student and then thrown away.

    Args:
        teacher_dim: width of what is read of the teacher (embedding size, or number of classes for logits).
        student_dim: width of what is read of the student.
    """

    #: which field of Outputs the loss reads on both sides
    reads: ClassVar[str] = "embedding"
    #: False where the loss ignores the teacher (then it may be called with teacher=None)
    needs_teacher: ClassVar[bool] = True
    #: True where the loss cannot be computed without labels
    needs_label: ClassVar[bool] = False

    def __init__(self, teacher_dim: int, student_dim: int) -> None:
        super().__init__()
        self.teacher_dim = teacher_dim
        self.student_dim = student_dim
        #: what the caller's autocast computes in; a loss may let its own layers do so
        self.layer_dtype = torch.float32
        #: share of the training, from its start, in which this loss trains alone; a loss with such a stage sets it
        self.pretrain: float = 0.0
        #: whether that stage is on; the caller keeps it
        self.pretraining = False

    def prepare(self, label: Tensor) -> None:
        """Get to know the training set once, before the first step (a bank allocates itself here).

        Args:
            label: (N,) labels of the whole training set, in the order of ``index``.
        """

    def forward(
        self,
        teacher: Any,
        student: Any,
        label: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """Check the shapes, leave autocast and compute in float32.

        Args:
            teacher: (B, teacher_dim), the frozen teacher's output; receives no gradient.
            student: (B, student_dim).
            label: (B,) int64, where the method needs it.
            index: (B,) int64, position of each sample in the training set, where the method keeps a bank.

        Returns:
            The loss, a float32 scalar.

        Raises:
            ValueError: shapes, widths, an empty batch, a missing argument or, on the CPU, input that is NaN
                or infinite; in one line.
        """
        name = type(self).__name__
        size = self._batch_of("student", student)
        if size == 0:
            raise ValueError(f"{name}: the batch is empty, expected at least one sample")
        if self.needs_teacher:
            if teacher is None:
                raise ValueError(f"{name}: needs the teacher's {self.reads}, got None")
            self._batch_of("teacher", teacher, size)
        if self.needs_label and label is None:
            raise ValueError(f"{name}: needs labels, got None")
        for argument, given in (("label", label), ("index", index)):
            if given is not None and given.shape != (size,):
                raise ValueError(f"{name}: {argument} is {tuple(given.shape)}, expected ({size},)")
            if given is not None and given.dtype != torch.int64:
                raise ValueError(f"{name}: {argument} is {given.dtype}, expected torch.int64")
        device = _tensors(student)[0].device.type
        for side, given in (("teacher", teacher if self.needs_teacher else None), ("student", student)):
            # On the CPU only: on a GPU the answer would have to be waited for at every step.
            if device == "cpu" and not all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(given)):
                raise ValueError(f"{name}: {side} {self.reads} holds NaN or infinity, expected finite numbers")
        low = torch.is_autocast_enabled(device)
        self.layer_dtype = torch.get_autocast_dtype(device) if low else torch.float32
        with torch.autocast(device, enabled=False):
            return self.compute(*self._plain(teacher, student), label, index)

    def _batch_of(self, side: str, given: Any, size: int | None = None) -> int:
        """Return the number of samples; refuse another shape than the one the loss is built for."""
        width = self.teacher_dim if side == "teacher" else self.student_dim
        if given.ndim != 2 or given.shape[1] != width or size not in (None, given.shape[0]):
            batch = "B" if size is None else size
            raise ValueError(f"{type(self).__name__}: {side} is {tuple(given.shape)}, expected ({batch}, {width})")
        return len(given)

    def _plain(self, teacher: Any, student: Any) -> tuple[Any, Any]:
        """Return both sides in float32, the teacher's without gradient."""
        return teacher.detach().float() if teacher is not None else None, student.float()

    @abstractmethod
    def compute(self, teacher: Any, student: Any, label: Any, index: Any) -> Tensor:
        """Return the loss; called in float32 outside autocast, with checked shapes."""


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


def at_rest(*modules: nn.Module) -> Tensor:
    """Return a 0 that gives the parameters of modules which rest their gradient, 0: DDP and fused SGD want one."""
    return 0 * torch.stack([p.sum() for module in modules for p in module.parameters()] or [torch.zeros(())]).sum()


def resized(maps: Tensor, size: tuple[int, int], match: str) -> Tensor:
    """Bring maps (B, C, h, w) to a size (height, width) as `MapLoss` declares it."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    if match == "pool":
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size, mode="bilinear", antialias=True, align_corners=False)


def _tensors(given: Any) -> Sequence[Tensor]:
    if given is None:
        return ()
    return (given,) if isinstance(given, Tensor) else given
