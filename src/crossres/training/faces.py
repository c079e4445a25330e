"""Faces: an embedding, judged by verification and identification of people it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossres.config.experiment import Experiment
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.data.faces import draw_pairs, first_image_search, hold_out_people, images_in_both, overlap
from crossres.data.images import ImageSet, left_out
from crossres.data.loader import Loader
from crossres.data.pairs import Pairs, read_pairs
from crossres.data.readers import read_unlabelled
from crossres.data.splits import SPLIT_SEED, OwnSplits
from crossres.evaluation.identification import identify
from crossres.evaluation.outputs import embed
from crossres.evaluation.verification import best_threshold, similarities, verify
from crossres.losses.options import needs_label, reads
from crossres.models.encoder import Encoder
from crossres.training.task import Autocast, Task, read_split


class FaceTask(Task):
    """Low-resolution faces on both sides: pairs of people held out choose the epoch and the threshold.

    Args:
        config: says where the pairs come from.
    """

    chosen_by = "val_auc"
    compared_by = "accuracy"

    def __init__(self, config: Experiment) -> None:
        super().__init__(config)
        assert config.faces is not None
        self.faces = config.faces
        self.val_pairs: Pairs | None = None
        self.test_pairs: Pairs | None = None
        self.in_both = 0
        self.images_in_both = 0

    def images(self, config: Experiment, progress: Progress) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        if config.images.classes is not None:
            raise CrossresError("images.classes does not apply to people; leave it out")
        train_set, test_set = read_people(config)
        unlabelled = None
        if self.faces.unlabelled:
            needing = [name for name in config.terms if needs_label(name) or reads(name) == "logits"]
            if needing:
                raise CrossresError(f"losses.{needing[0]}: needs people's names, and unlabelled images have none")
            images = config.images
            unlabelled = read_unlabelled(
                self.faces.unlabelled,
                image_column=images.image_column,
                corrupt=images.corrupt,
                memory_mb=images.memory_mb,
            )
        read = {"train": train_set, "test": test_set} | ({"unlabelled": unlabelled} if unlabelled else {})
        for lines in left_out(read):
            progress.say(lines)
        self.in_both, line = overlap(train_set, test_set, config.data)
        if line:
            progress.say(line)
        if unlabelled is None:
            train_set, val_set = hold_out_people(train_set, config.train.val_fraction, SPLIT_SEED)
            assert val_set is not None  # val_fraction is above 0
        else:
            shown = images_in_both(unlabelled, test_set)
            self.images_in_both = len(shown)
            if shown:
                progress.say(
                    f"{self.faces.unlabelled}: {len(shown)} images are test images, first {shown[0]}: the test will "
                    "look better than it is"
                )
            train_set, val_set = unlabelled, train_set
        self.val_pairs = draw_pairs(val_set, self.faces.val_pairs, SPLIT_SEED, folds=1)
        pairs = self.faces.pairs
        self.test_pairs = (
            read_pairs(pairs, test_set) if pairs else draw_pairs(test_set, self.faces.val_pairs, SPLIT_SEED)
        )
        return train_set, val_set, test_set

    def classes(self, config: Experiment, train: ImageSet) -> Sequence[str]:
        return train.classes if any(reads(name) == "logits" for name in config.terms) else ()

    def validate(self, encoder: Encoder, val: Loader, autocast: Autocast) -> dict[str, float]:
        assert self.val_pairs is not None
        embedding = embed(encoder, val, autocast)
        verified = verify(embedding, embedding, self.val_pairs, resamples=0)
        return {"val_auc": verified["auc"], "val_accuracy": verified["accuracy_best"]}

    def judge(self, encoder: Encoder, test: Loader, val: Loader | None, autocast: Autocast) -> dict[str, Any]:
        assert self.test_pairs is not None
        embedding = embed(encoder, test, autocast)
        assert val is not None
        assert self.val_pairs is not None
        chooses = embed(encoder, val, autocast)
        threshold = best_threshold(similarities(chooses, chooses, self.val_pairs), self.val_pairs.same)
        verified = verify(embedding, embedding, self.test_pairs, threshold=threshold)
        result: dict[str, Any] = {
            "accuracy": verified["accuracy_chosen"],
            "right": verified.pop("right"),
            "tests": len(self.test_pairs),
            "auc": verified["auc"],
            "eer": verified["eer"],
            "verification": verified,
            "people_in_both": self.in_both,
            "images_in_both": self.images_in_both,
        }
        # a list of pairs can name images of people who have one each
        if test.images.class_counts.max() > 1:
            identified = identify(embedding, embedding, first_image_search(test.images))
            result |= {"rank1": identified["rank1"], "identification": identified}
        return result

    def summary(self, result: dict[str, Any]) -> str:
        last, best = (
            f"{result[f'accuracy_{which}']:.2f} % accuracy, {result[f'auc_{which}']:.2f} % AUC"
            for which in ("last", "best_val")
        )
        return f"test pairs {last} (last epoch), {best} (best on validation)"


def read_people(config: Experiment) -> tuple[ImageSet, ImageSet]:
    """Return training and test images; of a source without splits of its own no person is in both."""
    try:
        whole = read_split(config, "all", open_set=True)
    except OwnSplits:
        train_set, test_set = (read_split(config, split, open_set=True) for split in ("train", "test"))
        return train_set, test_set
    train_set, held_out = hold_out_people(whole, config.images.test_fraction, SPLIT_SEED)
    assert held_out is not None  # test_fraction is above 0
    return train_set, held_out
