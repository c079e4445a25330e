"""How a set is split into training and test images: class by class, or so that no person is on both sides."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Literal

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.core.types import Int64s, Texts
from crossres.data.groups import hold_out_groups, joined_by_groups
from crossres.data.images import ImageSet

Split = Literal["train", "test", "all"]
#: The validation split is the same for every training seed: runs are paired and share the teacher's cache.
SPLIT_SEED = 0


#: What a folder or a shard that is a split is called, in lower case; of test splits the first that is there counts.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "validation", "valid", "dev", "eval", "evaluation"), "val"),
}


class OwnSplits(CrossresError):
    """Raised where all of a source is requested that comes in splits."""


class NoTestSplit(CrossresError):
    """Raised where a source without splits has no image to spare for a test."""


def stratified_split(
    labels: npt.ArrayLike, fraction: float, seed: int, file_names: Iterable[str] = (), groups: Texts | None = None
) -> tuple[Int64s, Int64s]:
    """Split positions into kept and held out, class by class.

    Of a class with n images, ``round(n * fraction)`` are held out, at least 1 and at most n - 1; a class
    with one image keeps it. A class's share depends on its own size, its label and the seed alone.

    Args:
        labels: int (N,), 0 or above.
        fraction: share to hold out, between 0 and 1.
        seed: which split, 0 or above.
        file_names: of the samples; if given and all different, their hashes and not their positions decide.
        groups: of the samples; if given, whole groups are held out, as `hold_out_groups` does.

    Returns:
        Kept and held-out positions, each ascending; together all of ``0 .. N - 1``.
    """
    if not 0 < fraction < 1:
        raise CrossresError(f"the share to hold out is {fraction}; it should lie between 0 and 1")
    if seed < 0:
        raise CrossresError(f"the seed is {seed}; it should be 0 or above")
    values = np.asarray(labels, dtype=np.int64)
    if groups is not None:
        side = hold_out_groups(values, groups, fraction, seed)
        return np.flatnonzero(~side), np.flatnonzero(side)
    # the first 8 bytes of a hash: names of millions of files need not be in memory
    hashes = (sha256(name_bytes(f"{seed} {name}")).digest()[:8] for name in file_names)
    keys = np.fromiter((int.from_bytes(each, "big") for each in hashes), np.uint64)
    by_name = 0 < len(values) == len(keys) == len(np.unique(keys))
    held = np.zeros(len(values), dtype=bool)
    by_class = np.argsort(values, kind="stable")
    names, starts = np.unique(values[by_class], return_index=True)
    for label, members in zip(names.tolist(), np.split(by_class, starts)[1:], strict=True):
        if len(members) > 1:
            count = min(max(int(len(members) * fraction + 0.5), 1), len(members) - 1)
            if by_name:
                order = np.argsort(keys[members])
            else:
                order = np.random.default_rng([seed, label]).permutation(len(members))
            held[members[order[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def name_bytes(name: str) -> bytes:
    """Return a file name's bytes, also where they are not UTF-8: Python holds those as lone surrogates."""
    return name.encode("utf-8", "surrogateescape")


def require_visible(images: ImageSet) -> None:
    """Raise CrossresError unless the names of all classes can be seen: with others no model could be read again."""
    if unseen := [name for name in images.classes if not name.isprintable()]:
        raise CrossresError(f"{images.name}: class {unseen[0]!a} has characters that cannot be seen; rename it")


def require_classes(images: ImageSet) -> None:
    """Raise CrossresError unless there are images of two classes."""
    if len(images) == 1:
        raise CrossresError(f"{images.name} holds one image in all; give images of at least two classes")
    if (images.class_counts > 0).sum() < 2:
        only = f", '{images.classes[images.labels[0]]}'" if len(images) else ""
        raise CrossresError(f"{images.name} has only one class{only}; a classifier needs at least two")


def require_own_split(split: Split, source: object) -> None:
    """Raise `OwnSplits` for the split ``all`` of a source that comes in splits."""
    if split == "all":
        raise OwnSplits(f"{source} has a train and a test split of its own; choose one of them, not all")


def split_by_seed(whole: ImageSet, split: Split, test_fraction: float, seed: int) -> ImageSet:
    """Return one side of `stratified_split` of a set that comes without a test split, or all of it.

    Which images of a class are held out follows from their file names where they have some, so that a file
    that is added or removed leaves nearly all others where they were.

    Raises:
        CrossresError: the set has one class only, or no class has an image to spare for the test split.
    """
    if split == "all":
        return whole
    require_classes(whole)
    names = (whole.path(i) for i in range(len(whole)))
    kept, held = stratified_split(whole.labels, test_fraction, seed, names, whole.groups)
    if split == "test" and not len(held):
        what = "image" if whole.groups is None else "group"
        reason = f"no class has more than one {what}; add {what}s or a test split"
        raise NoTestSplit(f"{whole.name} leaves nothing for a test split: {reason}")
    part = whole.subset(kept if split == "train" else held)
    part.split_by_seed = True
    return part


def hold_out_people(
    images: ImageSet, fraction: float, seed: int, option: str = "train.val_fraction"
) -> tuple[ImageSet, ImageSet | None]:
    """Split a set so that no person is on both sides; each side counts its own people.

    Args:
        images: classes are people.
        fraction: share of the people to hold out; 0 holds out none. Who shares a group with one of them goes along.
        seed: which split.
        option: name of the option that sets the share.

    Raises:
        CrossresError: too few people to hold some out, or none of those held out has two images.
    """
    if not fraction:
        return images, None
    people = len(images.classes)
    order = np.random.default_rng(seed).permutation(people)
    count = round(fraction * people)
    share = f"{images.name}: {fraction:g} of its {people} people is {count}"
    if not 2 <= count <= people - 2:
        raise CrossresError(f"{share}; at least two have to be held out and two left; change {option}")
    held = set(order[:count].tolist())
    if images.groups is not None:
        block = joined_by_groups(images.labels, images.groups, people)
        held = set(np.flatnonzero(np.isin(block, block[order[:count]])).tolist())
        if len(held) > people - 2:
            raise CrossresError(f"{share}, but groups join {len(held)} of them; lower {option} or check images.group")
    train, val = (
        images.of_classes([name for i, name in enumerate(images.classes) if (i in held) == chosen])
        for chosen in (False, True)
    )
    train.split_by_seed = val.split_by_seed = True
    if val.class_counts.max() < 2:
        raise CrossresError(f"{share}, and none of those has two images for a genuine pair; raise {option}")
    return train, val


def people_in_both(train: ImageSet, test: ImageSet) -> list[str]:
    """Return the names of the people of whom both sets have images, sorted."""
    with_images = [{images.classes[label] for label in np.unique(images.labels)} for images in (train, test)]
    return sorted(with_images[0] & with_images[1])


def overlap(train: ImageSet, test: ImageSet, name: str) -> tuple[int, str | None]:
    """Return how many people are in both sets of a source, and a warning; None if there are none."""
    both = people_in_both(train, test)
    if not both:
        return 0, None
    unless = ", unless the splits number people independently" if all(person.isdecimal() for person in both) else ""
    where = f"{name}: {len(both)} people are in the training and in the test images, first {both[0]}"
    return len(both), f"{where}: results will be too high{unless}"
