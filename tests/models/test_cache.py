"""Rows of a teacher's cache: the same from mapped shards as from memory, moved as the images are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from crossres.data.images import ArrayItems, ImageSet
from crossres.data.loader import Loader, _place_of
from crossres.models import cache as cache_module
from crossres.models.cache import ShardFile, TeacherCache

COUNT = 21


@pytest.mark.parametrize("mirrored", [False, True])
def test_rows_of_shards_are_those_of_memory(mirrored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "ROWS", 8)
    whole = {
        "embedding": torch.randn(2 * COUNT, 5),
        "logits": torch.randn(2 * COUNT, 3).half(),
        "layer": torch.randn(2 * COUNT, 2, 4, 4).half(),
    }
    shards = []
    for view in range(2):
        for start in range(0, COUNT, 8):
            stop = min(start + 8, COUNT)
            rows = {name: stored[view * COUNT + start : view * COUNT + stop] for name, stored in whole.items()}
            shards.append(ShardFile(tmp_path / f"{view}-{start}", "digest", start, stop).written(rows))
    memory, mapped = TeacherCache([whole], COUNT, mirrored=mirrored), TeacherCache(shards, 24, mirrored=mirrored)
    index, view = torch.randint(COUNT, (64,)), torch.randint(2, (64,))
    place = torch.eye(2, 3).expand(64, -1, -1)
    for given in (None, place):
        ours, theirs = (cache(index, view, given) for cache in (memory, mapped))
        assert torch.equal(ours.embedding, theirs.embedding)
        assert ours.logits is not None
        assert theirs.logits is not None
        assert torch.equal(ours.logits, theirs.logits)
        assert torch.equal(ours.features["layer"], theirs.features["layer"])
    assert torch.equal(mapped.embeddings(COUNT), memory.embeddings(COUNT))


@pytest.mark.parametrize("zoom", [0.0, 0.2])
def test_stored_maps_follow_the_shift_and_the_zoom_of_the_view(zoom: float) -> None:
    """Of a teacher whose map is the image itself the moved map is the student's view, but for what was out of it."""
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    pixels = torch.stack([8 * y + 4 * x, 160 - 3 * y + 2 * x, 100 + 5 * y - 6 * x], -1)  # no view is another's mirror
    smooth = ImageSet(ArrayItems(pixels.byte().numpy()[None].repeat(6, 0)), np.zeros(6, int), ["a"], "slopes")
    loader = Loader(smooth, hr_size=16, lr_size=8, batch_size=6, shift=2, flip=True, zoom=zoom)
    image = pixels.permute(2, 0, 1) / 255
    views = torch.stack([image, image.flip(-1)])[:, None].repeat(1, 6, 1, 1, 1).flatten(0, 1)
    cache = TeacherCache([{"embedding": torch.zeros(12, 1), "image": views}], 6)
    for batch in loader.epoch(0, hr=True):
        assert batch.place is not None
        assert 0 < batch.view.sum() < 6
        still = cache(batch.index, batch.view).features["image"]
        moved = cache(batch.index, batch.view, batch.place).features["image"]
        inside = (..., slice(5, -5), slice(5, -5))
        torch.testing.assert_close(moved[inside], batch.hr[inside], rtol=0, atol=1e-5)
        assert (still[inside] - batch.hr[inside]).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("flip", "shift", "rows", "columns"),
    [
        (False, [4, 0], [0, 0, 1, 2], [0, 1, 2, 3]),
        (True, [4, 0], [0, 0, 1, 2], [0, 1, 2, 3]),
        (False, [0, 4], [0, 1, 2, 3], [0, 0, 1, 2]),
        (True, [0, 4], [0, 1, 2, 3], [1, 2, 3, 3]),  # an image is shifted before it is flipped
    ],
)
def test_maps_of_fewer_cells_follow_a_shift_of_a_cell(
    flip: bool, shift: list[int], rows: list[int], columns: list[int]
) -> None:
    """Of an image of 16 x 16 pixels that is shifted by 4 a map of 4 x 4 cells, whose border is there twice."""
    maps = torch.rand(2, 1, 4, 4)
    cache = TeacherCache([{"embedding": torch.zeros(2, 1), "layer": maps}], 1)
    view = torch.tensor([int(flip)])
    moved = cache(torch.tensor([0]), view, _place_of(16, view.bool(), torch.tensor([shift]), None)).features["layer"]
    torch.testing.assert_close(moved, maps[view][:, :, rows][:, :, :, columns])
