"""Splits: shares of each class, people on one side only, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.splits import (
    hold_out_people,
    overlap,
    people_in_both,
    split_by_seed,
    stratified_split,
)


def test_stratified_split_shares() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2] + [3] * 5)
    labels = labels[np.random.default_rng(1).permutation(len(labels))]
    kept, held = stratified_split(labels, 0.25, seed=3)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert np.bincount(labels[held], minlength=4).tolist() == [3, 1, 0, 1]
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()
    same = stratified_split(labels, 0.25, seed=3)
    np.testing.assert_array_equal(held, same[1])
    assert held.tolist() != stratified_split(labels, 0.25, seed=4)[1].tolist()


def test_stratified_split_keeps_one_of_each_class() -> None:
    kept, held = stratified_split([0, 0, 1, 1, 1], 0.99, seed=0)
    assert len(kept) == 2
    assert len(held) == 3
    assert [len(part) for part in stratified_split([], 0.5, seed=0)] == [0, 0]


def test_stratified_split_leaves_other_classes_alone() -> None:
    held = stratified_split([0] * 20, 0.3, seed=0)[1]
    more = stratified_split([0] * 20 + [1] * 7, 0.3, seed=0)[1]
    assert held.tolist() == more[more < 20].tolist()


def test_stratified_split_refuses_nonsense() -> None:
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(CrossresError, match="between 0 and 1"):
            stratified_split([0, 1], fraction, seed=0)
    with pytest.raises(CrossresError, match="seed is -1"):
        stratified_split([0, 1], 0.5, seed=-1)


def test_split_by_seed_with_nothing_to_spare() -> None:
    images = ImageSet(ArrayItems(np.zeros((2, 8, 8), np.uint8)), [0, 1], ["even", "odd"], "noise")
    assert len(split_by_seed(images, "train", 0.2, 0)) == 2
    with pytest.raises(CrossresError, match="nothing for a test split"):
        split_by_seed(images, "test", 0.2, 0)


# -- people


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
        "set: 2 people are in the training and in the test images, first p0: results will be too high",
    )
    count, line = overlap(numbered, numbered, "set")
    assert count == 2
    assert line is not None
    assert line.endswith("first 0: results will be too high, unless the splits number people independently")


def test_people_that_cannot_be_held_out() -> None:
    with pytest.raises(
        CrossresError, match=r"^people: 0.1 of its 3 people is 0; at least two have to be held out [^\n]*$"
    ):
        hold_out_people(people([2, 2, 2]), 0.1, 0)
    with pytest.raises(
        CrossresError,
        match=r"^people: 0.1 of its 30 people is 3, and none of those has two images for a genuine pair; [^\n]*$",
    ):
        hold_out_people(people([1] * 30), 0.1, 0)
