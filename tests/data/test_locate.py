"""Which shards a source has, and which split each belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossres.core.errors import CrossresError
from crossres.data.locate import find_shards, group_shards


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
