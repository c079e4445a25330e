"""Encoded images: of parquet shards as one Arrow table, in memory or mapped from a file where they are too many.

A table instead of an object per image: a forked worker shares its pages, and pickling it is one copy (in
memory) or none (mapped).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.decode import FORMATS
from crossres.data.shards import Shards, arrow, reading

_ROWS = 1024  # rows read at once: bounds the memory that copying takes


class EncodedItems:
    """Encoded images (JPEG, PNG and the like) in memory, without file names; messages name their ``source``."""

    def __init__(self, images: Sequence[bytes], source: str) -> None:
        self._images = images
        self._source = source

    def __len__(self) -> int:
        return len(self._images)

    def encoded(self, row: int) -> bytes:
        """Return the bytes of image ``row``; ``b""`` where it is missing."""
        return self._images[row]

    def open(self, row: int) -> Image.Image:
        encoded = self.encoded(row)
        if not encoded:
            raise ValueError("it has no bytes")
        return Image.open(BytesIO(encoded), formats=FORMATS)

    def path(self, row: int) -> str:
        return f"{row:06d}"

    def where(self, row: int) -> str:
        return f"picture {row} of {self._source}"

    def digest(self, row: int) -> bytes:
        return sha256(self.encoded(row)).digest()


class ShardItems(EncodedItems):
    """The images of shards: in a table with the columns image and name, or in a file that has digests, too."""

    def __init__(self, shards: Shards, table: Any) -> None:
        self._shards = shards
        self._file = table if isinstance(table, Path) else None
        # apart: to take a column out of a table of many batches is slow
        self._columns = _columns(table)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_columns": None if self._file else self._columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._file:
            self._columns = _columns(self._file)

    def __len__(self) -> int:
        return len(self._columns["image"])

    def encoded(self, row: int) -> bytes:
        return bytes(self._columns["image"][row].as_py())

    def path(self, row: int) -> str:
        return str(self._columns["name"][row].as_py())

    def where(self, row: int) -> str:
        name = self.path(row)
        return self._shards.where(row) + (f" ({name})" if name else "")

    def digest(self, row: int) -> bytes:
        return bytes(self._columns["digest"][row].as_py()) if self._file else super().digest(row)


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
    if not file.is_file():
        _write(batches, file)
    return ShardItems(shards, file)


def encoded_images(shard: Path, column: str, first: int, last: int) -> Iterator[tuple[str, bytes]]:
    """Yield file name and encoded bytes of the rows ``first`` to ``last - 1`` of one shard.

    A row without a name has ``""``, one without an image ``b""``.

    Raises:
        CrossresError: the shard is damaged.
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
        for batch in pq.ParquetFile(path).iter_batches(batch_size=_ROWS, columns=[column], row_groups=groups):
            images, names = batch.column(0), pa.nulls(batch.num_rows, pa.string())
            if pa.types.is_struct(images.type):
                if images.type.get_field_index("path") >= 0:
                    names = images.field("path").cast(pa.string())
                images = images.field("bytes")
            columns = [images.cast(pa.large_binary()).fill_null(b""), names.fill_null("")]
            yield pa.record_batch(columns, names=["image", "name"])


def _write(batches: Iterator[Any], file: Path) -> None:
    """Write record batches, each image with its digest, to a file that appears when it is complete."""
    pa, _ = arrow()
    schema = pa.schema({"image": pa.large_binary(), "name": pa.string(), "digest": pa.binary()})
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in batches:
                digests = [sha256(image.as_buffer()).digest() for image in batch["image"]]
                columns = [batch["image"], batch["name"], pa.array(digests, pa.binary())]
                writer.write_batch(pa.record_batch(columns, schema=schema))
        os.replace(unfinished, file)
    except OSError as error:
        remedy = "free space there, or give another place with cache, or raise memory_mb"
        raise CrossresError(f"cannot write the image cache {file} ({error.strerror or error}): {remedy}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _columns(table: Any) -> dict[str, Any]:
    """Return the columns of a table or, mapped into memory, of a file that holds one."""
    pa, _ = arrow()
    if isinstance(table, Path):
        table = pa.ipc.open_file(pa.memory_map(str(table))).read_all()
    return dict(zip(table.column_names, table.columns, strict=True))
