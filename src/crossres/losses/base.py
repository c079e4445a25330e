"""The one signature of every distillation loss."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

#: channels, height and width of a feature map
Shape = tuple[int, int, int]
Value = TypeVar("Value")


class Loss(nn.Module, ABC):
    """A loss built from the two widths it reads and called on teacher and student tensors.

    A subclass sets ``reads`` and writes :meth:`compute`; it knows tensors only: no configs, files, devices.
    Its own parameters (projections, relation modules) are trained with the student and then thrown away.

    Args:
        teacher_dim: width of what is read of the teacher (embedding size, or number of classes for logits).
        student_dim: width of what is read of the student.

    Raises:
        ValueError: an option out of its range, or class counts that differ where the loss compares class by class.
    """

    #: which field of Outputs the loss reads on both sides
    reads: ClassVar[str] = "embedding"
    #: False where the loss ignores the teacher (then it may be called with teacher=None)
    needs_teacher: ClassVar[bool] = True
    #: True where the loss cannot be computed without labels
    needs_label: ClassVar[bool] = False
    #: True where teacher and student must have the same classes
    same_classes: ClassVar[bool] = False

    def __init__(self, teacher_dim: int, student_dim: int) -> None:
        super().__init__()
        if self.same_classes and teacher_dim != student_dim:
            classes = f"teacher has {teacher_dim} classes and student {student_dim}"
            raise ValueError(f"{type(self).__name__}: {classes}, expected the same")
        self.teacher_dim = teacher_dim
        self.student_dim = student_dim
        #: what the caller's autocast computes in; a loss may let its own layers do so
        self.layer_dtype = torch.float32
        #: share of the training, from its start, in which this loss trains alone; a loss with such a stage sets it
        self.pretrain: float = 0.0
        #: whether that stage is on; the caller sets it
        self.pretraining = False

    def prepare(self, label: Tensor) -> None:
        """See the training set's labels (N,), in the order of ``index``, once before the first step (for a bank)."""

    def forward(self, teacher: Any, student: Any, label: Tensor | None = None, index: Tensor | None = None) -> Tensor:
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
            # on the CPU only: a GPU would have to be waited for at every step
            if device == "cpu" and not all(map(_is_finite, _tensors(given))):
                raise ValueError(f"{name}: {side} {self.reads} holds NaN or infinity, expected finite numbers")
        low = torch.is_autocast_enabled(device)
        self.layer_dtype = torch.get_autocast_dtype(device) if low else torch.float32
        with torch.autocast(device, enabled=False):
            loss = self.compute(*self._plain(teacher, student), label, index)
            if self.pretrain:  # parameters at rest get the gradient 0: DDP and fused SGD need one
                loss = loss + 0 * torch.stack([p.sum() for p in self.parameters()] or [torch.zeros(())]).sum()
        return loss

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
        """Return the loss; called outside autocast, with checked shapes, in float32 where `_plain` keeps to that."""


def _is_finite(tensor: Tensor) -> bool:
    # the sum is a tenth of the work, but that of large numbers may be infinite
    return bool(torch.isfinite(tensor.detach().sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())


def _tensors(given: Any) -> Sequence[Tensor]:
    if given is None:
        return ()
    return (given,) if isinstance(given, Tensor) else given


def demand(loss: str, option: str, value: Value, ok: bool, valid: str) -> Value:
    """Return the value of an option if ``ok``, else raise a one-line ``ValueError`` with the option's valid range."""
    if not ok:
        raise ValueError(f"{loss}: {option} is {value!r}, expected {valid}")
    return value


def demand_within(loss: str, name: str, index: Tensor, count: int) -> None:
    """Refuse an index outside 0..count - 1; on the CPU only: a GPU would have to be waited for at every step."""
    if index.device.type == "cpu" and not bool(((index >= 0) & (index < count)).all()):
        low, high = int(index.min()), int(index.max())
        raise ValueError(f"{loss}: {name} from {low} to {high}, expected 0..{count - 1}")
