"""What a face model is judged on: images, pairs, who is searched for among them, and what chooses the threshold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from crossres.config.judging import EvaluateFaces
from crossres.config.record import base_name
from crossres.core.errors import CrossresError
from crossres.data.face_sets import read_face_set
from crossres.data.faces import Search, draw_pairs, first_image_search, hold_out_people, people_in_both
from crossres.data.images import ImageSet, left_out
from crossres.data.pairs import Pairs, read_bin, read_pairs
from crossres.data.splits import SPLIT_SEED, OwnSplits, Split
from crossres.evaluation.prepare import held_out_share, note, read_split
from crossres.models.encoder import Encoder

#: Pairs that are drawn where no list is given.
DRAWN = 6000
#: Stands for a list of pairs: those drawn among the people whom the model's training held out.
HELD_OUT = "held-out"


@dataclass(frozen=True)
class FaceTest:
    """What a face encoder is judged on.

    Attributes:
        images: of people.
        pairs: of them, for verification; None leaves it out.
        search: who is searched for among them, for identification and retrieval; None leaves it out.
        chooser: other images and pairs of them, on which the threshold of ``accuracy_chosen`` is chosen.
    """

    images: ImageSet
    pairs: Pairs | None = None
    search: Search | None = None
    chooser: tuple[ImageSet, Pairs] | None = None

    def used(self) -> FaceTest:
        """Return the same with only those images that pairs and search name.

        Raises:
            CrossresError: there are neither pairs nor a search.
        """
        pairs, search, chooser = self.pairs, self.search, self.chooser
        named = [] if pairs is None else [pairs.left, pairs.right]
        named += [] if search is None else [search.gallery, search.probes]
        if not named:
            raise CrossresError("nothing to judge: give pairs, a search or both")
        used = np.unique(np.concatenate(named))
        if pairs is not None:
            left, right = (np.searchsorted(used, side) for side in (pairs.left, pairs.right))
            pairs = replace(pairs, left=left, right=right)
        if search is not None:
            gallery, probes = (np.searchsorted(used, side) for side in (search.gallery, search.probes))
            search = replace(search, gallery=gallery, probes=probes)
        if chooser is not None:
            others = FaceTest(*chooser).used()
            assert others.pairs is not None
            chooser = others.images, others.pairs
        return FaceTest(self.images.subset(used), pairs, search, chooser)


def read_protocols(options: EvaluateFaces, encoder: Encoder) -> FaceTest:
    """Read the judged images, their pairs, who is searched for among them, and the pairs that choose the threshold.

    What makes the figures look better than they are, or leaves something out, is noted on stderr.

    Raises:
        CrossresError: data that cannot be read, options that they leave no room for, by name, or people held out that
            cannot be determined.
    """
    if options.images.classes is not None:
        raise CrossresError("--images.classes does not apply to people; leave it out")
    own = "gallery and probes" if options.layout else "pairs" if options.data.endswith(".bin") else None
    for option in ("pairs", "threshold_pairs", "split", "pairs_only"):
        if own and getattr(options, option):
            raise CrossresError(f"{options.data} has its own {own}; leave --{option} out")
    if own and options.images.corrupt == "skip":
        raise CrossresError(f"{options.data}: its {own} need every image; leave --images.corrupt out")
    if options.layout:
        images, search = read_face_set(options.layout, options.data)
        return FaceTest(images, search=search)
    if own:
        return FaceTest(*read_bin(options.data))
    test = _read_test(options, encoder)
    return replace(test, chooser=_read_chooser(options, encoder, test)) if options.threshold_pairs else test


def _read_test(options: EvaluateFaces, encoder: Encoder) -> FaceTest:
    """Read the judged images, their pairs and who is searched for."""
    whole = _whole(options, encoder)
    images = _part(options, encoder, whole, options.split, "test")
    if encoder.info.get("dataset") == base_name(options.data):
        if whole is not None and not options.split:
            note(
                f"{options.data} has no splits, so all its people are judged, and the model may have been trained on "
                "most of them; --split test takes those that it was not"
            )
        if options.split in ("train", "all"):
            note(
                f"--split {options.split}: the model was trained on most of these people, so the figures will look "
                "better than they are"
            )
    note(*left_out({options.split or "test": images}))
    pairs = read_pairs(options.pairs, images) if options.pairs else draw_pairs(images, DRAWN, 0)
    if options.pairs_only:
        return FaceTest(images, pairs)
    if images.class_counts.max() < 2:
        note(f"{options.data}: no person has two images; skipping identification")
        return FaceTest(images, pairs)
    return FaceTest(images, pairs, first_image_search(images))


def _read_chooser(options: EvaluateFaces, encoder: Encoder, test: FaceTest) -> tuple[ImageSet, Pairs]:
    """Read the pairs that choose the threshold; note the people whom the judged pairs show, too."""
    assert options.threshold_pairs is not None
    assert test.pairs is not None
    if options.threshold_pairs == HELD_OUT:
        images = _held_out(options, encoder)
        pairs = draw_pairs(images, DRAWN, SPLIT_SEED, folds=1)
    else:
        images = _part(options, encoder, _whole(options, encoder), None, "train")
        pairs = read_pairs(options.threshold_pairs, images)
    shown = [of.subset(np.append(by.left, by.right)) for of, by in ((images, pairs), (test.images, test.pairs))]
    if both := people_in_both(*shown):
        note(
            f"{options.threshold_pairs}: {len(both)} of its people are in the judged pairs, first {both[0]}: the "
            "accuracy will look better than it is"
        )
    return images, pairs


def _held_out(options: EvaluateFaces, encoder: Encoder) -> ImageSet:
    """Return the images that the training held out, known by their digest."""
    digest, share = (encoder.info.get("data_sha256") or {}).get("val"), encoder.info.get("val_fraction")

    def candidates() -> Iterator[ImageSet | None]:
        train = _part(options, encoder, _whole(options, encoder), "train", "train")
        if share:
            yield hold_out_people(train, share, SPLIT_SEED)[1]
        yield train  # of a training on unlabelled images

    for images in candidates() if digest else ():
        if images is not None and images.fingerprint == digest:
            return images
    others = "these are not the images it was trained with, or their files have other times"
    why = others if digest else f"{options.model} does not say which they are"
    raise CrossresError(f"--threshold_pairs {HELD_OUT}: {why}; give a list of pairs")


def _whole(options: EvaluateFaces, encoder: Encoder) -> ImageSet | None:
    """Return all images of a source without splits; None of one that has some."""
    try:
        return read_split(options, "all", encoder, open_set=True)
    except OwnSplits:
        return None


def _part(
    options: EvaluateFaces, encoder: Encoder, whole: ImageSet | None, split: Split | None, otherwise: Split
) -> ImageSet:
    """Return the requested split; if there is none, all of a source without splits, or the other split."""
    if whole is None:
        return read_split(options, split or otherwise, encoder, open_set=True)
    if split in ("train", "test"):
        train, held_out = hold_out_people(whole, held_out_share(options, encoder), SPLIT_SEED)
        assert held_out is not None  # the share is above 0
        return train if split == "train" else held_out
    return whole
