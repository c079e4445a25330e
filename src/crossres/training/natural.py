"""Natural images beside those that are shrunk: which of them are trained on, and which choose the epoch."""

from typing import Any

import numpy as np
import torch

from crossres.config.experiment import Distill
from crossres.config.options import how_unlabelled
from crossres.config.record import base_name
from crossres.core.devices import resolve_device
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.core.types import Bools
from crossres.data.degradation import check_size
from crossres.data.groups import groups_in_both, independent
from crossres.data.images import ImageSet, left_out
from crossres.data.loader import Loader
from crossres.data.natural import shares_group
from crossres.data.readers import read_unlabelled
from crossres.data.splits import SPLIT_SEED, NoTestSplit, stratified_split
from crossres.evaluation.prepare import logits_of, read_split
from crossres.models.pretrained import from_pretrained
from crossres.training.images import copied
from crossres.training.task import ImageSets

#: Fewest natural images, of two groups or more, that choose the epoch; fewer leave it to HR images, shrunk.
FEWEST = 20
#: Confidence from which on the class that a student gives a crop is taken for its label.
SURE = 0.8


def with_natural(sets: ImageSets, config: Distill, progress: Progress) -> ImageSets:
    """Add the training images of ``config.natural`` to the sets; those of held-out groups become the validation's.

    Without groups, and of groups that no HR image has, a share of each class is held out. No group is on two sides:
    natural images of the test's groups are left out, and so are HR images of groups that the natural set holds out
    for its own test.

    Args:
        sets: the HR images of training, validation and test.
        config: names the natural images; they are read and split as ``config.images`` says.
        progress: says how many images are left out, and why.

    Raises:
        CrossresError: no such images, a class without an HR image, no image left, or batches drawn by class.
    """
    if config.train.images_per_class:
        raise CrossresError("train.images_per_class: natural images are drawn whatever their class; leave one out")
    train = sets.train
    if config.natural_labels:
        natural = _in_classes_of(train, _labelled(config, progress))
    else:
        natural = read_split(config, "train", data=config.natural)
        test = _own_test(config)
        for line in [*left_out({"train": natural}), groups_in_both(natural, test) if test else None]:
            if line:
                progress.say(line)
        if test and (copies := copied(natural, test, config)).any():
            progress.say(
                f"{natural.name}: {copies.sum()} of its training images are test images, too (first: "
                f"{natural.where(int(copies.argmax()))}): results will be too high. Remove them"
            )
        train = _without_tested(train, test, progress)
        if sets.val is not None:
            val = _without_tested(sets.val, test, progress)
            sets = sets._replace(val=val if len(val) else None)
        natural = _in_classes_of(train, natural)
    held, tested = _held_out(natural, train, sets, config)
    if tested.any():
        of = "the test or the validation" if config.natural_labels else "the test"
        progress.say(f"{natural.name}: {tested.sum()} natural images left out: their groups are of {of}")
    trained = natural.subset(~(held | tested))
    if config.natural_labels:  # its groups would tell the class of a crop that was labelled wrongly
        trained.groups = None
    if not len(trained):
        raise CrossresError(f"{natural.name}: no natural image is left to train on; check images.group")
    if trained.groups is not None and train.groups is not None:
        _say_paired(trained, train, progress)
    chooses = held.sum() >= FEWEST and len(independent(natural.subset(held))) > 1
    groups = " with their groups" if natural.groups is not None else ""
    choosing = "choose the epoch" if chooses else "are too few, or of one group, to choose the epoch"
    choosing = f"; {held.sum()} held out{groups} {choosing}" if held.any() else ""
    progress.say(
        f"{natural.name}: {len(trained)} natural images fill {config.natural_share:.0%} of each batch{choosing}"
    )
    return ImageSets(
        train, natural.subset(held) if chooses else sets.val, sets.test, trained, natural_val=bool(chooses)
    )


def _held_out(natural: ImageSet, train: ImageSet, sets: ImageSets, config: Distill) -> tuple[Bools, Bools]:
    """Return which natural images are held out to choose the epoch, and which are of the test's groups, bool (N,).

    Those of the validation's groups are held out; of groups that no HR image has, and without groups, a share.
    """
    held = shares_group(natural, sets.val)
    tested = shares_group(natural, sets.test) & ~held
    if config.natural_labels:  # a student's own answers could not tell which epoch is better
        return np.zeros_like(held), held | tested
    own = np.flatnonzero(~(held | tested | shares_group(natural, train)))
    if len(own) and config.train.val_fraction > 0:
        part = natural.subset(own)
        held[own[stratified_split(part.labels, config.train.val_fraction, SPLIT_SEED, groups=part.groups)[1]]] = True
    return held, tested


def _say_paired(natural: ImageSet, train: ImageSet, progress: Progress) -> None:
    """Say how many natural images have an HR image of their group, and of how many those are of other classes."""
    if count := _of_other_classes(natural, train):
        progress.say(
            f"{natural.name}: of {count} natural images all HR images of their group are of other classes: they are "
            "paired by class alone; check images.group and the labels"
        )
    paired = shares_group(natural, train).sum()
    progress.say(
        f"{natural.name}: {paired} of {len(natural)} natural images have an HR image of their group"
        + "; check that images.group names groups alike in both" * (not paired)
    )


def _of_other_classes(natural: ImageSet, train: ImageSet) -> int:
    """Count the natural images whose group has HR images, but none of their class; both sets have groups."""
    assert natural.groups is not None
    assert train.groups is not None
    pairs = set(zip(train.groups.tolist(), train.labels.tolist(), strict=True))
    alone = [pair not in pairs for pair in zip(natural.groups.tolist(), natural.labels.tolist(), strict=True)]
    return int((shares_group(natural, train) & np.array(alone)).sum())


def _labelled(config: Distill, progress: Progress) -> ImageSet:
    """Read crops without labels and give each the class that ``config.natural_labels`` is sure of (Lee 2013).

    The others are left out.

    Raises:
        CrossresError: no such student or crops, or crops that it is sure to be all of one class.
    """
    assert config.natural
    assert config.natural_labels
    encoder = from_pretrained(config.natural_labels, trust_code=config.trust_code)
    if not encoder.classes:
        raise CrossresError(f"natural_labels: {config.natural_labels} has no classes to label by")
    given = config.images
    crops = read_unlabelled(config.natural, **how_unlabelled(given))
    if given.group and crops.groups is None:
        progress.say(
            f"{crops.name}: images.group {given.group} does not group all crops; none is left out for its group"
        )
    device = resolve_device(config.device, config.precision)
    _, high = check_size(config.lr_size)
    size: Any = {"hr_size": high, "lr_size": high, "fit": given.fit, "memory_mb": given.memory_mb}
    loader = Loader(crops, **size, device=device.torch)
    shares = torch.softmax(logits_of(encoder.to(device.torch), loader, device.autocast), 1).cpu()
    confidence, label = (part.numpy() for part in shares.max(1))
    sure = confidence >= SURE
    seen = np.unique(label[sure])
    known = f"{base_name(config.natural_labels)} is sure of {sure.sum():,} of {len(crops):,} crops"
    if len(seen) < 2:
        raise CrossresError(f"{crops.name}: {known}, all of one class or none; label some of them")
    progress.say(
        f"{crops.name}: {known}, of {len(seen)} of its {len(encoder.classes)} classes; these are their labels"
    )
    labelled = crops.subset(sure)
    labelled.labels, labelled.classes = label[sure].astype(np.int64), list(encoder.classes)
    return labelled


def _own_test(config: Distill) -> ImageSet | None:
    """Return the natural set's own test split, where it has one."""
    try:
        return read_split(config, "test", data=config.natural)
    except NoTestSplit:
        return None


def _without_tested(images: ImageSet, test: ImageSet | None, progress: Progress) -> ImageSet:
    """Leave out HR images, of training or validation, of the groups that the natural set's own test split has."""
    tested = shares_group(images, test)
    if test is None or not tested.any():
        return images
    gone = np.setdiff1d(images.labels, images.labels[~tested])
    emptied = f"; none is left of class '{images.classes[gone[0]]}'" if len(gone) else ""
    progress.say(f"{images.name}: {tested.sum()} HR images left out: {test.name} tests their groups{emptied}")
    return images.subset(~tested)


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
