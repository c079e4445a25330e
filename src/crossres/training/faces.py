"""Faces: an embedding, judged by verification and identification of people it was not trained on."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from crossres.config.experiment import Experiment
from crossres.config.options import how_unlabelled
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.data.faces import Pairs, draw_pairs, first_image_search, read_pairs
from crossres.data.groups import groups_in_both, groups_of_several_classes
from crossres.data.images import ImageSet, left_out
from crossres.data.loader import Loader
from crossres.data.readers import read_unlabelled
from crossres.data.splits import SPLIT_SEED, OwnSplits, hold_out_people, overlap
from crossres.evaluation.identification import identify
from crossres.evaluation.prepare import Autocast, embeddings_of, read_split
from crossres.evaluation.verification import best_threshold, calibrate_pairs, similarities, verify
from crossres.losses.options import needs_label, reads
from crossres.models.encoder import Encoder
from crossres.training.task import ImageSets, Task, saved

#: Held-out images all pairs of which calibrate the threshold that travels with a model, at most.
CALIBRATION = 3000


class FaceTask(Task):
    """Low-resolution faces on both sides: pairs of people held out choose the epoch and the threshold."""

    chosen_by = "val_auc"
    compared_by = "accuracy"
    #: what `images` draws or reads, and counts
    val_pairs: Pairs
    test_pairs: Pairs
    in_both = 0

    def images(self, progress: Progress) -> ImageSets:
        config, how, faces = self.config, self.config.images, self.config.faces
        assert faces is not None
        if how.classes is not None:
            raise CrossresError("images.classes does not apply to people; leave it out")
        train_set, test_set = read_people(config)
        read = {"train": train_set, "test": test_set}
        if faces.unlabelled:
            needing = [name for name in config.terms if needs_label(name) or reads(name) == "logits"]
            if needing:
                raise CrossresError(f"losses.{needing[0]}: needs people's names; remove this loss or `unlabelled`")
            read["unlabelled"] = read_unlabelled(faces.unlabelled, **how_unlabelled(how))
        for line in left_out(read):
            progress.say(line)
        self.in_both, warning = overlap(train_set, test_set, config.data)
        shared = [groups_in_both(images, test_set) for name, images in read.items() if name != "test"]
        for shown in filter(None, (warning, *shared, groups_of_several_classes(train_set))):
            progress.say(shown)
        val_set: ImageSet | None = train_set
        if faces.unlabelled:
            train_set = read["unlabelled"]
        else:
            train_set, val_set = hold_out_people(train_set, config.train.val_fraction, SPLIT_SEED)
        assert val_set is not None  # val_fraction is above 0
        self.val_pairs = draw_pairs(val_set, faces.val_pairs, SPLIT_SEED, folds=1)
        if faces.pairs:
            self.test_pairs = read_pairs(faces.pairs, test_set)
        else:
            self.test_pairs = draw_pairs(test_set, faces.val_pairs, SPLIT_SEED)
        return ImageSets(train_set, val_set, test_set)

    def classes(self, train: ImageSet) -> Sequence[str]:
        return train.classes if any(reads(name) == "logits" for name in self.config.terms) else ()

    def validate(self, encoder: Encoder, val: Loader, autocast: Autocast) -> dict[str, float]:
        embedding = embeddings_of(encoder, val, autocast)
        verified = verify(embedding, embedding, self.val_pairs, resamples=0)
        return {"val_auc": verified["auc"], "val_accuracy": verified["accuracy_best"]}

    def cases(self, val: Loader) -> int:
        same = int(self.val_pairs.same.sum())
        return min(same, len(self.val_pairs) - same, len(np.unique(val.images.labels)))

    def judge(self, encoder: Encoder, test: Loader, val: Loader | None, autocast: Autocast) -> dict[str, Any]:
        assert val is not None
        embedding, chooses = (embeddings_of(encoder, loader, autocast) for loader in (test, val))
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
        }
        # a list of pairs can name images of people who have one each
        if test.images.class_counts.max() > 1:
            identified = identify(embedding, embedding, first_image_search(test.images))
            result |= {"rank1": identified["rank1"], "identification": identified}
        return result

    def calibrate(self, encoder: Encoder, val: Loader | None) -> dict[str, Any]:
        assert val is not None
        label = val.images.labels[:CALIBRATION]
        thresholds = calibrate_pairs(
            embeddings_of(encoder, val)[:CALIBRATION], label
        )  # in float32, as it is deployed
        return {"pairs": [asdict(threshold) for threshold in thresholds]}

    def summary(self, result: dict[str, Any]) -> str:
        return f"test pairs {saved('{:.2f} % accuracy, {:.2f} % AUC', result, ['accuracy', 'auc'])}"


def read_people(config: Experiment) -> tuple[ImageSet, ImageSet]:
    """Return training and test images; of a source without splits of its own no person is in both."""
    try:
        whole = read_split(config, "all", open_set=True)
    except OwnSplits:
        train_set, test_set = (read_split(config, split, open_set=True) for split in ("train", "test"))
        return train_set, test_set
    train_set, held_out = hold_out_people(whole, config.images.test_fraction, SPLIT_SEED, "images.test_fraction")
    assert held_out is not None  # test_fraction is above 0
    return train_set, held_out
