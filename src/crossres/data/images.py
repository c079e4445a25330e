"""ImageSet: labelled images at stable positions, decoded to 8-bit RGB."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property
from hashlib import sha256
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from crossres.core.cores import usable_cores
from crossres.core.errors import CrossresError, composed, nearest
from crossres.core.types import Int64s, Pixels, Rows, Texts
from crossres.data.decode import Fit, Limits, check_fit, decode, reason, to_rgb
from crossres.data.items import ArrayItems, Items, Numbers, StoredItems

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 64  # images a thread takes at once: large enough to hide the cost of handing work over


class ImageSet:
    """Labelled images; the same source always gives the same image at the same position.

    Attributes:
        labels: class of each image, int64 (N,), an index into ``classes``.
        classes: class names.
        name: what messages and reports call the set.
        skipped: names of the corrupt images that the reader left out.
        ignored: files among the images that are not images by their name, and folders of a second test split.
        whole: a list of pairs or probes names every image, so that none can be left out.
        range: values of black and white in pixels of more than 8 bits; None: by the bits that each picture takes.
        groups: name of the group that each image belongs to, text (N,); None where groups are not known.
        split_by_seed: whether its source has no such split, so that options decide which images it has.

    Raises:
        CrossresError: not one label per image, or one that is not in ``0 .. len(classes) - 1``.
    """

    def __init__(
        self, items: Items, labels: npt.ArrayLike, classes: Sequence[str], name: str, *, whole: bool = False
    ) -> None:
        self.labels: Int64s = np.asarray(labels, dtype=np.int64)
        self.classes: Sequence[str] = classes if isinstance(classes, Numbers) else list(map(composed, classes))
        self.name, self.whole = name, whole
        self.skipped: list[str] = []
        self.ignored: list[str] = []
        self.groups: Texts | None = None
        self.range: Limits = None
        self.split_by_seed = False
        self._items = items
        self._rows: Rows = np.arange(len(items), dtype=np.int32)  # half of int64, of millions
        self._sides: Int64s | None = None
        if self.labels.shape != self._rows.shape:
            raise CrossresError(f"{name} has {len(self._rows)} images but labels of {self.labels.shape}")
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(outside):
            given = f"{self.where(int(outside[0]))} has label {self.labels[outside[0]]}"
            rule = f"with {len(self.classes)} classes it should be 0 to {len(self.classes) - 1}"
            raise CrossresError(f"{name}: image {given}; {rule}")

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {len(self)} images, {len(self.classes)} classes)"

    @property
    def class_counts(self) -> Int64s:
        """Images of each class, int64 (len(classes),)."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def path(self, i: int) -> str:
        """Return the file name of image ``i`` as its source gives it, ``""`` where it has none."""
        return self._items.path(int(self._rows[i]))

    def where(self, i: int) -> str:
        """Name image ``i`` for a message: its file, or its shard and row."""
        return self._items.where(int(self._rows[i]))

    def image(self, i: int) -> Pixels:
        """Return image ``i`` at its own size, uint8 (H, W, 3) RGB; CrossresError if it is corrupt, by name."""
        return np.array(self._load(i))

    def sample(self, i: int, size: int, fit: Fit = "crop") -> Tensor:
        """Return image ``i`` as uint8 (3, size, size); see `pixels`."""
        import torch

        check_fit(size, fit)
        pixels = self._load(i, lambda image: decode(image, size, fit, self.range))
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def pixels(self, size: int, fit: Fit = "crop") -> Tensor:
        """Decode all images to uint8 (N, 3, size, size).

        An image of ``size`` x ``size`` stays as it is, bit for bit; others are resized (antialiased
        bicubic). Smaller ones are enlarged; `enlarged` counts them.

        Args:
            size: side of the result in pixels.
            fit: ``crop`` brings the shorter side to ``size`` and cuts out the centre, ``squash`` ignores
                the aspect, ``pad`` brings the longer side to ``size`` and centres on black.

        Raises:
            CrossresError: some images are corrupt; the message names the first and counts them.
        """
        import torch

        check_fit(size, fit)
        items = self._items
        if isinstance(items, ArrayItems) and items.array.shape[1:] == (size, size, 3):  # for speed
            return torch.from_numpy(items.array[self._rows].transpose(0, 3, 1, 2).copy())
        out = np.empty((len(self), 3, size, size), dtype=np.uint8)

        def work(i: int) -> Any:
            sides, pixels = self._load(i, lambda image: (image.size, decode(image, size, fit, self.range)))
            out[i] = pixels.transpose(2, 0, 1)
            return sides

        self._sides = np.array(self._each(work)).reshape(-1, 2)
        return torch.from_numpy(out)

    def sides(self) -> Int64s:
        """Return width and height of each image, int64 (N, 2): free after `pixels`, else from its header."""
        if self._sides is None:
            self._sides = np.array(self._each(lambda i: self._load(i, lambda image: image.size))).reshape(-1, 2)
        return self._sides

    def enlarged(self, size: int, fit: Fit = "crop") -> int:
        """Count the images that ``fit`` to ``size`` enlarges."""
        check_fit(size, fit)
        decisive = self.sides().max(axis=1) if fit == "pad" else self.sides().min(axis=1)
        return int((decisive < size).sum())

    def qualities(self) -> list[int]:
        """Return the JPEG quality of each image whose file tells it, by its luminance table."""
        from crossres.data.jpeg import quality_of  # loads torch

        tables = self._each(lambda i: self._load(i, lambda image: getattr(image, "quantization", {}).get(0)))
        return [quality_of(table) for table in tables if table]

    def corrupt(self) -> list[tuple[int, str]]:
        """Decode everything once; return position and reason of each image that cannot be read."""
        results = self._each(lambda i: self._load(i).size, refuse=False)
        return [(i, str(result)) for i, result in enumerate(results) if isinstance(result, CrossresError)]

    @property
    def runs(self) -> Rows | None:
        """Number of the run of each image, int32 (N,): images of one are best read together.

        None where any order is as cheap.
        """
        if not isinstance(self._items, StoredItems):
            return None
        return np.searchsorted(self._items.runs, self._rows, side="right").astype(np.int32) - 1

    @property
    def by_group(self) -> bool:
        """Whether to read one image takes its whole run."""
        return isinstance(self._items, StoredItems) and self._items.by_group

    @property
    def longest_group(self) -> int:
        """Most images that are read for one, 1 where each is read alone."""
        items = self._items
        return (
            int(np.diff([*items.runs, len(items)]).max()) if isinstance(items, StoredItems) and self.by_group else 1
        )

    def sampled(self, count: int, seed: int) -> ImageSet:
        """Return so many images at random, in order; where there are `runs`, of a few of these."""
        order = np.random.default_rng(seed).permutation(len(self))
        if (runs := self.runs) is not None:
            chosen = np.unique(runs[order[: max(1, count // 100)]])
            order = order[np.isin(runs[order], chosen)]
        return self.subset(np.sort(order[:count]))

    def subset(self, indices: npt.ArrayLike) -> ImageSet:
        """Return the images at ``indices`` (positions or a boolean mask), in that order, sharing storage."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        part = copy(self)
        part.labels, part._rows = self.labels[chosen], self._rows[chosen]
        part.groups = None if self.groups is None else self.groups[chosen]
        part.__dict__.pop("fingerprint", None)
        part._sides = None if self._sides is None else self._sides[chosen]
        return part

    def of_classes(self, names: Sequence[str]) -> ImageSet:
        """Return the images of some classes alone, which are then its classes, in this set's order.

        Raises:
            CrossresError: no names, or one that is not a class of this set.
        """
        names = list(map(composed, names))
        known, chosen = set(self.classes), set(names)
        for name in names:
            if name not in known:
                raise CrossresError(f"{self.name} has no class '{name}'{nearest(name, self.classes)}")
        if not names:
            raise CrossresError(f"{self.name}: an empty list of classes; name at least 2 of its {len(self.classes)}")
        kept = [i for i, name in enumerate(self.classes) if name in chosen]
        part = self.subset(np.isin(self.labels, kept))
        part.labels, part.classes = np.searchsorted(kept, part.labels), [self.classes[i] for i in kept]
        return part

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) over class names, labels, range and images in order; computed once.

        An image in memory counts by its pixels or encoded bytes. One that stays on disk counts by name, size and
        modification time of its file or of its shard, its row there and its column (of a tar, ending): a copy needs
        its times kept (``cp -p``), and a change within one tick of the disk's clock that keeps the size is not seen.
        Times are compared for equality alone, so a clock that runs backwards does no harm. Read with ``verify``, it
        counts by its bytes (and path).
        """
        total = sha256(b"[")
        for start in range(0, len(self.classes), 4096):  # a text of millions of names at once would be large
            total.update(
                (", " if start else "").encode() + json.dumps(self.classes[start : start + 4096])[1:-1].encode()
            )
        total.update(b"]")
        total.update(self.labels.astype("<i8").tobytes())
        if self.range:
            total.update(repr(tuple(map(float, self.range))).encode())
        if isinstance(self._items, StoredItems) and not self._items.verify:
            total.update(self._items.state() + self._rows.astype("<i8").tobytes())
            return total.hexdigest()
        for row in self._rows:
            total.update(self._items.digest(int(row)))
        return total.hexdigest()

    def _load(self, i: int, convert: Callable[[Image.Image], Any] | None = None) -> Any:
        row = int(self._rows[i])
        try:
            with self._items.open(row) as image:
                return convert(image) if convert else to_rgb(image, self.range)
        except (MemoryError, CrossresError):
            raise
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            raise CrossresError(f"cannot read image {self._items.where(row)}: {reason(error)}") from error

    def _each(self, work: Callable[[int], Any], *, refuse: bool = True) -> list[Any]:
        """Return what ``work`` returns of each position or, without ``refuse``, its error; in threads."""

        def attempt(i: int) -> Any:
            try:
                return work(i)
            except CrossresError as error:
                return error

        def run(start: int) -> list[Any]:
            return [attempt(i) for i in range(start, min(start + _CHUNK, len(self)))]

        pool = ThreadPoolExecutor(max_workers=min(8, len(usable_cores())))  # Pillow frees the GIL
        try:
            results = [result for part in pool.map(run, range(0, len(self), _CHUNK)) for result in part]
        finally:
            pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for the whole set
        failed = [result for result in results if isinstance(result, CrossresError)]
        if failed and refuse:
            mend = "replace or remove them, or set corrupt to skip"
            if self.whole:
                mend = "its lists name every image, so none can be skipped: replace the files"
            count = f"{len(failed)} of the {len(self)} images of {self.name} cannot be read"
            raise CrossresError(f"{failed[0]} ({count}: {mend})") from failed[0]
        return results


def by_name(paths: Sequence[str]) -> dict[str, int]:
    """Return positions by path, by file name and by both without an ending; -1 for a name of several paths.

    All of them are composed (`composed`).
    """
    position: dict[str, int] = {}
    paths = [composed(path) for path in paths]
    for i, path in enumerate(paths):
        whole = PurePosixPath(path)
        # pixels in memory have no path
        names = {path, whole.name, whole.stem, str(whole.with_suffix(""))} if whole.name else ()
        for name in names:
            position[name] = -1 if name in position else i
    # a whole path means its own image, whatever else ends in it
    return position | {path: i for i, path in enumerate(paths) if path}


#: Classes that are named of a source.
SHOWN = 8
#: Rows of a parquet row group above which its readers warn: it is read whole for each thousand of its images.
LONG = 4096


def left_out(splits: Mapping[str, ImageSet]) -> list[str]:
    """Return a line for each kind of file that the reader of these splits left out, with its count and names.

    And one for each of them whose row groups are so long that to read them takes hours.
    """
    # both splits of a folder may list one
    ignored = list(dict.fromkeys(file for images in splits.values() for file in images.ignored))
    kinds = [
        (images.name, images.skipped, f"unreadable images of the {split} split left out")
        for split, images in splits.items()
    ]
    kinds.append((next(iter(splits.values())).name, ignored, "files or folders ignored (not images or splits)"))

    def some(names: Sequence[str], most: int = 20) -> str:
        return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

    slow = (
        f"{images.name}: row groups of up to {rows:,} rows, each read whole again for every thousand of its images: "
        "write the parquet files anew with row_group_size=1000"
        for images in splits.values()
        if (rows := images.longest_group) > LONG
    )
    return [
        *(f"{name}: {len(files)} {what}: {some(files)}" for name, files, what in kinds if files),
        *dict.fromkeys(slow),
    ]


def understood(source: str, parts: Mapping[str, ImageSet], people: bool = False) -> str:
    """Say in a line what a source is taken for: the classes (not of people) of its first part, the images of each."""
    counts = ", ".join(f"{name} {len(images):,}" for name, images in parts.items())
    if people:
        return f"{source}: {counts} images"
    classes = next(iter(parts.values())).classes
    names = ", ".join(classes[:SHOWN]) + (f" and {len(classes) - SHOWN:,} more" if len(classes) > SHOWN else "")
    return f"{source}: {len(classes)} classes: {names}; {counts} images"
