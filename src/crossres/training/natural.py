"""Natural images beside those that are shrunk: which of them are trained on, and which choose the epoch."""

import numpy as np

from crossres.config.experiment import Distill
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.data.images import ImageSet, left_out
from crossres.data.natural import shares_group
from crossres.data.splits import SPLIT_SEED, stratified_split
from crossres.evaluation.prepare import read_split
from crossres.training.task import ImageSets


def with_natural(sets: ImageSets, config: Distill, progress: Progress) -> ImageSets:
    """Add the training images of ``config.natural`` to the sets; those of held-out groups become the validation's.

    Without groups a share of each class is held out. No group is on two sides: natural images of the test's groups
    are left out, and so are HR images of groups that the natural set holds out for its own test.

    Args:
        sets: the HR images of training, validation and test.
        config: names the natural images; they are read and split as ``config.images`` says.
        progress: says how many images are left out, and why.

    Raises:
        CrossresError: no such images, a class without an HR image, no image left, or batches drawn by class.
    """
    if config.train.images_per_class:
        raise CrossresError("train.images_per_class: natural images are drawn whatever their class; leave one out")
    natural = read_split(config, "train", data=config.natural)
    for line in left_out({"train": natural}):
        progress.say(line)
    train = _without_tested(sets.train, config, progress)
    natural = _in_classes_of(train, natural)
    if natural.groups is not None:
        held = shares_group(natural, sets.val)
        tested = shares_group(natural, sets.test) & ~held
        if tested.any():
            progress.say(f"{natural.name}: {tested.sum()} natural images left out: their groups are of the test")
    else:
        tested = held = np.zeros(len(natural), dtype=bool)
        if config.train.val_fraction > 0:
            held[stratified_split(natural.labels, config.train.val_fraction, SPLIT_SEED)[1]] = True
    trained = natural.subset(~(held | tested))
    if not len(trained):
        raise CrossresError(f"{natural.name}: no natural image is left to train on; check images.group")
    chooses = f"; {held.sum()} held out with their groups choose the epoch"
    if natural.groups is None:
        chooses = f"; {held.sum()} held out choose the epoch"
    share = f"{config.natural_share:.0%} of each batch"
    progress.say(f"{natural.name}: {len(trained)} natural images fill {share}{chooses if held.any() else ''}")
    val = natural.subset(held) if held.any() else sets.val
    return ImageSets(train, val, sets.test, trained, natural_val=bool(held.any()))


def _without_tested(train: ImageSet, config: Distill, progress: Progress) -> ImageSet:
    """Leave out HR images of the groups that the natural set's own test split has."""
    if train.groups is None:
        return train
    try:
        test = read_split(config, "test", data=config.natural)
    except CrossresError:  # it has no image to spare for a test
        return train
    tested = shares_group(train, test)
    if tested.any():
        progress.say(f"{train.name}: {tested.sum()} training images left out: {test.name} tests their groups")
    return train.subset(~tested) if tested.any() else train


def _in_classes_of(train: ImageSet, natural: ImageSet) -> ImageSet:
    """Return natural images with the classes counted as those of the HR images."""
    shown, present = ([images.classes[label] for label in np.unique(images.labels)] for images in (natural, train))
    lacking = [name for name in shown if name not in present]
    if lacking:
        raise CrossresError(f"{natural.name}: class '{lacking[0]}' has no HR image in {train.name} to learn from")
    natural = natural.subset(np.arange(len(natural)))
    position = {name: number for number, name in enumerate(train.classes)}
    natural.labels = np.array([position.get(name, -1) for name in natural.classes], dtype=np.int64)[natural.labels]
    natural.classes = list(train.classes)
    return natural
