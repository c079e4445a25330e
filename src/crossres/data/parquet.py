"""Hugging Face parquet shards as an ImageSet: labels, class names, and both splits on one list of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError
from crossres.core.types import Bools, Int64s
from crossres.data.images import ImageSet
from crossres.data.packed import pack
from crossres.data.shards import (
    Shards,
    arrow,
    group_shards,
    is_text,
    open_shards,
    pick_image,
    pick_label,
    reading,
    require_column,
)
from crossres.data.splits import Splitting, require_own_split, split_by_seed


@dataclass
class Labels:
    """A label column: int64 or str (N,), and the names of 0, 1, ... where the source gives them."""

    values: npt.NDArray[Any]
    names: list[str] | None


def read_parquet(
    paths: Sequence[Path],
    name: str,
    how: Splitting,
    image: str | None,
    label: str | None,
    memory_mb: int,
    cache: Path,
) -> ImageSet:
    """Read parquet shards; ``image`` and ``label`` are columns, the rest is as of `crossres.data.readers.read`.

    Raises:
        CrossresError: a file, column or label is not what it should be; the message names it.
    """
    splits = group_shards(paths)
    train = open_shards(splits.get("train") or next(iter(splits.values())))
    test_paths = splits.get("test", splits.get("val")) if "train" in splits else None
    if test_paths is not None:
        require_own_split(how.split, name)
    image = pick_image(train, image)
    label = pick_label(train, label, image, open_set=how.open_set)
    shards, labels = train, _read_labels(train, label)
    classes = _class_names(labels)
    if test_paths is not None and how.split == "test":
        shards = open_shards(test_paths)
        labels = _read_labels(shards, label)
        classes = _class_names(labels) if how.open_set else classes
    items = pack(shards, pick_image(shards, image), memory_mb=memory_mb, cache=cache)
    images = ImageSet(items, _class_indices(labels, classes, shards, name), classes, name)
    return images if test_paths is not None else split_by_seed(images, how)


def _read_labels(shards: Shards, column: str) -> Labels:
    pa, pq = arrow()
    require_column(shards, column, "label_column")
    kind = shards.fields[column]
    text = is_text(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        where = f"column '{column}' of {shards.paths[0].name}"
        raise CrossresError(f"{where} is {kind}; labels should be integers or strings")
    parts = []
    for path, start in zip(shards.paths, accumulate(shards.rows, initial=0), strict=False):
        with reading(path):
            values = pq.read_table(path, columns=[column]).column(0)
        if values.null_count:
            row = int(np.flatnonzero(values.is_null().to_numpy())[0])
            raise CrossresError(f"{shards.where(start + row)} has no '{column}' ({values.null_count} such rows)")
        parts.append(np.asarray(values.to_pylist(), dtype=str) if text else values.cast(pa.int64()).to_numpy())
    values = np.concatenate(parts)
    if text:
        return Labels(values, None)

    def refuse(bad: Bools, rule: str) -> None:
        rows = np.flatnonzero(bad)
        if len(rows):
            given = f"{shards.where(int(rows[0]))} has {column} {values[rows[0]]} ({len(rows)} such rows)"
            raise CrossresError(f"{given}; {rule}")

    refuse(values < 0, "labels should be 0 or above (-1 usually means that the row has none)")
    names = shards.features.get(column, {}).get("names")
    marked = any(feature.get("_type") == "ClassLabel" for feature in shards.features.values())
    if not names and not marked:  # where a column is marked, the file is about that one
        names = _names_beside(shards.paths[0].parent / "classes.json")
    if not names:
        return Labels(values, None)
    refuse(values >= len(names), f"with {len(names)} class names it should be 0 to {len(names) - 1}")
    return Labels(values, list(names))


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


def _class_names(labels: Labels) -> list[str]:
    if labels.names is None:
        return [str(value) for value in np.unique(labels.values).tolist()]
    if len(set(labels.names)) < len(labels.names):
        twice = next(name for name in labels.names if labels.names.count(name) > 1)
        raise CrossresError(f"two classes are called '{twice}': class names should differ")
    return labels.names


def _class_indices(labels: Labels, classes: list[str], shards: Shards, name: str) -> Int64s:
    """Turn labels into positions in ``classes``, by name: splits may count their classes differently."""
    values, first, inverse = np.unique(labels.values, return_index=True, return_inverse=True)
    names = [labels.names[v] if labels.names else str(v) for v in values.tolist()]
    index = {known: position for position, known in enumerate(classes)}
    for row, label in zip(first.tolist(), names, strict=True):
        if label not in index:
            where, count = f"{shards.where(row)} of {name}", len(set(names) - set(classes))
            lacking = f"which the training split does not have ({count} such classes)"
            raise CrossresError(f"{where} is of class '{label}', {lacking}: remove them or add training images")
    return np.array([index[label] for label in names], dtype=np.int64)[inverse.reshape(-1)]
