"""The one signature of every distillation loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


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

    def prepare(self, label: Tensor) -> None:
        """Get to know the training set once, before the first step (a bank allocates itself here).

        Args:
            label: (N,) labels of the whole training set, in the order of ``index``.
        """

    def forward(
        self,
        teacher: Tensor | None,
        student: Tensor,
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
        if student.ndim != 2 or student.shape[1] != self.student_dim:
            raise ValueError(f"{name}: student is {tuple(student.shape)}, expected (B, {self.student_dim})")
        if student.shape[0] == 0:
            raise ValueError(f"{name}: the batch is empty, expected at least one sample")
        if self.needs_teacher:
            if teacher is None:
                raise ValueError(f"{name}: needs the teacher's {self.reads}, got None")
            expected = (student.shape[0], self.teacher_dim)
            if teacher.shape != expected:
                raise ValueError(f"{name}: teacher is {tuple(teacher.shape)}, expected {expected}")
        if self.needs_label and label is None:
            raise ValueError(f"{name}: needs labels, got None")
        for argument, given in (("label", label), ("index", index)):
            if given is not None and given.shape != (student.shape[0],):
                raise ValueError(f"{name}: {argument} is {tuple(given.shape)}, expected ({student.shape[0]},)")
            if given is not None and given.dtype != torch.int64:
                raise ValueError(f"{name}: {argument} is {given.dtype}, expected torch.int64")
        for side, given in (("teacher", teacher if self.needs_teacher else None), ("student", student)):
            # On the CPU only: on a GPU the answer would have to be waited for at every step.
            if given is not None and given.device.type == "cpu" and not bool(torch.isfinite(given).all()):
                raise ValueError(f"{name}: {side} {self.reads} holds NaN or infinity, expected finite numbers")
        device = student.device.type
        low = torch.is_autocast_enabled(device)
        self.layer_dtype = torch.get_autocast_dtype(device) if low else torch.float32
        with torch.autocast(device, enabled=False):
            return self.compute(
                teacher.detach().float() if teacher is not None else None, student.float(), label, index
            )

    @abstractmethod
    def compute(self, teacher: Any, student: Tensor, label: Any, index: Any) -> Tensor:
        """Return the loss; called in float32 outside autocast, with checked shapes."""
