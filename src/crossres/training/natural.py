"""Natural images beside those that are shrunk: which of them are trained on, and which choose the epoch."""

import numpy as np

from crossres.config.experiment import Distill
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.data.images import ImageSet, left_out
from crossres.data.natural import has_partner
from crossres.data.splits import SPLIT_SEED, OwnSplits, stratified_split
from crossres.evaluation.prepare import read_split
from crossres.training.task import ImageSets


def with_natural(sets: ImageSets, config: Distill, progress: Progress) -> ImageSets:
    """Add the training images of ``config.natural`` to the sets; those of held-out groups become the validation's.

    Without groups a share of each class is held out. A set that has no splits is trained on as a whole.

    Args:
        sets: the HR images of training, validation and test.
        config: names the natural images; they are read as ``config.images`` says.
        progress: says how many images are left out, and why.

    Raises:
        CrossresError: no such images, a class that the HR images do not have, groups in one of both sets only, or no
            image left.
    """
    natural = _read(sets.train, config, progress)
    grouped = natural.groups is not None
    if grouped != (sets.train.groups is not None):
        raise CrossresError(f"images.group: only one of {sets.train.name} and {natural.name} has groups; name both")
    if grouped:
        held = has_partner(natural, sets.val)
        tested = has_partner(natural, sets.test) & ~held
    else:
        tested = held = np.zeros(len(natural), dtype=bool)
        if config.train.val_fraction > 0:
            held[stratified_split(natural.labels, config.train.val_fraction, SPLIT_SEED)[1]] = True
    lonely = ~has_partner(natural, sets.train) & ~held & ~tested if config.teacher else np.zeros_like(held)
    what = "group" if grouped else "class"
    for left, where in ((tested, "with test images"), (lonely, "without an HR image of it to train on")):
        if left.any():
            progress.say(f"{natural.name}: {left.sum()} natural images left out, of a {what} {where}")
    trained = natural.subset(~(held | tested | lonely))
    if not len(trained):
        raise CrossresError(f"{natural.name}: no natural image is left to train on; check images.group")
    progress.say(
        f"{natural.name}: {len(trained)} natural images fill {config.natural_share:.0%} of each batch"
        + (f"; {held.sum()} of held-out {what}{'s' if grouped else 'es'} choose the epoch" if held.any() else "")
    )
    val = natural.subset(held) if held.any() else sets.val
    return sets._replace(val=val, natural=trained, natural_val=bool(held.any()))


def _read(train: ImageSet, config: Distill, progress: Progress) -> ImageSet:
    """Read the natural images, with the classes counted as those of the HR images."""
    assert config.natural is not None
    try:
        natural = read_split(config, "all", data=config.natural)
    except OwnSplits:
        natural = read_split(config, "train", data=config.natural)
    for line in left_out({"train": natural}):
        progress.say(line)
    unknown = [name for name in natural.classes if name not in train.classes]
    if unknown:
        raise CrossresError(f"{natural.name}: class '{unknown[0]}' is not among those of {train.name}")
    natural = natural.subset(np.arange(len(natural)))
    natural.labels = np.array([train.classes.index(name) for name in natural.classes], dtype=np.int64)[natural.labels]
    natural.classes = list(train.classes)
    return natural
