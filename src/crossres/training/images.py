"""What a training says of its images before its first step."""

from collections.abc import Iterator
from hashlib import sha256

import numpy as np

from crossres.config.experiment import Distill
from crossres.core.progress import Progress
from crossres.core.types import Bools
from crossres.data.decode import FLAT
from crossres.data.degradation import check_size
from crossres.data.images import ImageSet
from crossres.data.loader import Loader

#: Images in memory at a time where pixels are compared.
BATCH = 4096
#: Validation images below which the choice of the epoch is worth a line.
FEW = 400


def say_flat(train: Loader, progress: Progress) -> None:
    """Say how many training images show nothing once they are decoded to 8 bits."""
    if flat := train.flat():
        progress.say(
            f"{train.images.name}: {len(flat)} of {len(train.images)} training images are flat, their values within "
            f"{FLAT} of 256 (first: {train.images.where(flat[0])}): leave them out, or stretch them "
            "(--images.range [BLACK,WHITE], of more than 8 bits)"
        )


def say_small(cases: int, progress: Progress) -> None:
    """Say how much better than the last an epoch has to be where the validation images are few."""
    if cases < FEW:
        progress.say(
            f"validation is small ({cases}): another epoch than the last is saved only where it is clearly better "
            f"(two standard errors, at most {100 / cases**0.5:.0f} points)"
        )


def copied(images: ImageSet, others: ImageSet, config: Distill) -> Bools:
    """Return which of some LR images are, pixel by pixel, among others, bool (N,)."""
    how, (_, side) = config.images, check_size(config.lr_size)

    def digests(of: ImageSet) -> Iterator[bytes]:
        for start in range(0, len(of), BATCH):  # pixels of all may be many
            part = of.subset(np.arange(start, min(start + BATCH, len(of))))
            yield from (sha256(image.numpy()).digest() for image in part.pixels(side, how.fit))

    known = set(digests(others))
    return np.array([digest in known for digest in digests(images)], dtype=bool)


def count_copies(train: Loader, val: Loader | None, test: Loader, progress: Progress) -> int | None:
    """Count training and validation images that are test images, by their pixels; None if not all are in memory."""
    learned = [train] if val is None else [train, val]
    if not all(each.in_memory for each in (*learned, test)):
        progress.say(
            f"{train.images.name}: beyond images.memory_mb: flat images and copies of test images are not looked for"
        )
        return None
    judged = set(test.digests())
    copies = [each.images.where(i) for each in learned for i, digest in enumerate(each.digests()) if digest in judged]
    if copies:
        count = f"{len(copies)} of the training images are test images too (first: {copies[0]})"
        progress.say(f"{train.images.name}: {count}: results will be too high. Remove them")
    return len(copies)


def say_enlarged(name: str, images: ImageSet, train: Loader, taught: bool, progress: Progress) -> None:
    """Say that images are enlarged, and where that leaves a teacher nothing to see beyond what its student reads."""
    if not train.in_memory:
        return  # decoding has measured them; of a larger set every header would have to be read
    count, side, (_, read) = len(images), train.hr_size, check_size(train.lr_size)
    few, tiny = images.enlarged(side, train.fit), images.enlarged(read + 1, train.fit)
    if taught and tiny > count / 2:
        progress.say(
            f"{name}: {tiny} of {count} images have no more than the {read} pixels that the student reads, so its "
            "teacher sees no more; larger images of the same classes would show it more"
        )
    elif few:
        adds = ", which adds nothing to see; --hr_size reads them smaller" if few > count / 2 else ""
        progress.say(f"{name}: {few} of {count} images are smaller than {side} pixels: enlarged{adds}")
