"""Hugging Face parquet shards as an ImageSet: labels, class names, and both splits on one list of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from crossres.core.errors import CrossresError
from crossres.core.types import Bools, Int64s
from crossres.data.images import ImageSet
from crossres.data.shards import (
    Shards,
    arrow,
    content_of,
    group_shards,
    open_shards,
    pack,
    pick_image,
    pick_label,
    reading,
)
from crossres.data.splits import Split, require_own_split


def read_parquet(
    paths: Sequence[Path],
    split: Split,
    name: str,
    columns: tuple[str | None, str | None],
    open_set: bool,
    memory_mb: int,
    cache: Path,
) -> tuple[ImageSet, bool]:
    """Read a split of parquet shards, or all of them where they do not come in splits; return which of the two, too.

    ``columns`` are of images and labels, the rest is as of `crossres.data.readers.read`.

    Raises:
        CrossresError: a file, column or label is not what it should be; the message names it.
    """
    splits = group_shards(paths)
    train = open_shards(splits.get("train") or next(iter(splits.values())))
    test_paths = splits.get("test", splits.get("val")) if "train" in splits else None
    if test_paths is not None:
        require_own_split(split, name)
    image = pick_image(train, columns[0])
    label = pick_label(train, columns[1], image, open_set=open_set)
    shards, (labels, classes) = train, _read_labels(train, label)
    if test_paths is not None and split == "test":
        shards, names = open_shards(test_paths), classes
        labels, classes = _read_labels(shards, pick_label(shards, label, image))
        if not open_set:
            labels, classes = _by_name(labels, classes, names, shards, name), names
    items = pack(shards, pick_image(shards, image), memory_mb=memory_mb, cache=cache)
    return ImageSet(items, labels, classes, name), test_paths is None


def _read_labels(shards: Shards, column: str) -> tuple[Int64s, list[str]]:
    """Return the label of each row, int64 (N,), and the names of 0, 1, ..."""
    pa, pq = arrow()
    content = content_of(shards.fields[column])
    if content not in ("text", "integers"):
        where = f"column '{column}' of {shards.paths[0].name}"
        raise CrossresError(f"{where} is {shards.fields[column]}; labels should be integers or strings")
    parts = []
    for path, start in zip(shards.paths, accumulate(shards.rows, initial=0), strict=False):
        with reading(path):
            values = pq.read_table(path, columns=[column]).column(0)
        if values.null_count:
            row = int(np.flatnonzero(values.is_null().to_numpy())[0])
            raise CrossresError(f"{shards.where(start + row)} has no '{column}' ({values.null_count} such rows)")
        parts.append(
            np.asarray(values.to_pylist(), dtype=str) if content == "text" else values.cast(pa.int64()).to_numpy()
        )
    values = np.concatenate(parts)

    def refuse(bad: Bools, rule: str) -> None:
        rows = np.flatnonzero(bad)
        if len(rows):
            given = f"{shards.where(int(rows[0]))} has {column} {values[rows[0]]} ({len(rows)} such rows)"
            raise CrossresError(f"{given}; {rule}")

    if content == "integers":
        refuse(values < 0, "labels should be 0 or above (-1 usually means that the row has none)")
        names = shards.features.get(column, {}).get("names")
        marked = any(feature.get("_type") == "ClassLabel" for feature in shards.features.values())
        if not names and not marked:  # where a column is marked, the file is about that one
            names = _names_beside(shards.paths[0].parent / "classes.json")
        if names:
            refuse(values >= len(names), f"with {len(names)} class names it should be 0 to {len(names) - 1}")
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise CrossresError(f"two classes are called '{twice}': class names should differ")
            return values, list(names)
    distinct, labels = np.unique(values, return_inverse=True)
    return labels.reshape(-1), [str(value) for value in distinct.tolist()]


def _by_name(labels: Int64s, names: list[str], classes: list[str], shards: Shards, source: str) -> Int64s:
    """Return labels that count ``names`` as positions in ``classes``: splits may count their classes differently."""
    place = {name: position for position, name in enumerate(classes)}
    unknown = [label for label in np.unique(labels).tolist() if names[label] not in place]
    if unknown:
        row, count = int(np.argmax(labels == unknown[0])), f"({len(unknown)} such classes)"
        given = f"{shards.where(row)} of {source} is of class '{names[unknown[0]]}'"
        lacking = f"which the training split does not have {count}: remove them or add training images"
        raise CrossresError(f"{given}, {lacking}")
    return np.array([place.get(name, -1) for name in names], dtype=np.int64)[labels]


def _names_beside(path: Path) -> list[str] | None:
    """Read class names: a list in order of the labels, or an object whose values are the names.

    The keys of an object are the labels or, in the order of the labels, identifiers; these stand in
    where two identifiers share a name.
    """
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CrossresError(f"{path} is not JSON: {error}") from error
    if isinstance(names, dict):
        if {str(number) for number in range(len(names))} == set(names):
            names = {str(number): names[str(number)] for number in range(len(names))}
        distinct = len({str(name) for name in names.values()}) == len(names)
        names = list(names.values() if distinct else names)
    if not isinstance(names, list):
        raise CrossresError(f"{path} should be a list of class names, or an object of them")
    return [str(name) for name in names]
