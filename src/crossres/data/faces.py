"""Face images by people: splits that no person crosses, pairs, galleries and probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from crossres.core.errors import CrossresError
from crossres.core.types import Int64s
from crossres.data.images import ImageSet
from crossres.data.pairs import Pairs

#: Identity of an image of no known person: a distractor in a gallery, or a stranger among the probes.
NOBODY = -1


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


def hold_out_people(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """Split a set so that no person is on both sides; each side counts its own people.

    Args:
        images: classes are people.
        fraction: share of the people to hold out; 0 holds out none.
        seed: which split.

    Raises:
        CrossresError: too few people to hold some out, or none of those held out has two images.
    """
    if not fraction:
        return images, None
    people = len(images.classes)
    order = np.random.default_rng(seed).permutation(people)
    count = round(fraction * people)
    share = f"{images.name}: {fraction:g} of its {people} people is {count}"
    if not 2 <= count <= people - 2:
        raise CrossresError(f"{share}; at least two have to be held out and two left: change the share")
    held = set(order[:count].tolist())
    train, val = (
        images.of_classes([name for i, name in enumerate(images.classes) if (i in held) == chosen])
        for chosen in (False, True)
    )
    if val.class_counts.max() < 2:
        raise CrossresError(f"{share}, and none of those has two images for a genuine pair; raise the share")
    return train, val


def people_in_both(train: ImageSet, test: ImageSet) -> list[str]:
    """Return the names of the people of whom both sets have images, sorted."""
    with_images = [{images.classes[label] for label in np.unique(images.labels)} for images in (train, test)]
    return sorted(with_images[0] & with_images[1])


def overlap(train: ImageSet, test: ImageSet, name: str) -> tuple[int, str | None]:
    """Return how many people are in both sets of a source, and a warning; None if there are none."""
    both = people_in_both(train, test)
    if not both:
        return 0, None
    unless = "unless each counts its people anew, " if all(person.isdecimal() for person in both) else ""
    where = f"{name}: {len(both)} people are in the training and in the test images, first {both[0]}"
    return len(both), f"{where}: {unless}the test will look better than it is"


def images_in_both(train: ImageSet, test: ImageSet) -> list[str]:
    """Return the names of the training images whose very pixels are among the test images."""
    judged = set(_pixel_digests(test))
    return [train.path(i) for i, digest in enumerate(_pixel_digests(train)) if digest in judged]


def _pixel_digests(images: ImageSet) -> Iterator[bytes]:
    def digest(i: int) -> bytes:
        pixels = images.image(i)
        return sha256(str(pixels.shape).encode() + pixels.tobytes()).digest()

    with ThreadPoolExecutor() as pool:
        # in parts: each digest waits in memory until it is read
        for start in range(0, len(images), 1024):
            yield from pool.map(digest, range(start, min(start + 1024, len(images))))


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

    def genuine() -> tuple[int, int]:
        members = several[rng.integers(len(several))]
        left, right = rng.choice(members, 2, replace=False)
        return int(min(left, right)), int(max(left, right))

    def impostor() -> tuple[int, int]:
        first, second = rng.choice(len(present), 2, replace=False)
        left, right = rng.choice(present[first]), rng.choice(present[second])
        return int(min(left, right)), int(max(left, right))

    def some(kind: Callable[[], tuple[int, int]]) -> list[tuple[int, int]]:
        drawn: dict[tuple[int, int], None] = {}
        for _ in range(20 * count):
            if len(drawn) == count // 2:
                break
            drawn[kind()] = None
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
