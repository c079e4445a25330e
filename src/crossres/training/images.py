"""What a training says of its images before its first step."""

from crossres.core.progress import Progress
from crossres.data.decode import FLAT
from crossres.data.degradation import check_size
from crossres.data.images import ImageSet
from crossres.data.loader import Loader

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


def count_copies(train: Loader, test: Loader, progress: Progress) -> int | None:
    """Count the training images whose very pixels are among the test images; None where not all are in memory."""
    if not (train.in_memory and test.in_memory):
        progress.say(
            f"{train.images.name}: beyond images.memory_mb: flat images and copies of test images are not looked for"
        )
        return None
    judged = set(test.digests())
    copies = [i for i, digest in enumerate(train.digests()) if digest in judged]
    if copies:
        count, first = f"{len(copies)} of the training images are test images too", train.images.where(copies[0])
        progress.say(f"{train.images.name}: {count} (first: {first}): results will be too high. Remove them")
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
