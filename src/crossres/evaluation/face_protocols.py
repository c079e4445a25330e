"""What a face model is judged on: images, pairs, who is searched for among them, and what chooses the threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crossres.config.judging import EvaluateFaces
from crossres.config.record import base_name
from crossres.core.errors import CrossresError
from crossres.core.progress import Progress
from crossres.data.align import Aligner, aligned
from crossres.data.face_bin import read_bin
from crossres.data.face_sets import SURVFACE_PAIRS, read_face_set, read_survface_pairs
from crossres.data.faces import UNNAMED, Pairs, Search, both_splits, draw_pairs, first_image_search, read_pairs
from crossres.data.images import ImageSet, left_out, understood
from crossres.data.readers import read_unlabelled
from crossres.data.splits import SPLIT_SEED, OwnSplits, Split, hold_out_people, people_in_both
from crossres.data.templates import Templates, read_template_pairs, read_template_search, read_templates
from crossres.evaluation.prepare import held_out_share, note, read_split, split_otherwise
from crossres.models.encoder import Encoder

SPLITS: tuple[Split, ...] = ("train", "test")
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
        templates: sets of the images; what pairs and search name are then these.
    """

    images: ImageSet
    pairs: Pairs | None = None
    search: Search | None = None
    chooser: tuple[ImageSet, Pairs] | None = None
    templates: Templates | None = None

    def name(self, i: int) -> str:
        """Return what a list calls the image or the template at a position."""
        if self.templates is not None:
            return str(self.templates.ids[i])
        return self.images.path(i) or self.images.where(i)

    def used(self) -> FaceTest:
        """Return the same with only those images that pairs and search name.

        Raises:
            CrossresError: there are neither pairs nor a search.
        """
        sides = {"pairs": ("left", "right"), "search": ("gallery", "probes")}
        parts: dict[str, Any] = {name: getattr(self, name) for name in sides if getattr(self, name) is not None}
        if not parts:
            raise CrossresError("nothing to judge: give pairs, a search or both")
        named = {name: {side: getattr(part, side) for side in sides[name]} for name, part in parts.items()}
        used = np.unique(np.concatenate([place for of in named.values() for place in of.values()]))
        for name, of in named.items():
            parts[name] = replace(parts[name], **{side: np.searchsorted(used, place) for side, place in of.items()})
        if self.chooser is not None:
            others = FaceTest(*self.chooser).used()
            parts["chooser"] = others.images, others.pairs
        if self.templates is not None:
            images = self.templates.image[np.isin(self.templates.template, used)]
            parts["templates"], used = self.templates.subset(used), np.unique(images)
        return FaceTest(self.images.subset(used), **parts)


def read_protocols(options: EvaluateFaces, encoder: Encoder) -> FaceTest:
    """Read the judged images, their pairs, who is searched for among them, and the pairs that choose the threshold.

    What makes the figures look better than they are, or leaves something out, is noted on stderr.

    Raises:
        CrossresError: data that cannot be read, options that they leave no room for, by name, or people held out that
            cannot be determined.
    """
    if options.images.classes is not None:
        raise CrossresError("--images.classes does not apply to people; leave it out")
    pairs_alone = options.layout == SURVFACE_PAIRS or (not options.layout and options.data.endswith(".bin"))
    own = "pairs" if pairs_alone else "gallery and probes" if options.layout else None
    for option in ("pairs", "threshold_pairs", "split", "pairs_only", "templates"):
        if own and getattr(options, option):
            raise CrossresError(f"{options.data} has its own {own}; leave --{option} out")
    for option in ("search", "by_quality"):
        if getattr(options, option) and not options.templates:
            raise CrossresError(f"--{option} is about templates; give --templates, or leave it out")
    if own and options.images.corrupt == "skip":
        raise CrossresError(f"{options.data}: its {own} need every image; leave --images.corrupt out")
    if own == "pairs":
        test = FaceTest(*(read_survface_pairs if options.layout else read_bin)(options.data))
    elif options.layout:
        images, search = read_face_set(options.layout, options.data)
        test = FaceTest(images, search=search)
    elif options.templates:
        test = _read_templates(options, encoder, options.templates)
    else:
        test = _read_test(options, encoder)
        chooser = _read_chooser(options, encoder, test) if options.threshold_pairs else None
        test = replace(test, chooser=chooser)
    test.images.range = options.images.range or encoder.info.get("range")
    return _align(test, options.align, native=options.native) if options.align else test


def _align(test: FaceTest, detector: str, *, native: bool) -> FaceTest:
    """Align the faces of all images, of native ones those of a gallery; note how many have none that is detected."""
    aligner, count = Aligner(detector), Progress().count
    if native and (test.search is None or test.pairs is not None or test.templates is not None):
        raise CrossresError("--align: of images that are small already only a gallery is aligned; give a --layout")
    used = test if native else test.used()

    def align(images: ImageSet, rows: Sequence[int]) -> ImageSet:
        def counted() -> Iterator[int]:
            for number, row in enumerate(rows, 1):
                yield row
                count("faces", number, len(rows))

        result, missed = aligned(images, aligner, counted())
        if missed:
            first = images.where(missed[0])
            note(f"no face was detected in {len(missed)} of {len(rows)} images, first {first}: they stay as they are")
        return result

    rows = test.search.gallery.tolist() if native and test.search else range(len(used.images))
    chooser = used.chooser and (align(used.chooser[0], range(len(used.chooser[0]))), used.chooser[1])
    return replace(used, images=align(used.images, rows), chooser=chooser)


def _read_templates(options: EvaluateFaces, encoder: Encoder, path: str) -> FaceTest:
    """Read the images of templates, wherever they lie below the folder, and the pairs and the search of these."""
    for option in ("threshold_pairs", "split", "pairs_only"):
        if getattr(options, option):
            raise CrossresError(f"--{option}: cannot be combined with --templates")
    if options.images.corrupt == "skip":
        raise CrossresError(f"{path} needs every image; leave --images.corrupt out")
    if not (options.pairs or options.search):
        raise CrossresError("--templates: give --pairs or --search, lists of templates")
    read_as = options.images
    how: dict[str, Any] = {"image_column": read_as.image_column, "memory_mb": read_as.memory_mb}
    images = read_unlabelled(options.data, range=read_as.range or encoder.info.get("range"), **how)
    images.labels, images.classes = np.zeros_like(images.labels), [UNNAMED]
    templates = read_templates(path, images)
    pairs = read_template_pairs(options.pairs, templates) if options.pairs else None
    search = read_template_search(options.search, templates) if options.search else None
    return FaceTest(images, pairs, search, templates=templates).used()


def _read_test(options: EvaluateFaces, encoder: Encoder) -> FaceTest:
    """Read the judged images, their pairs and who is searched for."""
    images, has_splits = _read_people(options, encoder, options.split, "test")
    if encoder.info.get("dataset") == base_name(options.data):
        if not has_splits and not options.split:
            note(
                f"{options.data} has no splits, so all its people are judged, and the model may have been trained on "
                "most of them; --split test takes those that it was not"
            )
        if options.split in ("train", "all"):
            note(
                f"--split {options.split}: the model was trained on most of these people, so the figures will look "
                "better than they are"
            )
    parts: dict[str, ImageSet] = {options.split or "test": images}
    note(*left_out(parts), understood(options.data, parts, people=True))
    pairs = read_pairs(options.pairs, images) if options.pairs else draw_pairs(images, DRAWN, 0)
    searched = images.class_counts.max() > 1 and not options.pairs_only
    if not searched and not options.pairs_only:
        note(f"{options.data}: no person has two images; skipping identification")
    return FaceTest(images, pairs, first_image_search(images) if searched else None)


def _read_chooser(options: EvaluateFaces, encoder: Encoder, test: FaceTest) -> tuple[ImageSet, Pairs]:
    """Read the pairs that choose the threshold; note the people whom the judged pairs show, too."""
    assert options.threshold_pairs is not None
    assert test.pairs is not None
    if options.threshold_pairs == HELD_OUT:
        images = _held_out(options, encoder)
        pairs = draw_pairs(images, DRAWN, SPLIT_SEED, folds=1)
    else:
        images, _ = _read_people(options, encoder, None, "train")
        pairs = read_pairs(options.threshold_pairs, images)
    shown = [of.subset(np.append(by.left, by.right)) for of, by in ((images, pairs), (test.images, test.pairs))]
    if both := people_in_both(*shown):
        judged = f"{len(both)} of its people are in the judged pairs, first {both[0]}"
        note(f"{options.threshold_pairs}: {judged}: the accuracy will be too high")
    return images, pairs


def _held_out(options: EvaluateFaces, encoder: Encoder) -> ImageSet:
    """Return the images that the training held out, known by their digest."""
    digest, share = (encoder.info.get("data_sha256") or {}).get("val"), encoder.info.get("val_fraction")
    why = f"{options.model} does not record which people were held out"
    if digest:
        train, _ = _read_people(options, encoder, "train", "train")
        # all of the training images if it trained on unlabelled ones
        for images in (hold_out_people(train, share or 0, SPLIT_SEED)[1], train):
            if images is not None and images.fingerprint == digest:
                return images
        why = "these are not the images it was trained with, or their files have other times"
    raise CrossresError(f"--threshold_pairs {HELD_OUT}: {why}; give a list of pairs")


def _read_people(
    options: EvaluateFaces, encoder: Encoder, split: Split | None, otherwise: Split
) -> tuple[ImageSet, bool]:
    """Return a split, and whether the source has splits; if none is given, the other split or all of the source."""
    try:
        whole = read_split(options, "all", encoder, open_set=True)
    except OwnSplits:
        if split == "all":
            first, second = (read_split(options, each, encoder, open_set=True) for each in SPLITS)
            if both := people_in_both(first, second):
                note(f"{first.name}: {len(both)} people are in both splits and taken for the same, first {both[0]}")
            return both_splits(first, second), True
        return read_split(options, split or otherwise, encoder, open_set=True), True
    if split not in ("train", "test"):
        return whole, False
    train, test = hold_out_people(whole, held_out_share(options, encoder), SPLIT_SEED, "images.test_fraction")
    assert test is not None  # the share is above 0
    if split == "test" and base_name(options.data) == encoder.info.get("dataset"):
        how: dict[str, Any] = {"group": options.images.group or encoder.info.get("group")}
        how["test_fraction"] = held_out_share(options, encoder)
        note(*filter(None, [split_otherwise("model", encoder.info, options.data, test, how)]))
    return train if split == "train" else test, False
