from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.images import ImageSet
from crossres.data.readers import read


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 2 * value, 0)).save(buffer, "png")
    return buffer.getvalue()


def shard(
    path: Path,
    labels: Sequence[Any],
    *,
    label: str = "label",
    names: list[str] | None = None,
    plain: bool = False,
    described: bool = True,
    images: Sequence[bytes | None] | None = None,
    **extra: Sequence[Any],
) -> Path:
    """Write one shard; image i is flat with red value i unless ``images`` says otherwise."""
    encoded = [png(i) for i in range(len(labels))] if images is None else images
    column = encoded if plain else [{"bytes": b, "path": f"{path.stem}-{i}.png"} for i, b in enumerate(encoded)]
    image = pa.array(column, pa.binary() if plain else pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = pa.table({"image": image, label: pa.array(labels), **{k: pa.array(v) for k, v in extra.items()}})
    features: dict[str, Any] = {"image": {"_type": "Image"}, label: {"_type": "Value"}}
    if names is not None:
        features[label] = {"_type": "ClassLabel", "names": names}
    if described:
        hugging = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": hugging})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


def reds(images: ImageSet) -> list[int]:
    return [int(images.image(i)[0, 0, 0]) for i in range(len(images))]


def fails(source: Any, match: str, **options: Any) -> None:
    options = {"split": "train", **options}
    with pytest.raises(CrossresError, match=match) as caught:
        read(source, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("folder", ["", "data"])
def test_shards_in_order(tmp_path: Path, plain: bool, described: bool, folder: str) -> None:
    options: dict[str, Any] = {"plain": plain, "described": described}
    shard(tmp_path / folder / "train-00001-of-00002.parquet", [1, 0, 1, 0], **options)
    shard(tmp_path / folder / "train-00000-of-00002.parquet", [0, 1, 0], **options)
    shard(tmp_path / folder / "test-00000-of-00001.parquet", [1], **options)
    train, test = (read(tmp_path, split=split) for split in ("train", "test"))
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert reds(train) == [0, 1, 2, 0, 1, 2, 3]
    assert train.classes == test.classes == ["0", "1"]
    assert test.labels.tolist() == [1]
    assert train.name == tmp_path.name
    where = train.where(5)
    assert where.startswith("train-00001-of-00002.parquet row 2")
    assert train.path(5) == ("" if plain else "train-00001-of-00002-2.png")
    assert train.fingerprint != test.fingerprint


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "validation"), ("dev_train-00000-of-00001", "dev_test-00000-of-00001"), ("train-0", "val-0")],
)
def test_split_names(tmp_path: Path, train: str, test: str) -> None:
    shard(tmp_path / f"{train}.parquet", [0, 1])
    shard(tmp_path / f"{test}.parquet", [0, 1, 1])
    assert len(read(tmp_path, split="train")) == 2
    assert len(read(tmp_path, split="test")) == 3


def test_one_file_a_list_or_one_split_is_split_by_seed(tmp_path: Path) -> None:
    labels = [i % 2 for i in range(20)]
    one = shard(tmp_path / "pictures.parquet", labels)
    for source in (one, str(one), [one], tmp_path):
        train, test = (read(source, split=split, test_fraction=0.3) for split in ("train", "test"))
        assert sorted(reds(train) + reds(test)) == list(range(20))
        assert test.class_counts.tolist() == [3, 3]
    named = shard(tmp_path / "x" / "test-00000-of-00002.parquet", labels)
    assert len(read(named, split="test")) == 4


def test_class_label_names(tmp_path: Path) -> None:
    shard(tmp_path / "train.parquet", [0, 2], names=["ant", "bee", "cat"])
    shard(tmp_path / "test.parquet", [0, 1], names=["cat", "ant"])
    train, test = (read(tmp_path, split=split) for split in ("train", "test"))
    assert train.classes == test.classes == ["ant", "bee", "cat"]
    assert test.labels.tolist() == [2, 0]  # by name, though the file counts otherwise
    # of two normalisations of Unicode as well
    shard(tmp_path / "names" / "train.parquet", [0, 1], names=["caf\u00e9", "tea"])
    shard(tmp_path / "names" / "test.parquet", [0, 1], names=["tea", "cafe\u0301"])
    assert read(tmp_path / "names", split="test").labels.tolist() == [1, 0]


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    for name in ("train", "test", "dev", "extra-00000-of-00001"):
        shard(tmp_path / f"{name}.parquet", [0, 1])
    for split in ("train", "test"):
        left = sorted(Path(file).name for file in read(tmp_path, split=split).ignored)
        assert left == ["dev.parquet", "extra-00000-of-00001.parquet"]
    (tmp_path / "train" / "ant").mkdir(parents=True)
    (tmp_path / "train" / "ant" / "0.png").write_bytes(png(3))
    fails(tmp_path, r"holds .*parquet and, beside it, 1 images in folders, first .*train/ant/0\.png: give that file")


def test_string_labels(tmp_path: Path) -> None:
    shard(tmp_path / "train.parquet", ["bee", "ant"])
    shard(tmp_path / "test.parquet", ["bee"])
    assert read(tmp_path, split="train").classes == ["ant", "bee"]
    assert read(tmp_path, split="test").labels.tolist() == [1]
    assert read(tmp_path, split="test", open_set=False).classes == ["ant", "bee"]
    shard(tmp_path / "test.parquet", ["wasp", "bee", "fly"])
    fails(tmp_path, r"test\.parquet row 2.*'fly'.*2 such", split="test")
    assert read(tmp_path, split="test", open_set=True).classes == ["bee", "fly", "wasp"]


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        (["ant", "bee"], ["ant", "bee"]),
        ({"1": "bee", "0": "ant"}, ["ant", "bee"]),
        ({"n01": "ant", "n02": "bee"}, ["ant", "bee"]),
        ({"n01": "crane", "n02": "crane"}, ["n01", "n02"]),
    ],
)
def test_classes_beside_the_shards(tmp_path: Path, content: Any, classes: list[str]) -> None:
    shard(tmp_path / "train.parquet", [0, 1])
    (tmp_path / "classes.json").write_text(json.dumps(content))
    assert read(tmp_path, split="train", test_fraction=0.5).classes == classes


def test_classes_beside_the_shards_that_are_none(tmp_path: Path) -> None:
    shard(tmp_path / "train.parquet", [0, 1])
    (tmp_path / "classes.json").write_text("3")
    fails(tmp_path, "should be a list of class names")
    (tmp_path / "classes.json").write_text("{")
    fails(tmp_path, "is not JSON")


def test_label_column_is_found(tmp_path: Path) -> None:
    both = {"label": "fine", "names": ["a", "b"], "width": [4, 4]}
    assert read(shard(tmp_path / "1.parquet", [1, 0], **both), split="train").classes == ["a", "b"]
    usual = shard(tmp_path / "2.parquet", [1, 0], width=[4, 4])
    assert read(usual, split="train").labels.tolist() == [1, 0]
    unclear = shard(tmp_path / "3.parquet", [1, 0], label="kind", group=["x", "y"])
    fails(unclear, "can be the label: kind, group; name one with label_column")
    assert read(unclear, split="train", label_column="group").classes == ["x", "y"]
    fails(unclear, "not a column.*kind, group.*did you mean 'group'", label_column="grupp")
    fails(unclear, "labels should be integers or strings", label_column="image")
    bare = tmp_path / "4.parquet"
    pq.write_table(pa.table({"image": [b"x"], "score": [0.5]}), bare)
    fails(bare, "can be the label; it has image, score")


def test_people_are_named_by_a_text_column_where_splits_have_their_own(tmp_path: Path) -> None:
    people = tmp_path / "people"
    shard(people / "dev_train-0.parquet", [0, 0, 1], identity=["Ann", "Ann", "Bob"])
    shard(people / "dev_test-0.parquet", [0, 1], identity=["Cleo", "Dan"])
    assert read(people, split="train").classes == ["0", "1"]
    assert read(people, split="train", open_set=True).classes == ["Ann", "Bob"]
    assert read(people, split="test", open_set=True).classes == ["Cleo", "Dan"]
    assert read(people, split="test", open_set=True, label_column="label").classes == ["0", "1"]
    numbers = tmp_path / "numbers"
    shard(numbers / "train-0.parquet", [0, 0, 1], identity=[4, 4, 5])
    assert read(numbers, split="train", open_set=True).classes == ["0", "1"]


def test_image_column_is_found(tmp_path: Path) -> None:
    path = shard(tmp_path / "1.parquet", [1, 0], mask=[b"x", b"y"], described=False)
    assert reds(read(path, split="train")) == [0, 1]
    assert read(path, split="train", image_column="mask").path(0) == ""
    fails(path, "did you mean 'image'", image_column="imag")
    fails(path, "images should be encoded bytes", image_column="label")
    table = pq.read_table(path).rename_columns(["front", "label", "back"])
    pq.write_table(table, path)
    fails(path, "can be the image: front, back; name one with image_column")
    pq.write_table(table.select(["label"]), path)
    fails(path, "can be the image; it has label")


def test_labels_out_of_range_name_the_row(tmp_path: Path) -> None:
    shard(tmp_path / "train-00000-of-00002.parquet", [0, 1], names=["a", "b"])
    shard(tmp_path / "train-00001-of-00002.parquet", [0, 2, 5], names=["a", "b"])
    fails(tmp_path, r"train-00001-of-00002\.parquet row 1 has label 2 .2 such rows.*0 to 1")
    fails(shard(tmp_path / "x" / "a.parquet", [0, -1, 1]), r"a\.parquet row 1 has label -1")
    fails(shard(tmp_path / "x" / "a.parquet", [0, None, 1]), r"a\.parquet row 1 has no 'label'")
    fails(
        shard(tmp_path / "x" / "a.parquet", np.array([0, 2**63 + 1], np.uint64)),
        r"column 'label' of a\.parquet has numbers of 2\^63",
    )
    fails(shard(tmp_path / "x" / "a.parquet", [0, 1], names=["a", "a"]), "two classes are called 'a'")
    fails(shard(tmp_path / "x" / "a.parquet", [0, 0]), "only one class, '0'")
    fails(shard(tmp_path / "x" / "a.parquet", [3]), "one image in all")
    fails(shard(tmp_path / "x" / "a.parquet", [3, 1]), "nothing for a test split", split="test")


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    shard(tmp_path / "a" / "train-00000-of-00003.parquet", [0, 1])
    shard(tmp_path / "a" / "train-00002-of-00003.parquet", [0, 1])
    fails(tmp_path / "a", "shard train-00001-of-00003 is missing")
    shard(tmp_path / "b" / "left-00000-of-00001.parquet", [0, 1])
    shard(tmp_path / "b" / "right-00000-of-00001.parquet", [0, 1])
    fails(tmp_path / "b", "is called train: name one train-")
    shard(tmp_path / "c" / "train-0.parquet", [0, 1])
    shard(tmp_path / "c" / "train-1.parquet", [0, 1], other=[1, 2])
    fails(tmp_path / "c", "shards of one split should agree")
    fails(shard(tmp_path / "d" / "train.parquet", []), "holds no rows")
    broken = tmp_path / "e.parquet"
    broken.write_bytes(b"PAR1 nonsense")
    fails(broken, r"e\.parquet cannot be read as parquet")
    fails([], "list of parquet or tar files is empty")
    fails([tmp_path / "gone.parquet"], "no data set")


def test_corrupt_rows(tmp_path: Path) -> None:
    images = [png(0), None, png(2), png(3)[:40], png(4), png(5)]
    path = shard(tmp_path / "train.parquet", [0, 1, 0, 1, 1, 0], images=images)
    shard(tmp_path / "test.parquet", [0, 1])
    with pytest.raises(CrossresError, match=r"train\.parquet row 1 .train-1\.png.: .*it is empty .2 of the 6"):
        read(tmp_path, split="train").pixels(4)
    left = read(tmp_path, split="train", corrupt="skip")
    assert reds(left) == [0, 2, 4, 5]
    assert left.skipped == ["train.parquet row 1 (train-1.png)", "train.parquet row 3 (train-3.png)"]
    assert path.is_file()


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shard(tmp_path / "a.parquet", [0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fails(source, r"pip install 'crossres\[parquet\]'")
