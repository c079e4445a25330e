"""Hugging Face parquet shards: which belong to which split, and which columns hold what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from crossres.core.errors import CrossresError, nearest, needs, one_line

_NUMBERED = re.compile(r"^(?P<prefix>.*?)-(?P<number>\d+)-of-(?P<total>\d+)$")
_SPLIT_WORDS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
#: Columns that name people; where splits have people of their own, a bare integer does not say whom.
PEOPLE = ("identity", "person", "subject", "name")


def arrow() -> tuple[Any, Any]:
    """Import pyarrow and its parquet module.

    Raises:
        CrossresError: pyarrow is not installed.
    """
    with needs("a parquet file", "parquet"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet


@contextmanager
def reading(shard: Path) -> Iterator[None]:
    """Turn what pyarrow raises on a damaged file into one line that names the file."""
    pa, _ = arrow()
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise CrossresError(f"{shard} cannot be read as parquet ({one_line(error)}): fetch it again") from error


@dataclass
class Shards:
    """The shards of one split: paths, rows of each, and by column type, Hugging Face description and bytes in all."""

    paths: list[Path]
    rows: list[int]
    fields: dict[str, Any]
    features: dict[str, dict[str, Any]]
    sizes: dict[str, int]

    def where(self, row: int) -> str:
        """Name a row, counted over all shards."""
        for path, rows in zip(self.paths, self.rows, strict=True):
            if row < rows:
                return f"{path.name} row {row}"
            row -= rows
        raise IndexError(row)


def find_shards(path: Path) -> list[Path]:
    """Return the parquet files of a source, sorted; none if it is a folder of images.

    That is the file itself, or those in a folder, or those in its subfolder ``data``.
    """
    if not path.is_dir():
        return [path] if path.suffix == ".parquet" else []
    return sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))


def group_shards(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Sort shards into ``train``, ``test``, ``val`` and other prefixes by their names.

    ``train-00000-of-00003``, ``dev_test-00000-of-00001`` and plain ``validation`` all count by the word
    they hold.

    Raises:
        CrossresError: a numbered shard is missing between or after its neighbours, or nothing says which
            of several prefixes is the training split.
    """
    splits: dict[str, list[Path]] = {}
    numbers: dict[tuple[str, str, str], set[int]] = {}
    for path in sorted(paths):
        numbered = _NUMBERED.match(path.stem)
        prefix = numbered["prefix"] if numbered else path.stem
        words = re.split(r"[^a-z]+", prefix.lower())
        other = prefix if numbered else ""
        split = next((_SPLIT_WORDS[word] for word in reversed(words) if word in _SPLIT_WORDS), other)
        splits.setdefault(split, []).append(path)
        if numbered:
            numbers.setdefault((split, prefix, numbered["total"]), set()).add(int(numbered["number"]))
    for (split, prefix, total), present in sorted(numbers.items()):
        missing = sorted(set(range(int(total))) - present)
        if missing and len(paths) > 1:  # one shard alone is somebody's choice
            lacking = f"shard {prefix}-{missing[0]:05d}-of-{total} is missing beside {splits[split][0]}"
            raise CrossresError(f"{lacking} ({len(missing)} of {int(total)} missing): fetch it")
    if "train" not in splits and len(splits) > 1:
        names = ", ".join(sorted(path.name for path in paths)[:6])
        remedy = "name one train-*.parquet, or give one file"
        raise CrossresError(f"{paths[0].parent}: none of {names} is called train: {remedy}")
    return splits


def open_shards(paths: Sequence[Path], *, allow_empty: bool = False) -> Shards:
    """Read the schemas of the shards of one split.

    Raises:
        CrossresError: a damaged file, shards whose columns differ, or no rows in any of them.
    """
    _, pq = arrow()
    shards = Shards([], [], {}, {}, {})
    for path in paths:
        with reading(path):
            file = pq.ParquetFile(path)
        schema, metadata = file.schema_arrow, file.metadata
        fields = {field.name: field.type for field in schema}
        if not shards.paths:
            shards.fields, shards.features = fields, _features(schema.metadata or {})
        if set(fields) != set(shards.fields):
            one, other = ", ".join(fields), f"{shards.paths[0].name} has {', '.join(shards.fields)}"
            raise CrossresError(f"{path.name} has the columns {one}, but {other}: shards of one split should agree")
        shards.paths.append(path)
        shards.rows.append(metadata.num_rows)
        for group, i in product(range(metadata.num_row_groups), range(metadata.num_columns)):
            chunk = metadata.row_group(group).column(i)
            column = chunk.path_in_schema.split(".")[0]
            shards.sizes[column] = shards.sizes.get(column, 0) + chunk.total_uncompressed_size
    if not sum(shards.rows) and not allow_empty:
        raise CrossresError(f"{paths[0]} holds no rows")
    return shards


def _features(metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return the Hugging Face description of the columns, empty where there is none."""
    try:
        described = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {column: feature for column, feature in described.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def pick_image(shards: Shards, requested: str | None) -> str:
    """Return the column of the images: the requested one, else the marked, usual or only one.

    Raises:
        CrossresError: it holds no encoded images, or it is not clear which column does.
    """
    columns = [column for column, kind in shards.fields.items() if _holds_bytes(kind)]
    if requested is not None:
        require_column(shards, requested, "image_column")
        if requested not in columns:
            where = f"column '{requested}' of {shards.paths[0].name} is {shards.fields[requested]}"
            raise CrossresError(f"{where}; images should be encoded bytes or a struct with a field 'bytes'")
        return requested
    marked = [column for column in columns if shards.features.get(column, {}).get("_type") == "Image"]
    candidates = marked or columns
    usual = [column for column in ("image", "img") if column in candidates]
    return _only(usual[:1] or candidates, shards, "image_column", "image")


def _holds_bytes(kind: Any) -> bool:
    pa, _ = arrow()
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        kind = kind.field(place).type if place >= 0 else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def pick_label(shards: Shards, requested: str | None, image: str | None, *, open_set: bool = False) -> str:
    """Return the label column: the requested one, ``label``, the first ClassLabel, else the only one it can be.

    With ``open_set`` a text column that names people comes before these.
    """
    pa, _ = arrow()
    if requested is not None:
        require_column(shards, requested, "label_column")
        return requested
    candidates = [
        column
        for column, kind in shards.fields.items()
        if column != image and (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or is_text(kind))
    ]
    people = [column for column in PEOPLE if column in candidates and is_text(shards.fields[column])]
    if open_set and people:
        return people[0]
    if "label" in candidates:
        return "label"
    marked = [column for column, feature in shards.features.items() if feature.get("_type") == "ClassLabel"]
    marked = [column for column in marked if column in candidates]
    return _only(marked[:1] or candidates, shards, "label_column", "label")


def _only(candidates: Sequence[str], shards: Shards, option: str, what: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    number, names = "several columns", f": {', '.join(candidates)}"
    if not candidates:
        number, names = "no column", f"; it has {', '.join(shards.fields)}"
    raise CrossresError(f"{number} of {shards.paths[0]} can be the {what}{names}; name one with {option}")


def require_column(shards: Shards, column: str, option: str) -> None:
    """Raise CrossresError unless there is such a column."""
    if column not in shards.fields:
        known = f"{', '.join(shards.fields)}{nearest(column, shards.fields)}"
        raise CrossresError(f"{option} '{column}' is not a column of {shards.paths[0]}, which has {known}")


def is_text(kind: Any) -> bool:
    """Return whether a column type holds text, plain or as a dictionary."""
    pa, _ = arrow()
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
