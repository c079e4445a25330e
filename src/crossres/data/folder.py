"""Image files in class folders."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from crossres.core.errors import CrossresError, composed, demand_file, demand_utf8
from crossres.data.decode import FORMATS
from crossres.data.images import ImageSet
from crossres.data.items import Names
from crossres.data.splits import SPLIT_WORDS, Split, name_bytes, require_own_split

#: How the name of an image file ends, in lower case.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_SUFFIXES = frozenset(IMAGE_SUFFIXES)
#: Folders that file servers and photo programs put beside one's own. Those that begin with a dot are hidden anyway.
SIDECARS = {"@eadir", "#recycle", "@recycle", "__macosx", "$recycle.bin", "system volume information"}

_LIKE_SPLIT = re.compile("train|test|trn|tst|(?<![a-z])val")


@dataclass(eq=False, repr=False)
class FileItems:
    """Image files by their paths below ``root``, with ``/`` between the parts.

    A file counts by path, size and modification time or, with ``verify``, by path and bytes.
    """

    root: Path
    paths: Sequence[str]
    verify: bool = field(default=False, kw_only=True)

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, row: int) -> Image.Image:
        demand_file(path := self._file(row))
        return Image.open(path, formats=FORMATS)

    def path(self, row: int) -> str:
        return self.paths[row]

    def where(self, row: int) -> str:
        return str(self.root / self.paths[row])

    def _file(self, row: int) -> str:
        return os.path.join(self.root, self.paths[row])

    def digest(self, row: int) -> bytes:
        file, total = self._file(row), sha256(name_bytes(f"{self.paths[row]}\0"))
        try:
            if self.verify:
                demand_file(file)
                with open(file, "rb") as content:
                    while part := content.read(2**20):
                        total.update(part)
            else:
                stat = os.stat(file)
                total.update(f"{stat.st_size}\0{stat.st_mtime_ns}".encode())
        except OSError as error:
            raise CrossresError(f"{file} is gone since the folder was read; read it again") from error
        return total.digest()


def read_folder(root: Path, split: Split, open_set: bool, verify: bool = False) -> tuple[ImageSet, bool]:
    """Read a split of a folder of class folders, or all of it where it does not come in splits; return which, too.

    A folder whose name says so (`SPLIT_WORDS`, in capitals or not) and that holds folders is a split; one that holds
    images is a class of that name, if it stands beside other classes. The first of test, testing, val, ... is the
    test split; the others are not read, as validation images are taken from train.

    Raises:
        CrossresError: no images, an empty class folder, a folder that may be a class or a split, or a test class that
            train does not have.
    """
    train, tests, others = _layout(root)
    if train is None:
        return _read_classes(root, root, _classes_in(root), verify), True
    classes = _classes_in(train)
    if not tests:
        images = _read_classes(train, root, classes, verify)
        images.ignored = [*others, *images.ignored]
        return images, True
    require_own_split(split, root)
    if split == "train":
        images = _read_classes(train, root, classes, verify)
        images.ignored = [*(f"{folder}/" for folder in tests[1:]), *others, *images.ignored]
        return images, False
    present = _classes_in(tests[0])
    unknown = sorted(present.keys() - classes.keys())
    if unknown and not open_set:
        lacking = f"{tests[0]} has the class '{unknown[0]}', which {train} does not have ({len(unknown)} such)"
        raise CrossresError(f"{lacking}: rename or remove its folder, or add training images")
    judged = present if open_set else {name: present.get(name, []) for name in classes}
    return _read_classes(tests[0], root, judged, verify), False


def _refuse_other_splits(root: Path, folders: list[Path]) -> None:
    """Refuse folders that look like splits: by their names, or as they hold some."""
    alike = [each for each in folders if _LIKE_SPLIT.search(each.name.lower()) or each.name.lower() in SPLIT_WORDS]
    inside = [set(folders_in(folder)) for folder in alike]
    if len(alike) > 1 and (len(alike) == len(folders) or set.intersection(*inside)):
        raise CrossresError(
            f"{root} holds {_listed(alike)}: if they are splits, call them train and test and put a folder for each "
            "class into them; if they are classes, rename them"
        )
    for folder in folders:
        splits = split_folders(folder)
        if len({SPLIT_WORDS[name.lower()] for name in splits}) > 1:
            raise CrossresError(
                f"{folder} holds {' and '.join(splits)}: if it is the data set, give it; else put the splits above "
                "the classes, as in train/CLASS"
            )


def read_loose(root: Path, verify: bool = False) -> tuple[FileItems, list[str]]:
    """Return the images in a folder and below it (CrossresError if there is none), and the paths of other files."""
    above, others = len(os.path.join(root, "")), list[str]()
    names = Names.of(path[above:].replace(os.sep, "/") for path in _images_below(root, others))
    if not names:
        raise _no_images(root)
    return FileItems(root, names, verify=verify), others


def files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images in a folder and below it, and the other files, with folders of `SIDECARS` that hold images.

    Linked folders are read, each once; hidden files and folders are left out. Both are sorted by their parts, so that
    positions are the same on every machine.
    """
    others: list[str] = []
    images = [Path(path) for path in _images_below(folder, others)]
    return images, [Path(path) for path in others]


def _images_below(folder: Path, others: list[str]) -> Iterator[str]:
    """Yield the images of `files_below` in their order; when it ends, the other ones are in a list, `SIDECARS` first.

    At any time it holds the names of the folders that it is in, and no others.
    """
    seen: set[tuple[int, int | str]] = set()
    beside: list[str] = []
    others_before, sidecars = len(others), []

    def inside(path: str) -> Iterator[tuple[str, str, bool]]:
        try:
            facts = os.stat(path)
        except FileNotFoundError:  # as of a folder that is gone
            return
        place = facts.st_dev, facts.st_ino or os.path.realpath(path)  # some network disks number nothing
        if place in seen:  # a link to a folder that was read, perhaps to one that holds it
            return
        seen.add(place)
        above = os.path.join(path, "")
        for name, is_folder, _ in _entries(path):
            if is_folder and name.lower() in SIDECARS:
                sidecars.extend([above + name] if images_in(Path(path, name)) else [])
            elif name[0] != ".":
                yield above + name, name, is_folder

    within = [inside(os.fspath(folder))]
    while within:
        for path, name, is_folder in within[-1]:
            if is_folder:
                within.append(inside(path))
                break
            if _is_image(name):
                yield path
            else:
                beside.append(path)
        else:
            within.pop()
    others[others_before:] = [*sorted(sidecars), *beside]


def _entries(folder: str | Path) -> list[tuple[str, bool, bool]]:
    """Return the names in a folder, sorted, and whether each is a folder (or a link to one) and whether a link.

    An empty list where the folder is gone.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir(), entry.is_symlink()) for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CrossresError(f"cannot read {error.filename!s:.200}: {error.strerror}; no image is left out") from None


def _layout(root: Path) -> tuple[Path | None, list[Path], list[str]]:
    """Return the train folder (None: ``root`` holds the classes), the test folders, best first, and what is left out.

    Raises:
        CrossresError: a folder that may be a class or a split; both readings are named.
    """
    named: dict[str, list[Path]] = {}
    plain = []
    for name in folders_in(root):
        word = name.lower()
        if word in SPLIT_WORDS and folders_in(root / name):
            named.setdefault(word, []).append(root / name)
        else:
            plain.append(root / name)
    trains = [folder for word, folders in named.items() if SPLIT_WORDS[word] == "train" for folder in folders]
    tests = [folder for word in SPLIT_WORDS if SPLIT_WORDS[word] != "train" for folder in named.get(word, [])]
    flat = [folder for folder in plain if folder.name.lower() in SPLIT_WORDS]
    if not named:
        _refuse_other_splits(root, plain)
        return None, [], []
    if len(trains) != 1:
        what = f"{_listed(trains)}, two training splits" if trains else f"{_listed(tests)} but no train"
        raise CrossresError(f"{root} holds {what}: keep one folder called train, or rename what is a class")
    # of a split only, or of nothing to train on
    classes = [folder for folder in plain if folder not in flat and any(_images_below(folder, []))]
    if classes:
        raise CrossresError(
            f"{root} holds {_listed([*trains, *tests])} with class folders and, beside them, {_listed(classes)} with "
            "images: if the former are splits, move the latter into them or away; if they are classes, rename them"
        )
    loose = [str(file) for file in images_in(root)]
    return trains[0], tests, [*(f"{folder}/" for folder in plain), *loose]


def _listed(folders: list[Path]) -> str:
    names = [folder.name for folder in folders]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _read_classes(folder: Path, root: Path, classes: dict[str, list[str]], verify: bool) -> ImageSet:
    """Read ``folder/<class>/**`` for the folders of each class; paths are kept relative to root."""
    if not classes:
        loose = len(images_in(folder))
        content = f"{loose} images but no class folders" if loose else "no class folders and no images"
        raise CrossresError(f"{folder} holds {content}: put the images of each class into a folder named after it")
    hidden = [folder / name for name, is_folder, _ in _entries(folder) if is_folder and not is_own(name)]
    ignored = [str(file) for file in [*images_in(folder), *(each for each in hidden if any(_images_below(each, [])))]]
    counts: list[int] = []
    empty: list[Path] = []

    def paths() -> Iterator[str]:
        for label, folders in enumerate(classes.values()):
            counts.append(0)
            for name in folders:
                before, own = counts[label], folder / name
                above, below = own.relative_to(root).as_posix(), len(os.fspath(own))
                for path in _images_below(own, ignored):
                    counts[label] += 1
                    yield above + path[below:].replace(os.sep, "/")
                empty.extend([folder / name] if counts[label] == before else [])

    names = Names.of(paths())
    if not names:
        raise _no_images(folder)
    if empty:
        endings = sorted({file.suffix for file in files_below(empty[0])[1] if file.suffix})
        inside = f"; it has files that end in {', '.join(endings[:5])}" if endings else ""
        count = f"({len(empty)} such{inside})"
        raise CrossresError(f"class folder {empty[0]} holds no images {count}: fill it or remove it")
    labels = np.repeat(np.arange(len(classes)), counts)
    read = ImageSet(FileItems(root, names, verify=verify), labels, list(classes), root.resolve().name)
    read.ignored = ignored
    return read


def _no_images(folder: Path) -> CrossresError:
    return CrossresError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")


def _classes_in(folder: Path) -> dict[str, list[str]]:
    """Return the folders of each class: names that differ in Unicode's normalisation alone are one class."""
    classes: dict[str, list[str]] = {}
    for name in folders_in(folder):
        demand_utf8(f"the class folder in {folder}", name)
        classes.setdefault(composed(name), []).append(name)
    return dict(sorted(classes.items()))


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder; refuse a link to nothing, which may have been one."""
    own = [entry for entry in _entries(folder) if is_own(entry[0])]
    if lost := [name for name, is_folder, is_link in own if is_link and not (is_folder or (folder / name).exists())]:
        raise CrossresError(f"{folder / lost[0]} is a link to nothing; mend it or remove it")
    return [name for name, is_folder, _ in own if is_folder]


def images_in(folder: Path) -> list[Path]:
    return [path for name, _, _ in _entries(folder) if _is_image(name) and (path := folder / name).is_file()]


def is_own(name: str) -> bool:
    return name[0] != "." and name.lower() not in SIDECARS


def _is_image(name: str) -> bool:
    return name[0] != "." and name[name.rfind(".") :].lower() in _SUFFIXES


def split_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder that are called like a split; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(each.name for each in entries if each.name.lower() in SPLIT_WORDS and each.is_dir())
    except OSError:
        return []
