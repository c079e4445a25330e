"""What a run is for: which images it holds out, when an epoch is better, what is measured at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from crossres.config import Teach
from crossres.data.images import ImageSet, left_out
from crossres.data.loader import Loader
from crossres.data.readers import read
from crossres.data.splits import Split, require_classes, stratified_split
from crossres.evaluate.classification import predict
from crossres.losses import LOSSES
from crossres.metrics import right_at_1, topk_accuracy
from crossres.models.encoder import Encoder
from crossres.progress import Progress
from crossres.results import pack

Autocast = Callable[[], AbstractContextManager[Any]]
#: The validation split is the same for every training seed: runs are paired and share the teacher's cache.
SPLIT_SEED = 0


class Task(ABC):
    """One of the jobs that an encoder is trained for."""

    #: the entry of `validate` that chooses the best epoch
    chosen_by: ClassVar[str]

    @abstractmethod
    def images(self, config: Teach, progress: Progress) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        """Read the training images, those held out to choose the epoch, and those of the test."""

    @abstractmethod
    def classes(self, config: Teach, train: ImageSet) -> Sequence[str]:
        """Return the classes of the student's classifier; none for an encoder without one."""

    def validates(self, losses: Collection[str], progress: Progress) -> bool:  # noqa: ARG002
        """Whether the losses train what `validate` looks at; says so where they do not."""
        return True

    @abstractmethod
    def validate(self, encoder: Encoder, val: Loader, autocast: Autocast) -> dict[str, float]:
        """Judge an epoch: numbers by names that begin with ``val_``, `chosen_by` among them; larger is better."""

    @abstractmethod
    def judge(self, encoder: Encoder, test: Loader, autocast: Autocast) -> dict[str, Any]:
        """Measure the trained encoder on the test images: what ``result.json`` holds."""

    @abstractmethod
    def said(self, result: dict[str, Any]) -> str:
        """Return a finished run in a line."""


class Classification(Task):
    """Objects: a classifier, judged by top-1 and top-5 accuracy."""

    chosen_by = "val_top1"

    def images(self, config: Teach, progress: Progress) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        train_set, test_set = (read_split(config, split) for split in ("train", "test"))
        if config.images.classes is not None:
            train_set = train_set.of_classes(config.images.classes)
            test_set = test_set.of_classes(config.images.classes)
            require_classes(train_set)
        for lines in left_out({"train": train_set, "test": test_set}):
            progress.say(lines)
        val_set: ImageSet | None = None
        if config.train.val_fraction > 0:
            kept, held_out = stratified_split(train_set.labels, config.train.val_fraction, SPLIT_SEED)
            if len(held_out):
                train_set, val_set = train_set.subset(kept), train_set.subset(held_out)
        return train_set, val_set, test_set

    def classes(self, config: Teach, train: ImageSet) -> Sequence[str]:  # noqa: ARG002
        return train.classes

    def validates(self, losses: Collection[str], progress: Progress) -> bool:
        trained = any(LOSSES[name].reads == "logits" for name in losses)
        if not trained:
            progress.say(
                "no loss reads the logits, so the classifier stays untrained: its accuracy says nothing and the last "
                "epoch is kept; give losses.ce or losses.kd a weight for a classifier"
            )
        return trained

    def validate(self, encoder: Encoder, val: Loader, autocast: Autocast) -> dict[str, float]:
        logits = predict(encoder, val, autocast)
        return {"val_top1": topk_accuracy(logits, val.label), "val_top5": topk_accuracy(logits, val.label, 5)}

    def judge(self, encoder: Encoder, test: Loader, autocast: Autocast) -> dict[str, Any]:
        logits = predict(encoder, test, autocast)
        return {
            "top1": topk_accuracy(logits, test.label),
            "top5": topk_accuracy(logits, test.label, 5),
            "right": pack(right_at_1(logits, test.label)),
        }

    def said(self, result: dict[str, Any]) -> str:
        return (
            f"test top-1 {result['top1_last']:.2f} % (last epoch), "
            f"{result['top1_best_val']:.2f} % (best on validation)"
        )


def read_split(config: Teach, split: Split, *, open_set: bool = False) -> ImageSet:
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
