"""Natural pairs: images that are small by nature beside shrunk ones, each with an HR image of its object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossres.core.errors import CrossresError
from crossres.core.types import Batch, Bools, Int64s
from crossres.data.images import ImageSet
from crossres.data.loader import Loader, generator_of


@dataclass(eq=False)
class NaturalPairs:
    """Serves training batches of which a part is shrunk and a part small by nature.

    Of a natural image the teacher sees an HR image of the same group, or of the same class where there are no groups,
    drawn anew at every epoch; no pixel of the two is aligned. An epoch has as many steps as both sets fill together;
    a set that is too small for its part comes again, shuffled anew.

    Args:
        shrunk: the HR images, augmented and degraded; its batch size is that of both together.
        natural: the images that are small by nature, at the LR size; each has an HR image of its group.
        share: of a batch that is natural, between 0 and 1.

    Attributes:
        label: class of each image, int64 (N,), on the device: of the shrunk ones, then of the natural ones.
        batch_size: images per step over all processes together.
        steps: training steps per epoch.

    Raises:
        CrossresError: a batch that has no room for both.
    """

    shrunk: Loader
    natural: Loader
    share: float

    def __post_init__(self) -> None:
        self.batch_size, self.device = self.shrunk.batch_size, self.shrunk.device
        unit = self.shrunk.world_size
        few = max(unit, round(self.share * self.batch_size / unit) * unit)
        if few >= self.batch_size:
            raise CrossresError(
                f"natural_share {self.share:g}: a batch of {self.batch_size} has no room for both kinds of images; "
                "raise train.batch_size"
            )
        self.label = torch.cat([self.shrunk.label, self.natural.label])
        self.steps = (len(self.shrunk.images) + len(self.natural.images)) // self.batch_size
        self.shrunk = self.shrunk.in_steps(self.steps, self.batch_size - few)
        self.natural = self.natural.in_steps(self.steps, few)
        self._positions, self._first, self._count = _partners(self.natural.images, self.shrunk.images)

    def epoch(self, epoch: int, *, hr: bool = False) -> Iterator[Batch]:
        """Yield the training batches of one epoch, as `Loader.epoch` does; the shrunk images come first in each."""
        natural = self.natural
        drawn = torch.rand(self.steps, natural.batch_size, generator=generator_of(natural.seed, epoch))
        drawn = drawn[:, natural.own_rows].to(self.device)
        offset = len(self.shrunk.images)
        for uniform, large, small in zip(drawn, self.shrunk.epoch(epoch, hr=hr), natural.epoch(epoch), strict=True):
            first, count = self._first[small.index], self._count[small.index]
            # one without any is trained on by labels alone, and nothing reads its source
            partner = self._positions[(first + (uniform * count).long()).clamp(max=offset - 1)]
            images = None
            if hr and large.hr is not None:
                images = torch.cat([large.hr, self.shrunk.unshifted(partner, small.view)])
            place = None
            if large.place is not None:
                still = torch.eye(2, 3, device=large.place.device).expand(len(partner), 2, 3)
                place = torch.cat([large.place, still])
            yield Batch(
                hr=images,
                lr=torch.cat([large.lr, small.lr]),
                label=torch.cat([large.label, small.label]),
                index=torch.cat([large.index, small.index + offset]),
                view=torch.cat([large.view, small.view]),
                place=place,
                source=torch.cat([large.index, partner]),
            )


def _partners(natural: ImageSet, images: ImageSet) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions of the HR images by group, int64 (N,), and of which of them each natural image may draw.

    The latter as its first among them and how many they are, int64 (M,) each.
    """
    member_of, keys = _keys(natural, images)
    by_group = np.argsort(keys, kind="stable")
    first = np.searchsorted(keys[by_group], member_of, side="left")
    last = np.searchsorted(keys[by_group], member_of, side="right")
    return torch.from_numpy(by_group), torch.from_numpy(first), torch.from_numpy(last - first)


def _keys(natural: ImageSet, images: ImageSet) -> tuple[Int64s, Int64s]:
    """Return a number for what each image belongs to, alike in both sets: its group, or its class without groups."""
    if natural.groups is None or images.groups is None:
        return natural.labels, images.labels
    names = np.concatenate([natural.groups, images.groups])
    member_of = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return member_of[: len(natural)], member_of[len(natural) :]


def has_partner(natural: ImageSet, images: ImageSet | None) -> Bools:
    """Return which of the natural images have an image of their group, or class, in the other set, bool (N,)."""
    if images is None:
        return np.zeros(len(natural), dtype=bool)
    return np.isin(*_keys(natural, images))
