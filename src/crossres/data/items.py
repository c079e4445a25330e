"""Where pictures lie: in files, as encoded bytes or as pixels; and their names in few bytes each."""

from __future__ import annotations

import io
import os
import posixpath
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import IO, Protocol, overload

import numpy as np
from PIL import Image

from crossres.core.errors import CrossresError, composed
from crossres.core.types import Int64s, Pixels
from crossres.data.decode import FORMATS


class Items(Protocol):
    """Where pictures lie: in files, as encoded bytes or as pixels. Picklable, and cheap to fork.

    Of picture ``row``, `open` may raise whatever a decoder raises, `path` is the file name that its source gives or
    ``""``, `where` names it so that a user can find it, and `digest` identifies its content.
    """

    def __len__(self) -> int: ...
    def open(self, row: int) -> Image.Image: ...
    def path(self, row: int) -> str: ...
    def where(self, row: int) -> str: ...
    def digest(self, row: int) -> bytes: ...


@dataclass(eq=False, repr=False)
class ArrayItems:
    """Pixels in memory: uint8 (N, H, W) greyscale or (N, H, W, 3) RGB."""

    array: Pixels

    def __post_init__(self) -> None:
        if self.array.dtype != np.uint8 or self.array.ndim not in (3, 4) or self.array.shape[3:] not in ((), (3,)):
            given = f"{self.array.dtype} {self.array.shape}"
            raise CrossresError(f"pixels are {given}; they should be uint8 (N, H, W) or (N, H, W, 3)")

    def __len__(self) -> int:
        return len(self.array)

    def open(self, row: int) -> Image.Image:
        return Image.fromarray(self.array[row])

    def path(self, row: int) -> str:  # noqa: ARG002
        return ""

    def where(self, row: int) -> str:
        return f"number {row}"

    def digest(self, row: int) -> bytes:
        return sha256(str(self.array.shape[1:]).encode() + self.array[row].tobytes()).digest()


@dataclass(eq=False, repr=False)
class EncodedItems:
    """Encoded images (JPEG, PNG and the like) in memory, without file names; messages name their ``source``."""

    images: Sequence[bytes]
    source: str

    def __len__(self) -> int:
        return len(self.images)

    def encoded(self, row: int) -> bytes:
        """Return the bytes of image ``row``; ``b""`` where it is missing."""
        return self.images[row]

    def open(self, row: int) -> Image.Image:
        if not (encoded := self.encoded(row)):
            raise ValueError("it is empty")
        return Image.open(BytesIO(encoded), formats=FORMATS)

    def path(self, row: int) -> str:
        return f"{row:06d}"

    def where(self, row: int) -> str:
        return f"{row} of {self.source}"

    def digest(self, row: int) -> bytes:
        return sha256(self.encoded(row)).digest()


class Names(Sequence[str]):
    """Names as one text of bytes and where each ends: a third of a list of them, or less.

    Args:
        text: all names, UTF-8, with Python's surrogates for bytes that are not.
        ends: where in it each ends, int64 (N,).
    """

    def __init__(self, text: bytes, ends: Int64s) -> None:
        self.text, self.ends = text, ends.astype(np.uint32) if len(text) < 2**32 else ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Return some names, without a list of them in between."""
        text, ends = bytearray(), array("q")
        for name in names:
            text += name.encode("utf-8", "surrogateescape")
            ends.append(len(text))
        return cls(bytes(text), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        start = self.ends[row - 1] if row else 0
        return self.text[start : self.ends[row]].decode("utf-8", "surrogateescape")


class NameIndex:
    """Finds rows by name, as `crossres.data.images.by_name` does.

    It takes 16 bytes a name while whole paths are found, 64 from the first that is found by its file name on.

    Names are compared by 64 bits of their hash: of 10 million, two are taken for one in 3 of a million cases.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._sorted: list[tuple[Int64s, Int64s]] = [_by_hash(names, str)]

    def twice(self) -> str | None:
        """Return a name that stands there twice."""
        keys, rows = self._sorted[0]
        again = np.flatnonzero(keys[1:] == keys[:-1])
        return self.names[int(rows[again[0]])] if len(again) else None

    def rows(self, names: Iterable[str]) -> Int64s:
        """Return the row of each name: of the whole path, else of its file name or of both without an ending.

        It is `SEVERAL` where several paths are named so, `NONE` where none is.
        """
        keys = np.fromiter((hash(composed(name)) for name in names), np.int64)
        rows = self._among(0, keys)
        if len(left := np.flatnonzero(rows == NONE)):
            if len(self._sorted) == 1:
                self._sorted += [_by_hash(self.names, part) for part in (_file, _without_ending, _stem)]
            parts = np.stack([self._among(part, keys[left]) for part in (1, 2, 3)])
            last, first = parts.max(0), np.where(parts == NONE, np.iinfo(np.int64).max, parts).min(0)
            rows[left] = np.where((last == NONE) | (first == last), last, SEVERAL)
        return rows

    def _among(self, part: int, keys: Int64s) -> Int64s:
        known, rows = self._sorted[part]
        first, after = (np.searchsorted(known, keys, side) for side in ("left", "right"))
        at = rows[np.minimum(first, len(rows) - 1)]
        # the hash of what has no name is 0
        return np.where((after == first) | (keys == 0), NONE, np.where(after - first > 1, SEVERAL, at))


#: Of a name that no path has, or that several have.
NONE, SEVERAL = -2, -1


def _by_hash(names: Sequence[str], part: Callable[[str], str]) -> tuple[Int64s, Int64s]:
    """Return the hashes of a part of each name, rising, and the row of each."""
    keys = np.fromiter((hash(part(composed(name))) for name in names), np.int64, len(names))
    rows = keys.argsort(kind="stable")
    return keys[rows], rows


def _file(path: str) -> str:
    return path.rpartition("/")[2]


def _without_ending(path: str) -> str:
    return posixpath.splitext(path)[0]


def _stem(path: str) -> str:
    return _without_ending(_file(path))


class Numbers(Sequence[str]):
    """The names ``"0"``, ``"1"``, ... of so many things, in no memory."""

    def __init__(self, count: int) -> None:
        self.rows = range(count)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        return list(map(str, self.rows[row])) if isinstance(row, slice) else str(self.rows[row])


@dataclass(frozen=True)
class StoredFile:
    """A shard as it was when its rows were counted: its size in bytes and its modification time in ns."""

    path: Path
    size: int
    time: int

    @classmethod
    def of(cls, path: Path) -> StoredFile:
        stat = path.stat()
        return cls(path, stat.st_size, stat.st_mtime_ns)

    def demand_same(self, file: IO[bytes] | io.FileIO) -> None:
        """Raise CrossresError where an open file is not the shard any more."""
        stat = os.fstat(file.fileno())
        if (stat.st_size, stat.st_mtime_ns) != (self.size, self.time):
            raise CrossresError(f"{self.path} changed after it was read first: start again, it is then read anew")


class StoredItems(EncodedItems):
    """Encoded images in shards, read where they lie: dear at random, cheap in the order of the rows.

    Attributes:
        files: the shards.
        column: of the images, or in a tar the ending that names them; None: the only one.
        first: row of each shard's first image, int64 (S,).
        runs: first row of each stretch of rows that is best read at once, int64 (R,), rising from 0.
        by_group: whether to read one image takes its whole run.
        verify: whether a fingerprint is of the images' bytes instead of the shards' sizes and modification times.
    """

    files: list[StoredFile]
    column: str | None
    first: Int64s
    runs: Int64s
    verify: bool
    by_group = False

    def place(self, row: int) -> tuple[int, int]:
        """Return the number of a row's shard, and the row in it."""
        shard = int(np.searchsorted(self.first, row, side="right")) - 1
        return shard, row - int(self.first[shard])

    def state(self) -> bytes:
        """Return what tells these images from others without a look at them: column; name, size, time of shards."""
        files = [(file.path.name, file.size, file.time) for file in self.files]
        return repr((self.column, files)).encode()
