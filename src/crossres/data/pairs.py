"""Lists of image pairs for verification: LFW's text files, CSV, and insightface's .bin."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import numpy as np

from crossres.core.errors import CrossresError, one_line
from crossres.core.types import Bools, Int64s
from crossres.data.folder import IMAGE_SUFFIXES
from crossres.data.images import EncodedItems, ImageSet, by_name

#: class of the images whose person is not named
UNNAMED = "(nobody)"


@dataclass(frozen=True)
class Pairs:
    """Pairs of images of one set.

    Attributes:
        left: positions (N,) in the image set.
        right: positions (N,).
        same: bool (N,), whether a pair shows one identity.
        fold: int (N,); all 0 where the list has no folds.
    """

    left: Int64s
    right: Int64s
    same: Bools
    fold: Int64s

    def __len__(self) -> int:
        return len(self.same)


class _Row(NamedTuple):
    """A pair as a list names it, and the line it stands in."""

    line: int
    names: tuple[str, str]
    same: bool
    fold: int


def read_pairs(path: str | Path, images: ImageSet) -> Pairs:
    """Read a list of pairs and find its images in a set.

    Args:
        path: a ``.csv`` with the columns left, right, same (0/1 or true/false) and perhaps fold, left and right being
            the images' paths or file names; else a text file of LFW: a first line with the number of pairs of each
            kind, or of folds and pairs, then ``name n1 n2`` for a genuine and ``name1 n1 name2 n2`` for an impostor
            pair, image n of a person being ``name_000n``.
        images: whose paths the pairs name; an ending such as ``.jpg`` may be left out.

    Raises:
        CrossresError: no such file, a line that is not a pair, an image that is not in the set, by its line; no
            genuine or no impostor pair, in all or outside one of the folds; a pair called genuine and impostor.
    """
    path = Path(path)
    rows = _csv_pairs(path) if path.suffix.lower() == ".csv" else _lfw_pairs(path)
    if not rows:
        raise CrossresError(f"{path}: holds no pair")
    position = by_name([images.path(i) for i in range(len(images))])

    def place(name: str, line: int) -> int:
        # where a folder is named it counts: another person's image may have the same file name
        at = position.get(name, position.get(_without_ending(name)))
        if at is None:
            raise CrossresError(f"{path}, line {line}: there is no image '{name}' among {len(images)}")
        if at < 0:
            raise CrossresError(f"{path}, line {line}: several images are named '{name}'; give its whole path")
        return at

    places = np.array([[place(name, row.line) for name in row.names] for row in rows], dtype=np.int64)
    same = np.array([row.same for row in rows], dtype=bool)
    fold = np.array([row.fold for row in rows], dtype=np.int64)
    _require_both_kinds(path, same, fold)
    first: dict[tuple[int, int], _Row] = {}
    for row, (left, right) in zip(rows, np.sort(places).tolist(), strict=True):
        other = first.setdefault((left, right), row)
        if other.same != row.same:
            here, there = ("one person", "two") if row.same else ("two people", "one")
            names = " and ".join(f"'{name}'" for name in row.names)
            raise CrossresError(f"{path}, line {row.line}: {names} are {here}, but {there} in line {other.line}")
    return Pairs(places[:, 0], places[:, 1], same, fold)


def _without_ending(name: str) -> str:
    # of a name such as john.2 the last part is not an ending
    whole = PurePosixPath(name)
    return str(whole.with_suffix("")) if whole.suffix.lower() in IMAGE_SUFFIXES else name


def _require_both_kinds(path: Path, same: Bools, fold: Int64s) -> None:
    """Refuse a list that no threshold can be chosen on, before anything is trained to be judged by it."""
    folds = np.unique(fold)
    for name in folds if len(folds) > 1 else [None]:
        chosen_on = same if name is None else same[fold != name]
        if chosen_on.all() or not chosen_on.any():
            kind = "impostor" if chosen_on.all() else "genuine"
            where = "" if name is None else f" outside fold {name}"
            raise CrossresError(f"{path}: holds no {kind} pair{where}; verification needs both kinds")


@contextmanager
def opening(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever reading a file raises into one line: that it cannot be opened, or is not of its ``kind``."""
    try:
        yield
    except OSError as error:
        raise CrossresError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise CrossresError(f"{path}: not {kind} ({one_line(error, 120)})") from None


def _lfw_pairs(path: Path) -> list[_Row]:
    with opening(path, "a text file; a .bin of insightface has its images with it: give it as the data"):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    head = lines[0].split() if lines else []
    if not head or len(head) > 2 or not all(word.isdecimal() and int(word) > 0 for word in head):
        rule = "its first line should be the number of pairs, or of folds and pairs"
        raise CrossresError(f"{path}: {rule}; a CSV should be called .csv")
    folds, of_each = (int(head[0]), int(head[1])) if len(head) == 2 else (1, int(head[0]))
    rows: list[_Row] = []
    for number, line in enumerate(lines[1:], 2):
        words = [word.strip() for word in line.split("\t" if "\t" in line else None) if word.strip()]
        if not words:
            continue
        same = len(words) == 3
        try:
            left, i, right, j = [*words[:2], words[0], words[2]] if same else words
            names = f"{left}_{int(i):04d}", f"{right}_{int(j):04d}"
        except ValueError:
            raise CrossresError(f"{path}, line {number}: '{line[:60]}' is not a pair of LFW") from None
        rows.append(_Row(number, names, same, len(rows) // (2 * of_each)))
    if len(rows) != 2 * of_each * folds:
        raise CrossresError(f"{path}: {len(rows)} pairs, but its first line promises {2 * of_each * folds}")
    return rows


def _csv_pairs(path: Path) -> list[_Row]:
    truth = {"1": True, "true": True, "0": False, "false": False}
    rows: list[_Row] = []
    for line, cells in read_csv(path, ("left", "right", "same")):
        same = truth.get(str(cells["same"]).strip().lower())
        if same is None or not cells["left"] or not cells["right"]:
            raise CrossresError(f"{path}, line {line}: expected left, right and same as 0 or 1")
        try:
            fold = int(cells.get("fold") or 0)
        except ValueError:
            raise CrossresError(f"{path}, line {line}: fold is '{cells['fold']}', expected a number") from None
        rows.append(_Row(line, (cells["left"], cells["right"]), same, fold))
    return rows


def read_csv(path: Path, columns: tuple[str, ...] = ()) -> list[tuple[int, dict[str, str]]]:
    """Return the line number and, by column, the cells of each row of a CSV with a head.

    Raises:
        CrossresError: no such file, not a CSV, or one of ``columns`` is missing.
    """
    with opening(path, "a CSV file"), path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = [(reader.line_num, row) for row in reader]
    for column in columns:
        if column not in (reader.fieldnames or []):
            raise CrossresError(f"{path}: has no column '{column}'; expected {', '.join(columns)}")
    return rows


class _Kind:
    """Stands in for numpy's dtype: bytes and booleans only, so that no pickle can make numpy follow a pointer."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        name = name.decode("latin1") if isinstance(name, bytes) else name  # as Python 2 wrote it
        if name not in ("u1", "|u1", "b1", "|b1", "?"):
            raise pickle.UnpicklingError(f"it holds an array of {name!r}, not of bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and flags: of single bytes there are none."""


class _Array(bytearray):
    """Stands in for numpy's ndarray: its bytes in one row."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        _, _, kind, _, raw = state
        self[:] = _raw(kind, raw)


def _raw(kind: object, raw: object) -> bytes:
    """Return the bytes of an array; UnpicklingError if it has none."""
    if not isinstance(kind, _Kind) or not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError("it holds an array of an unknown kind or without bytes")
    return bytes(raw)


class _Plain(pickle.Unpickler):
    """Reads lists, bytes, numbers and arrays of bytes; anything else that a pickle names is refused, not run."""

    OWN: ClassVar[dict[str, Any]] = {
        "numpy.ndarray": _Array,
        "numpy.dtype": _Kind,
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy.core.multiarray.scalar": lambda kind, raw: _raw(kind, raw)[0],
        "numpy.core.numeric._frombuffer": lambda raw, kind, *_: _raw(kind, raw),
        "_codecs.encode": lambda text, *_: text.encode("latin1"),  # how protocol 2 writes bytes
    }

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module.replace('numpy._core.', 'numpy.core.')}.{name}"
        if name not in self.OWN:
            raise pickle.UnpicklingError(f"it asks for {name}")
        return self.OWN[name]


def read_bin(path: str | Path) -> tuple[ImageSet, Pairs]:
    """Read insightface's ``.bin``: encoded images, two a pair, and whether each pair is genuine; ten folds in order.

    The file is a pickle. Only lists, bytes, booleans and arrays are read; a file that names anything else is refused
    before it can run.

    Raises:
        CrossresError: no such file, no such pickle, or counts that do not fit.
    """
    path = Path(path)
    with opening(path, "a .bin of insightface"), path.open("rb") as file:
        pictures, same = _Plain(file, encoding="bytes").load()
        for picture in pictures:  # a few bytes of nested lists may stand for gigabytes
            if not isinstance(picture, (bytes, bytearray)):
                raise pickle.UnpicklingError(f"it holds an image as {type(picture).__name__}, not as bytes")
        pictures, truth = [bytes(picture) for picture in pictures], np.asarray([bool(one) for one in same])
    if len(pictures) != 2 * len(truth) or not len(truth):
        raise CrossresError(f"{path}: {len(pictures)} images for {len(truth)} pairs, expected two for each")
    labels = np.zeros(len(pictures), dtype=np.int64)
    images = ImageSet(EncodedItems(pictures, path.name), labels, [UNNAMED], path.stem, whole=True)
    left = np.arange(len(truth), dtype=np.int64) * 2
    fold = np.arange(len(truth), dtype=np.int64) * min(10, len(truth)) // len(truth)
    return images, Pairs(left, left + 1, truth, fold)
