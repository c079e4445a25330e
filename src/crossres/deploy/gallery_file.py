"""A gallery's file: a stored zip of JSON and .npy files; any file may be read, as nothing in one is executed."""

import io
import json
import math
import os
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from crossres.core import files
from crossres.core.errors import CrossresError, demand_file, one_line
from crossres.core.types import Float32s, Int64s

FACTS, NAMES, COUNTS, EMBEDDINGS = "gallery.json", "names.json", "counts.npy", "embeddings.npy"
#: Bytes of a gallery and of its facts, numbers of an embedding, characters of a name.
MAX_BYTES, MAX_FACTS, MAX_WIDTH, MAX_NAME = 2**35, 2**16, 2**20, 200
#: Nothing larger is read at once, so the zip's own directory cannot be larger either.
PIECE = 2**20
#: Seconds to wait for another process that changes the same gallery.
WAIT = 60.0


class Contents(NamedTuple):
    """What a gallery's file holds: facts, a JSON object not checked here, and the identities' names, each once.

    Each has as many embeddings as ``counts`` says, int64 (I,), at least 1; ``rows`` are all of them in this order,
    float32 (N, d), of unit length.
    """

    facts: dict[str, Any]
    names: Sequence[str]
    counts: Int64s
    rows: Float32s


def is_name(name: Any) -> bool:
    """Return whether it can name an identity: 1 to `MAX_NAME` printable characters."""
    return isinstance(name, str) and 1 <= len(name) <= MAX_NAME and name.isprintable()


def write(path: str | Path, contents: Contents) -> None:
    """Write a gallery's file, whole or not at all (else CrossresError); `numpy.load` reads its arrays too."""

    def members(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for member, document in ((FACTS, contents.facts), (NAMES, contents.names)):
                archive.writestr(zipfile.ZipInfo(member), json.dumps(document, ensure_ascii=False))
            for member, array in ((COUNTS, contents.counts), (EMBEDDINGS, contents.rows)):
                with archive.open(zipfile.ZipInfo(member), "w", force_zip64=True) as held:
                    np.lib.format.write_array(held, array, allow_pickle=False)

    files.write_atomically(path, members)


def read(path: str | Path) -> Contents:
    """Read a gallery's file. Every size in it is compared with the file's own before anything of that size is made.

    CrossresError: no such file, a broken one, or one that is not a gallery.
    """
    demand_file(path)
    try:
        with _Pieces(path) as file, zipfile.ZipFile(file) as archive:
            return _contents(archive, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise CrossresError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # zipfile, JSON and numpy raise nearly anything on damaged bytes
        raise CrossresError(f"{path}: not a gallery of crossres, or a broken one ({one_line(error, 160)})") from None


def _contents(archive: zipfile.ZipFile, size: int) -> Contents:
    listed = archive.infolist()
    if sorted(info.filename for info in listed) != sorted((FACTS, NAMES, COUNTS, EMBEDDINGS)):
        raise ValueError("its members are not those of a gallery")
    if any(info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size for info in listed):
        raise ValueError("a member is compressed")
    if sum(info.file_size for info in listed) > min(size, MAX_BYTES):
        raise ValueError("its members are larger than the file")
    counts = _array(archive, COUNTS, np.dtype("<i8"), 1)
    rows = _array(archive, EMBEDDINGS, np.dtype("<f4"), 2)
    people, (count, width) = len(counts), rows.shape
    if not 1 <= width <= MAX_WIDTH or people > count:
        raise ValueError(f"{people} identities with embeddings {(count, width)}")
    facts = json.loads(_content(archive, FACTS, MAX_FACTS))
    # at most 6 characters of JSON for one of a name
    names = json.loads(_content(archive, NAMES, 2 + people * (6 * MAX_NAME + 4)))
    if not isinstance(facts, dict) or not isinstance(names, list) or not all(map(is_name, names)):
        raise ValueError("its facts or its names are invalid")
    if len(set(names)) != people or len(names) != people:
        raise ValueError(f"{len(set(names))} names for {people} identities")
    if ((counts < 1) | (counts > count)).any() or counts.sum() != count:
        raise ValueError(f"the identities do not have {count} embeddings together")
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    bad = np.flatnonzero(~(abs(length - 1) < 1e-3))
    if len(bad):
        raise ValueError(f"row {bad[0]} of the embeddings is NaN or not of unit length")
    return Contents(facts, names, counts, rows)


class _Pieces(io.FileIO):
    """A file of which no more than `PIECE` bytes are read at once, whatever the sizes in it say."""

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(PIECE + 1 if size is None or size < 0 else min(size, PIECE + 1)) or b""
        if len(piece) > PIECE:
            raise ValueError("its directory is too long")
        return piece


def _array(archive: zipfile.ZipFile, member: str, kind: np.dtype[Any], axes: int) -> Any:
    """Return an array of an .npy file whose header claims just what follows it."""
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{member} is of another version of .npy")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        left = archive.getinfo(member).file_size - file.tell()
        expected = dtype == kind and not fortran and len(shape) == axes and min(shape) >= 0
        if not expected or math.prod(shape) * kind.itemsize != left:
            raise ValueError(f"{member} claims {dtype} {shape}, which is not what it holds")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def _content(archive: zipfile.ZipFile, member: str, most: int) -> bytes:
    if archive.getinfo(member).file_size > most:
        raise ValueError(f"{member} is larger than {most} bytes")
    with archive.open(member) as file:
        return b"".join(iter(lambda: file.read(PIECE), b""))


def locked(path: str | Path) -> AbstractContextManager[None]:
    """Let one process at a time read, change and write a gallery; others wait, `WAIT` seconds at most.

    An empty hidden file stays beside it. CrossresError where another process is not done by then.
    """
    path = Path(path)
    busy = f"{path}: another process has been changing it for {WAIT:.0f} s; try again later"
    return files.locked(path.with_name(f".{path.name}.lock"), busy, WAIT)
