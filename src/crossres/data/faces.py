"""Which face images are compared: pairs that a list names or that are drawn, galleries and probes."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from crossres.core.errors import CrossresError, composed, demand_file, one_line
from crossres.core.types import Bools, Int64s
from crossres.data.folder import IMAGE_SUFFIXES
from crossres.data.images import ImageSet, by_name

#: Identity of an image of no known person: a distractor in a gallery, or a stranger among the probes.
NOBODY = -1
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


@dataclass(frozen=True)
class Search:
    """A gallery and the probes that are searched in it.

    Attributes:
        gallery: positions (G,) of images.
        gallery_identity: (G,); `NOBODY` for distractors.
        probes: positions (P,).
        probe_identity: (P,); `NOBODY`, or an identity that the gallery lacks, for strangers.
    """

    gallery: Int64s
    gallery_identity: Int64s
    probes: Int64s
    probe_identity: Int64s


def draw_pairs(images: ImageSet, count: int, seed: int, folds: int = 10) -> Pairs:
    """Draw pairs for verification: half genuine, half impostors, none twice, in folds of equal size.

    A genuine pair is of a person drawn among those with two images or more, so that one person's many images do not
    make up most of the pairs; an impostor pair is of two people. Of a small set there are fewer pairs than requested,
    of both kinds alike: a threshold follows the share of each.

    Args:
        images: classes are people.
        count: pairs to draw, at least 2.
        seed: of the draw.
        folds: folds; pairs take turns. One where there are fewer than two pairs of a kind for each.

    Raises:
        CrossresError: no person with two images, or one person only.
    """
    by_person = np.split(np.argsort(images.labels, kind="stable"), np.cumsum(images.class_counts)[:-1])
    several = [members for members in by_person if len(members) > 1]
    present = [members for members in by_person if len(members)]
    if not several or len(present) < 2:
        lacking = "two people" if len(present) < 2 else "a person with two images"
        raise CrossresError(f"{images.name}: verification needs {lacking}")
    rng = np.random.default_rng(seed)

    def genuine() -> Iterable[Any]:
        return rng.choice(several[rng.integers(len(several))], 2, replace=False)

    def impostor() -> Iterable[Any]:
        first, second = rng.choice(len(present), 2, replace=False)
        return rng.choice(present[first]), rng.choice(present[second])

    def some(kind: Callable[[], Iterable[Any]]) -> list[tuple[int, ...]]:
        drawn: dict[tuple[int, ...], None] = {}
        for _ in range(20 * count):
            if len(drawn) < count // 2:
                drawn[tuple(sorted(int(i) for i in kind()))] = None
        return list(drawn)

    same, different = some(genuine), some(impostor)
    fewest = min(len(same), len(different))
    pairs = np.array(same[:fewest] + different[:fewest], dtype=np.int64)
    truth = np.arange(2 * fewest) < fewest
    # a fold without a genuine or an impostor pair would have no threshold
    folds = folds if fewest >= 2 * folds else 1
    fold = np.arange(2 * fewest) % fewest % folds
    return Pairs(pairs[:, 0], pairs[:, 1], truth, fold.astype(np.int64))


def first_image_search(images: ImageSet) -> Search:
    """Enrol the first image of each person with two or more; the others are probes, other people's are strangers.

    Raises:
        CrossresError: no person has two images.
    """
    identity = np.where(images.class_counts[images.labels] > 1, images.labels, NOBODY)
    _, first = np.unique(identity, return_index=True)
    gallery = np.sort(first[identity[first] != NOBODY])
    if not len(gallery):
        raise CrossresError(f"{images.name}: identification needs a person with two images")
    probes = np.setdiff1d(np.arange(len(images)), gallery)
    return Search(gallery, identity[gallery], probes, identity[probes])


@dataclass(eq=False, repr=False)
class _Both:
    """The pictures of two sets, those of the second after those of the first."""

    sets: tuple[ImageSet, ImageSet]

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def _at(self, row: int) -> tuple[ImageSet, int]:
        first, second = self.sets
        return (first, row) if row < len(first) else (second, row - len(first))

    def open(self, row: int) -> Image.Image:
        images, i = self._at(row)
        return Image.fromarray(images.image(i))

    def path(self, row: int) -> str:
        images, i = self._at(row)
        return images.path(i)

    def where(self, row: int) -> str:
        images, i = self._at(row)
        return images.where(i)

    def digest(self, row: int) -> bytes:
        return sha256(self.open(row).tobytes()).digest()


def both_splits(train: ImageSet, test: ImageSet) -> ImageSet:
    """Return the images of both splits of a source, whose pairs may cross them; people of one name are one."""
    people = sorted({*train.classes, *test.classes})
    number = {person: i for i, person in enumerate(people)}
    labels = [number[images.classes[label]] for images in (train, test) for label in images.labels.tolist()]
    both = ImageSet(_Both((train, test)), labels, people, train.name)
    both.skipped, both.ignored = [*train.skipped, *test.skipped], test.ignored
    return both


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
    place = finder(path, images)
    places = np.array([[place(name, row.line) for name in row.names] for row in rows], dtype=np.int64)
    same = np.array([row.same for row in rows], dtype=bool)
    fold = np.array([row.fold for row in rows], dtype=np.int64)
    # a list that no threshold can be chosen on is refused before anything is trained to be judged by it
    folds = np.unique(fold)
    for name in folds if len(folds) > 1 else [None]:
        chosen_on = same if name is None else same[fold != name]
        if chosen_on.all() or not chosen_on.any():
            kind = "impostor" if chosen_on.all() else "genuine"
            where = "" if name is None else f" outside fold {name}"
            raise CrossresError(f"{path}: holds no {kind} pair{where}; verification needs both kinds")
    first: dict[tuple[int, int], _Row] = {}
    for row, (left, right) in zip(rows, np.sort(places).tolist(), strict=True):
        other = first.setdefault((left, right), row)
        if other.same != row.same:
            here, there = ("one person", "two people") if row.same else ("two people", "one person")
            names = " and ".join(f"'{name}'" for name in row.names)
            raise CrossresError(f"{path}: line {row.line} calls {names} {here}, line {other.line} {there}")
    return Pairs(places[:, 0], places[:, 1], same, fold)


def finder(path: Path, images: ImageSet) -> Callable[[str, int], int]:
    """Return what finds an image by the name that a list gives it in a line; an ending may be left out.

    It raises CrossresError for a name that no image or several images have, by the line.
    """
    position = by_name([images.path(i) for i in range(len(images))])

    def place(named: str, line: int) -> int:
        name = composed(named)
        # of a name such as john.2 the last part is not an ending
        whole = PurePosixPath(name)
        short = str(whole.with_suffix("")) if whole.suffix.lower() in IMAGE_SUFFIXES else name
        # where a folder is named it counts: another person's image may have the same file name
        at = position.get(name, position.get(short))
        if at is None:
            raise CrossresError(f"{path}, line {line}: there is no image '{name}' among {len(images)}")
        if at < 0:
            raise CrossresError(f"{path}, line {line}: several images are named '{name}'; give its whole path")
        return at

    return place


@contextmanager
def opening(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever reading a file raises into one line: that it cannot be opened, or is not of its ``kind``."""
    demand_file(path)
    try:
        yield
    except OSError as error:
        raise CrossresError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise CrossresError(f"{path}: not {kind} ({one_line(error, 120)})") from None


def _lfw_pairs(path: Path) -> list[_Row]:
    with opening(path, "a text file; insightface's .bin contains images and pairs: give it as DATA, not --pairs"):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    head = lines[0].split() if lines else []
    if not head or len(head) > 2 or not all(word.isdecimal() and 0 < int(word[:9]) < 10**8 for word in head):
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
            fold = np.int32(int(cells.get("fold") or 0))
        except (ValueError, OverflowError):
            raise CrossresError(f"{path}, line {line}: fold is '{cells['fold']:.40}', expected a number") from None
        # an apostrophe guards what a spreadsheet would take for a formula, as `cell` does
        left, right = (re.sub(r"^'(?=[=+@-])", "", cells[side]).replace("\\", "/") for side in ("left", "right"))
        rows.append(_Row(line, (left, right), same, int(fold)))
    return rows


def read_csv(path: Path, columns: tuple[str, ...] = ()) -> list[tuple[int, dict[str, str]]]:
    """Return the line and, by column, the cells of each row of a CSV; refuse one that lacks any of ``columns``.

    As spreadsheets write it: UTF-8 or UTF-16, with commas, semicolons or tabs; ``columns`` in capitals, too.
    """
    with opening(path, "a CSV file"):
        content = path.read_bytes()
        wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        lines = io.StringIO(content.decode("utf-16" if wide else "utf-8-sig"), newline="")
        head = lines.readline()
        lines.seek(0)
        reader = csv.DictReader(lines, delimiter=max(",;\t", key=head.count), restkey="")
        columns_in = {name: name.strip().lower() for name in reader.fieldnames or []}
        small = {name: low for name, low in columns_in.items() if low in columns or low == "fold"}
        rows = [(reader.line_num, {small.get(name, name): cell for name, cell in row.items()}) for row in reader]
    for column in columns:
        if column not in columns_in.values():
            raise CrossresError(
                f"{path}: has no column '{column}', only {', '.join(columns_in)}; expected {', '.join(columns)}"
            )
    return rows
