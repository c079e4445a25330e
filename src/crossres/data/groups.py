"""Images that belong together, such as the frames of a track: a split keeps each group on one side."""

import re
from collections import defaultdict
from hashlib import sha256

import numpy as np

from crossres.core.errors import CrossresError
from crossres.core.files import encode_codes
from crossres.core.types import Bools, Int64s, Texts
from crossres.data.images import ImageSet


def groups_of_files(images: ImageSet, pattern: str) -> Texts:
    """Return the group of each image: what a regular expression finds in its path, its first capture if it has one.

    Args:
        images: files below a folder; a path has ``/`` between its parts.
        pattern: as in ``'([^/]+)_[0-9]+[.]'``.

    Raises:
        CrossresError: not a regular expression, a plain word, or a file it finds nothing in.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise CrossresError(f"images.group: '{pattern}' is not a regular expression: {error}") from None
    number = {"": 0}  # of each name: the same name of many images is held once
    member_of = np.empty(len(images), np.int32)
    for i in range(len(images)):
        match = compiled.search(images.path(i))
        name = match[1 if compiled.groups else 0] if match else None
        member_of[i] = number.setdefault(name or "", len(number))
    if len(missed := np.flatnonzero(member_of == 0)):
        count = f"{len(missed)} of {len(images)} such"
        raise CrossresError(f"images.group: '{pattern}' finds nothing in {images.path(int(missed[0]))} ({count})")
    if len(images) > 1 and [*number] == ["", pattern]:
        raise CrossresError(
            f"images.group: '{pattern}' is the same in all paths; give a pattern that finds a group's name"
        )
    return np.array(list(number))[member_of]


def hold_out_groups(labels: Int64s, groups: Texts, fraction: float, seed: int) -> Bools:
    """Choose whole groups to hold out, so that of each class about a share of its images is held out.

    Groups are taken in an order that follows from their names and the seed, each if it brings the classes it holds
    nearer to their share; every class keeps a group, and where it has a second one gives one.

    Args:
        labels: (N,).
        groups: (N,); a group may hold several classes.
        fraction: share to hold out, between 0 and 1.
        seed: which split.

    Returns:
        Which images are held out, bool (N,).
    """
    names, member_of = np.unique(groups, return_inverse=True)
    held = np.zeros(len(names), dtype=bool)
    counts: list[dict[int, int]] = [defaultdict(int) for _ in names]
    for group, label in zip(member_of.tolist(), labels.tolist(), strict=True):
        counts[group][label] += 1
    wanting = {label: fraction * count for label, count in zip(*np.unique(labels, return_counts=True), strict=True)}
    left: dict[int, int] = defaultdict(int)
    for of_group in counts:
        for label in of_group:
            left[label] += 1
    given: set[int] = set()

    def hold_out(group: int) -> None:
        held[group] = True
        for label, count in counts[group].items():
            wanting[label] -= count
            left[label] -= 1
            given.add(label)

    order = np.argsort([sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).hexdigest() for name in names])
    for group in order.tolist():
        nearer = sum(abs(wanting[label]) - abs(wanting[label] - count) for label, count in counts[group].items())
        if nearer > 0 and all(left[label] > 1 for label in counts[group]):
            hold_out(group)
    # a class of few large groups: its smallest one
    for label in sorted(left):
        if label in given:
            continue
        spare = [g for g in order.tolist() if label in counts[g] and all(left[other] > 1 for other in counts[g])]
        if spare:
            hold_out(min(spare, key=lambda group: counts[group][label]))
    return held[member_of]


def joined_by_groups(labels: Int64s, groups: Texts, count: int) -> Int64s:
    """Return a block of each of ``count`` labels, int64 (count,): labels with a group in common are of one block."""
    _, member_of = np.unique(groups, return_inverse=True)
    block = np.arange(count, dtype=np.int64)
    while True:
        least = np.full(member_of.max(initial=-1) + 1, count, dtype=np.int64)
        np.minimum.at(least, member_of, block[labels])
        joined = block.copy()
        np.minimum.at(joined, labels, least[member_of])
        if np.array_equal(joined, block):
            return block
        block = joined


def groups_in_both(train: ImageSet, test: ImageSet) -> str | None:
    """Return a warning of groups that are in both sets; None if there are none, or no groups."""
    if train.groups is None or test.groups is None:
        return None
    both = np.intersect1d(train.groups, test.groups)
    if not len(both):
        return None
    beside = "" if test.name == train.name else f" of {test.name}"
    count = f"{len(both)} of the groups are in the training and in the test images{beside}, first '{both[0]}'"
    return f"{train.name}: {count}: results will be too high, unless the two name groups independently"


def groups_of_several_classes(images: ImageSet) -> str | None:
    """Return a note of groups that hold more than one class, as where tracks are numbered anew in each; else None."""
    if images.groups is None:
        return None
    names, member_of = np.unique(images.groups, return_inverse=True)
    classes_of = np.bincount(np.unique(np.stack([member_of, images.labels]), axis=1)[0], minlength=len(names))
    if not (several := int((classes_of > 1).sum())):
        return None
    which = f"{several} of the {len(names)} groups hold images of several classes, first '{names[classes_of > 1][0]}'"
    return f"{images.name}: {which}: if each numbers its groups anew, let images.group find it, too"


def independent(images: ImageSet) -> Int64s:
    """Return positions of images that are independent of each other: of a group, such as a track, the first."""
    groups = np.arange(len(images)) if images.groups is None else images.groups
    return np.unique(groups, return_index=True)[1]


def encoded_groups(images: ImageSet) -> dict[str, str]:
    """Return ``test_groups`` for a result, the number of each image's group, encoded; nothing without groups."""
    if images.groups is None:
        return {}
    return {"test_groups": encode_codes(np.unique(images.groups, return_inverse=True)[1])}
