"""Tar shards in WebDataset's layout: ``a.jpg`` beside ``a.cls`` (an integer or a text) or ``a.json``.

The headers of a shard are read once; an index in the cache folder then says where each image lies. It is kept under
the shard's path, size and modification time and how it was read, so that a shard that changes is read anew.
"""

import io
import json
import os
import re
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple

import numpy as np

from crossres.core.errors import CrossresError, demand_file, library_errors, one_line
from crossres.core.files import held, write_atomically
from crossres.core.types import Int64s
from crossres.data.folder import IMAGE_SUFFIXES
from crossres.data.items import Names, StoredFile, StoredItems
from crossres.data.labels import names_beside, number_classes

#: Rows that are read one after the other in a random order of reading: some hundred KB of small images.
RUN = 128
#: What may hold the label, the first of them that is there: ``a.cls``, or a key of ``a.json``.
LABELS = ("cls", "label", "class")
#: Of the index; one more where `_read` finds other images or labels than before.
FORMAT = 1
#: Most bytes of a label's member.
LONG = 2**20


class Index(NamedTuple):
    """Where the images of a shard lie, in its order.

    Attributes:
        rows: of each image its first byte in the file, its bytes, and the position of its label, int64 (3, N).
        names: its member's name.
        labels: the different labels of the shard, integers or texts; None: there is none.
        ignored: members that are neither an image nor beside one.
    """

    rows: Int64s
    names: Names
    labels: list[Any]
    ignored: list[str]


class TarItems(StoredItems):
    """The images of tar shards, read by their place in the file.

    Args:
        paths: the shards of one split.
        columns: which image and which label of a sample count (``jpg``; ``cls`` or a key of ``a.json``), if not the
            only image, and ``a.cls`` or else ``a.json``.
        cache: folder of the indices.
        verify: see `StoredItems`.

    Raises:
        CrossresError: a shard that is cut short or damaged, or whose samples contradict themselves; no image in all.
    """

    def __init__(
        self, paths: Sequence[Path], columns: tuple[str | None, str | None], *, cache: Path, verify: bool = False
    ) -> None:
        self.files, self.column, self.verify = [StoredFile.of(path) for path in paths], columns[0], verify
        read = [_index(file, columns, cache) for file in self.files]  # of many processes each its share
        indices = [index or _awaited(file, columns, cache) for file, index in zip(self.files, read, strict=True)]
        counts = [len(index.names) for index in indices]
        if not sum(counts):
            raise CrossresError(f"{paths[0]} holds no images ({', '.join(IMAGE_SUFFIXES)})")
        self.first = np.cumsum([0, *counts[:-1]])
        self.offset, self.size = np.concatenate([index.rows[:2] for index in indices], axis=1)
        ends = [index.names.ends for index in indices]
        before = np.cumsum([0, *(len(index.names.text) for index in indices[:-1])])
        ends = [end.astype(np.int64) + start for end, start in zip(ends, before, strict=True)]
        self.names = Names(b"".join(index.names.text for index in indices), np.concatenate(ends))
        starts = zip(self.first.tolist(), counts, strict=True)
        self.runs = np.concatenate([np.arange(start, start + count, RUN) for start, count in starts])
        self.labels: list[Any] = list(dict.fromkeys(label for index in indices for label in index.labels))
        place = {label: number for number, label in enumerate(self.labels)}
        coded = [np.array([place[label] for label in index.labels], np.int64)[index.rows[2]] for index in indices]
        self.label: Int64s = np.concatenate(coded)
        self.ignored = [
            f"{file.path}: {name}" for file, each in zip(self.files, indices, strict=True) for name in each.ignored
        ]

    def __len__(self) -> int:
        return len(self.offset)

    def encoded(self, row: int) -> bytes:
        shard, _ = self.place(row)
        file = _opened(self.files[shard], os.getpid(), get_ident())
        file.seek(self.offset[row])
        content = file.read(size := int(self.size[row]))
        if len(content) < size:
            raise CrossresError(f"{self.files[shard].path} was cut short after it was read first: fetch it again")
        return content

    def path(self, row: int) -> str:
        return self.names[row]

    def where(self, row: int) -> str:
        return f"{self.path(row)} in {self.files[self.place(row)[0]].path}"

    def classes(self) -> tuple[Int64s, list[str]]:
        """Return the label of each image, int64 (N,), and the names of 0, 1, ...

        Raises:
            CrossresError: an image without a label, labels of two kinds, or what `number_classes` refuses.
        """

        def rows_of(kind: type) -> Int64s:
            return np.flatnonzero(np.array([type(label) is kind for label in self.labels])[self.label])

        if len(lacking := rows_of(type(None))):
            rule = "a sample has its label beside its image, as a.cls or in a.json (label_column names its key)"
            raise CrossresError(f"{self.where(lacking[0])} has no label ({len(lacking)} such); {rule}")
        texts, numbers = rows_of(str), rows_of(int)
        if len(texts) and len(numbers):
            both = " but ".join(
                f"{self.where(rows[0])} has {self.labels[self.label[rows[0]]]!r}" for rows in (numbers, texts)
            )
            raise CrossresError(f"labels are of two kinds: {both}; give all as numbers or all as texts")
        names = names_beside(self.files[0].path.parent / "classes.json") if len(numbers) else None
        return number_classes(self.labels, self.label, "the label", self.where, names)


class _Shard(io.FileIO):
    """A file that closes when nothing refers to it any more."""

    def __del__(self) -> None:
        self.close()


@lru_cache(maxsize=64)
def _opened(file: StoredFile, process: int, thread: int) -> _Shard:  # noqa: ARG001
    """Return a shard, open: for one thread of one process alone, as a place in a file is shared."""
    shard = _Shard(file.path)
    file.demand_same(shard)
    return shard


def _awaited(file: StoredFile, columns: tuple[str | None, str | None], cache: Path) -> Index:
    """Return the index of a shard that another process reads."""
    if (index := _index(file, columns, cache, wait=3600)) is None:
        raise CrossresError(f"another process has been reading the headers of {file.path} for an hour; end it")
    return index


def _index(file: StoredFile, columns: tuple[str | None, str | None], cache: Path, wait: float = 0) -> Index | None:
    """Return the index of a shard from the cache, or make it; None while another process makes it."""
    how = FORMAT, IMAGE_SUFFIXES, os.path.realpath(file.path), file.size, file.time, columns
    key = sha256(repr(how).encode("utf-8", "surrogateescape"))
    kept = cache / f"tar-{key.hexdigest()[:24]}.npz"
    if kept.is_file():
        return _known(file, columns, kept)
    with held(lock := kept.with_suffix(".lock"), wait) as mine:
        if not mine:
            return None
        index = _known(file, columns, kept)
        with suppress(OSError):
            lock.unlink()  # a process that waited for it reads the index
    return index


def _known(file: StoredFile, columns: tuple[str | None, str | None], kept: Path) -> Index:
    """Return the index that is kept there or, where it is missing or damaged, make it."""
    if kept.is_file():
        try:
            with np.load(kept, allow_pickle=False) as arrays:  # the sums in it are compared
                names = Names(arrays["text"].tobytes(), arrays["ends"])
                return Index(arrays["rows"], names, *json.loads(arrays["json"].tobytes()))
        except Exception as error:  # nearly anything on damaged bytes
            print(f"{kept} is damaged ({one_line(error, 80)}); reading {file.path} again", file=sys.stderr)
    index = _read(file, *columns)
    parts: dict[str, Any] = {
        "rows": index.rows,
        "text": np.frombuffer(index.names.text, np.uint8),
        "ends": index.names.ends,
        "json": np.frombuffer(json.dumps([index.labels, index.ignored]).encode(), np.uint8),
    }
    hint = "; it says where a tar's images lie: set $CROSSRES_CACHE"
    write_atomically(kept, lambda sink: np.savez(sink, **parts), hint)
    return index


def _read(file: StoredFile, image: str | None, label: str | None) -> Index:
    """Read all headers of a shard, and the labels."""
    images: dict[str, tuple[str, str, int, int]] = {}
    labels: dict[str, dict[str, Any]] = defaultdict(dict)
    others: dict[str, list[str]] = defaultdict(list)
    endings = {"cls", *([label] if label else [])}
    demand_file(file.path)
    with library_errors(f"{file.path} is cut short, or not a tar file without compression: fetch it again"):
        for tar, member in _members(file):
            folder, base = os.path.split(member.name)
            stem, _, ending = base.partition(".")
            sample, ending = os.path.join(folder, stem), ending.lower()
            if ending in endings or ending == "json":
                content = _content(tar, member)
                labels[sample] |= (
                    {ending: _plain(file, member, content)} if ending in endings else _json(file, member, content)
                )
            elif ending == image or (not image and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES):
                if sample in images:
                    both = f"{images[sample][1]} and {ending}"
                    rule = "name one ending with image_column; a sample's name ends at the first dot"
                    raise CrossresError(f"{file.path}: sample {sample} has two images, {both}: {rule}")
                images[sample] = member.name, ending, member.offset_data, member.size
            else:
                others[sample].append(member.name)
    keys = [label] if label else LABELS
    given = [next((labels[sample][key] for key in keys if key in labels[sample]), None) for sample in images]
    for value, (name, *_) in zip(given, images.values(), strict=True):
        if value is not None and type(value) not in (int, str):
            raise CrossresError(f"{file.path}: the label of {name} is {value!r}; expected an integer or a text")
    distinct = list(dict.fromkeys(given))
    place = {value: number for number, value in enumerate(distinct)}
    alone = [name for sample, names in others.items() if sample not in images for name in names]
    rows = [(*where, place[value]) for (_, _, *where), value in zip(images.values(), given, strict=True)]
    names = Names.of(name for name, *_ in images.values())
    return Index(np.array(rows, np.int64).reshape(-1, 3).T.copy(), names, distinct, alone)


def _members(file: StoredFile) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the files of a shard that are not hidden; refuse one without its end, which may have held more."""
    with open(file.path, "rb") as content, tarfile.open(fileobj=content, mode="r:") as tar:
        file.demand_same(content)
        while (member := tar.next()) is not None:
            if member.isreg() and not member.issparse() and os.path.basename(member.name)[:1] not in ("", "."):
                yield tar, member
            tar.members = []  # type: ignore[attr-defined]  # of a large shard they are many
        content.seek(tar.offset)
        if content.read(512) != bytes(512):
            raise CrossresError(f"{file.path} is cut short or damaged at byte {tar.offset:,}: fetch it again")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    if content is None or member.size > LONG:
        raise CrossresError(f"{tar.name!s}: {member.name} has {member.size:,} bytes, too many for a label")
    return content.read()


def _plain(file: StoredFile, member: tarfile.TarInfo, content: bytes) -> int | str:
    """Return what ``a.cls`` holds."""
    with library_errors(f"{file.path}: {member.name} is not UTF-8"):
        text = content.decode("utf-8-sig").strip()
    return int(text) if re.fullmatch("-?[0-9]+", text) else text


def _json(file: StoredFile, member: tarfile.TarInfo, content: bytes) -> dict[str, Any]:
    """Return the plain values of ``a.json``."""
    with library_errors(f"{file.path}: {member.name} is not a JSON object"):
        return {key: value for key, value in dict(json.loads(content)).items() if not isinstance(value, list | dict)}
