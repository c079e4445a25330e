"""Objects: a classifier, judged by top-1 and top-5 accuracy."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from crossres.config.experiment import Distill
from crossres.core.errors import CrossresError
from crossres.core.files import encode_bits
from crossres.core.progress import Progress
from crossres.data.groups import groups_in_both, groups_of_several_classes, independent
from crossres.data.images import ImageSet, left_out
from crossres.data.loader import Loader
from crossres.data.splits import SPLIT_SEED, require_classes, stratified_split
from crossres.evaluation.accuracy import beside_top1, commonest_share, measure, right_at_k
from crossres.evaluation.prepare import Autocast, logits_of, read_split
from crossres.evaluation.statistics import calibrate
from crossres.losses.options import reads
from crossres.models.encoder import Encoder
from crossres.training.natural import with_natural
from crossres.training.task import ImageSets, Task, saved

#: Training images held out for validation, at most: more say little more, and each has its logits in memory.
MOST_HELD_OUT = 50_000


class Classification(Task):
    """Objects: a classifier, judged by top-1 and top-5 accuracy."""

    chosen_by = "val_top1"
    compared_by = "top1"

    def images(self, progress: Progress) -> ImageSets:
        train_set, test_set = read_split(self.config, "train"), read_split(self.config, "test")
        require_classes(train_set)
        lines = [*left_out({"train": train_set, "test": test_set}), groups_in_both(train_set, test_set)]
        for line in [*lines, groups_of_several_classes(train_set)]:
            if line:
                progress.say(line)
        sets = ImageSets(train_set, None, test_set)
        if self.config.train.val_fraction > 0:
            share = min(self.config.train.val_fraction, MOST_HELD_OUT / len(train_set))
            groups = train_set.groups
            kept, held_out = stratified_split(train_set.labels, share, SPLIT_SEED, groups=groups)
            if groups is not None and not len(held_out):
                raise CrossresError(
                    f"{train_set.name}: no class has a second group to hold out for validation; change images.group, "
                    "or set train.val_fraction to 0"
                )
            if len(held_out):
                sets = ImageSets(train_set.subset(kept), train_set.subset(held_out), test_set)
        if isinstance(self.config, Distill) and self.config.natural:
            return with_natural(sets, self.config, progress)
        return sets

    def classes(self, train: ImageSet) -> Sequence[str]:
        return train.classes

    def validates(self, progress: Progress) -> bool:
        trained = any(reads(name) == "logits" for name in self.config.terms)
        if not trained:
            progress.say(
                "no loss reads the logits, so the classifier stays untrained: its accuracy says nothing and the last "
                "epoch is kept; give losses.ce or losses.kd a weight for a classifier"
            )
        return trained

    def validate(self, encoder: Encoder, val: Loader, autocast: Autocast) -> dict[str, float]:
        numbers = measure(logits_of(encoder, val, autocast), val.label)
        return {f"val_{name}": number for name, number in numbers.items()}

    def judge(self, encoder: Encoder, test: Loader, val: Loader | None, autocast: Autocast) -> dict[str, Any]:  # noqa: ARG002
        logits = logits_of(encoder, test, autocast)
        right = encode_bits(right_at_k(logits, test.label).cpu())
        return {**measure(logits, test.label), "commonest": commonest_share(test.label), "right": right}

    def calibrate(self, encoder: Encoder, val: Loader | None) -> dict[str, Any]:
        if val is None:
            return {"confidence": None}
        logits = logits_of(encoder, val)  # in float32, as it is deployed
        alone = torch.from_numpy(independent(val.images))
        shares, right = logits.softmax(1).amax(1).cpu(), right_at_k(logits, val.label).cpu()
        return {"confidence": asdict(calibrate(shares[alone], right[alone]))}

    def summary(self, result: dict[str, Any]) -> str:
        beside = beside_top1(result, "_best_val")
        return f"test {saved('top-1 {:.2f} %', result, ['top1'])}{'; ' * bool(beside)}{beside}"
