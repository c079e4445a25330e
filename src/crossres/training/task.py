"""What a run is for, and what it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from crossres.config.experiment import Experiment
from crossres.core.progress import Progress
from crossres.data.groups import independent
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.data.natural import NaturalPairs
from crossres.evaluation.prepare import Autocast
from crossres.models.cache import TeacherCache
from crossres.models.encoder import Encoder
from crossres.training.distiller import Distiller


class ImageSets(NamedTuple):
    """The images of a run."""

    train: ImageSet
    val: ImageSet | None  #: held out to choose the epoch
    test: ImageSet
    natural: ImageSet | None = None  #: trained on beside, small by nature
    natural_val: bool = False  #: whether those of ``val`` are small by nature, too


def named_sets(sets: ImageSets) -> dict[str, ImageSet]:
    """Return the sets that a run has, by name."""
    return {name: images for name, images in sets._asdict().items() if isinstance(images, ImageSet)}


def saved(numbers: str, result: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the numbers of these names of the epoch that is saved, and of the last one where that is another."""
    last, best = (numbers.format(*(result[f"{name}_{which}"] for name in names)) for which in ("last", "best_val"))
    if (epoch := result["best_epoch"]) == result["epochs"]:
        return f"{last} (last epoch)"
    return f"{best} (epoch {epoch}, better on validation and saved), {last} (last epoch)"


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
    def images(self, progress: Progress) -> ImageSets:
        """Read the training images, those held out to choose the epoch, and those of the test."""

    @abstractmethod
    def classes(self, train: ImageSet) -> Sequence[str]:
        """Return the classes of the student's classifier; none for an encoder without one."""

    def validates(self, progress: Progress) -> bool:  # noqa: ARG002
        """Whether the losses train what `validate` looks at; the progress says so where they do not."""
        return True

    @abstractmethod
    def validate(self, encoder: Encoder, val: Loader, autocast: Autocast) -> dict[str, float]:
        """Judge an epoch: numbers by names that begin with ``val_``, `chosen_by` among them; larger is better."""

    def cases(self, val: Loader) -> int:
        """Return how many independent cases `validate` counts, which say how much of a difference is chance."""
        return len(independent(val.images))

    @abstractmethod
    def judge(self, encoder: Encoder, test: Loader, val: Loader | None, autocast: Autocast) -> dict[str, Any]:
        """Measure the trained encoder on the test images, for ``result.json``; ``val`` may choose thresholds."""

    @abstractmethod
    def calibrate(self, encoder: Encoder, val: Loader | None) -> dict[str, Any]:
        """Return what travels with the model of how sure its answers are.

        ``confidence``, a `crossres.evaluation.statistics.Confidence` as a dict or None; of faces ``pairs``, a list of
        `PairThreshold` there, each as a dict.
        """

    @abstractmethod
    def summary(self, result: dict[str, Any]) -> str:
        """Return a finished run in a line."""


@dataclass
class PreparedRun:
    """Everything a run needs, read and checked before its first step."""

    config: Experiment
    epochs: int
    task: Task
    student: Encoder
    teacher: Encoder | None
    cache: TeacherCache | None
    distiller: Distiller
    train: Loader | NaturalPairs
    val: Loader | None
    test: Loader
    facts: dict[str, Any]
