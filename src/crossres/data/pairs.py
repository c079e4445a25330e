"""Lists of image pairs for verification: LFW's text files, CSV, and insightface's .bin."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.decode import FORMATS
from crossres.data.folder import SUFFIXES
from crossres.data.images import ImageSet, by_name

#: class of the images whose person nobody names
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

    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    same: npt.NDArray[np.bool_]
    fold: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.same)


def read_pairs(path: str | Path, images: ImageSet) -> Pairs:
    """Read a list of pairs and find its images in a set.

    Args:
        path: a ``.csv`` with the columns left, right, same (0/1 or true/false) and perhaps fold, left and right being
            the images' paths or file names; else a text file of LFW: a first line with the number of pairs of each
            kind, or of folds and pairs, then ``name n1 n2`` for a genuine and ``name1 n1 name2 n2`` for an impostor
            pair, image n of a person being ``name_000n``.
        images: whose paths the pairs name; an ending such as ``.jpg`` may be left out.

    Raises:
        CrossresError: no such file, a line that is no pair, an image that is not in the set, by its line; no genuine
            or no impostor pair, in all or outside one of the folds; a pair that is called genuine and impostor.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CrossresError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CrossresError(
            f"{path}: not a text file; a .bin of insightface has its images with it: give it as the data"
        ) from None
    try:
        rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _lfw_rows(path, text)
    except csv.Error as error:
        raise CrossresError(f"{path}: not a CSV file ({error})") from None
    if not rows:
        raise CrossresError(f"{path}: holds no pair")
    position = by_name([images.path(i) for i in range(len(images))])
    found = np.empty((len(rows), 2), dtype=np.int64)
    for i, (line, names, _, _) in enumerate(rows):
        for side, name in enumerate(names):
            # where a folder is named it counts: another person's image may have the same file name
            at = position.get(name, position.get(_without_ending(name)))
            if at is None:
                raise CrossresError(f"{path}, line {line}: there is no image '{name}' among {len(images)}")
            if at < 0:
                raise CrossresError(f"{path}, line {line}: several images are named '{name}'; give its whole path")
            found[i, side] = at
    same = np.array([row[2] for row in rows], dtype=bool)
    fold = np.array([row[3] for row in rows], dtype=np.int64)
    _require_both_kinds(path, same, fold)
    said: dict[tuple[int, int], tuple[bool, int]] = {}
    for i, (left, right) in enumerate(np.sort(found).tolist()):
        kind, first = said.setdefault((left, right), (rows[i][2], rows[i][0]))
        if kind != rows[i][2]:
            here, there = ("one person", "two") if rows[i][2] else ("two people", "one")
            one, other = rows[i][1]
            where = f"{path}, line {rows[i][0]}"
            raise CrossresError(f"{where}: '{one}' and '{other}' are {here}, but {there} in line {first}")
    return Pairs(found[:, 0], found[:, 1], same, fold)


def _without_ending(name: str) -> str:
    # of a name such as john.2 the last part is no ending
    whole = PurePosixPath(name)
    return str(whole.with_suffix("")) if whole.suffix.lower() in SUFFIXES else name


def _require_both_kinds(path: Path, same: npt.NDArray[np.bool_], fold: npt.NDArray[np.int64]) -> None:
    """Refuse a list that no threshold can be chosen on, before anything is trained to be judged by it."""
    folds = np.unique(fold)
    for name in folds if len(folds) > 1 else [None]:
        chosen_on = same if name is None else same[fold != name]
        if chosen_on.all() or not chosen_on.any():
            kind = "impostor" if chosen_on.all() else "genuine"
            where = "" if name is None else f" outside fold {name}"
            raise CrossresError(f"{path}: holds no {kind} pair{where}; verification needs both kinds")


Rows = list[tuple[int, tuple[str, str], bool, int]]


def _lfw_rows(path: Path, text: str) -> Rows:
    lines = text.splitlines()
    head = lines[0].split() if lines else []
    if not head or len(head) > 2 or not all(word.isdecimal() and int(word) > 0 for word in head):
        raise CrossresError(
            f"{path}: its first line should be the number of pairs, or of folds and pairs; "
            "a CSV begins with left,right,same"
        )
    folds, of_each = (int(head[0]), int(head[1])) if len(head) == 2 else (1, int(head[0]))
    rows: Rows = []
    for number, line in enumerate(lines[1:], 2):
        words = line.split("\t") if "\t" in line else line.split()
        words = [word.strip() for word in words if word.strip()]
        if not words:
            continue
        fold = len(rows) // (2 * of_each)
        try:
            if len(words) == 3:
                names = f"{words[0]}_{int(words[1]):04d}", f"{words[0]}_{int(words[2]):04d}"
            elif len(words) == 4:
                names = f"{words[0]}_{int(words[1]):04d}", f"{words[2]}_{int(words[3]):04d}"
            else:
                raise ValueError
        except ValueError:
            raise CrossresError(f"{path}, line {number}: '{line[:60]}' is no pair of LFW") from None
        rows.append((number, names, len(words) == 3, fold))
    if len(rows) != 2 * of_each * folds:
        raise CrossresError(f"{path}: {len(rows)} pairs, but its first line promises {2 * of_each * folds}")
    return rows


def _csv_rows(path: Path, text: str) -> Rows:
    reader = csv.DictReader(io.StringIO(text))
    lacking = [name for name in ("left", "right", "same") if name not in (reader.fieldnames or [])]
    if lacking:
        raise CrossresError(f"{path}: has no column '{lacking[0]}'; a list of pairs has left, right, same (and fold)")
    truth = {"1": True, "true": True, "0": False, "false": False}
    rows: Rows = []
    for row in reader:
        said = str(row["same"]).strip().lower()
        if said not in truth or not row["left"] or not row["right"]:
            raise CrossresError(f"{path}, line {reader.line_num}: expected left, right and same as 0 or 1")
        try:
            fold = int(row.get("fold") or 0)
        except ValueError:
            raise CrossresError(
                f"{path}, line {reader.line_num}: fold is '{row['fold']}', expected a number"
            ) from None
        rows.append((reader.line_num, (row["left"], row["right"]), truth[said], fold))
    return rows


class _Kind:
    """Stands in for numpy's dtype: bytes and booleans only, so that no pickle can make numpy follow a pointer."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        name = name.decode("latin1") if isinstance(name, bytes) else name  # as Python 2 wrote it
        if name not in ("u1", "|u1", "b1", "|b1", "?"):
            raise pickle.UnpicklingError(f"it holds an array of {name!r}, not of bytes")
        self.name = "u1" if "u" in name else "b1"

    def __setstate__(self, state: object) -> None:
        """Byte order and flags: of single bytes there are none."""

    def read(self, raw: object) -> npt.NDArray[Any]:
        if not isinstance(raw, (bytes, bytearray)):
            raise pickle.UnpicklingError("it holds an array without bytes")
        return np.frombuffer(raw, dtype=self.name)


class _Array:
    """Stands in for numpy's ndarray; its bytes in one row."""

    value: npt.NDArray[Any] = np.zeros(0, dtype=np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, _, kind, _, raw = state
        if not isinstance(kind, _Kind):
            raise pickle.UnpicklingError("it holds an array of an unknown kind")
        self.value = kind.read(raw)

    def __array__(self, *_: object, **__: object) -> npt.NDArray[Any]:
        return self.value

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)


def _array(*_: object) -> _Array:
    return _Array()


def _scalar(kind: _Kind, raw: object) -> Any:
    return kind.read(raw)[0]


def _from_buffer(raw: object, kind: _Kind, *_: object) -> npt.NDArray[Any]:
    return kind.read(raw)


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    return text.encode("latin1" if encoding.startswith("latin") else "utf-8")


class _Plain(pickle.Unpickler):
    """Reads lists, bytes, numbers and arrays of bytes; anything else that a pickle names is refused, not run."""

    OWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Kind,
        ("_codecs", "encode"): _encode,
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.OWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.OWN[module, name]


class EncodedItems:
    """Encoded pictures in memory, as `ImageSet` reads them.

    Args:
        pictures: JPEG or PNG bytes.
        name: of the source.
    """

    def __init__(self, pictures: Sequence[bytes], name: str) -> None:
        self.pictures = list(pictures)
        self.name = name

    def __len__(self) -> int:
        return len(self.pictures)

    def open(self, row: int) -> Image.Image:
        return Image.open(io.BytesIO(self.pictures[row]), formats=FORMATS)

    def path(self, row: int) -> str:
        return f"{row:06d}"

    def where(self, row: int) -> str:
        return f"picture {row} of {self.name}"

    def digest(self, row: int) -> bytes:
        from hashlib import sha256

        return sha256(self.pictures[row]).digest()


def _picture(held: object) -> bytes:
    """An encoded image; nested lists are refused, as a few bytes of them may stand for gigabytes."""
    if isinstance(held, (bytes, bytearray)):
        return bytes(held)
    held = held.value if isinstance(held, _Array) else held
    if isinstance(held, np.ndarray) and held.dtype == np.uint8:
        return held.tobytes()
    raise pickle.UnpicklingError(f"it holds an image as {type(held).__name__}, not as bytes")


def read_bin(path: str | Path) -> tuple[ImageSet, Pairs]:
    """Read insightface's ``.bin``: encoded images, two a pair, and whether each pair is genuine; ten folds in order.

    The file is a pickle. Only lists, bytes, booleans and arrays are read; a file that names anything else is refused
    before it can run.

    Raises:
        CrossresError: no such file, no such pickle, or counts that do not fit.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            pictures, same = _Plain(file, encoding="bytes").load()
        pictures = [_picture(p) for p in pictures]
        truth = np.asarray([bool(s) for s in same])
    except OSError as error:
        raise CrossresError(f"{path}: {error.strerror}") from None
    except Exception as error:
        # a damaged pickle raises whatever its bytes happen to spell
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise CrossresError(f"{path}: not a .bin of insightface ({said})") from None
    if len(pictures) != 2 * len(truth) or not len(truth):
        raise CrossresError(f"{path}: {len(pictures)} images for {len(truth)} pairs, expected two for each")
    images = ImageSet(
        EncodedItems(pictures, path.name),
        np.zeros(len(pictures), dtype=np.int64),
        [UNNAMED],
        path.stem,
        whole=True,
    )
    left = np.arange(len(truth), dtype=np.int64) * 2
    fold = np.arange(len(truth), dtype=np.int64) * min(10, len(truth)) // len(truth)
    return images, Pairs(left, left + 1, truth, fold)
