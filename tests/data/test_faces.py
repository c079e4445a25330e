"""Splits that no person crosses, pairs, galleries and probes."""

from __future__ import annotations

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.data.faces import (
    NOBODY,
    draw_pairs,
    first_image_search,
    hold_out_people,
    images_in_both,
    overlap,
    people_in_both,
)
from crossres.data.images import ArrayItems, ImageSet


def people(counts: list[int], first: int = 0) -> ImageSet:
    labels = [person for person, count in enumerate(counts) for _ in range(count)]
    pixels = np.zeros((len(labels), 4, 4, 3), dtype=np.uint8)
    return ImageSet(ArrayItems(pixels), labels, [f"p{first + i}" for i in range(len(counts))], "people")


def test_no_person_is_on_both_sides() -> None:
    images = people([1, 2, 3, 4] * 10)
    train, val = hold_out_people(images, 0.25, 0)
    assert val is not None
    assert len(val.classes) == 10
    assert not set(train.classes) & set(val.classes)
    assert len(train) + len(val) == len(images)
    assert (train.class_counts > 0).all()
    assert (val.class_counts > 0).all()
    again, other = (hold_out_people(images, 0.25, seed)[0].classes for seed in (0, 1))
    assert again == train.classes != other
    assert hold_out_people(images, 0, 0) == (images, None)


def test_people_of_both_sets_are_named() -> None:
    assert people_in_both(people([2, 2, 2]), people([2, 2], first=2)) == ["p2"]
    assert people_in_both(people([2, 2]), people([2, 2], first=2)) == []
    # a name without an image is nobody
    assert people_in_both(people([2, 2, 0]), people([2, 2], first=2)) == []


def test_numbers_may_be_counted_anew() -> None:
    named, numbered = people([2, 2]), people([2, 2])
    numbered.classes = ["0", "1"]
    assert overlap(named, people([2], first=9), "set") == (0, None)
    count, line = overlap(named, named, "set")
    assert (count, line) == (
        2,
        "set: 2 people are in the training and in the test images, first p0: the test will look better than it is",
    )
    count, line = overlap(numbered, numbered, "set")
    assert count == 2
    assert line is not None
    assert line.endswith("first 0: unless each counts its people anew, the test will look better than it is")


def test_images_of_both_sets_are_known_by_their_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    train, test = (
        ImageSet(ArrayItems(pixels[rows]), [0] * len(rows), ["?"], "set") for rows in ([0, 1, 2, 1], [3, 1, 5])
    )
    assert images_in_both(train, test) == [train.path(1), train.path(3)]
    assert images_in_both(train, train.subset([])) == []


def test_pairs_are_what_they_say_and_none_is_twice() -> None:
    images = people([1] * 20 + [3] * 20 + [60])
    pairs = draw_pairs(images, 60, 0)
    assert pairs.same.sum() == 30
    assert len(pairs) == 60
    assert (draw_pairs(images, 30, 0).fold == 0).all()  # too few for ten folds
    assert ((images.labels[pairs.left] == images.labels[pairs.right]) == pairs.same).all()
    assert (pairs.left != pairs.right).all()
    assert len({frozenset(row) for row in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}) == 60
    assert (np.bincount(pairs.fold) == 6).all()
    assert all(np.bincount(pairs.fold[pairs.same == kind]).tolist() == [3] * 10 for kind in (True, False))
    # the person of 60 images has 95 % of all genuine pairs, but is drawn as one of 21
    assert (images.labels[pairs.left[pairs.same]] == 40).sum() < 10
    again, other = draw_pairs(images, 60, 0), draw_pairs(images, 60, 1)
    assert np.array_equal(again.left, pairs.left)
    assert not np.array_equal(other.left, pairs.left)


def test_a_small_set_gives_the_pairs_it_has() -> None:
    # with as many impostors as there could be, the best threshold would refuse nearly everybody
    pairs = draw_pairs(people([2, 2]), 100, 0)
    assert (pairs.same.sum(), (~pairs.same).sum()) == (2, 2)
    pairs = draw_pairs(people([9, 1]), 100, 0)
    assert (pairs.same.sum(), (~pairs.same).sum()) == (9, 9)


def test_the_first_image_is_enrolled_and_single_ones_are_strangers() -> None:
    images = people([1, 2, 1, 3])
    search = first_image_search(images)
    assert search.gallery.tolist() == [1, 4]
    assert search.gallery_identity.tolist() == [1, 3]
    assert search.probes.tolist() == [0, 2, 3, 5, 6]
    assert search.probe_identity.tolist() == [NOBODY, 1, NOBODY, 3, 3]


def test_what_is_no_set_of_people_is_said_in_one_line() -> None:
    with pytest.raises(
        CrossresError, match=r"^people: 0.1 of its 3 people is 0; at least two have to be held out [^\n]*$"
    ):
        hold_out_people(people([2, 2, 2]), 0.1, 0)
    with pytest.raises(
        CrossresError,
        match=r"^people: 0.1 of its 30 people is 3, and none of those has two images for a genuine pair; [^\n]*$",
    ):
        hold_out_people(people([1] * 30), 0.1, 0)
    with pytest.raises(CrossresError, match=r"^people: verification needs a person with two images$"):
        draw_pairs(people([1, 1]), 10, 0)
    with pytest.raises(CrossresError, match=r"^people: verification needs two people$"):
        draw_pairs(people([4]), 10, 0)
    with pytest.raises(CrossresError, match=r"^people: identification needs a person with two images$"):
        first_image_search(people([1, 1]))
