"""Hugging Face parquet shards: which belong to which split, and which columns hold what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossres.core.errors import CrossresError, nearest

_NUMBERED = re.compile(r"^(?P<prefix>.*?)-(?P<number>\d+)-of-(?P<total>\d+)$")
_SPLIT_WORDS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}


def arrow() -> tuple[Any, Any]:
    """Import pyarrow and its parquet module.

    Raises:
        CrossresError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CrossresError("parquet files need pyarrow: pip install 'crossres[parquet]'") from error
    return pyarrow, pyarrow.parquet


@contextmanager
def reading(shard: Path) -> Iterator[None]:
    """Turn what pyarrow raises on a damaged file into one line that names the file."""
    pa, _ = arrow()
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())
        raise CrossresError(f"{shard} cannot be read as parquet ({why}): fetch it again") from error


@dataclass
class Shards:
    """The shards of one split, with what their schemas say."""

    paths: list[Path]
    rows: list[int]
    fields: dict[str, Any]
    features: dict[str, dict[str, Any]]

    def where(self, row: int) -> str:
        """Name a row, counted over all shards."""
        for path, rows in zip(self.paths, self.rows, strict=True):
            if row < rows:
                return f"{path.name} row {row}"
            row -= rows
        raise IndexError(row)


def group_shards(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Sort shards into ``train``, ``test``, ``val`` and other prefixes by their names.

    ``train-00000-of-00003``, ``dev_test-00000-of-00001`` and plain ``validation`` all count by the word
    they hold.

    Raises:
        CrossresError: a numbered shard is missing between or after its neighbours, or nothing says which
            of several prefixes is the training split.
    """
    splits: dict[str, list[Path]] = {}
    for path in sorted(paths):
        numbered = _NUMBERED.match(path.stem)
        prefix = numbered["prefix"] if numbered else path.stem
        words = re.split(r"[^a-z]+", prefix.lower())
        other = prefix if numbered else ""
        key = next((_SPLIT_WORDS[word] for word in reversed(words) if word in _SPLIT_WORDS), other)
        splits.setdefault(key, []).append(path)
    for shards in splits.values():
        matches = [match for match in (_NUMBERED.match(path.stem) for path in shards) if match]
        for prefix, total in sorted({(match["prefix"], match["total"]) for match in matches}):
            there = {
                int(match["number"]) for match in matches if (match["prefix"], match["total"]) == (prefix, total)
            }
            missing = sorted(set(range(int(total))) - there)
            if missing and len(paths) > 1:  # one shard alone is somebody's choice
                raise CrossresError(
                    f"shard {prefix}-{missing[0]:05d}-of-{total} is missing beside {shards[0]} "
                    f"({len(missing)} of {int(total)} missing): fetch it"
                )
    if "train" not in splits and len(splits) > 1:
        raise CrossresError(
            f"{paths[0].parent} has parquet files {', '.join(sorted(path.name for path in paths)[:6])}, but "
            f"none is called train: name one train-*.parquet, or give one file"
        )
    return splits


def open_shards(paths: Sequence[Path]) -> Shards:
    _, pq = arrow()
    shards = Shards([], [], {}, {})
    for path in paths:
        with reading(path):
            file = pq.ParquetFile(path)
        schema = file.schema_arrow
        fields = {field.name: field.type for field in schema}
        if shards.paths and set(fields) != set(shards.fields):
            raise CrossresError(
                f"{path.name} has the columns {', '.join(fields)}, but {shards.paths[0].name} has "
                f"{', '.join(shards.fields)}: shards of one split should agree"
            )
        if not shards.paths:
            shards.fields = fields
            shards.features = _features(schema.metadata or {})
        shards.paths.append(path)
        shards.rows.append(file.metadata.num_rows)
    if not sum(shards.rows):
        raise CrossresError(f"{paths[0]} holds no rows")
    return shards


def _features(metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return the Hugging Face description of the columns, empty where there is none."""
    try:
        described = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {column: feature for column, feature in described.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def pick_image(shards: Shards, wanted: str | None) -> str:
    pa, _ = arrow()
    holding = [
        column
        for column, kind in shards.fields.items()
        if pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
    ]
    if wanted is not None:
        require_column(shards, wanted, "image_column")
        if wanted not in holding:
            raise CrossresError(
                f"column '{wanted}' of {shards.paths[0].name} is {shards.fields[wanted]}; images should be "
                f"encoded bytes or a struct with a field 'bytes'"
            )
        return wanted
    marked = [column for column in holding if shards.features.get(column, {}).get("_type") == "Image"]
    candidates = marked or holding
    usual = [column for column in ("image", "img") if column in candidates]
    return _only(usual[:1] or candidates, shards, "image_column", "image")


#: Columns that name people; where splits have people of their own, a bare integer would name nobody.
PEOPLE = ("identity", "person", "subject", "name")


def pick_label(shards: Shards, wanted: str | None, image: str | None, *, open_set: bool = False) -> str:
    """Choose the label column: as wanted, ``label``, the first ClassLabel, else the only one it can be.

    With ``open_set`` a text column that names people comes before these.
    """
    pa, _ = arrow()
    if wanted is not None:
        require_column(shards, wanted, "label_column")
        return wanted
    candidates = [
        column
        for column, kind in shards.fields.items()
        if column != image and (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or is_text(kind))
    ]
    named = [column for column in PEOPLE if column in candidates and is_text(shards.fields[column])]
    if open_set and named:
        return named[0]
    if "label" in candidates:
        return "label"
    marked = [column for column, feature in shards.features.items() if feature.get("_type") == "ClassLabel"]
    return _only(
        [column for column in marked if column in candidates][:1] or candidates,
        shards,
        "label_column",
        "label",
    )


def _only(candidates: Sequence[str], shards: Shards, option: str, what: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise CrossresError(
            f"no column of {shards.paths[0]} can be the {what}; it has {', '.join(shards.fields)}; "
            f"name one with {option}"
        )
    raise CrossresError(
        f"several columns of {shards.paths[0]} can be the {what}: {', '.join(candidates)}; name one with {option}"
    )


def require_column(shards: Shards, column: str, option: str) -> None:
    if column not in shards.fields:
        raise CrossresError(
            f"{option} '{column}' is no column of {shards.paths[0]}, which has {', '.join(shards.fields)}"
            f"{nearest(column, shards.fields)}"
        )


def is_text(kind: Any) -> bool:
    pa, _ = arrow()
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
