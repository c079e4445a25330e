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

#: Between the seeds of the shrunk images, of the natural ones and of their partners.
APART = 2**31


@dataclass(eq=False)
class NaturalPairs:
    """Serves training batches of which a part is shrunk and a part small by nature.

    Of a natural image the teacher sees an HR image of its class and group, or of its class where there is none of the
    group, drawn anew at every epoch: its ``index`` is that image's. No pixel of the two is aligned. An epoch has as
    many steps as both sets fill together; a set that is too small for its part comes again, shuffled anew.

    Args:
        shrunk: the HR images, augmented and degraded; its batch size is that of both together.
        natural: the images that are small by nature, at the LR size; of each class there is an HR image.
        share: of a batch that is natural, between 0 and 1.
        multiple: the number of steps is one of it.

    Attributes:
        batch_size: images per step over all processes together.
        steps: training steps per epoch.

    Raises:
        CrossresError: a batch that has no room for both.
    """

    shrunk: Loader
    natural: Loader
    share: float
    multiple: int = 1

    def __post_init__(self) -> None:
        self.batch_size, self.device = self.shrunk.batch_size, self.shrunk.device
        unit = self.shrunk.world_size
        few = max(unit, round(self.share * self.batch_size / unit) * unit)
        if few >= self.batch_size:
            raise CrossresError(
                f"natural_share {self.share:g}: a batch of {self.batch_size} has no room for both kinds of images; "
                "choose another natural_share or a larger train.batch_size"
            )
        steps = (len(self.shrunk.images) + len(self.natural.images)) // self.batch_size
        self.steps = steps - steps % self.multiple
        self.shrunk = self.shrunk.in_steps(self.steps, self.batch_size - few)
        self.natural = self.natural.in_steps(self.steps, few)
        partners = _partners(self.natural.images, self.shrunk.images)
        self._positions, self._first, self._count = (part.to(self.device) for part in partners)

    def epoch(self, epoch: int, *, hr: bool = False) -> Iterator[Batch]:
        """Yield the training batches of one epoch, as `Loader.epoch` does; the shrunk images come first in each."""
        small = self.natural
        drawn = torch.rand(self.steps, small.batch_size, generator=generator_of(small.seed + APART, epoch))
        indices = self._drawn(small.positions(epoch).to(self.device), drawn[:, small.own_rows].to(self.device))
        # one pass over all of them, since it may need worker processes
        partners = self.shrunk.unshifted([*indices]) if hr else iter(())
        for large, few, index in zip(self.shrunk.epoch(epoch, hr=hr), small.epoch(epoch), indices, strict=True):
            place = None
            if large.place is not None:
                place = torch.cat([large.place, torch.eye(2, 3, device=self.device).expand(len(index), 2, 3)])
            both = None
            if hr and large.hr is not None:
                seen = next(partners)
                flipped = few.view.bool()[:, None, None, None]
                both = torch.cat([large.hr, torch.where(flipped, seen.flip(-1), seen)])
            aligned = torch.arange(len(large.label) + len(index), device=self.device) < len(large.label)
            yield Batch(
                hr=both,
                lr=torch.cat([large.lr, few.lr]),
                label=torch.cat([large.label, few.label]),
                index=torch.cat([large.index, index]),
                view=torch.cat([large.view, few.view]),
                place=place,
                aligned=aligned,
            )

    def _drawn(self, index: Tensor, uniform: Tensor) -> Tensor:
        """Return the positions of HR images for the natural images ``index``, drawn by ``uniform``, of its shape."""
        return self._positions[self._first[index] + (uniform * self._count[index]).long()]


def _partners(natural: ImageSet, images: ImageSet) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions of the HR images, int64 (2 N,), and of which of them each natural image may draw.

    The positions lie by class and group, then by class; the latter is the first of its range and the range's length,
    int64 (M,) each.
    """
    kinds = [_ranges(*_keys(natural, images)), _ranges(natural.labels, images.labels)]
    (_, own, own_end), (_, of_class, class_end) = kinds
    alone = own == own_end
    first = np.where(alone, len(images) + of_class, own)
    count = np.where(alone, class_end - of_class, own_end - own)
    positions = np.concatenate([order for order, _, _ in kinds])
    return torch.from_numpy(positions), torch.from_numpy(first), torch.from_numpy(count)


def _ranges(member_of: Int64s, keys: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Return the order (N,) that sorts keys (N,), and where in it that of each ``member_of`` (M,) begins and ends."""
    order = np.argsort(keys, kind="stable")
    first, last = (np.searchsorted(keys[order], member_of, side=side) for side in ("left", "right"))
    return order, first, last


def _keys(natural: ImageSet, images: ImageSet) -> tuple[Int64s, Int64s]:
    """Return a number for class and group of each image, alike in both sets; for its class without groups."""
    if natural.groups is None or images.groups is None:
        return natural.labels, images.labels
    groups = np.unique(np.concatenate([natural.groups, images.groups]), return_inverse=True)[1]
    pairs = np.stack([np.concatenate([natural.labels, images.labels]), groups], 1)
    key = np.unique(pairs, axis=0, return_inverse=True)[1].astype(np.int64).ravel()
    return key[: len(natural)], key[len(natural) :]


def shares_group(natural: ImageSet, images: ImageSet | None) -> Bools:
    """Return which of the natural images have a group that the other set has, too, bool (N,)."""
    if images is None or natural.groups is None or images.groups is None:
        return np.zeros(len(natural), dtype=bool)
    return np.isin(natural.groups, images.groups)
