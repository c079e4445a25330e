"""What a run is for, what it is made of, and what its training leaves behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from crossres.config.experiment import Experiment
from crossres.core.progress import Progress
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.data.readers import read
from crossres.data.splits import Split
from crossres.models.cache import TeacherCache
from crossres.models.encoder import Encoder
from crossres.training.distiller import Distiller

Autocast = Callable[[], AbstractContextManager[Any]]


class Task(ABC):
    """One of the jobs that an encoder is trained for."""

    #: the entry of `validate` that chooses the best epoch
    chosen_by: ClassVar[str]
    #: the entry of `judge` that methods are compared by; beside it ``right`` says of each test what was
    #: right, and ``tests`` how many there are where they are not the test images
    compared_by: ClassVar[str]

    def __init__(self, config: Experiment) -> None:
        self.config = config

    @abstractmethod
    def images(self, config: Experiment, progress: Progress) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        """Read the training images, those held out to choose the epoch, and those of the test."""

    @abstractmethod
    def classes(self, config: Experiment, train: ImageSet) -> Sequence[str]:
        """Return the classes of the student's classifier; none for an encoder without one."""

    def validates(self, losses: Collection[str], progress: Progress) -> bool:  # noqa: ARG002
        """Whether the losses train what `validate` looks at; the progress says so where they do not."""
        return True

    @abstractmethod
    def validate(self, encoder: Encoder, val: Loader, autocast: Autocast) -> dict[str, float]:
        """Judge an epoch: numbers by names that begin with ``val_``, `chosen_by` among them; larger is better."""

    @abstractmethod
    def judge(self, encoder: Encoder, test: Loader, val: Loader | None, autocast: Autocast) -> dict[str, Any]:
        """Measure the trained encoder on the test images, for ``result.json``; ``val`` may choose thresholds."""

    @abstractmethod
    def summary(self, result: dict[str, Any]) -> str:
        """Return a finished run in a line."""


@dataclass
class PreparedRun:
    """Everything a run needs, read and checked before its first step."""

    config: Experiment
    task: Task
    student: Encoder
    teacher: Encoder | None
    cache: TeacherCache | None
    distiller: Distiller
    train: Loader
    val: Loader | None
    test: Loader
    facts: dict[str, Any]


@dataclass
class History:
    """What a training leaves behind for its result."""

    last: dict[str, Tensor]
    best: dict[str, Tensor]
    best_epoch: int
    seconds: float
    images_per_second: float
    epochs: list[dict[str, Any]]


def read_split(config: Experiment, split: Split, *, open_set: bool = False) -> ImageSet:
    """Read a split of a config's images as its options say."""
    images = config.images
    return read(
        config.data,
        split=split,
        image_column=images.image_column,
        label_column=images.label_column,
        test_fraction=images.test_fraction,
        corrupt=images.corrupt,
        download=images.download,
        root=Path(images.root) if images.root else None,
        memory_mb=images.memory_mb,
        open_set=open_set,
    )
