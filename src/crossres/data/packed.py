"""Encoded images of parquet shards in one buffer: in memory, or memory-mapped where they are too many.

One buffer instead of an object an image: a forked worker shares its pages, and pickling it is one copy (in
memory) or none (mapped).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.decode import FORMATS
from crossres.data.images import Pixels, Positions
from crossres.data.shards import Shards, arrow, reading

_ROWS = 1024  # rows read at once: bounds the memory that copying takes


class Packed:
    """Byte strings one after another; string i lies between ``ends[i - 1]`` and ``ends[i]``."""

    def __init__(self, data: Pixels | Path, ends: Positions) -> None:
        self._file = data if isinstance(data, Path) else None
        self._ends = ends
        self._data = _mapped(data) if isinstance(data, Path) else data

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> bytes:
        return self._data[self._ends[i - 1] if i else 0 : self._ends[i]].tobytes()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None if self._file else self._data}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._file:
            self._data = _mapped(self._file)


class PackedItems:
    """Encoded images with the file names their shards give them."""

    def __init__(self, images: Packed, names: Packed, shards: Shards, digests: Pixels | None = None) -> None:
        self.images = images
        self.names = names
        self._shards = shards
        self._digests = digests

    def __len__(self) -> int:
        return len(self.images)

    def open(self, row: int) -> Image.Image:
        encoded = self.images[row]
        if not encoded:
            raise ValueError("it has no bytes")
        return Image.open(BytesIO(encoded), formats=FORMATS)

    def path(self, row: int) -> str:
        return self.names[row].decode()

    def where(self, row: int) -> str:
        name = self.path(row)
        return self._shards.where(row) + (f" ({name})" if name else "")

    def digest(self, row: int) -> bytes:
        if self._digests is None:
            return sha256(self.images[row]).digest()
        return bytes(self._digests[row])


def pack(shards: Shards, column: str, *, memory_mb: int, cache: Path) -> PackedItems:
    """Read the image column into memory or, where its bytes exceed ``memory_mb``, into a file in ``cache``.

    The file is made once for each state of the shards (path, size, time); it appears under its name only
    when it is complete, so that an interrupted or a second process does no harm.

    Raises:
        CrossresError: a shard is damaged, or the cache cannot be written.
    """
    if _encoded_bytes(shards, column) > memory_mb * 2**20:
        return _map_cache(shards, column, cache)
    images, names = bytearray(), bytearray()
    ends, name_ends, _ = _copy(shards, column, images.extend, names.extend)
    return PackedItems(
        Packed(np.frombuffer(images, np.uint8), ends),
        Packed(np.frombuffer(names, np.uint8), name_ends),
        shards,
    )


def _encoded_bytes(shards: Shards, column: str) -> int:
    """Estimate the size of the decompressed column from the shards' own statistics."""
    _, pq = arrow()
    total = 0
    for path in shards.paths:
        with reading(path):
            metadata = pq.ParquetFile(path).metadata
        for group in range(metadata.num_row_groups):
            chunks = (metadata.row_group(group).column(i) for i in range(metadata.num_columns))
            total += sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] == column)
    return total


def _map_cache(shards: Shards, column: str, cache: Path) -> PackedItems:
    key = sha256(column.encode())
    for path in shards.paths:
        stat = path.stat()
        key.update(f"\0{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    folder = cache / f"images-{key.hexdigest()[:24]}"
    if not folder.is_dir():
        part = cache / f"{folder.name}.{os.getpid()}.part"
        try:
            part.mkdir(parents=True, exist_ok=True)
            with open(part / "images.bin", "wb") as images, open(part / "names.bin", "wb") as names:
                ends, name_ends, digests = _copy(shards, column, images.write, names.write, digest=True)
            np.savez(part / "index.npz", ends=ends, name_ends=name_ends, digests=digests)
            try:
                os.rename(part, folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was quicker with the same content
                    raise
        except OSError as error:
            raise CrossresError(
                f"cannot write the image cache {folder} ({error.strerror or error}): free space there, "
                f"or give another place with cache, or raise memory_mb"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    with np.load(folder / "index.npz") as index:
        images_in = Packed(folder / "images.bin", index["ends"])
        return PackedItems(images_in, Packed(folder / "names.bin", index["name_ends"]), shards, index["digests"])


def _copy(
    shards: Shards,
    column: str,
    write_image: Callable[[memoryview], Any],
    write_name: Callable[[bytes], Any],
    *,
    digest: bool = False,
) -> tuple[Positions, Positions, Pixels]:
    """Pour images and file names into two sinks; return the end of each, and the digests if asked for."""
    ends: list[Positions] = [np.zeros(1, np.int64)]
    name_sizes: list[int] = []
    digests: list[bytes] = []
    for block, starts, names in _blocks(shards, column):
        write_image(block.data)
        ends.append(ends[-1][-1] + starts[1:])
        for name in names:
            encoded = (name or "").encode()
            name_sizes.append(len(encoded))
            write_name(encoded)
        if digest:
            digests += [sha256(block[a:b].tobytes()).digest() for a, b in pairwise(starts.tolist())]
    hashes = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return np.concatenate(ends)[1:], np.cumsum(name_sizes, dtype=np.int64), hashes


def _blocks(shards: Shards, column: str) -> Iterator[tuple[Pixels, Positions, list[str | None]]]:
    """Yield bytes, bounds (rows + 1) and file names of a few rows at a time; a missing image has no bytes."""
    pa, pq = arrow()
    for path in shards.paths:
        with reading(path):
            for batch in pq.ParquetFile(path).iter_batches(batch_size=_ROWS, columns=[column]):
                images = batch.column(0)
                names: list[str | None] = [None] * batch.num_rows
                if pa.types.is_struct(images.type):
                    if images.type.get_field_index("path") >= 0:
                        names = images.field("path").to_pylist()
                    images = images.field("bytes")
                images = images.fill_null(b"").cast(pa.large_binary())
                _, bounds, data = images.buffers()
                starts = np.frombuffer(bounds, np.int64)[images.offset : images.offset + len(images) + 1]
                block = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
                yield block[starts[0] : starts[-1]], starts - starts[0], names


def _mapped(path: Path) -> Pixels:
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r")
