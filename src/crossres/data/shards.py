"""Hugging Face parquet shards: which belong to which split, which columns hold what, and their encoded images.

Images lie in one Arrow table, in memory or mapped from a file where they are too many: a forked worker shares its
pages, and pickling it is one copy (in memory) or none (mapped).
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from crossres.core.errors import CrossresError, library_errors, nearest, needs
from crossres.core.files import write_atomically
from crossres.core.types import Texts
from crossres.data.images import EncodedItems
from crossres.data.splits import SPLIT_WORDS

_NUMBERED = re.compile(r"^(?P<prefix>.*?)-(?P<number>\d+)-of-(?P<total>\d+)$")
#: Columns that name people; where splits have people of their own, a bare integer does not say whom.
PEOPLE = ("identity", "person", "subject", "name")
#: Of reading parquet: pages are compared with their checksums where a file has them.
CHECKED = {"page_checksum_verification": True}
_ROWS = 1024  # rows read at once: bounds the memory that copying takes


def arrow() -> tuple[Any, Any]:
    """Import pyarrow and its parquet module; CrossresError if it is not installed."""
    with needs("a parquet file", "parquet"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet


def reading(shard: Path) -> AbstractContextManager[None]:
    """Turn what pyarrow raises on a damaged file into one line that names the file."""
    return library_errors(f"{shard} cannot be read as parquet: fetch it again")


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
        shard = int(np.searchsorted(np.cumsum(self.rows), row, side="right"))
        return f"{self.paths[shard].name} row {row - sum(self.rows[:shard])}"


def find_shards(path: Path) -> list[Path]:
    """Return the parquet files of a source, sorted; none if it is a folder of images.

    That is the file itself, or those in a folder, or those in its subfolder ``data``, or those in folders named by
    split, perhaps inside the one folder of a configuration: ``default/train/0000.parquet``.

    Raises:
        CrossresError: several configurations.
    """
    if not path.is_dir():
        return [path] if path.suffix == ".parquet" else []
    shards = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    if shards:
        return shards
    inside = {place: _in_split_folders(place) for place in (path, *sorted(path.iterdir())) if place.is_dir()}
    holding = [place for place, shards in inside.items() if shards]
    if len(holding) > 1:
        names = ", ".join(place.name for place in holding)
        raise CrossresError(f"{path} holds parquet files of several configurations: give one of {names}")
    return inside[holding[0]] if holding else []


def _in_split_folders(folder: Path) -> list[Path]:
    splits = (place for place in folder.iterdir() if place.name.lower() in SPLIT_WORDS and place.is_dir())
    return sorted(path for place in splits for path in place.glob("*.parquet"))


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
        # SPLIT/0000.parquet, as the Hub converts sets, says it by its folder
        named = re.split(r"[^a-z]+", prefix.lower()), [path.parent.name.lower()]
        words = next(filter(None, ([word for word in part if word in SPLIT_WORDS] for part in named)), [])
        split = SPLIT_WORDS[words[-1]] if words else prefix if numbered else ""
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


def open_shards(paths: Sequence[Path]) -> Shards:
    """Read the schemas of the shards of one split; refuse a damaged file, columns that differ, and no rows in all."""
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


def pick_image(shards: Shards, requested: str | None) -> str:
    """Return the column of the images: the requested one, else the marked, usual or only one.

    CrossresError where it holds no encoded images, or it is not clear which column does.
    """
    columns = [column for column, kind in shards.fields.items() if content_of(kind) == "bytes"]
    marked = _marked(shards, "Image", columns) or columns
    column = _picked(shards, requested, [name for name in ("image", "img") if name in marked][:1] or marked, "image")
    if column not in columns:
        where = f"column '{column}' of {shards.paths[0].name} is {shards.fields[column]}"
        raise CrossresError(f"{where}; images should be encoded bytes or a struct with a field 'bytes'")
    return column


def pick_label(shards: Shards, requested: str | None, image: str | None, *, open_set: bool = False) -> str:
    """Return the label column: the requested one, ``label``, the first ClassLabel, else the only one it can be.

    With ``open_set`` a text column that names people comes before these.
    """
    kinds = {column: content_of(kind) for column, kind in shards.fields.items() if column != image}
    columns = [column for column, kind in kinds.items() if kind in ("text", "integers")]
    people = [column for column in PEOPLE if open_set and kinds.get(column) == "text"]
    usual = ["label"] if "label" in columns else _marked(shards, "ClassLabel", columns)
    return _picked(shards, requested, people[:1] or usual[:1] or columns, "label")


def _marked(shards: Shards, kind: str, columns: Sequence[str]) -> list[str]:
    """Return those of some columns that Hugging Face describes as of a kind."""
    marked = (column for column, feature in shards.features.items() if feature.get("_type") == kind)
    return [column for column in marked if column in columns]


def _picked(shards: Shards, requested: str | None, candidates: Sequence[str], what: str) -> str:
    """Return the requested column, else the only candidate."""
    option, where, known = f"{what}_column", shards.paths[0], ", ".join(shards.fields)
    if requested is not None:
        if requested not in shards.fields:
            known += nearest(requested, shards.fields)
            raise CrossresError(f"{option} '{requested}' is not a column of {where}, which has {known}")
        return requested
    if len(candidates) == 1:
        return candidates[0]
    number, names = "no column", f"; it has {known}"
    if candidates:
        number, names = "several columns", f": {', '.join(candidates)}"
    raise CrossresError(f"{number} of {where} can be the {what}{names}; name one with {option}")


def groups_in(shards: Shards, column: str) -> Texts:
    """Return the group of each row, as text."""
    if column not in shards.fields:
        known = ", ".join(shards.fields)
        raise CrossresError(f"images.group: {shards.paths[0].name} has no column '{column}', only {known}")
    if content_of(shards.fields[column]) not in ("text", "integers"):
        raise CrossresError(
            f"images.group: column '{column}' is {shards.fields[column]}; expected integers or strings"
        )
    return np.array([str(value) for value in values_of(shards, column)])


def values_of(shards: Shards, column: str) -> list[Any]:
    """Return a column of all shards; refuse a row without a value."""
    _, pq = arrow()
    given: list[Any] = []
    for path in shards.paths:
        with reading(path):
            given += pq.read_table(path, columns=[column], **CHECKED).column(0).to_pylist()
    if missing := [row for row, value in enumerate(given) if value is None]:
        raise CrossresError(f"{shards.where(missing[0])} has no '{column}' ({len(missing)} such rows)")
    return given


def content_of(kind: Any) -> str:
    """Return what a column type holds: text (or a dictionary of it), integers (or booleans), bytes, else nothing.

    A struct with a field ``bytes``, as Hugging Face stores an image, counts as that field.
    """
    types = arrow()[0].types
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_string(inner) or types.is_large_string(inner):
        return "text"
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        inner = kind.field("bytes").type
    if types.is_binary(inner) or types.is_large_binary(inner):
        return "bytes"
    return "integers" if types.is_integer(kind) or types.is_boolean(kind) else ""


class ShardItems(EncodedItems):
    """The images of shards: in a table with the columns image and name, or in a file that has digests, too."""

    def __init__(self, shards: Shards, table: Any) -> None:
        pa, _ = arrow()
        self.shards, self.table = shards, table
        if isinstance(table, Path):
            with library_errors(f"{table} is damaged; remove it, it is made again"):
                table = pa.ipc.open_file(pa.memory_map(str(table))).read_all()
        # apart: to take a column out of a table of many batches is slow
        self.columns = dict(zip(table.column_names, table.columns, strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardItems, (self.shards, self.table)

    def __len__(self) -> int:
        return len(self.columns["image"])

    def encoded(self, row: int) -> bytes:
        image = bytes(self.columns["image"][row].as_py())
        if "digest" in self.columns and sha256(image).digest() != self.digest(row):
            raise CrossresError(f"{self.table} was changed after it was written; remove it, it is made again")
        return image

    def path(self, row: int) -> str:
        return str(self.columns["name"][row].as_py())

    def where(self, row: int) -> str:
        name = self.path(row)
        return self.shards.where(row) + (f" ({name})" if name else "")

    def digest(self, row: int) -> bytes:
        return bytes(self.columns["digest"][row].as_py()) if "digest" in self.columns else super().digest(row)


def pack(shards: Shards, column: str, *, memory_mb: int, cache: Path) -> ShardItems:
    """Read the image column into memory or, where its bytes exceed ``memory_mb``, into a file in ``cache``.

    The file is made once for each state of the shards (path, size, time); it appears under its name only
    when it is complete, so that an interrupted or a second process does no harm.

    Raises:
        CrossresError: a shard is damaged, or the cache cannot be written.
    """
    pa, _ = arrow()
    batches = (batch for path in shards.paths for batch in _batches(path, column))
    if shards.sizes.get(column, 0) <= memory_mb * 2**20:
        return ShardItems(shards, pa.Table.from_batches(list(batches)))
    key = sha256(column.encode())
    for path in shards.paths:
        stat = path.stat()
        key.update(f"\0{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    file = cache / f"images-{key.hexdigest()[:24]}.arrow"

    def write(sink: Any) -> None:
        schema = pa.schema({"image": pa.large_binary(), "name": pa.string(), "digest": pa.binary()})
        with pa.ipc.new_file(sink, schema) as writer:
            for batch in batches:
                digests = [sha256(image.as_buffer()).digest() for image in batch["image"]]
                writer.write_batch(pa.record_batch([*batch.columns, pa.array(digests, pa.binary())], schema=schema))

    if not file.is_file():
        write_atomically(file, write, "; it caches images: set $CROSSRES_CACHE, or raise images.memory_mb")
    return ShardItems(shards, file)


def encoded_images(shard: Path, column: str, first: int, last: int) -> Iterator[tuple[str, bytes]]:
    """Yield file name and encoded bytes of the rows ``first`` to ``last - 1`` of one shard.

    A row without a name has ``""``, one without an image ``b""``; CrossresError where the shard is damaged.
    """
    _, pq = arrow()
    with reading(shard):
        metadata = pq.ParquetFile(shard).metadata
    end = 0
    for group in range(metadata.num_row_groups):
        start, end = end, end + metadata.row_group(group).num_rows
        if start < last and end > first:
            for batch in _batches(shard, column, [group]):
                skipped = min(max(0, first - start), len(batch))
                some = batch.slice(skipped, max(0, last - start - skipped))
                yield from zip(some["name"].to_pylist(), some["image"].to_pylist(), strict=True)
                start += len(batch)


def _batches(path: Path, column: str, groups: list[int] | None = None) -> Iterator[Any]:
    """Yield record batches of the columns image and name, a few rows at a time; what is missing is empty."""
    pa, pq = arrow()
    with reading(path):
        file = pq.ParquetFile(path, **CHECKED)
        for batch in file.iter_batches(batch_size=_ROWS, columns=[column], row_groups=groups):
            images, names = batch.column(0), pa.nulls(batch.num_rows, pa.string())
            if pa.types.is_struct(images.type):
                if images.type.get_field_index("path") >= 0:
                    names = images.field("path").cast(pa.string())
                images = images.field("bytes")
            columns = [images.cast(pa.large_binary()).fill_null(b""), names.fill_null("")]
            yield pa.record_batch(columns, names=["image", "name"])
