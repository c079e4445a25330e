"""What ``crossres faces evaluate`` judges: images, pairs, who is looked for, and what chooses the threshold."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from crossres.config.options import base_name
from crossres.core.errors import CrossresError
from crossres.data.face_sets import read_face_set
from crossres.data.faces import Search, draw_pairs, first_image_search, hold_out_people, people_in_both
from crossres.data.images import ImageSet, left_out
from crossres.data.pairs import Pairs, read_bin, read_pairs
from crossres.data.readers import read
from crossres.data.splits import SPLIT_SEED, OwnSplits, Split

#: Pairs that are drawn where no list is given.
DRAWN = 6000
#: Stands for a list of pairs: those drawn among the people whom the model's training held out.
HELD_OUT = "held-out"


def read_protocols(
    chosen: argparse.Namespace, info: Mapping[str, Any]
) -> tuple[ImageSet, Pairs | None, Search | None]:
    """Read the judged images, their pairs and who is looked for among them.

    Args:
        chosen: the command's options.
        info: of the judged model.

    Raises:
        CrossresError: data that cannot be read, or options that they leave no room for, by name.
    """
    own = "gallery and probes" if chosen.layout else "pairs" if chosen.data.endswith(".bin") else None
    for option in ("pairs", "threshold_pairs", "split", "pairs_only"):
        if own and getattr(chosen, option):
            raise CrossresError(f"{chosen.data} has its own {own}; leave --{option} out")
    if own and chosen.corrupt == "skip":
        raise CrossresError(f"{chosen.data}: without some images its {own} would be others; leave --corrupt out")
    if chosen.layout:
        images, search = read_face_set(chosen.layout, chosen.data)
        return images, None, search
    if own:
        images, pairs = read_bin(chosen.data)
        return images, pairs, None
    whole = _whole(chosen)
    images = _part(chosen, whole, chosen.split, "test", info)
    if whole is not None and not chosen.split and info.get("dataset") == base_name(chosen.data):
        print(
            f"{chosen.data} has no splits, so all its people are judged, and the model may have been trained on most "
            "of them; --split test takes those that it was not",
            file=sys.stderr,
        )
    if chosen.split in ("train", "all") and info.get("dataset") == base_name(chosen.data):
        print(
            f"--split {chosen.split}: the model was trained on most of these people, so that the figures will look "
            "better than they are",
            file=sys.stderr,
        )
    for line in left_out({chosen.split or "test": images}):
        print(line, file=sys.stderr)
    pairs = read_pairs(chosen.pairs, images) if chosen.pairs else draw_pairs(images, DRAWN, 0)
    if chosen.pairs_only:
        return images, pairs, None
    if images.class_counts.max() < 2:
        print(f"{chosen.data}: nobody has two images, so nobody is looked for: verification only", file=sys.stderr)
        return images, pairs, None
    return images, pairs, first_image_search(images)


def read_threshold_pairs(
    chosen: argparse.Namespace, info: Mapping[str, Any], images: ImageSet, pairs: Pairs | None
) -> tuple[ImageSet, Pairs]:
    """Read the pairs that choose the threshold; says whom the judged pairs show, too.

    Args:
        chosen: the command's options.
        info: of the judged model.
        images: the judged ones.
        pairs: the judged ones, positions in ``images``.

    Raises:
        CrossresError: a list that cannot be read, or people held out that cannot be told.
    """
    if chosen.threshold_pairs == HELD_OUT:
        others = _held_out(chosen, info)
        chooser = draw_pairs(others, DRAWN, SPLIT_SEED, folds=1)
    else:
        others = _part(chosen, _whole(chosen), None, "train", info)
        chooser = read_pairs(chosen.threshold_pairs, others)
    assert pairs is not None  # threshold_pairs goes with images that have no protocol of their own
    shown = [of.subset(np.append(by.left, by.right)) for of, by in ((others, chooser), (images, pairs))]
    if both := people_in_both(*shown):
        print(
            f"{chosen.threshold_pairs}: {len(both)} of its people are in the judged pairs, first {both[0]}: the "
            "accuracy will look better than it is",
            file=sys.stderr,
        )
    return others, chooser


def _held_out(chosen: argparse.Namespace, info: Mapping[str, Any]) -> ImageSet:
    """Return the images that the training held out, known by their digest."""
    digest, share = (info.get("data_sha256") or {}).get("val"), info.get("val_fraction")

    def candidates() -> Iterator[ImageSet | None]:
        train = _part(chosen, _whole(chosen), "train", "train", info)
        if share:
            yield hold_out_people(train, share, SPLIT_SEED)[1]
        yield train  # of a training on unlabelled images

    for images in candidates() if digest else ():
        if images is not None and images.fingerprint == digest:
            return images
    others = "these are not the images it was trained with, or their files have other times"
    why = others if digest else f"{chosen.model} does not say which they are"
    raise CrossresError(f"--threshold_pairs {HELD_OUT}: {why}; give a list of pairs")


def _whole(chosen: argparse.Namespace) -> ImageSet | None:
    """Return all images of a source without splits; None of one that has some."""
    try:
        return _split(chosen, "all")
    except OwnSplits:
        return None


def _part(
    chosen: argparse.Namespace, whole: ImageSet | None, asked: Split | None, wanted: Split, info: Mapping[str, Any]
) -> ImageSet:
    """Return the split that is asked for, else all of a source without any, else the wanted one."""
    if whole is None:
        return _split(chosen, asked or wanted)
    if asked in ("train", "test"):
        train, held_out = hold_out_people(whole, info.get("test_fraction", 0.2), SPLIT_SEED)
        assert held_out is not None  # the share is above 0
        return train if asked == "train" else held_out
    return whole


def _split(chosen: argparse.Namespace, name: Split) -> ImageSet:
    return read(
        chosen.data,
        split=name,
        image_column=chosen.image_column,
        label_column=chosen.label_column,
        corrupt=chosen.corrupt,
        memory_mb=chosen.memory_mb,
        open_set=True,
    )
