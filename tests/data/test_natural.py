"""Natural pairs: batches of two kinds, and a teacher that sees another image of the same group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crossres import CrossresError, Degradation
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader
from crossres.data.natural import NaturalPairs, has_partner

LARGE, FEW = 20, 7


def images(count: int, side: int, seed: int, groups: list[str] | None) -> ImageSet:
    array = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    result = ImageSet(ArrayItems(array), np.arange(count) % 3, ["a", "b", "c"], "noise")
    result.groups = None if groups is None else np.array(groups)
    return result


def pairs(*, share: float = 0.5, grouped: bool = True, shift: int = 0, **options: Any) -> NaturalPairs:
    large = images(LARGE, 16, 0, [str(i % 5) for i in range(LARGE)] if grouped else None)
    small = images(FEW, 8, 1, [str(i % 3) for i in range(FEW)] if grouped else None)
    how: dict[str, Any] = {"batch_size": 6, "flip": True, "seed": 3, **options}
    shrunk = Loader(large, hr_size=16, lr_size=8, degradation=Degradation(blur=(0.5, 0.5)), shift=shift, **how)
    return NaturalPairs(shrunk, Loader(small, hr_size=8, lr_size=8, **how), share)


@pytest.mark.parametrize("grouped", [True, False])
def test_the_teacher_sees_an_image_of_the_same_group_or_class(grouped: bool) -> None:
    loader = pairs(grouped=grouped)
    large, small = loader.shrunk.images, loader.natural.images
    assert (loader.steps, loader.batch_size, len(loader.label)) == ((LARGE + FEW) // 6, 6, LARGE + FEW)
    partners, drawn = set(), []
    for epoch in range(20):
        for batch in loader.epoch(epoch):
            assert batch.source is not None
            assert torch.equal(batch.label, loader.label[batch.index])
            shrunk = batch.index < LARGE
            assert shrunk.tolist() == [True] * 3 + [False] * 3
            assert torch.equal(batch.source[shrunk], batch.index[shrunk])
            drawn += (batch.index[~shrunk] - LARGE).tolist()
            partners |= set(zip(drawn[-3:], batch.source[~shrunk].tolist(), strict=True))
    # every natural image meets every image of its group and no other, and comes as often as the others
    of_large, of_small = (np.arange(LARGE) % 5, np.arange(FEW) % 3) if grouped else (large.labels, small.labels)
    assert partners == {(i, j) for i in range(FEW) for j in range(LARGE) if of_large[j] == of_small[i]}
    counts = np.bincount(drawn, minlength=FEW)
    assert counts.max() - counts.min() <= 20  # in each epoch at most once more


def test_natural_images_are_served_as_they_are_and_beside_an_unshifted_partner() -> None:
    loader = pairs(shift=2)
    large, small = (loader_.images.pixels(loader_.hr_size) for loader_ in (loader.shrunk, loader.natural))
    for batch in loader.epoch(4, hr=True):
        assert batch.hr is not None
        assert batch.source is not None
        assert batch.place is not None
        for row in range(3, 6):
            flip = bool(batch.view[row])
            natural, partner = small[batch.index[row] - LARGE], large[batch.source[row]]
            for served, stored in ((batch.lr, natural), (batch.hr, partner)):
                assert torch.equal(served[row], (stored.flip(-1) if flip else stored).float() * (1 / 255))
            assert batch.place[row].tolist() == [[1, 0, 0], [0, 1, 0]]
    again = list(loader.epoch(4))
    assert all(torch.equal(a.lr, b.lr) for a, b in zip(again, loader.epoch(4), strict=True))
    assert not torch.equal(again[0].index, next(loader.epoch(5)).index)


def test_processes_serve_their_shares_of_the_same_batches() -> None:
    whole = list(pairs(batch_size=8).epoch(1, hr=True))
    shares = [list(pairs(batch_size=8, rank=rank, world_size=2).epoch(1, hr=True)) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        for name in ("lr", "hr", "index", "source", "view"):
            halves = [getattr(part, name).chunk(2) for part in parts]
            joined = torch.cat([half[kind] for kind in range(2) for half in halves])
            assert torch.equal(joined, getattr(batch, name)), name


@pytest.mark.parametrize(("share", "few"), [(0.01, 1), (0.3, 2), (0.8, 5)])
def test_a_share_of_each_batch_is_natural(share: float, few: int) -> None:
    for batch in pairs(share=share).epoch(0):
        assert int((batch.index >= LARGE).sum()) == few


def test_a_batch_without_room_for_both_is_refused() -> None:
    with pytest.raises(CrossresError, match=r"^natural_share 0\.99: a batch of 6 has no room for both kinds"):
        pairs(share=0.99)


def test_partners_are_of_one_group() -> None:
    natural, others = images(4, 8, 0, ["x", "y", "z", "x"]), images(2, 8, 0, ["x", "z"])
    assert has_partner(natural, others).tolist() == [True, False, True, True]
    assert has_partner(natural, None).tolist() == [False] * 4
