"""Parquet shards: what their columns hold, and their images."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.readers import read
from crossres.data.shards import encoded_images, open_shards, pick_image, pick_label


def test_columns_are_picked_by_what_they_hold(tmp_path: Path) -> None:
    table = pa.table({"photo": [b"x"], "note": ["bytes of text"], "identity": ["Ann"], "label": [1]})
    struct = pa.array([{"bytes": "text"}], pa.struct({"bytes": pa.string()}))
    pq.write_table(table.append_column("odd", struct), tmp_path / "a.parquet")
    shards = open_shards([tmp_path / "a.parquet"])
    assert (shards.rows, shards.where(0)) == ([1], "a.parquet row 0")
    assert pick_image(shards, None) == pick_image(shards, "photo") == "photo"
    assert pick_label(shards, None, "photo") == "label"
    assert pick_label(shards, None, "photo", open_set=True) == "identity"
    for column in ("note", "odd"):
        with pytest.raises(CrossresError, match=rf"^column '{column}' of a.parquet is .*; images should be encoded"):
            pick_image(shards, column)


def test_shards_without_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"photo": pa.array([], pa.binary())}), tmp_path / "a.parquet")
    with pytest.raises(CrossresError, match=r"a\.parquet holds no rows$"):
        open_shards([tmp_path / "a.parquet"])


# -- encoded images: in memory, mapped from a file, and a few rows at a time


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 2 * value, 0)).save(buffer, "png")
    return buffer.getvalue()


def shard(path: Path, images: Sequence[bytes | None], named: bool = True) -> Path:
    """Write a shard of two classes, three rows to a group."""
    cells = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    column = pa.array(cells, kind) if named else pa.array(images, pa.binary())
    pq.write_table(pa.table({"image": column, "label": [i % 2 for i in range(len(images))]}), path, row_group_size=3)
    return path


def test_large_sets_are_mapped(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8)
    images = []
    for pixels in noise:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        images.append(buffer.getvalue())
    source, cache = tmp_path / "train.parquet", tmp_path / "cache"
    shard(source, images)
    whole = read(source, split="train", memory_mb=1, cache=cache)
    assert not cache.exists()
    mapped = read(source, split="train", memory_mb=0, cache=cache)
    assert mapped.fingerprint == whole.fingerprint
    assert mapped.pixels(64).equal(whole.pixels(64))
    assert mapped.where(3) == whole.where(3)
    data = pickle.dumps(mapped)
    assert len(data) < 10_000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.image(5), whole.image(5))
    made = [(entry.name, entry.stat().st_mtime_ns) for entry in cache.iterdir()]
    read(source, split="test", memory_mb=0, cache=cache)
    assert [(entry.name, entry.stat().st_mtime_ns) for entry in cache.iterdir()] == made
    os.utime(source, ns=(1, 1))
    read(source, split="train", memory_mb=0, cache=cache)
    assert len(list(cache.iterdir())) == 2


def test_mapped_without_names(tmp_path: Path) -> None:
    source, cache = shard(tmp_path / "a.parquet", [png(0), png(1)], named=False), tmp_path / "cache"
    images = read(source, split="train", memory_mb=0, cache=cache)
    assert [int(images.image(i)[0, 0, 0]) for i in range(2)] == [0, 1]
    assert images.path(0) == ""
    assert len(list(cache.iterdir())) == 1


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    source = shard(tmp_path / "a.parquet", [png(0), png(1)])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        CrossresError,
        match=r"^cannot write [^\n]*images-[^\n]*; nothing was changed; it caches images: set \$CROSSRES_[^\n]*$",
    ):
        read(source, split="train", memory_mb=0, cache=tmp_path / "file")


@pytest.mark.parametrize("named", [False, True])
def test_some_rows_of_a_shard(tmp_path: Path, named: bool) -> None:
    images = [None if i == 4 else png(i) for i in range(10)]
    source = shard(tmp_path / "a.parquet", images, named)
    every = [(f"{i}.png" if named else "", image or b"") for i, image in enumerate(images)]
    for first in range(11):
        for last in range(12):
            assert list(encoded_images(source, "image", first, last)) == every[first:last]


def test_rows_of_a_damaged_shard(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(CrossresError, match=r"a\.parquet cannot be read as parquet"):
        list(encoded_images(tmp_path / "a.parquet", "image", 0, 1))


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    source, cache = shard(tmp_path / "a.parquet", [png(0), png(1)], named=False), tmp_path / "cache"
    images = read(source, split="train", memory_mb=0, cache=cache)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[content.find(b"PNG") + 30] ^= 1
    file.write_bytes(content)
    with pytest.raises(CrossresError, match=r"was changed after it was written; remove it, it is made again"):
        images.image(0)
    file.write_bytes(content[:-20])
    with pytest.raises(CrossresError, match=r"images-\w+\.arrow is damaged; remove it, it is made again"):
        read(source, split="train", memory_mb=0, cache=cache)
