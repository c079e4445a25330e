"""Batches of two resolutions: read once, augmented once, degraded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossres.core.errors import CrossresError
from crossres.core.types import Batch
from crossres.data.decode import FLAT
from crossres.data.degradation import Degradation, Size
from crossres.data.degrade import Draws, degrade, draw, moved, recoloured
from crossres.data.streams import LANES, PART, Parts, in_runs, stream_order

if TYPE_CHECKING:
    from crossres.data.decode import Fit
    from crossres.data.images import ImageSet

#: Images in the buffer that shards are shuffled in, and the fewest of them where they are large.
BUFFER, LEAST = 16_384, 1024


@dataclass(eq=False)
class Loader:
    """Serves an ImageSet as batches of the same view at two resolutions.

    A set whose decoded images fit the memory budget lies on the device as one uint8 tensor; a larger one is decoded
    by worker processes, that of shards in an order near to their own (`stream_order`). Everything random is drawn per
    epoch from (seed, epoch), for all samples at once: it is the same for every batch size, number of processes and
    device, but for that order, which follows the batch size.

    Args:
        images: the labelled images.
        hr_size: side of the HR images, in pixels.
        lr_size: side of the LR images or a range (low, high); hr_size gives ``batch.lr`` = ``batch.hr``.
        degradation: how LR comes from HR.
        batch_size: images per step over all processes together, or as many as there are.
        device: where the batches are made.
        fit: how images that are not square are fitted.
        shift: largest random shift of a training image, HR pixels.
        flip: whether training images are mirrored at random.
        zoom: largest random share by which a training image is enlarged or reduced.
        colour: largest random share by which its brightness, contrast and saturation are changed.
        images_per_class: images of each class in a training batch; 0 draws images whatever their class.
        seed: of everything random.
        memory_mb: budget for decoded images, in MB.
        workers: decoding processes of a set over the budget.
        buffer: images among which the next one of shards over the budget is drawn, as many as fit into it.
        rank: this process's number under DDP.
        world_size: number of processes under DDP.

    Attributes:
        label: class of each image, int64 (N,), on the device.
        in_memory: whether all images are decoded already.
    """

    images: ImageSet
    _: KW_ONLY
    hr_size: int
    lr_size: Size
    degradation: Degradation = field(default_factory=Degradation)
    batch_size: int = 128
    device: torch.device | str = "cpu"
    fit: Fit = "crop"
    shift: int = 0
    flip: bool = False
    zoom: float = 0.0
    colour: float = 0.0
    images_per_class: int = 0
    seed: int = 0
    memory_mb: int = 4096
    workers: int = 2
    buffer: int = BUFFER
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        n = len(self.images)
        self.shift = min(self.shift, self.hr_size - 1)
        # of a set that is smaller than a batch, what divides over the processes
        self.batch_size = min(self.batch_size, max(1, n - n % self.world_size))
        self.label = torch.from_numpy(self.images.labels).to(self.device)
        self.in_memory = n * 3 * self.hr_size**2 <= self.memory_mb * 2**20
        self._pixels = self.images.pixels(self.hr_size, self.fit).to(self.device) if self.in_memory else None
        self._runs = None if self.in_memory else self.images.runs
        if self._runs is not None and self.images_per_class and self.images.by_group:
            raise CrossresError(
                f"{self.images.name}: train.images_per_class draws images at random, and parquet shards beyond "
                "images.memory_mb are read in order: raise it, or give tar shards or a folder"
            )
        #: training steps per epoch; the incomplete last batch is left out
        self.steps = n // self.batch_size

    @property
    def own_rows(self) -> slice:
        """This process's share of a training batch."""
        share = -(-self.batch_size // self.world_size)
        return slice(self.rank * share, min((self.rank + 1) * share, self.batch_size))

    def digests(self) -> list[bytes]:
        """Return the Sha256 of each decoded image at ``hr_size``; none where they are not all in memory."""
        return [] if self._pixels is None else [sha256(image.numpy()).digest() for image in self._pixels.cpu()]

    def flat(self) -> list[int]:
        """Return the positions of images in memory with nothing to see: each colour within `FLAT`."""
        if self._pixels is None:
            return []
        values = self._pixels.flatten(2)
        return ((values.amax(2) - values.amin(2)).amax(1) <= FLAT).nonzero().flatten().tolist()

    def at(self, lr_size: Size, degradation: Degradation | None = None) -> Loader:
        """Return a loader of the same decoded images at another LR size, perhaps with another degradation."""
        other = copy(self)
        other.lr_size, other.degradation = lr_size, degradation or self.degradation
        return other

    def in_steps(self, steps: int, batch_size: int) -> Loader:
        """Return a loader of the same decoded images in so many training batches; too few of them come again."""
        other = copy(self)
        other.steps, other.batch_size = steps, batch_size
        return other

    def positions(self, epoch: int) -> Tensor:
        """Return the positions of an epoch's images, int64 (steps, B): this process's share of each batch."""
        order = self._order(self.steps * self.batch_size, generator_of(self.seed, epoch))
        return order.view(self.steps, self.batch_size)[:, self.own_rows].long()

    def epoch(self, epoch: int, *, hr: bool = False) -> Iterator[Batch]:
        """Yield the training batches of one epoch: shuffled, augmented, this process's share of each.

        Args:
            epoch: number of the epoch; the same number gives the same batches.
            hr: whether ``batch.hr`` is needed.
        """
        generator = generator_of(self.seed, epoch)
        n = self.steps * self.batch_size
        order = self._order(n, generator).int()  # half the memory, of millions of images
        small = torch.int8 if self.shift < 2**7 else torch.int16
        shift = torch.randint(-self.shift, self.shift + 1, (n, 2), dtype=small, generator=generator)
        flip = torch.rand(n, generator=generator) < (0.5 if self.flip else 0.0)
        zoom = 1 + self.zoom * (2 * torch.rand(n, generator=generator) - 1) if self.zoom else None
        draws = draw(n, self.lr_size, self.degradation, generator)
        colour = 1 + self.colour * (2 * torch.rand(n, 3, generator=generator) - 1) if self.colour else None

        def own(drawn: Tensor) -> Tensor:
            return drawn.view(self.steps, self.batch_size, *drawn.shape[1:])[:, self.own_rows].flatten(0, 1)

        drawn = {"order": order, "flip": flip, "zoom": zoom, "colour": colour}
        drawn["shift"] = shift if self.shift or self.flip else None
        kept = {name: own(each) for name, each in drawn.items() if each is not None}
        each = len(kept["order"]) // max(1, self.steps)
        rows = [slice(step * each, (step + 1) * each) for step in range(self.steps)]
        return self._batches(rows, Draws(*map(own, draws)), hr, training=True, **kept)

    @property
    def _fitting(self) -> int:
        """How many decoded images of shards may wait for their turn."""
        return max(LEAST, self.memory_mb * 2**20 // (3 * self.hr_size**2))

    def _order(self, n: int, generator: torch.Generator) -> Tensor:
        """Return the positions (n,) of an epoch's images."""
        each = self.images_per_class
        if not each and n and self._runs is not None:
            buffer = min(self.buffer, self._fitting)
            return stream_order(self._runs, n, self.batch_size, buffer, generator)
        if not each:
            whole = len(self.images)
            rounds = [torch.randperm(whole, dtype=torch.int32, generator=generator) for _ in range(-(-n // whole))]
            return rounds[0][:n] if len(rounds) == 1 else torch.cat([*rounds, torch.empty(0, dtype=torch.int32)])[:n]
        label = torch.from_numpy(self.images.labels)
        mixed = torch.randperm(len(label), generator=generator)
        by_class = mixed[torch.argsort(label[mixed], stable=True)]
        counts = torch.bincount(label, minlength=len(self.images.classes))
        starts = counts.cumsum(0) - counts
        present = torch.nonzero(counts).flatten()
        groups = -(-self.batch_size // each)
        rows = []
        queue = torch.empty(0, dtype=torch.long)
        for _ in range(n // self.batch_size):
            # each class once before any comes again; where a round ends inside a batch, the next one begins there
            while len(queue) < groups:
                queue = torch.cat([queue, present[torch.randperm(len(present), generator=generator)]])
            chosen, queue = queue[:groups], queue[groups:]
            count = counts[chosen, None]
            # distinct images; of a class with fewer they come again
            first = (torch.rand(groups, 1, generator=generator) * count).long()
            place = (first + torch.arange(each)) % count
            rows.append(by_class[starts[chosen, None] + place].flatten()[: self.batch_size])
        return torch.cat(rows) if rows else torch.empty(0, dtype=torch.long)

    def ordered(
        self,
        positions: Sequence[int] | None = None,
        *,
        flip: bool = False,
        hr: bool = False,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """Yield every image once, in the order of the set, unshifted; the degradation's draws are fixed.

        Args:
            positions: of the images to yield, in this order, if not all; their draws stay the same.
            flip: serve the mirrored view.
            hr: whether ``batch.hr`` is needed.
            batch_size: images per batch; the training's if left out.
        """
        draws = draw(len(self.images), self.lr_size, self.degradation, generator_of(self.seed, -1))
        order = torch.arange(len(self.images))
        if positions is not None:
            order = order[list(positions)]
            draws = draws.rows(order)
        size = batch_size or self.batch_size
        rows = [slice(start, start + size) for start in range(0, len(order), size)]
        drawn: dict[str, Any] = {"order": order, "flip": torch.tensor([flip]).expand(len(order))}
        if flip:
            drawn["shift"] = torch.zeros(1, 2, dtype=torch.int16).expand(len(order), -1)
        return self._batches(rows, draws, hr, **drawn)

    def unshifted(self, batches: list[Tensor]) -> Iterator[Tensor]:
        """Yield the HR images at some positions (B,) as stored, float32 (B, 3, hr_size, hr_size), batch by batch."""
        order = torch.cat(batches) if batches else torch.empty(0, dtype=torch.long)
        ends = np.cumsum([0, *map(len, batches)]).tolist()
        for pixels in self._decoded(order, [slice(*both) for both in pairwise(ends)]):
            yield pixels.float().mul_(1 / 255)

    def _batches(
        self, rows: list[slice], draws: Draws, hr: bool, training: bool = False, **drawn: Tensor
    ) -> Iterator[Batch]:
        """Yield a batch for each of ``rows`` of what is drawn; what is not there is not changed."""
        draws = draws.to(self.device)
        on_device = {name: moved(t, self.device) for name, t in drawn.items()}
        plain = Degradation(kernel=self.degradation.kernel).resolved()
        unchanged = self.lr_size == self.hr_size and self.degradation.resolved() == plain
        near = training and self._runs is not None and not self.images_per_class
        decoded = self._decoded(on_device["order"], rows, near)
        for row, pixels in zip(rows, decoded, strict=True):
            now = {name: t[row] for name, t in on_device.items()}
            now["order"] = now["order"].long()
            if "shift" in now:
                pixels = shift_and_flip(pixels, now["shift"], now["flip"])
            images = pixels.float().mul_(1 / 255)
            if "zoom" in now:
                images = zoomed(images, now["zoom"])
            if "colour" in now:
                images = recoloured(images, now["colour"])
            lr = images if unchanged else degrade(images, self.lr_size, self.degradation, draws=draws.rows(row))
            hr_images = images if hr or unchanged else None
            label, view = self.label[now["order"]], now["flip"].long()
            shift = now.get("shift") if self.shift else None
            place = _place_of(self.hr_size, now["flip"], shift, now.get("zoom")) if training else None
            yield Batch(hr_images, lr, label, index=now["order"], view=view, place=place)

    def _decoded(self, order: Tensor, rows: list[slice], near: bool = False) -> Iterator[Tensor]:
        """Yield the pixels of the images at ``order[row]`` of each row, uint8 (B, 3, hr_size, hr_size).

        Of shards, positions that rise or are ``near``, as `stream_order` gives them, are read run by run.
        """
        if self._pixels is not None:
            yield from (self._pixels[order[row].long()] for row in rows)
            return
        positions = order.cpu().numpy()
        bounds = np.array([(row.start, row.stop) for row in rows]).reshape(-1, 2)
        # the last row may end beyond what there is; a process without a share of the last batches has none
        parts = Parts(self.images, self.hr_size, self.fit, positions, bounds.clip(max=len(positions)))
        if len(positions) and self._runs is not None and (near or bool((np.diff(positions) > 0).all())):
            served = in_runs(parts, self._runs, self.workers, self._fitting // LANES if near else PART)
        else:
            served = parts.served(self.workers, pin=self.label.is_cuda)
        for pixels in served:
            yield pixels.to(self.device, non_blocking=True)


def shift_and_flip(pixels: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
    """Shift each image (B, C, H, W) by its own offset, mirroring its border into view, then perhaps flip it.

    Args:
        pixels: of any type, which the result has, too.
        shift: (B, 2), integers: down and right, in pixels, less than H and W.
        flip: (B,) bool: left to right.
    """
    height, width = pixels.shape[-2:]
    rows = _mirror(torch.arange(height, device=pixels.device) - shift[:, :1], height)
    columns = torch.arange(width, device=pixels.device) - shift[:, 1:]
    columns = _mirror(torch.where(flip[:, None], columns.flip(1), columns), width)
    # one gather over all pixels is five times as fast as one per axis
    source = (rows[:, :, None] * width + columns[:, None]).flatten(1)
    return pixels.flatten(2).gather(2, source[:, None].expand(-1, pixels.shape[1], -1)).view_as(pixels)


def _place_of(side: int, flip: Tensor, shift: Tensor | None, zoom: Tensor | None) -> Tensor | None:
    """Return where each point of images that are shifted, flipped and zoomed lies in the view that is flipped alone.

    It is the ``place`` of a `Batch`: float32 (B, 2, 3), None where nothing is shifted or zoomed.
    """
    if shift is None and zoom is None:
        return None
    place = torch.zeros(len(flip), 2, 3, device=flip.device)
    place[:, 0, 0] = place[:, 1, 1] = 1.0 if zoom is None else 1 / zoom
    if shift is not None:
        # an image is shifted before it is flipped
        place[:, 0, 2] = -2 / side * torch.where(flip, -shift[:, 1], shift[:, 1])
        place[:, 1, 2] = -2 / side * shift[:, 0]
    return place


def resampled(images: Tensor, place: Tensor) -> Tensor:
    """Return images or maps (float, (B, C, H, W)) as they are where each point lies at its ``place`` (B, 2, 3).

    By bilinear interpolation; what lies beyond the border is mirrored into view.
    """
    grid = F.affine_grid(place, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def zoomed(images: Tensor, factor: Tensor) -> Tensor:
    """Enlarge each image (float, (B, C, H, W)) about its centre by its ``factor`` (B,), or below 1 reduce it."""
    turn = torch.zeros(len(images), 2, 3, device=images.device)
    turn[:, 0, 0] = turn[:, 1, 1] = 1 / factor
    return resampled(images, turn)


def _mirror(position: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - position.abs()).abs()


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """Return the generator of what is random in an epoch."""
    # two plain numbers into one seed, so that epoch 1 of seed 0 is not epoch 0 of seed 1
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch + 1) % 2**63)
