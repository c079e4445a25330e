"""Parquet shards: what their columns hold, and their images."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.images import left_out
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


def shard(path: Path, images: Sequence[bytes | None], named: bool = True, rows: int = 3) -> Path:
    """Write a shard of two classes, so many rows to a group."""
    cells = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    column = pa.array(cells, kind) if named else pa.array(images, pa.binary())
    pq.write_table(
        pa.table({"image": column, "label": [i % 2 for i in range(len(images))]}), path, row_group_size=rows
    )
    return path


def test_large_sets_stay_in_their_shards(tmp_path: Path) -> None:
    images = [png(i) for i in range(20)]
    for number in range(2):
        shard(tmp_path / f"a-0000{number}-of-00002.parquet", images[10 * number :][:10])
    whole, stored = (read(tmp_path, split="all", memory_mb=memory_mb) for memory_mb in (1, 0))
    assert (whole.runs, whole.by_group, stored.by_group) == (None, False, True)
    assert stored.pixels(4).equal(whole.pixels(4))
    for i in (3, 12, 4, 0):
        np.testing.assert_array_equal(stored.image(i), whole.image(i))
        assert stored.path(i) == whole.path(i) == f"{i % 10}.png"
    assert stored.where(12) == whole.where(12) == "a-00001-of-00002.parquet row 2 (2.png)"
    again = pickle.loads(pickle.dumps(stored))
    np.testing.assert_array_equal(again.image(5), whole.image(5))
    exact = read(tmp_path, split="all", memory_mb=0, verify=True)
    assert exact.fingerprint == whole.fingerprint != stored.fingerprint
    os.utime(tmp_path / "a-00001-of-00002.parquet", ns=(1, 1))
    later = read(tmp_path, split="all", memory_mb=0)
    assert later.fingerprint != stored.fingerprint
    assert read(tmp_path, split="all", memory_mb=0, verify=True).fingerprint == whole.fingerprint
    with pytest.raises(
        CrossresError, match=r"^\S*00001-of-00002\.parquet changed after it was read first: start again"
    ):
        pickle.loads(pickle.dumps(stored)).image(15)


def test_two_columns_of_one_file_have_fingerprints_of_their_own(tmp_path: Path) -> None:
    columns = {"front": [png(1), png(2)], "back": [png(3), png(4)], "label": [0, 1]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    front, back = (
        read(tmp_path / "a.parquet", split="all", memory_mb=0, image_column=column) for column in ("front", "back")
    )
    assert front.by_group
    assert front.fingerprint != back.fingerprint


def test_a_row_group_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(tmp_path / "a.parquet", [png(i) for i in range(30)], rows=5)
    monkeypatch.setattr("crossres.data.shards._ROWS", 10)
    images = read(tmp_path / "a.parquet", split="all", memory_mb=0)
    assert images.runs is not None
    assert images.runs.tolist() == [i // 10 for i in range(30)]
    opened: list[list[int]] = []
    iterate = pq.ParquetFile.iter_batches

    def counted(self: Any, **how: Any) -> Any:
        opened.append(how["row_groups"])
        return iterate(self, **how)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    assert [int(images.image(i)[0, 0, 0]) for i in range(30)] == list(range(30))
    assert opened == [[0, 1], [2, 3], [4, 5]]
    images.pixels(4)  # by several threads
    assert len(opened) <= 6


def test_long_row_groups_are_warned_of(tmp_path: Path) -> None:
    lines = {}
    for rows in (1000, 5000):
        shard(tmp_path / f"{rows}.parquet", [png(1)] * 5000, rows=rows)
        stored, whole = (read(tmp_path / f"{rows}.parquet", split="all", memory_mb=mb) for mb in (0, 99))
        lines[rows] = left_out({"train": stored, "test": stored})
        assert left_out({"train": whole}) == []
    assert lines == {
        1000: [],
        5000: [
            "5000: row groups of up to 5,000 rows, each read whole again for every thousand of its images: "
            "write the parquet files anew with row_group_size=1000"
        ],
    }


def test_a_shard_cut_short(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.parquet", [png(i) for i in range(30)])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CrossresError, match=r"a\.parquet cannot be read as parquet: fetch it again \(.*\)$"):
        read(path, split="all", memory_mb=0)


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
