"""What a training says of its images before its first step."""

from crossres.core.progress import Progress
from crossres.data.decode import FLAT
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
