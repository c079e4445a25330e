"""Parquet shards: where they are, which split each belongs to, and what their columns hold."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossres.core.errors import CrossresError
from crossres.data.shards import find_shards, group_shards, open_shards, pick_image, pick_label


def test_shards_are_found_in_a_folder_or_its_data(tmp_path: Path) -> None:
    assert find_shards(tmp_path) == []
    (tmp_path / "data").mkdir()
    inner = [tmp_path / "data" / f"{name}.parquet" for name in "ab"]
    for path in reversed(inner):
        path.touch()
    assert find_shards(tmp_path) == inner
    outer = tmp_path / "c.parquet"
    outer.touch()
    assert find_shards(tmp_path) == find_shards(outer) == [outer]
    assert find_shards(tmp_path / "photo.png") == []


def test_shards_belong_to_the_split_that_their_name_holds() -> None:
    names = ["dev_train-00000-of-00001", "validation", "test-00001-of-00002", "test-00000-of-00002", "extra-0"]
    splits = group_shards([Path(f"{name}.parquet") for name in names])
    assert {split: [path.stem for path in paths] for split, paths in splits.items()} == {
        "train": names[:1],
        "val": names[1:2],
        "test": [names[3], names[2]],
        "": names[4:],
    }
    with pytest.raises(
        CrossresError, match=r"^shard test-00000-of-00002 is missing beside test-00001[^\n]*fetch it$"
    ):
        group_shards([Path("train.parquet"), Path("test-00001-of-00002.parquet")])


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
    assert open_shards([tmp_path / "a.parquet"], allow_empty=True).rows == [0]
