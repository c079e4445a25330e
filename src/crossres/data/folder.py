"""Image files in class folders."""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image

from crossres.core.errors import CrossresError, demand_utf8
from crossres.data.decode import FORMATS
from crossres.data.images import ImageSet
from crossres.data.splits import Split, name_bytes, require_own_split

#: How the name of an image file ends, in lower case.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_TEST_FOLDERS = ("test", "val", "validation")  # the first one present is the test split


@dataclass(eq=False, repr=False)
class FileItems:
    """Image files by their paths below ``root``, with ``/`` between the parts."""

    root: Path
    paths: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, row: int) -> Image.Image:
        return Image.open(self.root / self.paths[row], formats=FORMATS)

    def path(self, row: int) -> str:
        return self.paths[row]

    def where(self, row: int) -> str:
        return str(self.root / self.paths[row])

    def digest(self, row: int) -> bytes:
        try:
            stat = (self.root / self.paths[row]).stat()
        except OSError as error:
            raise CrossresError(f"{self.where(row)} is gone since the folder was read; read it again") from error
        return sha256(name_bytes(f"{self.paths[row]}\0{stat.st_size}\0{stat.st_mtime_ns}")).digest()


def read_folder(root: Path, split: Split, open_set: bool) -> tuple[ImageSet, bool]:
    """Read a split of a folder of class folders, or all of it where it does not come in splits; return which, too.

    ``root/train`` counts as a split if it holds folders and no images (with images it is a class called
    train). Its partner is the first of test, val, validation that holds class folders; a second one is not
    read, as validation images are taken from train.

    Raises:
        CrossresError: no images, an empty class folder, fewer than two classes, or a test class that
            train does not have.
    """
    train = root / "train"
    classes = _folders_in(train)
    if not classes or _images_in(train):
        return _read_classes(root, root, _folders_in(root)), True
    tests = [root / name for name in _TEST_FOLDERS if _folders_in(root / name)]
    if not tests:
        return _read_classes(train, root, classes), True
    require_own_split(split, root)
    if split == "train":
        images = _read_classes(train, root, classes)
        images.ignored = [*(f"{folder}/" for folder in tests[1:]), *images.ignored]
        return images, False
    present = _folders_in(tests[0])
    unknown = sorted(set(present) - set(classes))
    if unknown and not open_set:
        lacking = f"{tests[0]} has the class '{unknown[0]}', which {train} does not have ({len(unknown)} such)"
        raise CrossresError(f"{lacking}: rename or remove its folder, or add training images")
    return _read_classes(tests[0], root, present if open_set else classes), False


def read_loose(root: Path) -> tuple[FileItems, list[str]]:
    """Return the images in a folder and below it (CrossresError if there is none), and the paths of other files."""
    images, others = files_below(root)
    if not images:
        raise _no_images(root)
    return FileItems(root, [file.relative_to(root).as_posix() for file in images]), [str(file) for file in others]


def files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images in a folder and below it, and the other files; hidden ones are left out.

    Both are sorted by their parts, so that positions are the same on every machine.
    """
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        files += [Path(parent, name) for name in names if name[0] != "."]
    files.sort(key=lambda file: file.parts)
    return [file for file in files if _is_image(file.name)], [file for file in files if not _is_image(file.name)]


def _read_classes(folder: Path, root: Path, classes: list[str]) -> ImageSet:
    """Read ``folder/<class>/**`` for those of ``classes`` that are there; paths are kept relative to root."""
    if not classes:
        loose = len(_images_in(folder))
        content = f"{loose} images but no class folders" if loose else "no class folders and no images"
        raise CrossresError(f"{folder} holds {content}: put the images of each class into a folder named after it")
    for name in classes:
        demand_utf8(f"the class folder in {folder}", name)
    paths: list[str] = []
    labels: list[int] = []
    empty: list[Path] = []
    ignored: list[str] = []
    for label, name in enumerate(classes):
        if (folder / name).is_dir():
            images, others = files_below(folder / name)
            ignored += [str(file) for file in others]
            empty += [] if images else [folder / name]
            paths += [file.relative_to(root).as_posix() for file in images]
            labels += [label] * len(images)
    if not paths:
        raise _no_images(folder)
    if empty:
        raise CrossresError(f"class folder {empty[0]} holds no images ({len(empty)} such): fill it or remove it")
    read = ImageSet(FileItems(root, paths), labels, classes, root.resolve().name)
    read.ignored = ignored
    return read


def _no_images(folder: Path) -> CrossresError:
    return CrossresError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")


def _folders_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")


def _images_in(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_file() and _is_image(entry.name)]


def _is_image(name: str) -> bool:
    return name[0] != "." and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
