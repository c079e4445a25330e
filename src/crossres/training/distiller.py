"""Student, losses and their weights as one module that returns named loss terms."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor, nn

from crossres.config.schema import TERM
from crossres.core.errors import CrossresError
from crossres.core.types import Outputs
from crossres.losses import LOSSES
from crossres.losses.base import Loss, Shape
from crossres.models.encoder import Encoder

Gather = Callable[[Tensor], Tensor]


class LossError(CrossresError):
    """A loss that refused its input, such as NaN from a student whose training diverged.

    Attributes:
        name: of the loss.
        reason: its own message.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"losses.{name}: {reason}")
        self.name = name
        self.reason = reason


class Distiller(nn.Module):
    """The trained part of a distillation: the student and whatever its losses train with it.

    Args:
        student: reads LR images.
        losses: by name.
        weights: factor of each loss, by name.
        decaying: names of the losses whose factor falls linearly to 0 as ``progress`` goes from 0 to 1.
        warm_up: by name, the share of the training in which a loss's factor rises linearly from 0.
        gather: under DDP, joins a tensor's (B, ...) parts of all processes to (world B, ...), in the same
            order on each, with gradient; every loss then sees the global batch and no loss knows of processes.
    """

    def __init__(
        self,
        student: Encoder,
        losses: Mapping[str, Loss],
        weights: Mapping[str, float],
        decaying: Collection[str] = (),
        warm_up: Mapping[str, float] | None = None,
        gather: Gather | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.losses = nn.ModuleDict(losses)
        self.weights = dict(weights)
        self.decaying = frozenset(decaying)
        self.warm_up = {name: share for name, share in (warm_up or {}).items() if share > 0}
        #: share of the training that lies behind, 0..1; the loop keeps it
        self.progress = 0.0
        self.gather = gather

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss reads the teacher."""
        return any(bool(loss.needs_teacher) for loss in self.losses.values())

    def _pretraining(self) -> list[str]:
        """Return the names of the losses that are in a stage of their own."""
        return [n for n, loss in self.losses.items() if isinstance(loss, Loss) and self.progress < loss.pretrain]

    def forward(
        self, lr: Tensor, teacher: Outputs | None, label: Tensor, index: Tensor, aligned: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the loss terms, each times its weight, by name, and the student's logits (B, classes).

        Args:
            lr: (B, 3, h, w) in 0..1.
            teacher: the teacher's outputs of the same views; None where no loss reads them.
            label: (B,).
            index: (B,), positions in the training set.
            aligned: bool (B,), whether the teacher saw the very image, where not of all: losses on maps compare no
                other, as their cells do not lie on one another.

        Raises:
            LossError: a loss refused its input.
        """
        outputs: Outputs = self.student(lr)
        logits = outputs.logits
        if self.gather is not None:
            outputs = _gathered(outputs, self.gather)
            teacher = _gathered(teacher, self.gather) if teacher is not None else None
            label, index = self.gather(label), self.gather(index)
            aligned = None if aligned is None else self.gather(aligned.byte()).bool()
        maps = any(loss.reads == "features" for loss in self.losses.values())
        rows = aligned.nonzero().flatten() if aligned is not None and maps else None  # waits for a GPU
        terms = {}
        alone = self._pretraining()
        for name, loss in self.losses.items():
            assert isinstance(loss, Loss)
            loss.pretraining = name in alone
            of_teacher = _read(teacher, loss, rows) if teacher is not None and loss.needs_teacher else None
            own = rows if loss.reads == "features" and rows is not None else slice(None)
            try:
                term = loss(of_teacher, _read(outputs, loss, rows), label[own], index[own])
            except ValueError as error:
                raise LossError(name, str(error)) from error
            # a term that waits for another's pretraining counts 0: under DDP every parameter needs its gradient
            terms[name] = (float(name in alone) if alone else self._factor(name)) * term
        return terms, logits

    def _factor(self, name: str) -> float:
        """Return a loss's factor now; in a stage of its own, where it is all there is, it is 1 as published."""
        left = 1 - self.progress if name in self.decaying else 1.0
        risen = min(1.0, self.progress / self.warm_up[name]) if name in self.warm_up else 1.0
        return self.weights[name] * left * risen


def _read(outputs: Outputs, loss: Loss, rows: Tensor | None) -> Any:
    """Return what a loss reads: a tensor, or the list of maps, of some rows if not of all."""
    if loss.reads != "features":
        return getattr(outputs, loss.reads)
    return [maps if rows is None else maps[rows] for maps in outputs.features.values()]


def _gathered(outputs: Outputs, gather: Gather) -> Outputs:
    return Outputs(
        gather(outputs.embedding),
        None if outputs.logits is None else gather(outputs.logits),
        {path: gather(feature) for path, feature in outputs.features.items()},
    )


def build_losses(
    options: Mapping[str, Mapping[str, Any]],
    teacher: Encoder | None,
    student: Encoder,
    maps: tuple[list[Shape], list[Shape]] = ([], []),
) -> dict[str, Loss]:
    """Build each loss from its options and the two widths it reads.

    Args:
        options: by name of the loss.
        teacher: None where no loss reads one.
        student: the trained network.
        maps: shapes of the teacher's and the student's feature maps, for the losses that compare those.

    Raises:
        CrossresError: an option out of range, or widths the loss cannot join, naming the loss.
    """
    losses = {}
    for name, given in options.items():
        kind = LOSSES[name]
        widths: Any = [_width(encoder or student, kind.reads) for encoder in (teacher, student)]
        if kind.reads == "features":
            widths = maps
        if kind.reads == "logits" and kind.needs_teacher and teacher is not None and not teacher.classes:
            raise CrossresError(
                f"losses.{name}: the teacher has no logits; losses.similarity compares embeddings in the same way"
            )
        try:
            losses[name] = kind(*widths, **{k: v for k, v in given.items() if k not in TERM})
        except (ValueError, TypeError) as error:
            raise CrossresError(f"losses.{name}: {error}") from None
    return losses


def _width(encoder: Encoder, reads: str) -> int:
    return encoder.embedding_dim if reads == "embedding" else len(encoder.classes)
