"""Where pictures lie: in files, as encoded bytes or as pixels; and their names in few bytes each."""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import IO, Protocol, overload

import numpy as np
from PIL import Image

from crossres.core.errors import CrossresError
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
    """Names as one text of bytes and where each ends: the name and 8 bytes each, a third of a list of them.

    Args:
        text: all names, UTF-8, with Python's surrogates for bytes that are not.
        ends: where in it each ends, int64 (N,).
    """

    def __init__(self, text: bytes, ends: Int64s) -> None:
        self.text, self.ends = text, ends

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
