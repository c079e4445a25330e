"""Hugging Face parquet shards: which columns hold what, and their encoded images.

Images lie in one Arrow table in memory, or stay in the shards where they are too many.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from crossres.core.errors import CrossresError, library_errors, nearest, needs
from crossres.core.types import Int64s, Texts
from crossres.data.items import EncodedItems, Names, StoredFile, StoredItems

#: Columns that name people; where splits have people of their own, a bare integer does not say whom.
PEOPLE = ("identity", "person", "subject", "name")
#: Of reading parquet: pages are compared with their checksums where a file has them.
CHECKED = {"page_checksum_verification": True}
_ROWS = 1024  # rows read at once, but for larger row groups: bounds the memory that this takes


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
    """The shards of one split: files, rows of each row group of each, and by column type, description and bytes."""

    files: list[StoredFile]
    groups: list[list[int]]
    fields: dict[str, Any]
    features: dict[str, dict[str, Any]]
    sizes: dict[str, int]

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]

    @property
    def rows(self) -> list[int]:
        """Rows of each shard."""
        return [sum(groups) for groups in self.groups]

    def where(self, row: int, name: str = "") -> str:
        """Name a row, counted over all shards, with the name of its image if it has one."""
        shard = int(np.searchsorted(np.cumsum(self.rows), row, side="right"))
        return f"{self.paths[shard].name} row {row - sum(self.rows[:shard])}" + (f" ({name})" if name else "")


def open_shards(paths: Sequence[Path]) -> Shards:
    """Read the schemas of the shards of one split; refuse a damaged file, columns that differ, and no rows in all."""
    _, pq = arrow()
    shards = Shards([], [], {}, {}, {})
    for path in paths:
        with reading(path):
            file = pq.ParquetFile(path)
        schema, metadata = file.schema_arrow, file.metadata
        fields = {field.name: field.type for field in schema}
        if not shards.files:
            shards.fields, shards.features = fields, _features(schema.metadata or {})
        if set(fields) != set(shards.fields):
            one, other = ", ".join(fields), f"{shards.paths[0].name} has {', '.join(shards.fields)}"
            raise CrossresError(f"{path.name} has the columns {one}, but {other}: shards of one split should agree")
        shards.files.append(StoredFile.of(path))
        shards.groups.append([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
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
    try:
        given, codes = values_of(shards, column)
    except CrossresError as error:
        raise CrossresError(f"images.group: {error}") from None
    return np.array([str(value) for value in given])[codes]


def values_of(shards: Shards, column: str) -> tuple[list[Any], Int64s]:
    """Return the different values of a column of integers or texts, and which of them each row has, int64 (N,).

    CrossresError: a row without a value, or a number of 2^63 and more.
    """
    pa, pq = arrow()
    kind = pa.large_string() if content_of(shards.fields[column]) == "text" else pa.int64()
    chunks: list[Any] = []
    for path in shards.paths:
        with reading(path):
            chunks += pq.read_table(path, columns=[column], **CHECKED).column(0).chunks
    try:
        whole = pa.concat_arrays([chunk.cast(kind) for chunk in chunks])
    except pa.ArrowInvalid:
        raise CrossresError(
            f"column '{column}' of {shards.paths[0].name} has numbers of 2^63 and more; use 0, 1, 2, ..."
        ) from None
    if whole.null_count:
        row = int(whole.is_null().index(True).as_py())
        raise CrossresError(f"{shards.where(row)} has no '{column}' ({whole.null_count} such rows)")
    coded = whole.dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64)


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
    """The images of shards in memory: a table with the columns image and name."""

    def __init__(self, shards: Shards, table: Any) -> None:
        self.shards, self.table = shards, table
        # apart: to take a column out of a table of many batches is slow
        self.columns = dict(zip(table.column_names, table.columns, strict=True))

    def __len__(self) -> int:
        return len(self.columns["image"])

    def encoded(self, row: int) -> bytes:
        return bytes(self.columns["image"][row].as_py())

    def path(self, row: int) -> str:
        return str(self.columns["name"][row].as_py())

    def where(self, row: int) -> str:
        return self.shards.where(row, self.path(row))


class GroupItems(StoredItems):
    """The images of shards, read a run of row groups at a time; the last runs that were read are in memory."""

    column: str
    by_group = True

    def __init__(self, shards: Shards, column: str, verify: bool) -> None:
        self.shards, self.column, self.verify, self.files = shards, column, verify, shards.files
        self.first = np.cumsum([0, *shards.rows[:-1]])
        self._runs: list[tuple[StoredFile, list[int]]] = []
        self._read: dict[int, Any] = {}
        starts, row = [], 0
        for file, groups in zip(shards.files, shards.groups, strict=True):
            some: list[int] = []
            for group in range(len(groups)):
                some.append(group)
                if (held := sum(groups[each] for each in some)) >= _ROWS or group == len(groups) - 1:
                    starts.append(row)
                    self._runs.append((file, some))
                    row, some = row + held, []
        self.runs = np.array(starts, np.int64)
        self.names = _names_in(shards, column)

    def __len__(self) -> int:
        return sum(self.shards.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": {}}

    def encoded(self, row: int) -> bytes:
        run = int(np.searchsorted(self.runs, row, side="right")) - 1
        with _reading_run:  # or threads would read one several times
            if run not in self._read:
                file, groups = self._runs[run]
                with open(file.path, "rb") as content:
                    file.demand_same(content)
                for older in list(self._read)[:-1]:
                    del self._read[older]
                batches = list(_batches(file.path, self.column, groups))
                self._read[run] = arrow()[0].concat_arrays([batch["image"] for batch in batches])
            return bytes(self._read[run][row - int(self.runs[run])].as_py())

    def path(self, row: int) -> str:
        return self.names[row]

    def where(self, row: int) -> str:
        return self.shards.where(row, self.path(row))


_reading_run = Lock()


def _names_in(shards: Shards, column: str) -> Names:
    """Return the file names beside the images, without these; empty ones where there are none."""
    _, pq = arrow()
    kind = shards.fields[column]
    if not hasattr(kind, "get_field_index") or kind.get_field_index("path") < 0:
        return Names(b"", np.zeros(sum(shards.rows), np.int64))

    def names() -> Iterator[str]:
        for path in shards.paths:
            with reading(path):
                for chunk in pq.ParquetFile(path, **CHECKED).read(columns=[f"{column}.path"]).column(0).chunks:
                    yield from (str(name or "") for name in chunk.field("path").to_pylist())

    return Names.of(names())


def pack(shards: Shards, column: str, *, memory_mb: int, verify: bool = False) -> EncodedItems:
    """Return the images of a column: in memory or, where their bytes exceed ``memory_mb``, where they lie."""
    if shards.sizes.get(column, 0) > memory_mb * 2**20:
        return GroupItems(shards, column, verify)
    batches = [batch for path in shards.paths for batch in _batches(path, column)]
    return ShardItems(shards, arrow()[0].Table.from_batches(batches))


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
