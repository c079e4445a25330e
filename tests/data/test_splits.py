"""Splits: shares of each class, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from crossres.core.errors import CrossresError
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.splits import split_by_seed, stratified_split


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
