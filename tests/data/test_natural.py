"""Natural pairs: batches of two kinds, and a teacher that sees another image of the same group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crossres import CrossresError, Degradation
from crossres.core.types import Batch
from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader
from crossres.data.natural import NaturalPairs, shares_group

LARGE, FEW = 20, 7


def images(count: int, side: int, seed: int, groups: list[str] | None) -> ImageSet:
    array = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    result = ImageSet(ArrayItems(array), np.arange(count) % 2, ["a", "b"], "noise")
    result.groups = None if groups is None else np.array(groups)
    return result


def pairs(
    *, share: float = 0.5, grouped: bool = True, shift: int = 0, large: int = LARGE, few: int = FEW, **options: Any
) -> NaturalPairs:
    # the natural image 6 is of a group of its own
    names = [["0", "1", "2", "3", "0", "1", "alone"][i % 7] for i in range(few)]
    shrunk = images(large, 16, 0, [str(i % 4) for i in range(large)] if grouped else None)
    how: dict[str, Any] = {"batch_size": 6, "seed": 3, "flip": True, **options}
    blurred = Degradation(blur=(0.5, 0.5))
    hr = Loader(shrunk, hr_size=16, lr_size=8, degradation=blurred, shift=shift, **how)
    small = images(few, 8, 1, names if grouped else None)
    return NaturalPairs(hr, Loader(small, hr_size=8, lr_size=8, **{**how, "seed": how["seed"] + 2**31}), share)


def numbers(loader: NaturalPairs, batch: Batch) -> list[int]:
    """The natural images of a batch, by their pixels."""
    pixels = {image.numpy().tobytes(): i for i, image in enumerate(loader.natural.images.pixels(8))}
    assert batch.aligned is not None
    rows = [lr.flip(-1) if view else lr for lr, view in zip(batch.lr, batch.view, strict=True)]
    return [
        pixels[(row * 255).round().byte().numpy().tobytes()]
        for row, aligned in zip(rows, batch.aligned, strict=True)
        if not aligned
    ]


@pytest.mark.parametrize("grouped", [True, False])
def test_the_teacher_sees_an_image_of_the_same_class_and_group(grouped: bool) -> None:
    loader = pairs(grouped=grouped)
    assert (loader.steps, loader.batch_size) == ((LARGE + FEW) // 6, 6)
    partners, drawn = set(), []
    for epoch in range(60):
        for batch in loader.epoch(epoch):
            assert batch.aligned is not None
            assert batch.aligned.tolist() == [True] * 3 + [False] * 3
            assert torch.equal(batch.label, loader.shrunk.label[batch.index])
            drawn += numbers(loader, batch)
            partners |= set(zip(drawn[-3:], batch.index[3:].tolist(), strict=True))
    # every natural image meets every image of its group and no other; that without a group those of its class
    near, far = np.arange(LARGE), np.arange(FEW)
    alike = near % 4 == np.array([0, 1, 2, 3, 0, 1, -1])[:, None] if grouped else near % 2 == far[:, None] % 2
    alike = np.where(alike.any(1, keepdims=True), alike, near % 2 == far[:, None] % 2)
    assert partners == {(i, j) for i in range(FEW) for j in range(LARGE) if alike[i, j]}
    counts = np.bincount(drawn, minlength=FEW)
    assert counts.max() - counts.min() <= 60  # in each epoch at most once more


@pytest.mark.parametrize("memory_mb", [4096, 0])
def test_natural_images_are_served_as_they_are_and_beside_an_unshifted_partner(memory_mb: int) -> None:
    loader = pairs(shift=2, memory_mb=memory_mb, workers=0)
    large = loader.shrunk.images.pixels(16)
    for batch in loader.epoch(4, hr=True):
        assert batch.hr is not None
        assert batch.place is not None
        assert len(numbers(loader, batch)) == 3
        for row in range(3, 6):
            partner = large[batch.index[row]]
            seen = partner.flip(-1) if batch.view[row] else partner
            assert torch.equal(batch.hr[row], seen.float() * (1 / 255))
            assert batch.place[row].tolist() == [[1, 0, 0], [0, 1, 0]]
    again = list(loader.epoch(4))
    assert all(torch.equal(a.lr, b.lr) for a, b in zip(again, loader.epoch(4), strict=True))
    assert not torch.equal(again[0].index, next(loader.epoch(5)).index)


@pytest.mark.parametrize("rank", [0, 1])
def test_positions_are_those_of_the_batches(rank: int) -> None:
    loader = pairs(batch_size=8, rank=rank, world_size=2, large=40, few=7).natural  # several rounds of the few
    positions = loader.positions(3)
    assert positions.shape == (loader.steps, loader.batch_size // 2)
    for row, batch in zip(positions, loader.epoch(3), strict=True):
        assert torch.equal(row, batch.index)


def test_both_kinds_are_shuffled_apart() -> None:
    loader = pairs(large=12, few=12, grouped=False, batch_size=12)
    (first, _) = loader.epoch(0)
    assert first.index[:6].tolist() != numbers(loader, first)


def test_processes_serve_their_shares_of_the_same_batches() -> None:
    whole = list(pairs(batch_size=8).epoch(1, hr=True))
    shares = [list(pairs(batch_size=8, rank=rank, world_size=2).epoch(1, hr=True)) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        for name in ("lr", "hr", "index", "aligned", "view"):
            halves = [getattr(part, name).chunk(2) for part in parts]
            joined = torch.cat([half[kind] for kind in range(2) for half in halves])
            assert torch.equal(joined, getattr(batch, name)), name


@pytest.mark.parametrize(("share", "few"), [(0.01, 1), (0.3, 2), (0.8, 5)])
def test_a_share_of_each_batch_is_natural(share: float, few: int) -> None:
    for batch in pairs(share=share).epoch(0):
        assert batch.aligned is not None
        assert int((~batch.aligned).sum()) == few


def test_a_batch_without_room_for_both_is_refused() -> None:
    with pytest.raises(CrossresError, match=r"^natural_share 0\.99: a batch of 6 has no room for both kinds"):
        pairs(share=0.99)


def test_images_that_share_a_group() -> None:
    natural, others = images(4, 8, 0, ["x", "y", "z", "x"]), images(2, 8, 0, ["x", "z"])
    assert shares_group(natural, others).tolist() == [True, False, True, True]
    assert shares_group(natural, None).tolist() == [False] * 4
